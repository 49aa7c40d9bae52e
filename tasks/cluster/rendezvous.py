"""The rendezvous of the machines of one attempt, through the store: they begin together and end together.

The first machine makes the attempt. The others wait until it has written the address, say when they are ready, and
read its heartbeat and outcome all the while; it reads theirs. One that fails or writes no heartbeat ends all of them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from urllib.parse import urlsplit

from simyard.core.errors import Failure, WorkloadError
from simyard.core.records import AttemptStatus, MachineLost, MachineReady, Outcome
from simyard.core.specs import AttemptSpec, JobSpec, World
from simyard.core.wire import now
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared.heartbeat import PATIENCE, lost

LOOK_S = 2.0
"""Seconds between two looks at the other machines."""
SYMPTOM, SYMPTOM_S = "rank_lost", 15.0
"""Failure code of a machine with a broken connection, and seconds for the others to report the cause."""
ADDRESS = "SIMYARD_NODE_ADDRESS"


class NodeGroup:
    """The machines of an attempt, seen from one of them."""

    def __init__(self, store: Store, job: JobSpec, number: int, node: int) -> None:
        self._store = store
        self._job = job
        self._node = node
        self._keys = JobKeys(job.job_id).attempt(number)
        self._heartbeats: dict[int, tuple[str, float]] = {}
        """By machine: the time in its newest heartbeat, and this machine's clock when that was new."""
        self._looked = 0.0
        self._failure: Failure | None = None

    def announce(self, attempt: AttemptSpec) -> None:
        """Write the address and the checkpoint of the attempt for the other machines; the first machine does."""
        without_job = {**attempt.to_json(), "job": None}  # the job is in the store already
        self._store.put_json(self._keys.meeting, without_job)

    def barrier(self, wait: Callable[[str], None]) -> None:
        """Return once every machine is ready: the first one waits for the others, they for it.

        Args:
            wait: Called while it waits, with what for; it may raise.

        Raises:
            WorkloadError: A machine fails meanwhile, or does not come.
        """
        at = now()
        if self._node == 0:
            for node in range(1, self._job.nodes):
                self._await(self._keys.node(node).ready, f"machine {node + 1} of {self._job.nodes}", wait)
            self._store.put_record(self._keys.go, MachineReady(at=at))
            return
        ready = MachineReady(at=at, host=socket.gethostname())
        self._store.put_record(self._keys.node(self._node).ready, ready)
        self._await(self._keys.go, f"the other {self._job.nodes - 1} machines", wait)

    def failure(self) -> Failure | None:
        """Return the failure that ends this machine's part: another one has failed, is lost, or is done without it."""
        if time.monotonic() - self._looked < LOOK_S:
            return self._failure
        self._looked = time.monotonic()
        others = range(1, self._job.nodes) if self._node == 0 else (0,)
        self._failure = next(filter(None, map(self._failure_of, others)), None)
        if self._failure is None and self._node == 0:
            found = self._store.get_record_or_none(self._keys.machine_lost, MachineLost)
            self._failure = lost("machine_lost", found.message) if found else None
        return self._failure

    def root_failure(self, failure: Failure) -> Failure:
        """Return the root failure: wait for another machine to report why the connection to it broke."""
        deadline = time.monotonic() + SYMPTOM_S
        while self._node == 0 and failure.code == SYMPTOM and time.monotonic() < deadline:
            self._looked = 0.0
            if (cause := self.failure()) is not None and cause.code != SYMPTOM:
                return cause
            time.sleep(LOOK_S / 2)
        return failure

    def _await(self, key: str, what: str, wait: Callable[[str], None]) -> None:
        deadline = time.monotonic() + PATIENCE.node.starting_s
        while not self._store.exists(key):
            if failure := self.failure():
                raise WorkloadError(failure)
            if time.monotonic() > deadline:
                late = f"{what} was not ready within {PATIENCE.node.starting_s:.0f} s."
                raise WorkloadError(lost("machine_lost", late))
            wait(f"waiting for {what}")
            time.sleep(LOOK_S / 2)

    def _failure_of(self, node: int) -> Failure | None:
        """Return the failure of another machine: its own, or that it is lost; None while it works."""
        keys = self._keys.node(node)
        outcome = self._store.get_record_or_none(keys.outcome, Outcome)
        if outcome is not None:
            if outcome.failure is None:
                return None  # done; this one is about to be
            return replace(outcome.failure, message=f"On machine {node + 1}: {outcome.failure.message}")
        status = self._store.get_record_or_none(keys.status, AttemptStatus)
        if status is None:
            return None  # it has not begun; whoever launched it knows more
        newest, since = self._heartbeats.get(node, (None, 0.0))
        if status.updated_at != newest:
            # This machine's clock alone: the other's may be off.
            self._heartbeats[node] = (status.updated_at, time.monotonic())
        elif time.monotonic() - since > PATIENCE.node.silence_s:
            silent = f"has had no heartbeat for {PATIENCE.node.silence_s:.0f} s."
            return lost("machine_lost", f"Machine {node + 1} of {self._job.nodes} {silent}")
        return None


def join(store: Store, job: JobSpec, number: int, node: int) -> AttemptSpec:
    """Return the attempt of one of the further machines, once the first one has announced it.

    Raises:
        WorkloadError: It does not do so in time.
    """
    keys = JobKeys(job.job_id).attempt(number)
    deadline = time.monotonic() + PATIENCE.node.starting_s
    while (announced := store.get_json_or_none(keys.meeting)) is None:
        if store.exists(keys.outcome) or time.monotonic() > deadline:
            late = "The first machine of the attempt did not write where to meet."
            raise WorkloadError(lost("machine_lost", late))
        time.sleep(LOOK_S / 2)
    attempt = AttemptSpec.from_json({**announced, "job": job.to_json()})
    assert attempt.world is not None
    return replace(attempt, world=replace(attempt.world, node=node))


def new_world() -> World:
    """Return a rendezvous on this machine, at an address by which the others reach it."""
    address = os.environ.get(ADDRESS) or _own_address()
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = int(probe.getsockname()[1])
    return World(node=0, address=address, port=port, timestamp=datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def _own_address() -> str:
    """Return the address by which this machine reaches its Prefect server: the others of a pool reach that one too."""
    server = urlsplit(os.environ.get("PREFECT_API_URL", "")).hostname or "127.0.0.1"
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((server, 9))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()
