def main() -> None:
    """Run."""
    print("hi")
