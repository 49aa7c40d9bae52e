"""Policies of a request: the first source that is given counts."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import METRICS, NORMALIZER
from simyard.core.errors import RequestError
from simyard.core.specs import InputFile, JobSpec, PolicyFile, ResumePoint
from simyard.core.stages import Stages
from simyard.requests.jobs import LATEST, FromJob, PolicyConfig
from simyard.runner.isaaclab.physics import engine_of
from simyard.runner.isaaclab.renames import current_id
from simyard.runner.rl import DEFAULT_LIBRARY, Library, Scale, get_library
from simyard.runner.rl.checkpoints import discover
from simyard.store.keys import JOBS, JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared import history
from simyard.tasks.shared.evaluations import evaluations_of
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.inputs import LocalInput, find_input, is_file

MAX_METRICS_BYTES = 64_000_000
"""In a larger table of metrics the best checkpoint is not looked for."""


def find_policies(
    config: PolicyConfig, trained_by: JobSpec | None, store: Store, base: Path
) -> tuple[tuple[PolicyFile, ...], tuple[LocalInput, ...], tuple[str, ...]]:
    """Find the policies that a request points to.

    Args:
        config: The request's section.
        trained_by: The frozen job of `config.from_job`, if that is given.
        store: Where that job lives.
        base: Folder of the config.

    Returns:
        The policies, fewest iterations first; files that the store may not have yet; and what is to be said of the
        choice, in words.

    Raises:
        RequestError: If there is no such checkpoint.
    """
    library = get_library(config.rl_library or (trained_by.library if trained_by else DEFAULT_LIBRARY))
    if trained_by is not None and trained_by.library != library.name:
        raise RequestError(
            f"fromJob: {trained_by.job_id!r} trained with {trained_by.library!r}, and rlLibrary is {library.name!r}.",
            code="wrong_library",
            advice=f"Leave rlLibrary out, or set it to {trained_by.library!r}.",
        )

    # A file that the request names, relative to the config's folder or to the one above, which holds the whole asset.
    found: LocalInput | None = None
    for reference, field in (
        (config.checkpoint_path, "checkpointPath"),
        (config.policy_s3_uri, "policyS3Uri"),
        (config.policy_path, "policyPath"),
    ):
        if reference is not None and found is None:
            above = not is_file(base / reference) and is_file(base.parent / reference)
            found = find_input(reference, base.parent if above else base, field)

    # A job, or else the newest checkpoint beside the config.
    if found is None and config.from_job is not None:
        assert trained_by is not None
        policies, notes = _of_job(config.from_job, trained_by, store, library)
        return tuple(policies), (), notes
    if found is None:
        beside = discover(base, library.name)
        if not beside:
            raise RequestError(
                f"No checkpoint of {library.name!r} beside the config, in {str(base)!r}.",
                code="no_checkpoint",
                advice="Give checkpointPath, policyS3Uri, policyPath or fromJob.",
            )
        found = find_input(beside[-1].name, beside[-1].parent, "checkpointPath")

    # Its observation statistics: named, or the only ones beside it.
    statistics: LocalInput | None = None
    if config.normalizer_path is not None:
        statistics = find_input(config.normalizer_path, base, "normalizerPath")
    elif library.normalizer_glob and len(near := sorted(found.path.parent.glob(library.normalizer_glob))) == 1:
        statistics = find_input(near[0].name, near[0].parent, "normalizerPath")
    policy = PolicyFile(
        checkpoint=found.file,
        iteration=library.iteration_in_name(found.path.name),
        normalizer=statistics.file if statistics else None,
    )
    return (policy,), (found, *([statistics] if statistics else [])), ()


def in_their_stage(
    policies: tuple[PolicyFile, ...], trained_by: JobSpec, store: Store
) -> tuple[tuple[PolicyFile, ...], JobSpec, tuple[str, ...]]:
    """Return a training as it was when its policies were saved, those of them that fit it, and a note of the others.

    A training in stages is what it was in the stage of the last one: with its overrides, and with its agent, which
    those of another stage may not have.
    """
    if trained_by.stages is None:
        return policies, trained_by, ()
    stages = {policy: stages_at(policy, trained_by.job_id, store) for policy in policies}
    parts = {policy: as_in(found, trained_by) for policy, found in stages.items() if found}
    if (last := parts.get(policies[-1])) is None:
        return policies, trained_by, ()
    fits = last.agent, last.order
    alike = tuple(one for one in policies if one in parts and (parts[one].agent, parts[one].order) == fits)
    others = ", ".join(str(policy.iteration) for policy in policies if policy not in alike)
    why = "agent" if all(part.order == last.order for part in parts.values()) else "agent, or another order of joints"
    return alike, last, (f"left out: iterations {others}, whose stages had another {why}",) if others else ()


def as_in(stages: Stages, trained_by: JobSpec) -> JobSpec:
    """Return a training in stages as it was in the last of those that have run."""
    run = stages.runs[-1]
    return replace(trained_by.in_stage(run.stage), order=run.order)


def stages_at(policy: PolicyFile, job_id: str, store: Store) -> Stages | None:
    """Return the stages of a training when a policy of it was saved; None for one without."""
    points = history.resume_points(store, job_id)
    return next((p.stages for p in points if p.checkpoint.sha256 == policy.checkpoint.sha256), None)


def _of_job(wanted: FromJob, spec: JobSpec, store: Store, library: Library) -> tuple[list[PolicyFile], tuple[str, ...]]:
    """Return the policies of a training that are wanted, and what is to be said of the choice."""
    points = history.resume_points(store, spec.job_id)
    normalizer = _normalizer(spec, store)
    policies = policies_of(points)
    if not policies:
        raise RequestError(
            f"fromJob: {spec.job_id!r} has no valid checkpoint.", code="no_checkpoint", advice="Wait, or train again."
        )

    # Statistics in a file of their own are written once, at training's end: an earlier policy saw others, which were
    # not kept, and cannot be played.
    lost: list[PolicyFile] = []
    if normalizer is not None:
        lost, policies = policies[:-1], [replace(policies[-1], normalizer=normalizer)]
    chosen = _chosen(wanted, policies, spec, store, library)
    if not chosen:
        have = ", ".join(str(policy.iteration) for policy in policies)
        if wanted.iteration in (policy.iteration for policy in lost):
            why = f"of iteration {wanted.iteration} sees normalised observations, and its statistics were not kept"
            raise RequestError(
                f"fromJob: the policy of {spec.job_id!r} {why}.",
                code="normalizer_missing",
                advice=f"{library.name} writes them at the end of a training alone: take iteration {have}.",
            )
        raise RequestError(
            f"fromJob: {spec.job_id!r} has no checkpoint of iteration {wanted.iteration}.",
            code="no_checkpoint",
            advice=f"It has {have}.",
        )
    if lost and wanted.which not in ("latest", "iteration"):
        left_out = ", ".join(str(policy.iteration) for policy in lost)
        return chosen, (
            f"left out: iterations {left_out}, whose statistics of observations {library.name} did not keep",
        )
    return chosen, ()


def _chosen(
    wanted: FromJob, policies: list[PolicyFile], spec: JobSpec, store: Store, library: Library
) -> list[PolicyFile]:
    """Return those that are wanted; none where there is no such iteration."""
    if every := re.fullmatch(r"every:(\d+)", wanted.which):
        step = int(every.group(1))
        return [policy for index, policy in enumerate(reversed(policies)) if index % step == 0][::-1]
    match wanted.which:
        case "all":
            return policies
        case "latest":
            return policies[-1:]
        case "best":
            return best_first(policies, spec, store, library)[:1]
    return [policy for policy in policies if policy.iteration == wanted.iteration]


def policies_of(points: Iterable[ResumePoint]) -> list[PolicyFile]:
    """Return the policies of a training's checkpoints, fewest iterations first; the newest of each iteration."""
    return [
        PolicyFile(checkpoint=point.checkpoint, iteration=point.iteration, trusted=True)
        for point in {point.iteration: point for point in points}.values()
    ]


