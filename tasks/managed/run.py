"""A request -> a frozen managed training run, with everything in the store that its rollouts need."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.records import Estimate
from simyard.core.run_records import IterationRecord, TrainerSecrets
from simyard.core.specs import InputFile, JobSpec, PolicyFile
from simyard.core.wire import Wire, now_ms
from simyard.requests.managed import MASK, TrainingRunRequest
from simyard.requests.rollout import PolicyRef
from simyard.requests.settings import MachineSettings
from simyard.runner.rl import DEFAULT_LIBRARY
from simyard.store import keys
from simyard.store.keys import RunKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.kinds.base import Resolved
from simyard.tasks.kinds.policy_sources import in_order_of
from simyard.tasks.resolve import resolve
from simyard.tasks.shared import inputs
from simyard.tasks.shared.estimates import Measurement, estimate, in_sum, known, within
from simyard.tasks.shared.inputs import LocalInput, find_input
from simyard.tasks.shared.usage import require_price
from simyard.tasks.stage import send_inputs

_UNNAMED = "job-" + "0" * 26
"""The id of the rollout that stands for all of them."""


@dataclass(frozen=True, kw_only=True)
class RunSpec(Wire):
    """Everything fixed about a managed training run."""

    run_id: str
    request: dict[str, Any]
    """As it came."""
    template: JobSpec
    """A rollout of the first iteration, without a checkpoint."""
    folder: str
    """Of the request's file: where a trainer that is a child process starts."""
    checkpoint: InputFile | None
    """Checkpoint that the first iteration begins from; None for none."""
    usd_per_gpu_hour: float | None
    """Price of a GPU hour in US dollars, by which credits are counted; None where the site names none."""
    created_at: str
    """UTC, ISO 8601."""

    @cached_property
    def asked(self) -> TrainingRunRequest:
        """The request, read."""
        return TrainingRunRequest.model_validate(self.request)


@dataclass(frozen=True)
class ResolvedRun:
    """A frozen run and the local files it needs in the store."""

    spec: RunSpec
    inputs: tuple[LocalInput, ...]
    checkpoint: LocalInput | None
    """The first checkpoint, where it is a file that is no asset yet."""

    @property
    def first_rollout(self) -> Resolved:
        """A rollout as the first iteration has it, to check on the simulator."""
        known = [found for found in (self.checkpoint,) if found]
        return Resolved(rollout(self.spec, 1, 0, self.spec.checkpoint), (*self.inputs, *known))


def resolve_run(
    request: TrainingRunRequest, store: Store, run_id: str, base: Path, machine: MachineSettings
) -> ResolvedRun:
    """Turn a request into a frozen run; writes nothing.

    Args:
        request: The checked request.
        store: Where the run will live.
        run_id: The new run's id.
        base: Folder that relative paths start from.
        machine: Settings of this machine.

    Raises:
        RequestError: If a file is missing, a rollout would be refused, or the site does not allow it.
    """
    if not machine.allow_cpu_trainers and not request.trainer_spec.resources.gpu:
        raise RequestError(
            "trainer_spec.resources.gpu is 0. Managed training is GPU-only by default "
            "(trainer_spec.resources.gpu > 0 is required).",
            code="gpu_required",
            advice="Set it to 1 or more; or have the site's owner set SIMYARD_ALLOW_CPU_TRAINERS=on.",
        )
    if masked := [name for name, value in request.trainer_spec.env.items() if value == MASK]:
        raise RequestError(
            f"trainer_spec.env.{masked[0]} is {MASK!r}: it was shown so in place of its value.",
            code="masked_value",
            advice='Give the value again, or the name of a variable of the worker: {"variable": "NAME"}.',
        )
    require_price(machine, request.budget_policy.max_credits, "budget_policy.max_credits")
    template = resolve(request.rollout_template.rollout(f"{request.name}: rollout", 0, None), store, _UNNAMED, base)

    # The first checkpoint: an asset, a file, or none.
    found: LocalInput | None = None
    file: InputFile | None = None
    engine: str | None = request.checkpoint_init_trained_under
    if request.checkpoint_init_asset_id:
        record = inputs.find_asset(store, request.checkpoint_init_asset_id)
        if record.kind != "checkpoint":
            raise RequestError(
                f"checkpoint_init_asset_id: {record.asset_id!r} is an asset of kind {record.kind!r}.",
                code="wrong_asset_kind",
                advice="Upload it again with --kind checkpoint, or name another.",
            )
        file, engine = inputs.asset_file(record), engine or inputs.trained_under_of(record)
    elif request.checkpoint_init_uri:
        found = find_input(request.checkpoint_init_uri, base, "checkpoint_init_uri")
        inputs.check_file(found.path, "checkpoint")
        file = found.file

    # A trainer goes on from it, so that all checkpoints of the run have its order of joints.
    is_played = template.spec.simulator == "isaaclab" and request.rollout_template.is_driven
    spec = RunSpec(
        run_id=keys.check_run_id(run_id),
        request=request.model_dump(mode="json", exclude_unset=True),
        template=replace(
            in_order_of(template.spec, engine, outside=file) if is_played else template.spec,
            retries=request.loop_policy.rollout_retry_limit,
        ),
        folder=str(base),
        checkpoint=file,
        usd_per_gpu_hour=machine.usd_per_gpu_hour,
        created_at=now_ms(),
    )
    return ResolvedRun(spec, template.inputs, found)


