"""result -> what the Prefect UI shows: the report, the artifacts, the curve and where it all lies."""

from __future__ import annotations

import base64
import re
import shlex

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from simyard.core.artifacts import CURVES, REPORT
from simyard.core.records import JobResult
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.kinds import KINDS
from simyard.tasks.shared.documents import size

MAX_PICTURE_BYTES = 2_000_000
_PICTURE = re.compile(r"^!\[[^\]]*\]\(([\w./-]+)\)$", re.MULTILINE)
_FILE = re.compile(r"\[([^\]]+)\]\([\w./-]+\)")


def report(result: JobResult, store: Store) -> None:
    """Publish the job's report as artifacts of this flow run."""
    job, key = JobKeys(result.job_id), result.job_id.lower()

    # The report as it reads away from the files beside it: their pictures are artifacts of their own.
    text = store.get_bytes(job.artifact(REPORT.name)).decode()
    text = _FILE.sub(r"`\1`", _PICTURE.sub(r"`\1` is an artifact of its own.", text))
    headline = f"{result.status}: {KINDS[result.kind].headline(result)}"
    create_markdown_artifact(text, key=f"{key}-report", description=headline)

    create_table_artifact(
        [
            {"name": entry.name, "kind": entry.kind, "size": size(entry.size_bytes), "sha256": entry.sha256}
            for entry in result.artifacts
        ],
        key=f"{key}-artifacts",
        description=f"{result.status}: {len(result.artifacts)} artifacts",
    )

    # No link: a browser opens neither s3:// nor, from a page of a server, file://.
    fetch = f"simyard jobs download {result.job_id} FOLDER --store {shlex.quote(store.url())}"
    where = f"The job's files: `{result.store}`\n\nTo fetch them: `{fetch}`"
    create_markdown_artifact(where, key=f"{key}-store", description="Where the files are")

    for entry in result.artifacts:
        if entry.kind == CURVES.kind and entry.size_bytes <= MAX_PICTURE_BYTES:
            data = base64.b64encode(store.get_bytes(job.artifact(entry.name))).decode()
            name = entry.name.removesuffix(".png")
            create_image_artifact(f"data:image/png;base64,{data}", key=f"{key}-{name}", description=name)
