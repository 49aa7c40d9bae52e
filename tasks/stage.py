"""JobSpec -> inputs in the store, content-addressed; then the frozen spec, which makes the job exist."""

from __future__ import annotations

from collections.abc import Iterable

from simyard.core.records import Estimate
from simyard.requests.settings import usd_per_gpu_hour
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.store.uploads import send
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.shared.estimates import estimate
from simyard.tasks.shared.inputs import LocalInput


def stage(resolved: Resolved, store: Store, told: Estimate | None = None) -> None:
    """Upload the inputs, the estimate and the spec that the store lacks. Idempotent: the same bytes are one object.

    Args:
        resolved: The job.
        store: Its store.
        told: The estimate that its sender was told; None has it made here.
    """
    send_inputs(resolved.inputs, store)
    job = JobKeys(resolved.spec.job_id)
    if not store.exists(job.job):
        store.put_record(job.estimate, told or estimate(resolved.spec, store, usd_per_gpu_hour()))
        store.put_json(job.job, resolved.spec.to_json())


def send_inputs(inputs: Iterable[LocalInput], store: Store) -> None:
    """Upload the files that the store lacks."""
    for found in inputs:
        if not store.exists(found.file.key):
            send(store, found.file, found.path)
