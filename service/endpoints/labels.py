"""`/v0/jobs/{job_id}/labels`: the tags and the note that people give a job."""

from __future__ import annotations

from typing import Annotated, Any

import anyio.to_thread
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from simyard.core.records import ApiKey
from simyard.requests.jobs import Body
from simyard.service import bodies
from simyard.service.endpoints.pages import admit_to_site
from simyard.tasks.shared import labels

router = APIRouter(tags=["jobs"])


class LabelsRequest(Body):
    """Labels of a job; what is left out stays as it is."""

    tags: list[str] | None = Field(None, max_length=labels.MOST_TAGS)
    """All tags of the job from now on: letters, digits and '_.:/=+-', 40 characters each."""
    note: str | None = Field(None, max_length=labels.LONGEST_NOTE)
    """Plain text; empty for none."""


_Sender = Annotated[ApiKey, Depends(admit_to_site)]


async def _sent(request: Request, _: _Sender) -> LabelsRequest:
    data = await request.body()
    return await anyio.to_thread.run_sync(lambda: bodies.check(bodies.parse_json(data), LabelsRequest))


@router.put("/v0/jobs/{job_id}/labels", openapi_extra=bodies.described(LabelsRequest), summary="Label a job")
def put_labels(
    job_id: str, request: Request, api_key: _Sender, given: Annotated[LabelsRequest, Depends(_sent)]
) -> dict[str, Any]:
    """Set the tags and the note of a job, with a key of the scope `jobs` or the token of the links between pages."""
    store = request.app.state.settings.open(api_key.project)
    kept = labels.change(store, job_id, by=api_key.key_id, tags=given.tags, note=given.note)
    request.app.state.job_rows.forget_labels(api_key.project)
    return kept.to_json()