def stage_run(resolved: ResolvedRun, store: Store) -> None:
    """Put into the store what the run needs, and then the run itself, which makes it exist. Idempotent."""
    send_inputs(resolved.inputs, store)
    if resolved.checkpoint:
        inputs.upload(store, resolved.checkpoint.path, "checkpoint", {"run_id": resolved.spec.run_id, "iteration": 0})
    run = RunKeys(resolved.spec.run_id)
    if store.exists(run.run):
        return
    # Values of variables lie apart from the frozen run, which is shown, and goes to Prefect.
    trainer = resolved.spec.request["trainer_spec"]
    plain = {name: value for name, value in trainer.get("env", {}).items() if isinstance(value, str)}
    spec = resolved.spec
    if plain:
        store.put_record(run.secrets, TrainerSecrets(env=plain))
        masked = trainer | {"env": trainer["env"] | dict.fromkeys(plain, MASK)}
        spec = replace(spec, request=spec.request | {"trainer_spec": masked})
    store.put_record(run.estimate, estimate_run(spec, store))
    store.put_json(run.run, spec.to_json())


def estimate_run(spec: RunSpec, store: Store) -> Estimate:
    """Return the estimate of a run: of all iterations that it may make, their rollouts and calls of the trainer."""
    asked, rate = spec.asked, spec.usd_per_gpu_hour
    policy, template = asked.loop_policy, asked.rollout_template
    rollout, count = estimate(spec.template, store, rate), policy.max_iterations
    at_once = min(template.jobs, template.rollout_parallelism)
    rollouts = in_sum([(rollout, template.jobs * count)], at_once, of=f"{template.jobs * count:,} rollouts")
    call = store.get_record_or_none(_trainer_key(spec), Measurement)
    how = f"a call of this trainer was measured in {call.source}" if call else "a call of this trainer was not measured"
    gpus = asked.trainer_spec.resources.gpu
    call_s = call.iteration_s if call else None
    held_s = call_s * gpus if call_s is not None else None if gpus else 0.0
    calls = known(call_s, held_s, rate, how=how)
    whole = in_sum([(rollouts, 1), (calls, count)], of=f"{count:,} iterations, all that it may make")

    most = asked.budget_policy.max_credits
    return within(whole, max_wallclock_hours=policy.max_wallclock_hours, max_credits=most)


