"""The policy promoted under a name, and every decision about it.

A decision is an object of its own that is written once, so of two that are made at the same time neither is lost and
both see the other. `promotions/<name>.json` is made from them, for whoever wants to read one file.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from simyard.core.errors import RequestError
from simyard.requests.jobs import Metric
from simyard.runner.evaluation.summary import difference, difference_of_rates
from simyard.store.keys import PROMOTIONS, PromotionKeys, check_promotion
from simyard.store.store import Store
from simyard.tasks.shared.documents import interval, number

SCHEMA = 1
DECISIONS = {
    "promoted": "the new policy is better beyond noise, or the first",
    "kept": "it is not, so the promoted policy stays",
    "not_trained": "the training left no policy",
    "not_measured": "an evaluation failed",
    "rolled_back": "somebody went back to the policy promoted before",
}
"""Every `decision`, and what it means."""
LEAST_EPISODES = 10
"""Of each policy. The intervals of fewer are too narrow: resampling two values says that they are all there is."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The verdict of a comparison."""

    promoted: bool
    """Whether the new policy takes the other's place."""
    why: str
    """In words."""
    difference: dict[str, Any] | None = None
    """`mean` and `interval_95` of the new policy's metric less the promoted one's; None where nothing was compared."""


def decide(
    candidate: Sequence[float | None],
    incumbent: Sequence[float | None] | None,
    *,
    metric: Metric,
    min_delta: float = 0.0,
) -> Decision:
    """Decide whether a policy is better than another beyond noise, by the 95 % interval of the difference.

    The episodes are taken as independent samples, not as pairs: in a simulation the same seed gives two policies the
    same first states, and soon different ones.

    Args:
        candidate: The metric in each episode of the new policy, for `success_rate` 0 or 1; None where not measured.
        incumbent: The same of the promoted policy; None where none is promoted.
        metric: What the values are. More is better.
        min_delta: The interval's lower end must lie above it.
    """
    new = [value for value in candidate if value is not None]
    if problem := _problem("new", new, metric):
        return Decision(promoted=False, why=problem)
    if incumbent is None:
        return Decision(promoted=True, why="No policy was promoted before.")
    old = [value for value in incumbent if value is not None]
    if problem := _problem("promoted", old, metric):
        return Decision(promoted=False, why=problem)
    gap = math.fsum(new) / len(new) - math.fsum(old) / len(old)
    if min(len(new), len(old)) < LEAST_EPISODES:
        counted = f"{len(new)} and {len(old)} episodes measured the {metric}"
        why = f"{counted}: fewer than {LEAST_EPISODES} say little of the noise."
        return Decision(promoted=False, why=why, difference={"mean": gap, "interval_95": None})
    bounds = _bounds(new, old, metric)
    found = {"mean": gap, "interval_95": bounds}
    size = f"by {number(gap)}, 95 % interval {interval(bounds)}"
    needed = "0" if min_delta == 0 else f"minDelta {number(min_delta)}"
    if bounds[0] > min_delta:
        return Decision(
            promoted=True, why=f"The {metric} is better {size}: all of it above {needed}.", difference=found
        )
    if bounds[1] < 0:
        return Decision(promoted=False, why=f"The {metric} is worse {size}.", difference=found)
    why = f"The {metric} is not better beyond noise: it differs {size}, not all of it above {needed}."
    return Decision(promoted=False, why=why, difference=found)


def _problem(which: str, values: list[float], metric: Metric) -> str | None:
    """Return the reason for which a policy cannot be judged; None for one that can."""
    if not values:
        advice = " Name a successTermination, or compare the return." if metric == "success_rate" else ""
        return f"No episode of the {which} policy measured the {metric}.{advice}"
    if not all(map(math.isfinite, values)):
        return f"The {which} policy has episodes whose {metric} is not finite."
    return None


def _bounds(new: list[float], old: list[float], metric: Metric) -> list[float]:
    if metric == "success_rate":
        return list(difference_of_rates(round(sum(new)), len(new), round(sum(old)), len(old)))
    return list(difference(new, old))


# The record


