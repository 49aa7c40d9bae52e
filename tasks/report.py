"""result -> what the Prefect UI shows: the report, the artifacts, the curve and where it all lies."""

from __future__ import annotations

import base64
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from simyard.store.keys import JobKeys
from simyard.store.store import Store

MAX_PICTURE_BYTES = 2_000_000


def report(result: dict[str, Any], store: Store) -> None:
    """Publish the job's report as artifacts of this flow run."""
    job_id = result["job_id"]
    job = JobKeys(job_id)
    key = job_id.lower()
    create_markdown_artifact(store.get_bytes(job.artifact("report.md")).decode(), key=f"{key}-report")
    create_table_artifact(
        [{name: entry[name] for name in ("name", "kind", "size_bytes", "sha256")} for entry in result["artifacts"]],
        key=f"{key}-artifacts",
        description=f"{result['status']}: {len(result['artifacts'])} artifacts",
    )
    create_link_artifact(result["store"], key=f"{key}-store", link_text="The job's files")
    if any(entry["name"] == "curves.png" for entry in result["artifacts"]):
        picture = store.get_bytes(job.artifact("curves.png"))
        if len(picture) <= MAX_PICTURE_BYTES:
            data = base64.b64encode(picture).decode()
            create_image_artifact(f"data:image/png;base64,{data}", key=f"{key}-curves", description="Learning curves")
