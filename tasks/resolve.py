"""request -> JobSpec: everything fixed, everything checked that needs no simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from simyard.core.artifacts import METRICS_SUMMARY
from simyard.core.errors import RequestError, unknown
from simyard.core.specs import (
    AgentFile,
    Answer,
    EvaluateEvery,
    Evaluation,
    Export,
    JobSpec,
    JointLimits,
    Mujoco,
    Precision,
    ResumePoint,
    Robot,
    Stage,
    StopWhen,
)
from simyard.core.stages import Gate, Growth, Widen
from simyard.requests import stages as requested
from simyard.requests.jobs import (
    EvaluateRequest,
    EvaluationConfig,
    ExportRequest,
    JobRequest,
    PolicyConfig,
    Resume,
    TaskRequest,
    TrainRequest,
)
from simyard.requests.rollout import RolloutRequest
from simyard.requests.settings import robot_sensors
from simyard.requests.stages import StageStart, check_stages
from simyard.runner.adapter import SIMULATORS, adapter_of
from simyard.runner.assets.archives import inspect
from simyard.runner.evaluation import factors
from simyard.runner.evaluation.paired_statistics import episodes_to_tell, pairs_to_tell
from simyard.runner.isaaclab.agent_files import read_agent_file
from simyard.runner.isaaclab.physics import engine_of, require_one_engine
from simyard.runner.isaaclab.renames import with_current_id
from simyard.runner.rl import DEFAULT_LIBRARY, LIBRARIES, get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.kinds.base import Resolved, common_fields
from simyard.tasks.kinds.policy_sources import (
    as_in,
    assuming_own_order,
    find_policies,
    in_order_of,
    in_their_stage,
    inherit,
    order_of,
    stages_at,
    training_of,
)
from simyard.tasks.kinds.rollout import resolve_rollout
from simyard.tasks.packages.pack import find_package
from simyard.tasks.shared import history
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.inputs import LocalInput, find_input
from simyard.tasks.shared.limited import limited

DEFAULT_SEED = 42


def resolve(request: JobRequest, store: Store, job_id: str, base: Path | None = None) -> Resolved:
    """Turn a request into a frozen job; writes nothing.

    Args:
        request: The checked request.
        store: Where the job will live; jobs to go on from are looked up here.
        job_id: The new job's id.
        base: Folder that relative paths start from; the current one by default.

    Raises:
        RequestError: If a file is missing, or there is nothing to go on from.
    """
    base = base or Path.cwd()
    keys.check_job_id(job_id)
    match request:
        case TrainRequest():
            resolved = _train(request, _task_fields(request, job_id, base), store, base)
        case EvaluateRequest():
            resolved = _evaluate(request, _task_fields(request, job_id, base), store, base)
        case ExportRequest():
            resolved = _export(request, _task_fields(request, job_id, base), store, base)
        case RolloutRequest():
            resolved = resolve_rollout(request, job_id, store, base)
        case _:
            raise TypeError(f"no kind of job for {type(request).__name__}")
    return replace(resolved, spec=settle(resolved.spec))


def settle(spec: JobSpec) -> JobSpec:
    """Return a job with the present names of its task and agent, once it has proved to be one that can be.

    Raises:
        RequestError: If no simulator does such a job, or its library or its kind does not.
    """
    if spec.simulator == "isaaclab":
        spec = with_current_id(spec)
    if spec.agent is not None:
        spec = replace(spec, agent=get_library(spec.library).named_agent(spec.agent))
    require_one_engine(spec)

    # The simulator must be there, and do this kind of job.
    if spec.kind not in adapter_of(spec.simulator).kinds:
        able = [name for name in SIMULATORS if spec.kind in adapter_of(name).kinds]
        raise unknown(f"simulator for a job of kind {spec.kind!r}:", spec.simulator, able, code="unknown_simulator")

    # Only a training takes several GPUs, and not with every library.
    if spec.ranks > 1 and spec.kind != "train":
        raise RequestError(
            f"The job asks for {spec.ranks} GPUs, and a job of kind {spec.kind!r} runs on one.",
            code="too_many_gpus",
            advice="Set computeConfig.gpusPerNode and numNodes to 1; only a training takes several.",
        )
    if spec.stages:
        _require_stages(spec)
    _require_evaluations(spec)
    able = [name for name, library in LIBRARIES.items() if library.multi_gpu]
    if spec.ranks > 1 and spec.library not in able:
        raise RequestError(
            f"The job asks for {spec.ranks} GPUs, and rlLibrary {spec.library!r} trains on one.",
            code="too_many_gpus",
            advice=f"Those that train on several: {', '.join(map(repr, able))}.",
        )
    return spec


def _task_fields(request: TaskRequest, job_id: str, base: Path) -> Resolved:
    """Fix the fields that all jobs on a task of Isaac Lab have in common."""
    inputs: list[LocalInput] = []
    if package := request.custom_environment_path or request.custom_environment_s3_uri:
        inputs.append(find_package(package, base, "customEnvironment"))
        limited(inspect, inputs[0].path)
    packages = tuple(found.file for found in inputs)
    section = request.section
    agent_config = None
    if section.agent_config is not None:
        inputs.append(find_input(section.agent_config, base, "agentConfig"))
        limited(read_agent_file, inputs[-1].path)
        agent_config = AgentFile(file=inputs[-1].file, mode=section.agent_config_mode)
    spec = common_fields(
        request,
        job_id,
        kind="",
        simulator=request.simulator,
        task=section.task or "",
        library=section.rl_library or "",
        agent=section.agent,
        agent_config=agent_config,
        physics=request.physics,
        num_envs=_environments(section),
        seed=DEFAULT_SEED if section.seed is None else section.seed,
        packages=packages,
        import_callback=request.custom_environment_callback,
    )
    return Resolved(spec, tuple(inputs))


def _environments(section: Any) -> int:
    """Return the environments asked for; where that was left open, none without an episode: it only costs time."""
    if section.num_envs is not None:
        return int(section.num_envs)
    return min(int(section.MOST_ENVS), int(section.num_episodes))


def _require_stages(spec: JobSpec) -> None:
    """Refuse stages with a library, or on machines, that cannot have them.

    Raises:
        RequestError: It is so.
    """
    able = [name for name, library in LIBRARIES.items() if library.trains_in_stages]
    if spec.library not in able:
        raise RequestError(
            f"The job has stages, and rlLibrary {spec.library!r} says nothing between iterations to end one by.",
            code="no_stages",
            advice=f"Those that train in stages: {', '.join(map(repr, able))}.",
        )
    if spec.ranks > 1:
        raise RequestError(
            f"The job has stages, and asks for {spec.ranks} GPUs: stages are trained on one.",
            code="no_stages",
            advice="Set computeConfig.gpusPerNode and numNodes to 1.",
        )


def _require_evaluations(spec: JobSpec) -> None:
    """Refuse evaluations of checkpoints that cannot be played by themselves, and an end that nothing can bring about.

    Raises:
        RequestError: It is so.
    """
    if spec.evaluate_every is not None and get_library(spec.library).normalizer_glob:
        able = [name for name, library in LIBRARIES.items() if not library.normalizer_glob]
        raise RequestError(
            f"evaluateEvery: rlLibrary {spec.library!r} keeps the statistics of observations in a file of their own, "
            "which it writes at the end alone.",
            code="not_evaluated",
            advice=f"Those whose checkpoints can be evaluated meanwhile: {', '.join(map(repr, able))}.",
        )
    able = [name for name, library in LIBRARIES.items() if library.trains_in_stages]
    if spec.stop_when is not None and (spec.library not in able or spec.ranks > 1 or spec.stages):
        raise RequestError(
            "stopWhen ends a training of one GPU without stages, with a library that says something between "
            f"iterations; this one has {spec.ranks} GPUs, {len(spec.stages or ())} stages and {spec.library!r}.",
            code="not_stopped",
            advice=f"Leave stopWhen out, or take one of {', '.join(map(repr, able))} on one GPU.",
        )


def _train(request: TrainRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    library = get_library(request.training_config.rl_library)
    common = replace(common, spec=_evaluated(common.spec, request))
    if request.stages:
        return _in_stages(request, common, store, base)
    earlier = load_spec(store, request.resume.from_job) if request.resume and request.resume.from_job else None
    resume, local = _resume(request.resume, earlier, store, base, library.name) if request.resume else (None, None)
    iterations = request.training_config.max_iterations
    spec = replace(common.spec, kind="train", max_iterations=iterations, resume=resume, exact=_exact(request))
    if earlier is not None:
        if resume and resume.stages:
            earlier = as_in(resume.stages, earlier)
        if spec.agent is None and spec.agent_config is None:
            spec = replace(spec, agent=earlier.agent, agent_config=earlier.agent_config)
        spec = in_order_of(spec, order_of(earlier, store))
    elif request.resume and local:
        spec = in_order_of(spec, request.resume.trained_under, outside=local.file)
    if resume is not None:  # how the stages of the other job stood is nothing to this one
        spec = replace(spec, resume=replace(resume, stages=None, others=None))
    return Resolved(spec, (*common.inputs, *([local] if local else [])))


def _evaluated(spec: JobSpec, request: TrainRequest) -> JobSpec:
    """Return a training with the evaluations that are made while it goes on."""
    section = request.training_config
    every, stop = section.evaluate_every, section.stop_when
    if every is not None:
        wanted = EvaluateEvery(
            iterations=every.iterations,
            minutes=every.minutes,
            num_episodes=every.num_episodes,
            num_envs=every.num_envs or min(EvaluationConfig.MOST_ENVS, every.num_episodes),
            steps_per_episode=every.steps_per_episode,
            success_termination=every.success_termination,
            video=every.record_video,
            on_cpu=every.device == "cpu",
            metric=every.metric,
        )
        spec = replace(spec, evaluate_every=wanted)
    if stop is not None:
        spec = replace(spec, stop_when=StopWhen(target=stop.target, plateau=stop.plateau))
    return replace(spec, reward_audit=section.reward_audit or None)


def _in_stages(request: TrainRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    library = request.training_config.rl_library
    stages, inputs, spec = list[Stage](), [*common.inputs], common.spec
    for stage in request.stages:
        start, point = stage.start, None
        order: str | None = None
        if isinstance(start, StageStart):
            source = Resume(from_job=start.job, checkpoint=start.checkpoint, iteration=0 if start.checkpoint else None)
            earlier = load_spec(store, start.job) if start.job else None
            point, local = _resume(source, earlier, store, base, library)
            assert point is not None
            if local:
                inputs.append(local)
                order = start.trained_under
                spec = spec if order else assuming_own_order(spec, local.file)
            else:
                assert start.job is not None
                earlier = load_spec(store, start.job)
                order = order_of(as_in(point.stages, earlier) if point.stages else earlier, store)
            # Its name must be none that this job gives a checkpoint of its own.
            named = replace(point.checkpoint, name=f"start-{len(stages)}-{point.checkpoint.name}")
            point = replace(point, checkpoint=named, stages=None, others=None, state=None)
        agent = stage.agent or ("distillation" if stage.kind == "distill" else None)
        stages.append(
            Stage(
                name=stage.name,
                kind=stage.kind,
                agent=get_library(library).named_agent(agent) if agent else None,
                overrides=stage.overrides,
                start="outside" if isinstance(start, StageStart) else start,
                checkpoint=point,
                order=order,
                until=Gate(**stage.until.model_dump()) if stage.until else None,
                max_iterations=stage.max_iterations,
                on_not_reached=stage.on_not_reached,
                widen=_widen(stage.widen) if stage.widen else None,
            )
        )
    iterations = check_stages(request.stages, request.budget)
    spec = replace(spec, kind="train", max_iterations=iterations, stages=tuple(stages), exact=_exact(request))
    return Resolved(spec, tuple(inputs))


def _exact(request: TrainRequest) -> bool | None:
    """Return False where the simulation's state is not to be kept; None leaves it to the engine."""
    return None if request.resume is None or request.resume.exact else False


