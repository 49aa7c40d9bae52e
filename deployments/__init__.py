"""What is sent to a Prefect server: `prefect.yaml`, for `simyard up` and for `prefect deploy`."""

from __future__ import annotations

from pathlib import Path

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
"""The deployments; `prefect.yaml` at the root of the repository is the same file."""
POOL = "simyard"
"""The work pool that they name."""
