"""The checklist before a policy moves a robot, `checklist.json`: its items, and how each is judged by the evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from simyard.core.errors import unknown
from simyard.core.specs import Answer, JointLimits
from simyard.core.wire import Wire
from simyard.runner.exporting.contract import ActionTerm
from simyard.runner.exporting.evidence import ActionSample, Evidence, SecondSimulator, Thresholds
from simyard.runner.exporting.observing import check_robot, delays, history, observation_noise, observations
from simyard.runner.exporting.verdict import Status, Verdict, few, finite, quoted

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Item(Wire):
    """One line of the checklist."""

    item: str
    status: str
    """`pass`, `fail` or `needs-a-human`."""
    evidence: dict[str, Any]
    """`summary` in words, the numbers behind it, and `answer` where a person gave one."""
    advice: str
    """Next step; empty for a pass."""

    @property
    def summary(self) -> str:
        """The evidence in a sentence."""
        return str(self.evidence["summary"])


@dataclass(frozen=True, kw_only=True)
class Checklist(Wire):
    """Every item, and whether all of them are settled."""

    schema_version: int
    deployable: bool
    """Nothing failed, and a person has answered everything that needs one."""
    thresholds: Thresholds
    items: tuple[Item, ...]

    def rows(self) -> str:
        """Return the checklist as a Markdown table."""
        lines = ["| item | status | evidence | next |", "|---|---|---|---|"]
        for item in self.items:
            answer = item.evidence.get("answer")
            said = f" {answer['by']}, {answer['at']}: {answer['note']}" if answer else ""
            cells = (item.item, item.status, _cell(item.summary + said), _cell(item.advice))
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def check(evidence: Evidence, answers: Mapping[str, Answer]) -> Checklist:
    """Judge every item.

    A person's answer settles what needs a human. It never turns a failure into a pass; with `ok: false` it turns
    anything into a failure.

    Raises:
        RequestError: If a limit is for a joint that is not there, or a sensor for an observation that is not.
    """
    check_robot(evidence.robot, evidence.contract)
    limits = Thresholds()
    items = []
    for name, judge in CHECKS.items():
        verdict, answer = judge(evidence, limits), answers.get(name)
        status, advice = verdict.status, verdict.advice
        found = {"summary": verdict.summary, **verdict.numbers}
        if answer is not None:
            found["answer"] = asdict(answer)
            if not answer.ok:
                status, advice = Status.FAIL, advice or "See the answer."
            elif status is Status.HUMAN:
                status, advice = Status.PASS, ""
        items.append(Item(item=name, status=str(status), evidence=found, advice=advice))
    return Checklist(
        schema_version=SCHEMA_VERSION,
        deployable=all(item.status == Status.PASS for item in items),
        thresholds=limits,
        items=tuple(items),
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- the items --------------------------------------------------------------------------------------------------------


def rewards(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether one reward term drowns the others."""
    given = evidence.reward_contributions
    if given is None:
        return Verdict(
            Status.HUMAN,
            "There are no reward terms to tell apart: the task adds its reward up in its own code."
            if not all(group.names_known for group in evidence.contract.observation_groups)
            else "The reward terms were not measured.",
            "Read the reward function, and see that the policy does what was meant, not what was paid.",
        )
    total = math.fsum(abs(value) for value in given.values())
    numbers: dict[str, object] = {"contributions": {name: finite(value) for name, value in given.items()}}
    if not math.isfinite(total):
        return Verdict(Status.FAIL, "A reward term is not a number.", "Find the term and its cause.", numbers)
    if total == 0:
        return Verdict(Status.FAIL, "No reward term has paid anything.", "Evaluate for longer.", numbers)
    name, value = max(given.items(), key=lambda item: abs(item[1]))
    share = abs(value) / total
    numbers |= {"largest": name, "share": share, "allowed": limits.reward_share}
    text = f"{name!r} makes {share:.0%} of the summed absolute rewards of {len(given)} terms"
    if share > limits.reward_share:
        advice = "Lower its weight or raise the others: what is not paid is not learnt."
        return Verdict(Status.FAIL, f"{text}; {limits.reward_share:.0%} is allowed.", advice, numbers)
    return Verdict(Status.PASS, f"{text}.", numbers=numbers)