def best_first(policies: list[PolicyFile], spec: JobSpec, store: Store, library: Library) -> list[PolicyFile]:
    """Return checkpoints by what evaluations beside the training have measured; the others by its rewards, after them.

    Raises:
        RequestError: There is none of the former, and the training has logged no rewards.
    """
    found = evaluations_of(store, spec.job_id) if spec.evaluate_every else None
    places = {one.sha256: place for place, one in enumerate(found.ranked)} if found else {}
    measured = sorted((p for p in policies if p.checkpoint.sha256 in places), key=lambda p: places[p.checkpoint.sha256])
    others = [policy for policy in policies if policy.checkpoint.sha256 not in places]
    try:
        return [*measured, *by_return(others, spec, store, library)]
    except RequestError:
        if not measured:
            raise
        return measured


def by_return(policies: list[PolicyFile], spec: JobSpec, store: Store, library: Library) -> list[PolicyFile]:
    """Return checkpoints by the mean return that training had logged by their iteration, the highest first.

    Raises:
        RequestError: It has logged none.
    """
    past = history.attempts(store, spec.job_id)
    facts = next((a.outcome.facts for a in reversed(past) if a.outcome and a.outcome.facts), None)
    rewards = _logged_returns(spec, store, library.reward_tag)
    if facts is None or not rewards:
        raise RequestError(
            f"fromJob: {spec.job_id!r} has logged no mean return to find the best checkpoint by.",
            code="no_metrics",
            advice="Use which 'latest', or evaluate 'all'.",
        )
    scale = Scale(num_envs=spec.num_envs, rollout=facts.rollout)

    def reward(policy: PolicyFile) -> float:
        after = library.first_step(library.reward_tag, policy.iteration or 0, scale)
        return max((item for item in rewards if item[0] < after), default=(0, float("-inf")))[1]

    return sorted(policies, key=reward, reverse=True)


