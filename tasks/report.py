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
    for entry in result["artifacts"]:
        if entry["kind"] == "plot" and entry["size_bytes"] <= MAX_PICTURE_BYTES:
            data = base64.b64encode(store.get_bytes(job.artifact(entry["name"]))).decode()
            name = entry["name"].removesuffix(".png")
            create_image_artifact(f"data:image/png;base64,{data}", key=f"{key}-{name}", description=name)
