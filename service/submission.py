"""Submission of a job or a managed run: checked, staged, and started as one flow run, whatever becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, TypeVar

from fastapi import Header, Response
from pydantic import JsonValue

from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.specs import JobSpec
from simyard.requests.code import named_code
from simyard.requests.jobs import Body
from simyard.service import bodies, notifications
from simyard.service.auth import Caller
from simyard.service.prefect_api import Launch
from simyard.service.references import Source, with_files
from simyard.store.keys import keys_of
from simyard.store.store import Store
from simyard.tasks.managed.run import RunSpec
from simyard.tasks.shared import idempotency
from simyard.tasks.sweeps.plan import SweepSpec

IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=1000)]
Claim = Callable[[str], str]
"""Takes the request's idempotency key, and a place among the API key's jobs, for a new id; returns the id that the key
stands for."""
Asked = TypeVar("Asked", bound=Body)


@dataclass(frozen=True, kw_only=True)
class Work(Generic[Asked]):
    """The steps that differ between the submission of a job and that of a managed run."""

    model: Callable[[dict[str, JsonValue]], type[Asked]]
    """Returns the model of a body."""
    key_prefix: str = ""
    """Prefix of idempotency keys in the store, so that a job and a run may have the same key."""
    frozen: Callable[[str], str]
    """Returns the key of the object that makes it exist, from its id."""
    load: Callable[[Store, str], JobSpec | RunSpec | SweepSpec]
    """Reads that object."""
    stage: Callable[[Asked, Asked, Path, Caller, Claim], str]
    """Puts it into the store, and returns its id; from the request as sent, the same with its files fetched, and the
    folder where they are for this moment."""
    deployment: str = ""
    """Of the flow that does it, of `DEPLOYMENTS`; a job's is that of its kind."""
    id_parameter: str
    """Name of its id among the flow's parameters."""


def submit(work: Work[Asked], body: dict[str, JsonValue], caller: Caller, response: Response, key: str | None) -> str:
    """Check everything, put the inputs into the store, and start the work; return its id.

    Args:
        work: A job, or a managed run.
        body: As it was sent.
        caller: Who sent it.
        response: Its status is set to 200 where the key stands for work that is there already.
        key: The idempotency key: the same key and body mean the same work.

    Raises:
        RequestError: If anything about it is wrong; then nothing was begun.
    """
    # What is wrong with the body itself is said before anything is looked up.
    notify_url = notifications.take_url(body, caller)
    asked = bodies.check(body, work.model(body))
    if not caller.key.allows("code") and (named := next(named_code(asked), None)):
        raise RequestError(
            f"{named[0]} {named[1]!r} runs code as the worker's user, which needs the scope code; this API key has "
            f"{', '.join(caller.key.scopes)}.",
            code="missing_scope",
            advice="The owner makes one with it: simyard keys create --scope jobs --scope code.",
        )
    key = None if key is None else work.key_prefix + idempotency.check_key(key)

    # Work that the key stands for is there already, or was begun by a request that died half-way: then it is made
    # whole under the same id.
    own_id = key and idempotency.claimed(caller.store, key, body)
    if own_id and caller.store.exists(work.frozen(own_id)):
        response.status_code = 200
        if not caller.store.exists(keys_of(own_id).result):  # its place may be another's, if its request died half-way
            caller.limits.reserve(caller, own_id)
    else:
        caller.limits.admit(caller, own_id)  # before anything is fetched

        def claim(new_id: str) -> str:
            claimed = idempotency.claim(caller.store, key, new_id, body) if key else new_id
            caller.limits.reserve(caller, claimed)
            return claimed

        with scratch("submit") as folder:
            # Every file that it names, put into the folder and named by its path there.
            source = Source(caller)
            here = with_files(
                asked, lambda uri, where: str(source.fetch(uri, folder / str(len(list(folder.iterdir()))), where))
            )
            own_id = work.stage(asked, here, folder, caller, claim)

    # The flow takes what is staged to its end; its request is what the Prefect UI shows of it.
    if notify_url:
        notifications.register(caller, own_id, notify_url)
    if not caller.store.exists(keys_of(own_id).result):
        spec, pool = work.load(caller.store, own_id), caller.settings.pool
        parameters = {"request": spec.request, "store": caller.reference, "pool": pool, work.id_parameter: own_id}
        deployment = spec.kind if isinstance(spec, JobSpec) else work.deployment
        caller.launches.start(Launch(own_id, deployment, parameters, caller.project, caller.key.key_id))
    return own_id