def _widen(wanted: requested.Widen) -> Widen:
    """Return the ranges that grow, as they are frozen."""
    gate = Gate(metric=wanted.metric, op=wanted.op, value=wanted.value, for_iterations=wanted.for_iterations)
    parameters = {path: Growth(start=growth.start, end=growth.end) for path, growth in wanted.parameters.items()}
    return Widen(parameters=parameters, steps=wanted.steps, gate=gate, floor=wanted.floor)


def _evaluate(request: EvaluateRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.training_config
    is_filmed = wanted.record_video if wanted.record_video is not None else wanted.task is not None
    is_sequential = wanted.plan is not None and wanted.plan.half_width is not None
    is_filmed = (is_filmed or wanted.require_video) and not is_sequential
    films = tuple(map(str, wanted.video_episodes)) if is_filmed else ()
    seed = common.spec.seed
    arms = factors.arms(wanted.variations, wanted.design, wanted.design_samples, seed) if wanted.variations else ()
    num_episodes, until = _enough(wanted, len(arms))
    if (total := num_episodes * (1 + len(arms))) > EvaluationConfig.MOST_SIDE_BY_SIDE:
        raise RequestError(
            f"variations: {num_episodes:,} episodes in {1 + len(arms)} arms are {total:,} environments side by side.",
            code="bad_design",
            advice=f"Allowed are {EvaluationConfig.MOST_SIDE_BY_SIDE:,}: give fewer episodes or fewer arms.",
        )
    evaluation = Evaluation(
        num_episodes=num_episodes,
        steps_per_episode=wanted.steps_per_episode,
        success_termination=wanted.success_termination,
        videos=films,
        require_video=wanted.require_video,
        across=wanted.across or None,
        arms=arms or None,
        design=wanted.design if arms else None,
        floor=wanted.floor if arms else None,
        until=until,
        record=wanted.record or None,
    )
    if wanted.across:
        if (named := engine_of(common.spec)) not in (None, wanted.across[0]):
            raise RequestError(
                f"physics is {named!r}, and across begins with {wanted.across[0]!r}, which the others are compared "
                "with.",
                code="two_engines",
                advice=f"Leave physics out, or name {named!r} first in across.",
            )
        common = replace(common, spec=replace(common.spec, physics=wanted.across[0]))
    resolved = _with_policies(wanted, common, store, base)
    # The first episodes of environments are pairs: each has an environment of its own.
    planned = wanted.model_copy(update={"num_episodes": num_episodes})
    num_envs = num_episodes if wanted.across or arms else _environments(planned)
    return replace(resolved, spec=replace(resolved.spec, kind="evaluate", evaluation=evaluation, num_envs=num_envs))


def _enough(wanted: EvaluationConfig, arms: int) -> tuple[int, Precision | None]:
    """Return the episodes of an evaluation, and the precision that ends it before.

    Raises:
        RequestError: The plan takes more episodes than an evaluation may have.
    """
    plan = wanted.plan
    if plan is None:
        return wanted.num_episodes, None
    if plan.half_width is not None:
        return wanted.num_episodes, Precision(metric=plan.metric, half_width=plan.half_width)
    assert plan.difference is not None
    pairs = wanted.across or arms
    count = pairs_to_tell(plan.rate, plan.difference, plan.power, max(arms, len(wanted.across) - 1, 1))
    episodes = count if pairs else episodes_to_tell(plan.rate, plan.difference, plan.power)
    most = EvaluationConfig.MOST_PLANNED
    if episodes > most:
        raise RequestError(
            f"plan: a difference of {plan.difference:g} with power {plan.power:g} takes {episodes:,} episodes of each "
            f"arm, and an evaluation plans {most:,} at most.",
            code="plan_too_large",
            advice="Give a larger difference or a lower power, or numEpisodes itself.",
        )
    return episodes, None


def _export(request: ExportRequest, common: Resolved, store: Store, base: Path) -> Resolved:
    wanted = request.export_config
    named = wanted.robot.sensors
    sensors, ours = (robot_sensors(), True) if named is None else (tuple(named), False)
    export = Export(
        num_episodes=wanted.num_episodes,
        other_physics=wanted.other_physics,
        action_limits={joint: JointLimits(**limits.model_dump()) for joint, limits in wanted.action_limits.items()},
        robot=Robot(
            sensors=sensors,
            noise=dict(wanted.robot.noise),
            delay_s=wanted.robot.delay_s,
        ),
        mujoco=Mujoco(functions=wanted.mujoco.functions, model=wanted.mujoco.model),
        answers={
            item: Answer(**answer.model_dump(), at=common.spec.created_at)
            for item, answer in wanted.checklist_answers.items()
        },
    )
    resolved = _with_policies(wanted, common, store, base)
    if ours and sensors:
        note = f"robot.sensors are those of this site, SIMYARD_ROBOT_SENSORS: {', '.join(sensors)}"
        resolved = replace(resolved, spec=replace(resolved.spec, notes=(*(resolved.spec.notes or ()), note)))
    if resolved.spec.from_job is not None:
        stages = stages_at(resolved.spec.policies[0], resolved.spec.from_job, store)
        # The last logged stage of each curriculum term of the training.
        logged = store.get_json_or_none(keys.JobKeys(resolved.spec.from_job).artifact(METRICS_SUMMARY.name)) or {}
        terms = {tag.partition("Curriculum/")[2]: fact["final"]["value"] for tag, fact in logged.items()}
        curriculum = {term: value for term, value in terms.items() if term} or None
        export = replace(export, curriculum=curriculum, stages=stages)
    return replace(resolved, spec=replace(resolved.spec, kind="export", export=export))


def _with_policies(wanted: PolicyConfig, common: Resolved, store: Store, base: Path) -> Resolved:
    """Add the policies, and what the job that trained them says of their task."""
    trained_by = training_of(wanted.from_job, store)
    policies, local, notes = find_policies(wanted, trained_by, store, base)
    if trained_by is not None:
        policies, trained_by, more = in_their_stage(policies, trained_by, store)
        notes = (*notes, *more)
    spec = replace(common.spec, policies=policies, notes=notes or None, library=common.spec.library or DEFAULT_LIBRARY)
    engine, checkpoint = wanted.trained_under, policies[-1].checkpoint
    if trained_by is not None:
        spec = in_order_of(inherit(spec, trained_by, wanted.task), engine or order_of(trained_by, store))
    else:
        spec = in_order_of(spec, engine, outside=checkpoint)
    return Resolved(spec, (*common.inputs, *local))


def _resume(
    resume: Resume, earlier: JobSpec | None, store: Store, base: Path, library: str
) -> tuple[ResumePoint | None, LocalInput | None]:
    if resume.checkpoint is not None:
        found = find_input(resume.checkpoint, base, "resume.checkpoint")
        named = get_library(library).iteration_in_name(found.path.name) or 0
        iteration = named if resume.iteration is None else resume.iteration
        return ResumePoint(checkpoint=found.file, iteration=iteration), found
    if earlier is None:
        return None, None
    if earlier.library != library:
        raise RequestError(
            f"resume.from_job: {resume.from_job!r} trained with {earlier.library!r}, this job with {library!r}.",
            code="wrong_library",
            advice=f"Set rlLibrary to {earlier.library!r}.",
        )
    points = history.resume_points(store, earlier.job_id)
    chosen = [point for point in points if resume.iteration in (None, point.iteration)]
    if not chosen:
        have = ", ".join(str(point.iteration) for point in points)
        raise RequestError(
            f"resume.from_job: {resume.from_job!r} has no valid checkpoint"
            + (f" of iteration {resume.iteration}." if resume.iteration is not None else "."),
            code="no_checkpoint",
            advice=f"It has iterations {have}." if have else "Train from scratch.",
        )
    return chosen[-1], None