def _normalizer(spec: JobSpec, store: Store) -> InputFile | None:
    """Return the observation statistics that a training left in a file of their own, as sb3 does."""
    job = JobKeys(spec.job_id)
    result = history.result_of(store, spec.job_id)
    for entry in result.artifacts if result else ():
        if NORMALIZER.covers(entry.name):
            name = entry.name.rpartition("/")[2]
            return InputFile(name=name, key=job.artifact(entry.name), sha256=entry.sha256, size_bytes=entry.size_bytes)
    return None


def _logged_returns(spec: JobSpec, store: Store, tag: str) -> list[tuple[int, float]]:
    """Return (step, mean return) of the whole job, or of its last attempt while it runs; a workload wrote the table."""
    job = JobKeys(spec.job_id)
    candidates = [
        job.artifact(METRICS.name),
        *(a.keys.file(METRICS.name) for a in history.attempts(store, spec.job_id)),
    ]
    for key in candidates:
        try:
            if store.stat(key).size_bytes > MAX_METRICS_BYTES:
                return []
            lines = store.get_bytes(key).decode(errors="replace").splitlines()
        except KeyNotFound:
            continue
        found = []
        with suppress(csv.Error):
            for row in csv.DictReader(lines):
                with suppress(KeyError, ValueError, TypeError):  # a cell that is no number, or missing
                    found.append((int(row["step"]), float(row[tag])))
        return [one for one in found if math.isfinite(one[1])]
    return []


def newest_training(store: Store, task: str | None = None, library: str | None = None) -> JobSpec | None:
    """Return the newest training that has succeeded; None where there is none.

    Args:
        store: Where to look.
        task: Of this task alone.
        library: With this library alone.
    """
    for job_id in reversed(store.list_dirs(JOBS)):
        if store.exists(JobKeys(job_id).manifest):
            spec = load_spec(store, job_id)
            of_task = task is None or current_id(task) == current_id(spec.task)
            if spec.kind == "train" and of_task and library in (None, spec.library):
                return spec
    return None