def keep_call_measurement(spec: RunSpec, ended: Sequence[IterationRecord], store: Store) -> None:
    """Keep the duration of this trainer's calls, for the estimate of the next run like this."""
    seconds = [one.trainer_seconds for one in ended if one.trainer_seconds is not None]
    if seconds:
        device = "GPU" if spec.asked.trainer_spec.resources.gpu else "cpu"
        made = Measurement(
            task=spec.template.task, library="trainer", device=device, num_envs=spec.template.num_envs,
            iteration_s=round(sum(seconds) / len(seconds), 3), gpu_memory_bytes=None, source=spec.run_id,
        )  # fmt: skip
        store.put_record(_trainer_key(spec), made)


def _trainer_key(spec: RunSpec) -> str:
    """Return the key of what calls of this trainer took, with as much data."""
    trainer = {name: value for name, value in spec.request["trainer_spec"].items() if name != "env"}
    template, rollout = spec.asked.rollout_template, spec.template.rollout
    data = [trainer, template.jobs, spec.template.num_envs, rollout and rollout.steps]
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return keys.measurement(spec.template.task, f"trainer-{digest[:16]}", "trainer", spec.template.num_envs)


def trainer_env(run: RunSpec, store: Store, machine: MachineSettings) -> dict[str, str]:
    """Return the trainer's environment variables with their values, placeholders as they are.

    Raises:
        RequestError: A variable of this machine is not there, or not for trainers.
    """
    kept = store.get_record_or_none(RunKeys(run.run_id).secrets, TrainerSecrets)
    found = {} if kept is None else kept.env
    return {
        name: found.get(name, value) if isinstance(value, str) else value_of(value.variable, machine)
        for name, value in run.asked.trainer_spec.env.items()
    }


def value_of(variable: str, machine: MachineSettings) -> str:
    """Return the value of a variable of this machine that trainers may have.

    Raises:
        RequestError: It is not there, or not for trainers.
    """
    if variable not in machine.trainer_variables or variable not in os.environ:
        known = ", ".join(sorted(machine.trainer_variables)) or "none"
        raise RequestError(
            f"trainer_spec.env: trainers may not have the variable {variable!r} of this worker, or it has none.",
            code="no_trainer_variable",
            advice=f"SIMYARD_TRAINER_VARIABLES of the worker has: {known}. Its owner adds names, and sets them there.",
        )
    return os.environ[variable]


def load_run(store: Store, run_id: str) -> RunSpec:
    """Read a frozen run.

    Raises:
        RequestError: If the store has no such run.
    """
    try:
        return RunSpec.from_json(store.get_json(RunKeys(keys.check_run_id(run_id)).run))
    except KeyNotFound as error:
        raise RequestError(
            f"There is no managed training run {run_id!r} in {store.url()}.",
            code="unknown_run",
            advice="See `simyard managed list`.",
        ) from error


def rollout(run: RunSpec, iteration: int, index: int, checkpoint: InputFile | None) -> JobSpec:
    """Return one rollout of an iteration, always the same: a process that resumes the run finds it under its id.

    Args:
        run: The run.
        iteration: Counted from 1.
        index: Counted from 0, up to `rollout_template.jobs`.
        checkpoint: What drives it, where the template says that something does.
    """
    asked = run.asked
    template = asked.rollout_template
    seed = (template.seed + (iteration - 1) * template.jobs + index) % 2**31
    name = f"{asked.name}: iteration {iteration}, rollout {index + 1}"
    policy = PolicyRef(asset_id=keys.asset_id_of(checkpoint.sha256)) if template.is_driven and checkpoint else None
    request = template.rollout(name[:200], run.template.retries, policy)
    spec = replace(
        run.template,
        job_id=keys.rollout_job_id(run.run_id, iteration, index),
        name=request.name,
        seed=seed,
        created_at=now_ms(),
        request=request.model_dump(mode="json", exclude_unset=True),
    )
    if policy is None:
        return spec
    assert checkpoint is not None and spec.rollout is not None
    # A trainer wrote it, so nothing is loaded from it but numbers.
    return replace(
        spec,
        library=(template.rl_library or DEFAULT_LIBRARY) if spec.simulator == "isaaclab" else "",
        policies=(PolicyFile(checkpoint=checkpoint),),
        rollout=replace(spec.rollout, control=template.control.to_plain()),
    )
