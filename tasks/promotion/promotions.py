"""The policy promoted under a name, and every decision about it.

A decision is an object of its own that is written once, so of two that are made at the same time neither is lost and
both see the other. `promotions/<name>.json` is made from them, for whoever wants to read one file.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simyard.core.errors import Category, Failure, RequestError
from simyard.core.run_records import EngineShare, MetricDifference, PolicyRecord, Promotion, PromotionDecision
from simyard.core.wire import now_ms
from simyard.requests.jobs import Metric
from simyard.runner.evaluation.summary import difference, difference_of_rates
from simyard.store.keys import PROMOTIONS, PromotionKeys, check_promotion
from simyard.store.store import Store
from simyard.tasks.shared.documents import interval, number

LEAST_EPISODES = 10
"""Of each policy. The intervals of fewer are too narrow: resampling two values says that they are all there is."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing a new policy with the promoted one."""

    promoted: bool
    """Whether the new policy takes the other's place."""
    why: str
    """In words."""
    difference: MetricDifference | None = None
    """The new policy's metric less the promoted one's; None where nothing was compared."""


def decide(
    candidate: Sequence[float | None],
    incumbent: Sequence[float | None] | None,
    *,
    metric: Metric,
    min_delta: float = 0.0,
    elsewhere: Sequence[EngineShare] = (),
    floor: float = 0.0,
) -> Comparison:
    """Decide whether a policy takes another's place: it is better beyond noise, and holds in every engine.

    Better is by the 95 % interval of the difference.

    The episodes are taken as independent samples, not as pairs: in a simulation the same seed gives two policies the
    same first states, and soon different ones.

    Args:
        candidate: The metric in each episode of the new policy, for `success_rate` 0 or 1; None where not measured.
        incumbent: The same of the promoted policy; None where none is promoted.
        metric: What the values are. More is better.
        min_delta: The interval's lower end must lie above it.
        elsewhere: The new policy in other physics engines.
        floor: Share of the metric that it must keep in each of them.
    """
    found = _better(candidate, incumbent, metric=metric, min_delta=min_delta)
    if not found.promoted:
        return found
    for there in elsewhere:
        if there.interval_95 is None or not there.interval_95[0] > floor:
            kept = f"{number(there.kept)} of it, 95 % interval {interval(there.interval_95)}"
            why = f"{found.why} But under {there.physics} is kept {kept}: not all of it above floor {number(floor)}."
            return replace(found, promoted=False, why=why)
    return found


def _better(
    candidate: Sequence[float | None], incumbent: Sequence[float | None] | None, *, metric: Metric, min_delta: float
) -> Comparison:
    """Decide whether a policy is better than another beyond noise; the first one is."""
    # Episodes that were not measured do not count, and without any that was there is nothing to compare.
    new = [value for value in candidate if value is not None]
    if problem := _problem("new", new, metric):
        return Comparison(promoted=False, why=problem)
    if incumbent is None:
        return Comparison(promoted=True, why="No policy was promoted before.")
    old = [value for value in incumbent if value is not None]
    if problem := _problem("promoted", old, metric):
        return Comparison(promoted=False, why=problem)

    gap = math.fsum(new) / len(new) - math.fsum(old) / len(old)
    if min(len(new), len(old)) < LEAST_EPISODES:
        counted = f"{len(new)} and {len(old)} episodes measured the {metric}"
        why = f"{counted}: fewer than {LEAST_EPISODES} say little of the noise."
        return Comparison(promoted=False, why=why, difference=MetricDifference(mean=gap, interval_95=None))
    if metric == "success_rate":
        bounds = difference_of_rates(round(sum(new)), len(new), round(sum(old)), len(old))
    else:
        bounds = difference(new, old)
    low, high = bounds
    is_better = low > min_delta  # the whole interval
    size = f"by {number(gap)}, 95 % interval {interval(bounds)}"
    needed = "0" if min_delta == 0 else f"minDelta {number(min_delta)}"
    if is_better:
        why = f"The {metric} is better {size}: all of it above {needed}."
    elif high < 0:
        why = f"The {metric} is worse {size}."
    else:
        why = f"The {metric} is not better beyond noise: it differs {size}, not all of it above {needed}."
    found = MetricDifference(mean=gap, interval_95=(low, high))
    return Comparison(promoted=is_better, why=why, difference=found)


def _problem(which: str, values: list[float], metric: Metric) -> str | None:
    """Return the reason for which a policy cannot be judged; None for one that can."""
    if not values:
        advice = " Name a successTermination, or compare the return." if metric == "success_rate" else ""
        return f"No episode of the {which} policy measured the {metric}.{advice}"
    if not all(map(math.isfinite, values)):
        return f"The {which} policy has episodes whose {metric} is not finite."
    return None


# The record


def names(store: Store) -> list[str]:
    """Return the names under which decisions were made, sorted."""
    suffix = PromotionKeys.SUFFIX
    return [folder.removesuffix(suffix) for folder in store.list_dirs(PROMOTIONS) if folder.endswith(suffix)]