@dataclass(frozen=True, kw_only=True)
class Record:
    """The promoted policy of a name, and the decisions that led there."""

    name: str
    """The promotion's."""
    history: tuple[dict[str, Any], ...] = ()
    """Every decision, newest last."""

    @property
    def line(self) -> list[dict[str, Any]]:
        """The policies one could go back to, the promoted one last."""
        found: list[dict[str, Any]] = []
        for entry in self.history:
            if entry["decision"] == "promoted":
                found.append(entry["candidate"] | {"promoted_at": entry["at"]})
            elif entry["decision"] == "rolled_back":
                found.pop()
        return found

    @property
    def current(self) -> dict[str, Any] | None:
        """The promoted policy; None while none is."""
        return self.line[-1] if self.line else None

    def conclusion(self, job_id: str) -> dict[str, Any] | None:
        """Return the decision about the policy of a training; None where that is still open."""
        final = (entry for entry in self.history if entry["decision"] in ("promoted", "kept"))
        return next((entry for entry in final if entry["job_id"] == job_id), None)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `promotions/<name>.json`."""
        return {"schema_version": SCHEMA, "name": self.name, "current": self.current, "history": list(self.history)}


def names(store: Store) -> list[str]:
    """Return the names under which decisions were made, sorted."""
    suffix = PromotionKeys.SUFFIX
    return [folder.removesuffix(suffix) for folder in store.list_dirs(PROMOTIONS) if folder.endswith(suffix)]


def read(store: Store, name: str) -> Record:
    """Read the record of a name; an empty one where nobody has used it.

    Raises:
        RequestError: If the name is none.
    """
    keys = PromotionKeys(check_promotion(name))
    written = store.get_json_or_none(keys.record) or {"history": []}
    history = list(written["history"])
    # Who wrote the last decisions may have been killed before it wrote the record.
    history += [store.get_json(keys.decision(n)) for n in range(len(history) + 1, _last(store, keys) + 1)]
    return Record(name=name, history=tuple(history))


def require(store: Store, name: str) -> Record:
    """Read the record of a name that somebody has used.

    Raises:
        RequestError: If nobody has.
    """
    record = read(store, name)
    if not record.history:
        raise RequestError(
            f"There is no promotion {name!r} in {store.url()}.",
            code="unknown_promotion",
            advice="See `simyard promotions list`.",
        )
    return record


def append(store: Store, name: str, entry: dict[str, Any], *, upon: dict[str, Any] | None) -> dict[str, Any] | None:
    """Add a decision, and write the record anew.

    Args:
        store: Where to.
        name: The promotion's.
        entry: The decision, as `entry_of` makes it.
        upon: The promoted policy that it was made in view of.

    Returns:
        The decision with its number, or None where another policy has been promoted meanwhile: then nothing is written.
    """
    keys = PromotionKeys(check_promotion(name))
    # `put_new` may write and lose the answer: by this it is known again.
    entry = {"id": secrets.token_hex(8), **entry}
    while True:
        record = read(store, name)
        if _identity(record.current) != _identity(upon):
            return None
        numbered = {"number": len(record.history) + 1, "at": _now(), **entry}
        place = keys.decision(numbered["number"])
        data = json.dumps(numbered, indent=2, allow_nan=False).encode() + b"\n"
        if store.put_new(place, data) or store.get_json(place)["id"] == entry["id"]:
            write(store, name)
            return numbered


def write(store: Store, name: str) -> Record:
    """Write `promotions/<name>.json` from the decisions; return it.

    Of several that do so at once the last has seen every decision, whichever is overtaken: each looks again after it
    has written.
    """
    keys = PromotionKeys(name)
    while True:
        record = read(store, name)
        store.put_json(keys.record, record.to_json())
        if _last(store, keys) == len(record.history):
            return record


def entry_of(
    decision: str,
    why: str,
    *,
    job_id: str | None = None,
    by: str | None = None,
    start: str | None = None,
    candidate: dict[str, Any] | None = None,
    incumbent: dict[str, Any] | None = None,
    difference: dict[str, Any] | None = None,
    min_delta: float | None = None,
    error: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return one entry of the history.

    Args:
        decision: One of `DECISIONS`.
        why: In words.
        job_id: The training that led to it; None for a rollback.
        by: Who says so; None for the comparison.
        start: What the training began from, in words.
        candidate: The policy that was decided on; of a rollback, the one that is promoted again.
        incumbent: The policy that was promoted until then, with its figures of this time.
        difference: As in `Decision`.
        min_delta: What was asked for.
        error: What failed, if something did.
    """
    assert decision in DECISIONS
    return {
        "decision": decision, "why": why, "by": by, "job_id": job_id, "start": start, "candidate": candidate,
        "incumbent": incumbent, "difference": difference, "min_delta": min_delta, "error": error,
    }  # fmt: skip


def rollback(store: Store, name: str, *, why: str, by: str) -> dict[str, Any]:
    """Go back to the policy that was promoted before the current one; return the entry in the history.

    Raises:
        RequestError: If there is none, or another policy was promoted at this moment.
    """
    line = require(store, name).line
    if len(line) < 2:
        raise RequestError(
            f"Before the promoted policy of {name!r} there was none." if line else f"{name!r} has no promoted policy.",
            code="nothing_to_roll_back",
            advice=f"See `simyard promotions show {name}`.",
        )
    entry = entry_of("rolled_back", why, by=by, candidate=line[-2], incumbent=line[-1])
    written = append(store, name, entry, upon=line[-1])
    if written is None:
        raise RequestError(
            f"Another policy of {name!r} was promoted at this moment.",
            code="promoted_meanwhile",
            advice=f"Look first: `simyard promotions show {name}`.",
        )
    return written


def _last(store: Store, keys: PromotionKeys) -> int:
    listed = store.list(keys.decisions)
    return int(listed[-1].key.rpartition("/")[2].removesuffix(".json")) if listed else 0


def _identity(policy: dict[str, Any] | None) -> tuple[str, str] | None:
    return (policy["job_id"], policy["promoted_at"]) if policy else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
