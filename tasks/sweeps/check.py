"""The check of a sweep's values by the simulator, before its first training."""

from __future__ import annotations

from simyard.core.errors import RequestError
from simyard.core.files import scratch
from simyard.core.specs import Facts
from simyard.requests.settings import MachineSettings
from simyard.store.store import Store
from simyard.tasks.kinds import kind_of
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.sessions.catalog import Catalog
from simyard.tasks.sessions.fingerprint import Findings
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared.inputs import gather
from simyard.tasks.sweeps.measure import no_success
from simyard.tasks.sweeps.plan import ResolvedSweep


def check_values(resolved: ResolvedSweep, store: Store, sessions: Sessions) -> dict[str, str] | None:
    """Have the simulator check every value that a parameter may take, or both ends of its range.

    Args:
        resolved: The sweep.
        store: Where it is, or will be.
        sessions: Where the simulator comes from.

    Returns:
        The versions that decide the result; None where packages of the user's are checked by each training itself:
        to install them may run code for minutes.

    Raises:
        RequestError: If a value is refused, or a training could not go on where the scheduler wants it to.
    """
    kind = resolved.spec.asked.sweep.scheduler.kind
    _require_success(resolved, sessions.machine)
    versions: dict[str, str] | None = None
    for probe in resolved.probes:
        if probe.spec.packages:
            return None
        facts = _check(probe, store, sessions)
        versions = {**facts.versions, facts.simulator: facts.version}
        if kind != "none" and facts.not_resumable and probe.spec.exact is False:
            raise RequestError(
                f"scheduler.kind {kind!r} goes on with trainings, and rlLibrary {probe.spec.library!r} cannot here: "
                f"{facts.not_resumable}.",
                code="not_resumable",
                advice="Leave resume.exact out: then the state is kept beside checkpoints. Or take scheduler 'none'.",
            )
    return versions


def _require_success(resolved: ResolvedSweep, machine: MachineSettings) -> None:
    """Raise `RequestError` where a success is to be counted, and it is known that the task speaks of none."""
    task = resolved.spec.template.task
    objective = next((one for one in resolved.spec.asked.sweep.objectives if one.metric == "success_rate"), None)
    if objective is None or (objective.evaluation and objective.evaluation.success_termination):
        return
    facts = next((one for one in Catalog(machine).known() or () if one.task == task), None)
    if facts is not None and facts.measured and facts.success is None:
        raise no_success(task)


def _check(probe: Resolved, store: Store, sessions: Sessions) -> Facts:
    """Check one training; what a refusal teaches about the simulator is kept."""
    spec = probe.spec
    with scratch("check") as folder:
        files = gather(kind_of(spec).inputs(spec, spec.resume), probe.inputs, store, folder)
        lease = sessions.take(spec, store.url())
        try:
            return lease.check(spec, None, files)
        finally:
            Findings(sessions.machine, spec).learn(lease.workload)
            lease.keep()