def read(store: Store, name: str) -> Promotion:
    """Read the record of a name; an empty one where nobody has used it.

    Raises:
        RequestError: If the name is none.
    """
    keys = PromotionKeys(check_promotion(name))
    written = store.get_record_or_none(keys.record, Promotion)
    history = list(written.history) if written else []
    # Who wrote the last decisions may have been killed before it wrote the record.
    missing = range(len(history) + 1, _last(store, keys) + 1)
    history += [store.get_record(keys.decision(number), PromotionDecision) for number in missing]
    promoted = policies(history)
    return Promotion(name=name, current=promoted[-1] if promoted else None, history=tuple(history))


def require(store: Store, name: str) -> Promotion:
    """Read the record of a name that somebody has used.

    Raises:
        RequestError: If nobody has.
    """
    promotion = read(store, name)
    if not promotion.history:
        raise RequestError(
            f"There is no promotion {name!r} in {store.url()}.",
            code="unknown_promotion",
            advice="See `simyard promotions list`.",
        )
    return promotion


def find_conclusion(promotion: Promotion, job_id: str) -> PromotionDecision | None:
    """Return the decision about the policy of a training; None where that is still open.

    It is open too where the machine failed, which simyard 0.1 wrote down: who runs it again gets further.
    """
    of_the_job = (made for made in promotion.history if made.job_id == job_id)
    return next((made for made in of_the_job if made.error is None or is_final(made.error)), None)


def is_final(failure: Failure) -> bool:
    """Return whether a failed job of a retraining decides it: the same again would fail the same."""
    return failure.category in (Category.USER, Category.RESOURCE)


def append(
    store: Store, name: str, decision: PromotionDecision, *, upon: PolicyRecord | None
) -> PromotionDecision | None:
    """Add a decision, and write the record anew; on a training there is one, whoever makes it first.

    Args:
        store: Where to.
        name: The promotion's.
        decision: The decision, without number, time and id.
        upon: The promoted policy that it was made in view of.

    Returns:
        The decision as written, or the one that was made on the training before; None where another policy has been
        promoted meanwhile: then nothing is written.
    """
    keys = PromotionKeys(check_promotion(name))
    # `put_new` may write and lose the answer: by this it is known again.
    decision = replace(decision, id=secrets.token_hex(8))
    while True:
        promotion = read(store, name)
        if decision.job_id is not None and (earlier := find_conclusion(promotion, decision.job_id)):
            write(store, name)
            return earlier
        if _identity(promotion.current) != _identity(upon):
            return None
        numbered = replace(decision, number=len(promotion.history) + 1, at=now_ms())
        key = keys.decision(numbered.number)
        data = json.dumps(numbered.to_json(), indent=2, allow_nan=False).encode() + b"\n"
        if store.put_new(key, data) or store.get_record(key, PromotionDecision).id == decision.id:
            write(store, name)
            return numbered


def write(store: Store, name: str) -> None:
    """Write `promotions/<name>.json` from the decisions.

    Of several that do so at once the last has seen every decision, whichever is overtaken: each looks again after it
    has written.
    """
    keys = PromotionKeys(name)
    while True:
        promotion = read(store, name)
        store.put_record(keys.record, promotion)
        if _last(store, keys) == len(promotion.history):
            return


def rollback(store: Store, name: str, *, why: str, by: str) -> PromotionDecision:
    """Go back to the policy that was promoted before the current one; return the decision in the history.

    Raises:
        RequestError: If there is none, or another policy was promoted at this moment.
    """
    promoted = policies(require(store, name).history)
    if len(promoted) < 2:
        none = f"{name!r} has no promoted policy."
        raise RequestError(
            f"Before the promoted policy of {name!r} there was none." if promoted else none,
            code="nothing_to_roll_back",
            advice=f"See `simyard promotions show {name}`.",
        )
    before, current = promoted[-2:]
    decision = PromotionDecision(decision="rolled_back", why=why, by=by, candidate=before, incumbent=current)
    written = append(store, name, decision, upon=current)
    if written is None:
        raise RequestError(
            f"Another policy of {name!r} was promoted at this moment.",
            code="promoted_meanwhile",
            advice=f"Look first: `simyard promotions show {name}`.",
        )
    return written


def policies(history: Sequence[PromotionDecision]) -> list[PolicyRecord]:
    """Return the policies one could go back to, the promoted one last."""
    found: list[PolicyRecord] = []
    for made in history:
        if made.decision == "promoted" and made.candidate is not None:
            found.append(replace(made.candidate, promoted_at=made.at))
        elif made.decision == "rolled_back":
            found.pop()
    return found


def _last(store: Store, keys: PromotionKeys) -> int:
    listed = store.list(keys.decisions)
    return int(listed[-1].key.rpartition("/")[2].removesuffix(".json")) if listed else 0


def _identity(policy: PolicyRecord | None) -> tuple[str, str | None] | None:
    return (policy.job_id, policy.promoted_at) if policy else None
