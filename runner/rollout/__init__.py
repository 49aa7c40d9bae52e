"""What the environments of a simulation go through, recorded while it runs."""
