"""The parts of a retraining: where it begins, its jobs, their figures, its report."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simyard.core.artifacts import EPISODES, SUMMARY
from simyard.core.errors import RequestError
from simyard.core.records import Cost, Estimate, JobResult
from simyard.core.run_records import (
    EngineShare,
    PolicyCheckpoint,
    PolicyEvaluation,
    PolicyRecord,
    PromotionDecision,
)
from simyard.core.specs import JobSpec
from simyard.requests.jobs import (
    EvaluateRequest,
    EvaluationConfig,
    FromJob,
    Metric,
    Resume,
    RetrainRequest,
    TrainRequest,
)
from simyard.runner.isaaclab.renames import current_id
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.kinds.policy_sources import newest_training
from simyard.tasks.shared import history, usage
from simyard.tasks.shared.documents import REPORTS
from simyard.tasks.shared.estimates import as_told, estimate, evaluation_of, in_sum
from simyard.tasks.shared.history import load_spec


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start of the training: a checkpoint or nothing."""

    resume: Resume | None
    """The checkpoint; None begins from scratch."""
    described: str
    """In words, with the reason where it is not what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a policy from its evaluation."""

    policy: PolicyRecord
    values: tuple[float | None, ...]
    """The metric in each episode; None where not measured."""


def find_start(request: RetrainRequest, incumbent: PolicyRecord | None, store: Store, job_id: str) -> Start:
    """Find the checkpoint that a request means.

    Args:
        request: The request.
        incumbent: The promoted policy.
        store: Where to look.
        job_id: The training that is to begin; when it is in the store already, it began where it says.
    """
    if store.exists(JobKeys(job_id).job):
        frozen = load_spec(store, job_id).resume
        return Start(
            resume=None, described=f"iteration {frozen.iteration} of an earlier training" if frozen else "scratch"
        )
    wanted = request.training.training_config
    if request.start == "scratch":
        own = request.training.resume
        return Start(resume=own, described="the checkpoint that the request names" if own else "scratch")
    if request.start == "newest":
        newest = newest_training(store, wanted.task, wanted.rl_library)
        if newest is None:
            which = f"{wanted.task!r} with {wanted.rl_library!r}"
            return Start(resume=None, described=f"scratch: no training of {which} has succeeded in this store")
        described = f"iteration {newest.last_iteration} of the newest training, {newest.job_id}"
        return Start(resume=Resume(from_job=newest.job_id), described=described)
    if incumbent is None:
        return Start(resume=None, described="scratch: no policy is promoted yet")
    if incumbent.library != wanted.rl_library:
        trained = f"the promoted policy was trained with {incumbent.library!r}, not {wanted.rl_library!r}"
        return Start(resume=None, described=f"scratch: {trained}")
    iteration, source = incumbent.checkpoint.iteration, incumbent.job_id
    described = f"iteration {iteration} of the promoted policy, {source}"
    return Start(resume=Resume(from_job=source, iteration=iteration), described=described)


def require_comparable(request: RetrainRequest, incumbent: PolicyRecord | None, store: Store) -> None:
    """Refuse to train what could not be compared with the promoted policy afterwards.

    Raises:
        RequestError: If that has another task, or an environment that the request's overrides cannot bring about.
    """
    if incumbent is None:
        return
    task = current_id(request.training.training_config.task)
    if current_id(incumbent.task) != task:
        raise RequestError(
            f"promotion {request.promotion!r} holds a policy of {incumbent.task!r}, and this is a training of "
            f"{task!r}.",
            code="other_task",
            advice="Take another name for it.",
        )
    spec = load_spec(store, incumbent.job_id)
    given = {_name(override) for override in (*environment_of(request.training.overrides), *_engine(request.training))}
    theirs = (*environment_of(spec.overrides), *_engine(spec))
    if lacking := [override for override in theirs if _name(override) not in given]:
        raise RequestError(
            f"promotion {request.promotion!r} holds a policy of another environment: it was trained with "
            f"{', '.join(lacking)}, which this training leaves open.",
            code="other_environment",
            advice="Add these overrides, with whatever value, or take another name for the promotion.",
        )


