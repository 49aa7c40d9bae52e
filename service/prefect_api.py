"""Flow runs of the service's jobs, managed runs and sweeps: started, found again, ended, set going again when lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas import OrchestrationResult
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Completed, Failed

from simyard.core.errors import RequestError, StoreError
from simyard.core.records import Ended
from simyard.tasks.launch import AUTO_RESUME

DEPLOYMENTS = {
    "train": "train/train",
    "evaluate": "evaluate/evaluate",
    "export": "export_policy/export_policy",
    "rollout": "rollout/rollout",
    "training-run": "managed-training/managed_training",
    "sweep": "sweep/sweep",
}
"""Deployment of each kind, as prefect.yaml names it."""
KNOWN_S = 1.0
"""Seconds that a state is known without asking Prefect again: hundreds of clients may poll one job."""
CREATED_AT_ONCE = 2
"""Flow runs. On SQLite, more at once wait for each other's locks, and then for the client's long pauses."""
ASKED_S = 10.0
"""Seconds that a flow run that was asked for is read together with others."""
PAGE = 200


@dataclass(frozen=True)
class Launch:
    """Job, managed run or sweep to start, and its owner."""

    id: str
    """Of the job, the managed run or the sweep; there is one flow run for it, whatever happens."""
    kind: str
    """Of `DEPLOYMENTS`."""
    parameters: dict[str, Any]
    """Of the flow."""
    project: str
    key_id: str


class Launches:
    """Prefect, as the service needs it. Safe to use from many threads."""

    def __init__(self) -> None:
        self._client: SyncPrefectClient = get_client(sync_client=True)
        self._client.__enter__()
        self._lock = threading.Lock()
        self._deployments: dict[str, UUID] = {}
        self._creating = threading.BoundedSemaphore(CREATED_AT_ONCE)
        self._asked: dict[str, float] = {}
        self._states: dict[str, tuple[float, FlowRun | None]] = {}

    def close(self) -> None:
        """Let go of the connections."""
        self._client.__exit__(None, None, None)

    def is_ready(self) -> str | None:
        """Return the reason jobs cannot be started yet; None if they can."""
        if (error := self._client.api_healthcheck()) is not None:
            return f"the Prefect server does not answer: {error or type(error).__name__}"
        try:
            for name in DEPLOYMENTS.values():
                self._deployment(name)
        except StoreError as missing:
            return missing.failure.message
        return None

    def start(self, launch: Launch) -> None:
        """Start the flow; one that was started for this id already is left as it is."""
        known = self._states.get(launch.id)
        if known is not None and known[1] is not None:
            return
        deployment = self._deployment(DEPLOYMENTS[launch.kind])
        with self._creating:
            run = self._client.create_flow_run_from_deployment(
                deployment,
                parameters=launch.parameters,
                idempotency_key=launch.id,
                tags=[AUTO_RESUME, tag_of_key(launch.key_id), f"project:{launch.project}", launch.id],
            )
        self._states[launch.id] = (time.monotonic(), run)

    def start_deployment(
        self, deployment: str, parameters: dict[str, Any], *, idempotency_key: str, name: str, tags: list[str]
    ) -> FlowRun:
        """Start any deployment; return the flow run of this key, which may have been there already.

        Args:
            deployment: As Prefect names it, `FLOW/DEPLOYMENT`.
            parameters: Of the flow.
            idempotency_key: There is one flow run for it, whatever happens.
            name: The flow run's, if it is new.
            tags: Likewise.

        Raises:
            RequestError: The flow does not take these parameters.
            StoreError: There is no such deployment.
        """
        try:
            return self._client.create_flow_run_from_deployment(
                self._deployment(deployment),
                parameters=parameters, idempotency_key=idempotency_key, name=name, tags=tags,
            )  # fmt: skip
        except ObjectNotFound:  # it was deleted, and perhaps deployed anew, since it was looked up
            self._deployments.pop(deployment, None)
            raise StoreError(
                f"The deployment {deployment!r} was deleted.", code="not_deployed", advice="Send it again."
            ) from None
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (409, 422):
                raise
            raise RequestError(
                f"The deployment {deployment!r} does not take these parameters: {error.response.text[:500]}",
                code="bad_parameters",
                advice="Mend the mapping of the hook; the form in the Prefect UI shows what the flow takes.",
            ) from error

    def _deployment(self, name: str) -> UUID:
        if name not in self._deployments:
            try:
                self._deployments[name] = self._client.read_deployment_by_name(name).id
            except ObjectNotFound:
                raise StoreError(
                    f"The Prefect server has no deployment {name!r}.",
                    code="not_deployed",
                    advice="Deploy: prefect --no-prompt deploy --all; `simyard up` does it by itself.",
                ) from None
        return self._deployments[name]

    def find(self, own_id: str) -> FlowRun | None:
        """Return the flow run of a job or managed run, as it was a moment ago.

        Hundreds may poll at once: all that were asked for of late are read in one question, by whoever comes first.
        """
        self._asked[own_id] = time.monotonic()
        known = self._states.get(own_id)
        if known is None or time.monotonic() - known[0] > KNOWN_S:
            with self._lock:
                known = self._states.get(own_id)
                if known is None or time.monotonic() - known[0] > KNOWN_S:
                    now = time.monotonic()
                    self._asked = {asked: at for asked, at in list(self._asked.items()) if now - at < ASKED_S}
                    wanted = [own_id, *(asked for asked in self._asked if asked != own_id)][:PAGE]
                    self._states = {asked: (now, run) for asked, run in self.find_all(wanted).items()}
                    known = self._states[own_id]
        return known[1]

    def find_all(self, ids: Sequence[str]) -> dict[str, FlowRun | None]:
        """Return the flow run of each job or managed run, as it is now, by one question for many."""
        found: dict[str, FlowRun | None] = dict.fromkeys(ids)
        for begin in range(0, len(ids), PAGE):
            key = FlowRunFilterIdempotencyKey(any_=list(ids[begin : begin + PAGE]))
            runs = self._client.read_flow_runs(flow_run_filter=FlowRunFilter(idempotency_key=key), limit=PAGE)
            found |= {run.idempotency_key: run for run in runs if run.idempotency_key}
        return found

    def cancel_unbegun(self, own_id: str) -> bool:
        """Cancel a flow run that no process has; return whether it was so, or there is none."""
        self._states.pop(own_id, None)
        run = self.find(own_id)
        if run is None:
            return True
        if run.state is None or not (run.state.is_scheduled() or run.state.is_pending() or run.state.is_final()):
            return False
        if not run.state.is_final():
            canceled: State[Any] = Cancelled(message="Canceled before it began.")
            answer: OrchestrationResult[Any] = self._client.set_flow_run_state(run.id, canceled)
            self._states.pop(own_id, None)
            return bool(answer.state and answer.state.is_cancelled())
        return True

    def resume(self, run: FlowRun, message: str) -> None:
        """Set a flow run going again, as the button of Prefect's UI does."""
        state: State[Any] = State(type=StateType.SCHEDULED, name="AwaitingRetry", message=message)
        self._client.set_flow_run_state(run.id, state, force=True)

    def settle(self, run: FlowRun, ended: Ended) -> None:
        """Give a flow run the state that its job's or managed run's end asks for: nothing of it is left to be done."""
        make = {"succeeded": Completed, "failed": Failed, "canceled": Cancelled}[ended]
        state: State[Any] = make(message="Its process was killed after the end.")
        self._client.set_flow_run_state(run.id, state, force=True)

    def of_key(self, key_id: str) -> list[FlowRun]:
        """Return all flow runs of a key."""
        return self._all(_filter([tag_of_key(key_id)], None))

    def possibly_lost(self) -> list[FlowRun]:
        """Return flow runs that may have been lost: those that crashed, and those that some process should have."""
        lost = (StateType.CRASHED, StateType.PENDING, StateType.RUNNING)
        return self._all(_filter([AUTO_RESUME], lost))

    def _all(self, wanted: FlowRunFilter) -> list[FlowRun]:
        found: list[FlowRun] = []
        while page := self._client.read_flow_runs(flow_run_filter=wanted, limit=PAGE, offset=len(found)):
            found += page
            if len(page) < PAGE:
                break
        return found


def tag_of_key(key_id: str) -> str:
    """Return the tag that flow runs of a key have."""
    return f"key:{key_id}"


def id_of(run: FlowRun) -> str | None:
    """Return the id of the job, managed run or sweep that a flow run of the service is for."""
    return next((tag for tag in run.tags if tag.startswith(("job-", "run-", "sweep-"))), None)


def project_of(run: FlowRun) -> str | None:
    """Return the project that a flow run of the service is for."""
    return next((tag.partition(":")[2] for tag in run.tags if tag.startswith("project:")), None)


def _filter(tags: list[str], types: tuple[StateType, ...] | None) -> FlowRunFilter:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))) if types else None
    return FlowRunFilter(tags=FlowRunFilterTags(all_=tags), state=state)