def mechanism_cost(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether the reward makes the policy pay for torques, jerks and speed of its joints."""
    terms = evidence.reward_terms
    advice = "See that effort or jerky actions cost the policy something: joint torques, action rate, accelerations."
    if terms is None:
        return Verdict(Status.HUMAN, "The task adds its reward up in its own code.", advice)
    costs = [
        name
        for name, term in terms.items()
        if str(term["function"]).rpartition(":")[2] in _COSTS and (term["weight"] or 0.0) < 0
    ]
    paid = evidence.reward_contributions or {}
    numbers: dict[str, object] = {"costs": {name: finite(paid.get(name)) for name in costs}}
    if not costs:
        return Verdict(Status.HUMAN, "No reward term is known to cost torque, jerk or speed.", advice, numbers)
    if not any(paid.get(name) for name in costs):
        text = f"{quoted(costs)} cost the mechanism's wear, and nothing was paid in the rollouts"
        return Verdict(Status.FAIL, f"{text}.", "See whether the terms are computed at all.", numbers)
    return Verdict(Status.PASS, f"{quoted(costs)} make the policy pay for the mechanism's wear.", numbers=numbers)


def reward_shape(evidence: Evidence, limits: Thresholds) -> Verdict:
    """List reward and termination terms: whether their shape means the real task only a person can tell."""
    advice = (
        "Say that errors are paid by kernels that saturate, that tasks and style are apart, that no bonus waits at the "
        "end, that standing still, falling forward and hovering earn nothing, and that terminations are as strict as "
        "the real task."
    )
    if evidence.reward_terms is None:
        return Verdict(Status.HUMAN, "The task has rewards and terminations in its own code.", advice)
    numbers: dict[str, object] = {"rewards": dict(evidence.reward_terms), "terminations": list(evidence.terminations)}
    listed = ", ".join(f"{name} ({finite(term['weight'])})" for name, term in evidence.reward_terms.items())
    ends = ", ".join(evidence.terminations) or "nothing"
    return Verdict(Status.HUMAN, f"Rewards by weight: {listed}. Episodes end by {ends}.", advice, numbers)


def normalizer(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether the normaliser is in the export and is the right one."""
    statistics, parity, sample = evidence.contract.normalizer, evidence.parity, evidence.normalized
    if parity is None:
        return Verdict(Status.HUMAN, "Parity with the library's inference was not measured.", "Measure it.")
    if not parity.passed:
        return Verdict(Status.FAIL, " ".join(parity.failures), "Do not run this export on a robot.")
    if statistics is None:
        return Verdict(Status.PASS, "The policy does not normalise, and parity proves that none is missing.")
    if sample is None:
        return Verdict(
            Status.HUMAN, "The normalised observations were not measured.", "Measure them on a rollout of the policy."
        )
    slack = [limits.normalized_errors * error for error in sample.standard_error]
    excess = [abs(mean) - room for mean, room in zip(sample.mean, slack, strict=True)]
    worst = max(range(len(excess)), key=lambda n: excess[n] if math.isfinite(excess[n]) else math.inf)
    numbers = {
        "mean": [finite(mean) for mean in sample.mean],
        "standard_error": [finite(error) for error in sample.standard_error],
        "steps": sample.steps,
        "environments": sample.environments,
    }
    terms = evidence.contract.input_terms
    name = next(term.name for term in terms for start, stop in term.slices or () if start <= worst < stop)
    where = f"observation {worst} ({repr(name) if name else 'without a name'})"
    text = (
        f"The mean of normalised {where} is {sample.mean[worst]:.3g} standard deviations, the furthest of "
        f"{len(excess)}; {limits.normalized_mean + slack[worst]:.3g} is allowed"
    )
    advice = "Compare the order and the units of the observations with training."
    if not excess[worst] <= limits.normalized_mean_wrong:
        return Verdict(Status.FAIL, f"{text}.", advice, numbers)
    if excess[worst] > limits.normalized_mean:
        return Verdict(Status.HUMAN, f"{text}.", f"{advice} Early checkpoints may be this far off.", numbers)
    if max(sample.standard_error) > limits.normalized_mean:
        text += f", but the rollout tells it no better than by {max(sample.standard_error):.3g}"
        return Verdict(Status.HUMAN, f"{text}.", "Measure it in more environments.", numbers)
    return Verdict(Status.PASS, f"{text}.", numbers=numbers)


def action_scale(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether the commands stay within what the user allows the robot."""
    given, contract = evidence.action_limits, evidence.contract
    if not given:
        advice = "Give action_limits: for each joint max_velocity, position or max_effort."
        return Verdict(Status.HUMAN, "No limits of the robot were given.", advice)
    known = {joint for term in contract.actions for joint in term.joints or ()}
    known |= {joint for robot in contract.articulations for joint in robot.joints}
    for joint in given:
        if joint not in known:
            raise unknown("joint in action_limits", joint, known, code="unknown_joint")
    found = [finding for term in contract.actions for finding in _term_findings(term, evidence)]
    driven = {joint for term in contract.actions for joint in term.joints or ()}
    if driven:
        found += [_Finding(j, Status.HUMAN, f"{j!r} is not driven by the policy.") for j in given if j not in driven]
    numbers = {"findings": [{"joint": f.joint, "status": str(f.status), "text": f.text} for f in found]}
    for status, advice in (
        (Status.FAIL, "Lower the action scale and train again, or clip the actions on the robot."),
        (Status.HUMAN, "Give what is missing, or say that these commands are safe."),
    ):
        if wrong := [finding.text for finding in found if finding.status is status]:
            return Verdict(status, few(wrong), advice, numbers)
    return Verdict(Status.PASS, few([finding.text for finding in found]), numbers=numbers)


@dataclass(frozen=True)
class _Finding:
    joint: str | None
    status: Status
    text: str


def _term_findings(term: ActionTerm, evidence: Evidence) -> Iterator[_Finding]:
    if term.joints is None or term.scale is None or term.offset is None:
        yield _Finding(None, Status.HUMAN, f"What action term {term.name!r} does to which joints is not known.")
        return
    for n, joint in enumerate(term.joints):
        allowed = (evidence.action_limits or {}).get(joint, JointLimits())
        given = {kind: limit for kind, limit in vars(allowed).items() if limit is not None}
        span = _span(term, n, evidence.actions)
        if not given:
            yield _Finding(joint, Status.HUMAN, f"{joint!r} has no limits.")
        elif span is None:
            yield _Finding(joint, Status.HUMAN, f"The actions of {joint!r} have no bounds and were not measured.")
        else:
            yield from (_limit_finding(joint, term, n, span, kind, limit, evidence) for kind, limit in given.items())


def _limit_finding(
    joint: str, term: ActionTerm, n: int, span: tuple[float, float], kind: str, limit: Any, evidence: Evidence
) -> _Finding:
    """Hold one joint's commands to one kind of limit, where such commands can be."""
    low, high = span
    match term.command, kind:
        case "position", "position":
            text = f"{joint!r} is sent to [{low:.3g}, {high:.3g}], {list(limit)} is allowed."
            return _Finding(joint, Status.PASS if limit[0] <= low and high <= limit[1] else Status.FAIL, text)
        case "position", "max_velocity":
            if evidence.actions is None or term.scale is None:
                return _Finding(joint, Status.HUMAN, f"How fast {joint!r} is moved was not measured.")
            step = min(evidence.actions.largest_step[term.start + n] * abs(term.scale[n]), high - low)
            return _at_most(joint, "is told to move by", step / evidence.contract.control_period_s, limit, "/s")
        case "velocity", "max_velocity":
            return _at_most(joint, "is told to move by", max(abs(low), abs(high)), limit, "/s")
        case "effort", "max_effort":
            return _at_most(joint, "is driven with", max(abs(low), abs(high)), limit, "")
    text = f"Whether {joint!r} keeps its {kind} cannot be told from {term.command or 'unknown'} commands."
    return _Finding(joint, Status.HUMAN, text)


def _at_most(joint: str, what: str, value: float, allowed: float, unit: str) -> _Finding:
    text = f"{joint!r} {what} up to {value:.3g}{unit}, {allowed:.3g}{unit} is allowed."
    return _Finding(joint, Status.PASS if value <= allowed else Status.FAIL, text)


def _span(term: ActionTerm, n: int, measured: ActionSample | None) -> tuple[float, float] | None:
    """Return the lowest and highest command of a joint: by the contract's bounds, else as measured."""
    low, high = term.limits[n] if term.limits is not None else (None, None)
    if measured is not None:
        low = measured.lowest[term.start + n] if low is None else low
        high = measured.highest[term.start + n] if high is None else high
    clip_low, clip_high = term.clip[n] if term.clip is not None else (None, None)
    if low is None or high is None:
        return (clip_low, clip_high) if clip_low is not None and clip_high is not None else None
    assert term.scale is not None and term.offset is not None
    ends = sorted(end * term.scale[n] + term.offset[n] for end in (low, high))
    floor = -math.inf if clip_low is None else clip_low
    ceiling = math.inf if clip_high is None else clip_high
    return min(max(ends[0], floor), ceiling), min(max(ends[1], floor), ceiling)


def long_run(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge a run at many times the episode length."""
    run = evidence.long_run
    if run is None:
        return Verdict(Status.HUMAN, "No long run was made.", "Run the policy at ten times the episode length.")
    needed = math.ceil(run.episode_steps * limits.long_run_factor)
    text = (
        f"{run.environments} environments ran {run.steps} steps, {run.steps / run.episode_steps:.3g} times the episode "
        f"length, with {run.early_terminations} early terminations and {run.non_finite} numbers that are not finite"
    )
    numbers = {**run.to_json(), "steps_needed": needed}
    if run.early_terminations or run.non_finite:
        advice = "Watch what happens before the end; train with longer episodes or more randomisation."
        return Verdict(Status.FAIL, f"{text}.", advice, numbers)
    if run.steps < needed:
        return Verdict(Status.HUMAN, f"{text}; {needed} steps are needed.", "Run it for longer.", numbers)
    return Verdict(Status.PASS, f"{text}.", numbers=numbers)


def formats(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether both formats stand alone and give the library's actions, here and on the robot's computer."""
    parity = evidence.parity
    if parity is None:
        return Verdict(Status.HUMAN, "The formats were not loaded.", "Measure parity.")
    numbers = parity.to_json()
    if not parity.passed:
        return Verdict(Status.FAIL, " ".join(parity.failures), "Do not run this export on a robot.", numbers)
    largest = max((found.largest or 0.0 for found in parity.differences), default=0.0)
    runtimes = " and ".join(str(load.runtime) for load in parity.loads)
    text = f"{runtimes} load them alone; the largest difference is {largest:.2g}, {parity.limit:g} is allowed."
    if parity.resets == 0:
        text += " No episode ended meanwhile: whether the memory is set back was not seen."
        return Verdict(Status.HUMAN, text, "Export it with shorter episodes, or try that on the robot.", numbers)
    text += " That was on the machine of this export: the robot's computer was not tried."
    return Verdict(
        Status.HUMAN,
        text,
        "Bundle it, run `python -m simyard.policy check` on the robot's computer: that is the ground of an answer.",
        numbers,
    )


def second_simulator(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge the same checkpoint under other physics: by the worst of all engines that it was tried in."""
    tried = evidence.second_simulators
    if not tried:
        advice = "Evaluate the checkpoint in another engine: `simyard evaluate --across newton,physx`."
        text = " ".join(("No second simulator was tried.", *(f"{why}." for why in evidence.second_problems)))
        return Verdict(Status.HUMAN, text, advice, {"engines": []})
    each = [_under_other_physics(other, limits) for other in tried]
    worst = next((v for status in (Status.FAIL, Status.HUMAN) for v in each if v.status is status), each[0])
    summaries = " ".join([worst.summary, *(verdict.summary for verdict in each if verdict is not worst)])
    numbers = {**worst.numbers, "engines": [dict(verdict.numbers) for verdict in each]}
    return Verdict(worst.status, summaries, worst.advice, numbers)


def _under_other_physics(other: SecondSimulator, limits: Thresholds) -> Verdict:
    numbers: dict[str, object] = {key: finite(value) for key, value in other.to_json().items()}
    text, lasted = f"Under {other.physics}", ""
    if other.survived is not None and other.reference_survived is not None:
        apart = "nowhere else in" if other.diverged_s is None else "elsewhere after"
        seconds = other.open_loop_s if other.diverged_s is None else other.diverged_s
        lasted = f"; {other.survived:.0%} of the episodes last, {other.reference_survived:.0%} here"
        lasted += f"; the same actions alone lead {apart} {seconds or 0:.2g} s"
    if other.mean_return is None or other.drop_interval is None:
        text += f" the return cannot be compared ({', '.join(other.unpaid or ())}){lasted}."
        return Verdict(Status.HUMAN, text, "Give functions for these rewards, or say that it is good enough.", numbers)
    drop = other.reference_return - other.mean_return
    numbers["drop"] = finite(drop)
    if not all(map(math.isfinite, (drop, *other.drop_interval))):
        return Verdict(Status.FAIL, f"{text} the return is not a number{lasted}.", "Watch a rollout.", numbers)
    if other.reference_return == 0:
        text += f" the mean return is {other.mean_return:.4g} instead of 0: no share can be taken{lasted}."
        return Verdict(Status.HUMAN, text, "Say whether that is good enough.", numbers)
    share, low, high = (value / abs(other.reference_return) for value in (drop, *other.drop_interval))
    numbers |= {"share": share, "share_interval": [low, high], "allowed": limits.return_drop}
    text += (
        f" the mean return drops by {share:.1%} (95 % interval {low:.1%} to {high:.1%}), from "
        f"{other.reference_return:.4g} under {other.reference_physics} to {other.mean_return:.4g} in {other.episodes} "
        f"pairs of episodes{lasted}"
    )
    if share > limits.return_drop:
        advice = (
            "The policy leans on one simulator: `simyard evaluate --across` shows where the two part; randomise "
            "friction, masses and delays, and train again."
        )
        return Verdict(Status.FAIL, f"{text}; {limits.return_drop:.0%} is allowed.", advice, numbers)
    if high > limits.return_drop:
        text += f"; {limits.return_drop:.0%} is allowed, and the interval goes beyond it"
        return Verdict(Status.HUMAN, f"{text}.", "Evaluate more episodes.", numbers)
    return Verdict(Status.PASS, f"{text}.", numbers=numbers)


def curriculum(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge the stage of the curriculum at the end of training: of a training in stages by how the last one ended."""
    if evidence.stages is not None and evidence.stages.runs:
        run = evidence.stages.runs[-1]
        text = f"The policy is of stage {run.name!r}, number {run.stage + 1} of {run.of}: {run.in_words()}"
        ended: dict[str, object] = {"stage": run.to_json()}
        if run.stage + 1 < run.of:
            return Verdict(Status.FAIL, f"{text}.", "Export the policy of the last stage.", ended)
        if run.why == "reached":
            return Verdict(Status.PASS, f"{text}.", numbers=ended)
        if run.why == "not_reached":
            return Verdict(Status.FAIL, f"{text}.", "Train it until its condition holds.", ended)
        advice = "Give the last stage a condition (until); or say whether it is as hard as the real task."
        return Verdict(Status.HUMAN, f"{text}.", advice, ended)
    stages = evidence.curriculum
    if stages is None:
        text = "The curriculum's stage is not known; a direct task may have one in its own code."
        return Verdict(Status.HUMAN, text, "Say whether training ended at the difficulty of the real task.")
    if not stages:
        return Verdict(Status.PASS, "The task has no curriculum.")
    numbers = {"stages": {name: None if stage is None else finite(stage) for name, stage in stages.items()}}
    listed = ", ".join(f"{name} at {'?' if stage is None else f'{stage:.3g}'}" for name, stage in stages.items())
    advice = "Say whether that is the difficulty of the real task."
    return Verdict(Status.HUMAN, f"Training ended with {listed}.", advice, numbers)


def randomization(evidence: Evidence, limits: Thresholds) -> Verdict:
    """List the randomised parameters: only a person knows the real robot's ranges, save those that a stage widened."""
    if evidence.stages is not None and (widened := [run for run in evidence.stages.runs if run.widened]):
        run, steps = widened[-1], widened[-1].widened
        assert steps
        ranges = ", ".join(f"{path} in [{low:g}, {high:g}]" for path, (low, high) in steps[-1].ranges.items())
        text = f"Stage {run.name!r} has widened its ranges by {run.level} of {run.widen_steps} steps: {ranges}"
        taken: dict[str, object] = {"steps": [step.to_json() for step in steps]}
        if run.level == run.widen_steps:
            return Verdict(Status.PASS, f"{text}.", numbers=taken)
        return Verdict(Status.FAIL, f"{text}.", "Train on until the last step is taken and kept.", taken)
    advice = "Compare the ranges with measurements of the real robot (system identification)."
    if evidence.randomization is None:
        return Verdict(Status.HUMAN, "The task does not say what it randomises.", advice)
    numbers = {"events": dict(evidence.randomization)}
    if not evidence.randomization:
        return Verdict(Status.HUMAN, "Training randomised nothing.", advice, numbers)
    return Verdict(Status.HUMAN, f"Training randomised by {', '.join(evidence.randomization)}.", advice, numbers)


def safety_monitor(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Ask for the safety monitor: it is on the robot."""
    return Verdict(
        Status.HUMAN,
        "Nothing here can see the robot's safety monitor.",
        "Say that joint limits, contacts and a lost connection stop the robot without the policy.",
    )


_COSTS = (
    "joint_torques_l2", "joint_vel_l1", "joint_vel_l2", "joint_acc_l2", "applied_torque_limits", "joint_vel_limits",
    "action_rate_l2", "action_l2", "body_lin_acc_l2", "ang_vel_xy_l2", "power_consumption",
)  # fmt: skip
"""Reward functions that grow with what wears a mechanism, as Isaac Lab and its tasks name them."""
CHECKS: dict[str, Callable[[Evidence, Thresholds], Verdict]] = {
    "rewards": rewards,
    "reward-shape": reward_shape,
    "mechanism-cost": mechanism_cost,
    "observations": observations,
    "observation-noise": observation_noise,
    "delays": delays,
    "history": history,
    "normalizer": normalizer,
    "action-scale": action_scale,
    "long-run": long_run,
    "formats": formats,
    "second-simulator": second_simulator,
    "curriculum": curriculum,
    "randomization": randomization,
    "safety-monitor": safety_monitor,
}
"""Every item of the checklist, in its order."""