def environment_of(overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Return the overrides that are about the environment; the others are about how a policy is trained, or built."""
    return tuple(override for override in overrides if not override.startswith("agent."))


def _engine(job: JobSpec | TrainRequest) -> list[str]:
    """Return the engine that a field names, as an override would."""
    return [f"physics={job.physics}"] if job.physics else []


def _name(override: str) -> str:
    return override.partition("=")[0]


def evaluation_request(request: RetrainRequest, job_id: str, iteration: int | None) -> EvaluateRequest:
    """Return the evaluation of a policy, whichever: in the environment of the request's training.

    Args:
        request: The request.
        job_id: The training that the policy comes from.
        iteration: Which checkpoint of it; None is the last.
    """
    asked, training = request.evaluation, request.training
    which, compute = "latest" if iteration is None else "iteration", training.compute_config
    return EvaluateRequest(
        name=f"{request.promotion}: {'new' if iteration is None else 'promoted'} policy",
        # The same machine for both policies, whatever the promoted one was trained on; one GPU of it is enough.
        compute_config=compute.model_copy(update={"num_nodes": 1, "gpus_per_node": compute.gpus_per_node and 1}),
        simulator=training.simulator,
        physics=training.physics,
        overrides=environment_of(training.overrides),
        custom_environment_path=training.custom_environment_path,
        custom_environment_s3_uri=training.custom_environment_s3_uri,
        custom_environment_callback=training.custom_environment_callback,
        retries=training.retries,
        training_config=EvaluationConfig(
            from_job=FromJob(job_id=job_id, which=which, iteration=iteration),
            num_episodes=asked.num_episodes,
            num_envs=asked.num_episodes if asked.across else asked.num_envs,
            steps_per_episode=asked.steps_per_episode,
            seed=asked.seed,
            success_termination=asked.success_termination,
            across=asked.across,
        ),
    )


def candidate_job_id(job_id: str) -> str:
    """Return the id of the evaluation of a training's policy, always the same."""
    return keys.follow_up_job_id(job_id, "evaluation of the new policy")


def incumbent_job_id(job_id: str, incumbent: PolicyRecord) -> str:
    """Return the id of the evaluation that a training's policy is compared with; another for each promoted policy."""
    return keys.follow_up_job_id(job_id, f"evaluation of {incumbent.job_id}/{incumbent.checkpoint.sha256}")


def estimate_retraining(
    request: RetrainRequest, training: JobSpec, incumbent: PolicyRecord | None, store: Store, rate: float | None
) -> Estimate:
    """Return the estimate of a retraining: its training, and an evaluation of each policy.

    Args:
        request: The request.
        training: Its training.
        incumbent: The promoted policy.
        store: Whose measurements count.
        rate: Price of a GPU hour in USD; None where the site names none.
    """
    asked, count = request.evaluation, 1 if incumbent is None else 2
    evaluation = evaluation_of(
        training, num_episodes=asked.num_episodes, steps_per_episode=asked.steps_per_episode,
        num_envs=asked.num_episodes if asked.across else asked.num_envs or asked.num_episodes,
    )  # fmt: skip
    engines = len(asked.across or ("its own",))
    parts = [(estimate(training, store, rate), 1), (estimate(evaluation, store, rate), count * engines)]
    return in_sum(parts, of=f"a training and {count} evaluation{'s' * (count - 1)}")


def told_and_spent(job_ids: Sequence[str], store: Store) -> tuple[Estimate | None, Cost | None]:
    """Return the estimates and the costs of a retraining's jobs in sum; None where a job has none."""
    found = [history.result_of(store, job_id) for job_id in dict.fromkeys(job_ids)]
    results = [result for result in found if result is not None]
    told = [(result.estimate, 1) for result in results if result.estimate is not None]
    costs = [result.cost for result in results if result.cost is not None]
    if not results or len(told) < len(results) or len(costs) < len(results):
        return None, None
    return in_sum(told, of=f"{len(told)} jobs"), usage.sum_of(costs)


def measured(store: Store, evaluation_id: str, metric: Metric) -> Measured:
    """Read the figures of a succeeded evaluation of one policy."""
    job = JobKeys(evaluation_id)
    spec = load_spec(store, evaluation_id)
    summary = store.get_json(job.artifact(SUMMARY.name))
    rows = csv.DictReader(store.get_bytes(job.artifact(EPISODES.name)).decode().splitlines())
    column = "return" if metric == "return" else "success"
    values = tuple(float(row[column]) if row[column] else None for row in rows)
    figures = summary["return"] if metric == "return" else summary["success"]
    assert spec.from_job is not None

    # The checkpoint is an artifact of the training, under the digest that was measured.
    identity = summary["checkpoint"]
    training = JobKeys(spec.from_job)
    entries = store.get_record(training.result, JobResult).artifacts
    artifact = next(one for one in entries if one.kind == "checkpoint" and one.sha256 == identity["sha256"])
    return Measured(
        policy=PolicyRecord(
            job_id=spec.from_job,
            checkpoint=PolicyCheckpoint(
                name=identity["name"],
                key=training.artifact(artifact.name),
                sha256=artifact.sha256,
                iteration=identity["iteration"],
            ),
            task=spec.task,
            library=spec.library,
            evaluation=PolicyEvaluation(
                job_id=evaluation_id,
                metric=metric,
                mean=figures["mean" if metric == "return" else "rate"],
                interval_95=figures["interval_95"] and tuple(figures["interval_95"]),
                episodes=sum(value is not None for value in values),
                seed=spec.seed,
                across=_shares(summary, metric),
            ),
        ),
        values=values,
    )


def _shares(summary: dict[str, Any], metric: Metric) -> tuple[EngineShare, ...] | None:
    """Return what a policy keeps of its metric in other engines; None where it was measured in one."""
    if not (across := summary.get("across")):
        return None
    shares = []
    for gap in across["gaps"]:
        kept, bounds = gap["kept"], gap["kept_interval_95"]
        if metric == "success_rate":
            rate, change = summary["success"]["rate"], gap["success"]
            kept = 1 + change["mean"] / rate if rate and change else None
            bounds = [1 + bound / rate for bound in change["interval_95"]] if rate and change else None
        low_and_high = (bounds[0], bounds[1]) if bounds else None
        shares.append(EngineShare(physics=gap["physics"], kept=kept, interval_95=low_and_high))
    return tuple(shares)


def report(request: RetrainRequest, decision: PromotionDecision) -> str:
    """Return a decision as Markdown."""
    metric = request.evaluation.metric
    told = decision.estimate and as_told(decision.estimate)
    return REPORTS.render("retraining.md.j2", promotion=request.promotion, metric=metric, entry=decision, told=told)