def training_of(source: FromJob | None, store: Store) -> JobSpec | None:
    """Return the training whose policy a request means; None where it names none.

    Raises:
        RequestError: If there is no such job, or it is no training.
    """
    if source is None:
        return None
    if source.job_id == LATEST:
        newest = newest_training(store)
        if newest is None:
            raise RequestError(
                f"No training has succeeded in {store.url()}.",
                code="unknown_job",
                advice="Train first, or name another store.",
            )
        return newest
    spec = load_spec(store, source.job_id)
    if spec.kind != "train":
        raise RequestError(
            f"fromJob: {spec.job_id!r} is a job of kind {spec.kind!r}.",
            code="not_a_training",
            advice="Name a training job: see `simyard jobs list`.",
        )
    return spec


ORDER_ASSUMED = (
    "trainedUnder was not given: the joints and bodies of {name} are taken to be in the order of this job's own engine"
)
"""Note of a job with a checkpoint of which nothing tells the engine that it was trained under."""


def order_of(trained_by: JobSpec, store: Store) -> str | None:
    """Return the engine whose order of joints and bodies a training's policy has; None where nothing tells it."""
    engine = trained_by.order or engine_of(trained_by)
    if engine is None:  # left to the task and the machine: the training has found out
        past = history.attempts(store, trained_by.job_id)
        engine = next((one.facts.physics for one in reversed(past) if one.facts), None)
    return engine


def assuming_own_order(spec: JobSpec, outside: InputFile) -> JobSpec:
    """Return a job with the note that it takes a checkpoint to have the order of its own engine."""
    return replace(spec, notes=(*(spec.notes or ()), ORDER_ASSUMED.format(name=outside.name)))


def in_order_of(spec: JobSpec, engine: str | None, *, outside: InputFile | None = None) -> JobSpec:
    """Return a job that keeps a policy's order of joints and bodies, where its own engine has or may have another.

    Args:
        spec: The job.
        engine: The engine that the policy was trained under; None where nothing tells it.
        outside: The policy's file where no job of this store has made it: of that the job notes what it assumes.
    """
    if engine is None and outside is not None:
        return assuming_own_order(spec, outside)
    return spec if engine in (None, engine_of(spec)) else replace(spec, order=engine)


_COMPUTE = {"gpusPerNode": "gpus", "priority": "priority", "acceptNvidiaEula": "accepts_eula", "session": "session"}
"""Fields of a request's `computeConfig` that hold for the jobs of a training's policy too, with those of the spec."""


def inherit(spec: JobSpec, trained_by: JobSpec, task: str | None) -> JobSpec:
    """Take over what a training says of its task, engine and machine, save what is given anew: one GPU is enough."""
    given = spec.overridden | ({"physics"} if spec.physics else set())  # the engine may be named in either way
    inherited = tuple(o for o in trained_by.overrides if o.partition("=")[0] not in given)
    asked = spec.request.get("computeConfig", {})
    alone = replace(trained_by, gpus=trained_by.gpus and 1, session=trained_by.session or trained_by.ranks > 1)
    compute: dict[str, Any] = {name: getattr(alone, name) for key, name in _COMPUTE.items() if key not in asked}
    return replace(
        spec,
        task=task or trained_by.task,
        renamed_from=None if task else trained_by.renamed_from,
        library=trained_by.library,
        agent=spec.agent or trained_by.agent,
        agent_config=spec.agent_config or (None if spec.agent else trained_by.agent_config),
        physics=spec.physics if "physics" in given else trained_by.physics,
        overrides=(*inherited, *spec.overrides),
        packages=spec.packages or trained_by.packages,
        import_callback=spec.import_callback or trained_by.import_callback,
        from_job=trained_by.job_id,
        **compute,
    )
