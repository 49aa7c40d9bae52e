"""A trainer that trains nothing: it checks what it is given, and leaves a checkpoint that names what it came from."""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset-manifest-path", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--checkpoint-in-uri", default="", help="file:///...; empty in the first iteration")
    options = parser.parse_args()
    manifest = json.loads(options.dataset_manifest_path.read_text())
    for rollout in manifest["rollouts"]:
        check(rollout, options.dataset_manifest_path.parent / rollout["path"])
    parent = digest(path_of(options.checkpoint_in_uri)) if options.checkpoint_in_uri else None
    checkpoint = {
        "schema": "smoke-checkpoint/1",
        "parent_sha256": parent,
        "dataset_sha256": digest(options.dataset_manifest_path),
        "rollouts_sha256": [rollout["sha256"] for rollout in manifest["rollouts"]],
    }
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write(options.output_dir / "checkpoint.pt", checkpoint)
    write(options.output_dir / "metrics.json", metrics(manifest))
    print(f"{len(manifest['rollouts'])} rollouts are whole; the parent is {parent or 'none'}", flush=True)


def check(rollout: dict, path: Path) -> None:
    """Leave unless a rollout's file is the one that the manifest means."""
    if not path.is_file():
        sys.exit(f"{rollout['path']} is not there. It must lie beside the manifest.")
    if (found := digest(path)) != rollout["sha256"]:
        sys.exit(f"{rollout['path']} has sha256 {found}, not {rollout['sha256']} as the manifest says.")


def metrics(manifest: dict) -> dict:
    """Return what is known of the rollouts; a return that was not measured is left out."""
    found = {"episodes": manifest["episodes"], "recorded_steps": manifest["recorded_steps"]}
    measured = [each for each in manifest["rollouts"] if each["mean_return"] is not None and each["episodes"]]
    if measured:
        total = sum(each["mean_return"] * each["episodes"] for each in measured)
        found["mean_return"] = total / sum(each["episodes"] for each in measured)
    return found


def path_of(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file"):
        sys.exit(f"--checkpoint-in-uri is {uri!r}. Allowed: file:///..., or a path.")
    return Path(unquote(parts.path) if parts.scheme else uri)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, data: dict) -> None:
    beside = path.with_name(f".{path.name}.partial")
    beside.write_text(json.dumps(data, indent=2))
    os.replace(beside, path)


if __name__ == "__main__":
    main()
