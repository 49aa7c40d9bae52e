"""Limits of the GPUs that the jobs of a pool or project hold: Prefect's global concurrency limits, a slot a GPU."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from simyard.core.errors import RequestError, WorkloadError
from simyard.core.specs import JobSpec
from simyard.deployments import limit_of_pool, limit_of_project
from simyard.runner.progress import JobProgress
from simyard.tasks.attempt.attempt import CANCELED, Observer
from simyard.tasks.kinds import kind_of

LEASE_S = 300.0
"""Seconds until the slots of a control flow that was killed are free again."""
_PAUSE_S = {"high": 1.0, "normal": 4.0, "low": 16.0}
"""Seconds between two requests of a waiting job: the more urgent one is first, as a rule, to get a returned GPU."""
_PROJECT = re.compile(r"(?:^|/)projects/([^/]+)/?$")


def project_of(store_ref: str) -> str:
    """Return the project of the store that a reference names, or `default`."""
    found = _PROJECT.search(store_ref)
    return found.group(1) if found else "default"


def gpus_of(spec: JobSpec, *, in_pool: bool) -> int:
    """Return the number of GPUs a job holds by its request; a job in a pool that leaves it open holds one a machine."""
    each = spec.gpus if spec.gpus is not None else int(in_pool)
    return each * spec.nodes


@contextmanager
def holding(
    client: SyncPrefectClient, spec: JobSpec, store_ref: str, pool: str | None, observer: Observer, *, wait: bool = True
) -> Iterator[None]:
    """Hold a slot for each of the job's GPUs while the body runs.

    Args:
        client: Of the Prefect server.
        spec: The job.
        store_ref: Its store, which tells the project.
        pool: Where it runs; None for this process.
        observer: Told that it waits; may cancel it.
        wait: False for an attempt that runs already: slots are taken where there are some.

    Raises:
        RequestError: The job needs more than the limit allows at all.
        WorkloadError: It was canceled while it waited.
    """
    need = gpus_of(spec, in_pool=pool is not None)
    names = _limits(client, need, limit_of_project(project_of(store_ref)), pool and limit_of_pool(pool))
    with ExitStack() as stack:
        while names:
            # No timeout: a request that is cut off may have been granted, and its slots stay taken for a lease.
            slots = concurrency(
                names, occupy=need, max_retries=0, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False
            )
            try:
                stack.enter_context(slots)
                break
            except ConcurrencySlotAcquisitionError as error:
                if not _all_taken(error):
                    raise
            if not wait:
                break
            observer.progress(_waiting(spec))
            if observer.canceled():
                raise WorkloadError(CANCELED)
            time.sleep(_PAUSE_S[spec.priority])
        yield


def _all_taken(error: ConcurrencySlotAcquisitionError) -> bool:
    """Whether slots were refused because too few are free, and not because the server is in trouble."""
    cause = error.__cause__
    return isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED


def _limits(client: SyncPrefectClient, need: int, *names: str | None) -> list[str]:
    """Return those limits that there are; an operator need not have set any."""
    found = []
    for name in filter(None, names if need else ()):
        try:
            limit = client.read_global_concurrency_limit_by_name(name)
        except ObjectNotFound:
            continue
        if not limit.active:
            continue
        if need > limit.limit:
            raise RequestError(
                f"The job needs {need} GPUs at once, and {name!r} allows {limit.limit}.",
                code="too_many_gpus",
                advice="Ask for fewer with computeConfig.gpusPerNode and numNodes, or have the limit raised.",
            )
        found.append(name)
    return found


def _waiting(spec: JobSpec) -> JobProgress:
    kind = kind_of(spec)
    return JobProgress(stage="waiting for a GPU", total=kind.total(spec), unit=kind.unit)
