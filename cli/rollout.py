"""`simyard submit`: check and stage a rollout, then run it here, or leave it to a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.blocks.reference import absolute, open_store
from simyard.cli import run as running
from simyard.cli.detached import go_on_alone
from simyard.cli.watch import watch
from simyard.requests.rollout import SubmitRequest
from simyard.requests.settings import Site
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.kinds.common_fields import Resolved
from simyard.tasks.resolve import resolve
from simyard.tasks.shared import history, idempotency
from simyard.tasks.stage import stage


def submit(
    request: SubmitRequest, base: Path, reference: str | None, pool: str | None, key: str | None,
    *, wait: bool, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Submit a rollout.

    Args:
        request: The checked request.
        base: Folder that its relative paths start from.
        reference: The store, as the user named it.
        pool: The work pool; None runs it on this machine.
        key: Idempotency key: used again with the same request it means the same job.
        wait: Whether to stay until the job has ended.
        quiet: Whether to print nothing meanwhile.

    Returns:
        The job's result, or how it stands where nobody waits.

    Raises:
        RequestError: If the request is bad; nothing was created then.
    """
    site = Site.from_env()
    reference = absolute(reference or site.store)
    store = open_store(reference)
    resolved = resolve(request, store, keys.new_job_id(), base)
    if key is not None:
        job_id = idempotency.claim(store, key, resolved.spec.job_id, idempotency.content_of(resolved.spec))
        if store.exists(keys.JobKeys(job_id).job):
            return watch(store, job_id, quiet=quiet) if wait else history.job_status(store, job_id)
        resolved = replace(resolved, spec=replace(resolved.spec, job_id=job_id))
    if wait:
        return running.execute(resolved, request, store, reference, pool, site, quiet=quiet)[0]
    return _leave(resolved, store, reference, pool, site)


def _leave(resolved: Resolved, store: Store, reference: str, pool: str | None, site: Site) -> dict[str, Any]:
    """Stage the job and have a process of its own take it to its end; it outlives this one and its terminal."""
    stage(resolved, store)
    job_id = resolved.spec.job_id
    go_on_alone(job_id, ["jobs", "retry", job_id], reference, pool, site)
    return history.job_status(store, job_id)
