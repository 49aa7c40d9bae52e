"""What is sent to a Prefect server: the deployments of `prefect.yaml`, and the templates of work pools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")
"""The deployments; `prefect.yaml` at the root of the repository is the same file."""
POOL = "simyard"
"""The work pool that they name."""
POOL_TYPES = ("process", "docker", "kubernetes", "ecs")
"""Who starts an attempt: a worker on the machine itself, a container engine, a cluster."""


def pool_template(pool_type: str) -> dict[str, Any]:
    """Return the base job template of work pools of a type: what one of `POOL_TYPES` needs for GPUs."""
    text = (Path(__file__).parent / "pools" / f"{pool_type}.json").read_text(encoding="utf-8")
    return dict(json.loads(text))
