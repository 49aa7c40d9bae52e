"""The checklist before a policy moves a robot: `checklist.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simyard.core.artifacts import CHECKLIST
from simyard.core.errors import RequestError, unknown
from simyard.core.files import write_json
from simyard.core.specs import Answer
from simyard.core.wire import Wire
from simyard.runner.exporting.checks import CHECKS, Status, Verdict
from simyard.runner.exporting.evidence import Evidence, Thresholds

SCHEMA_VERSION = 1
CHECKLIST_FILE = CHECKLIST.name


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


def check(
    evidence: Evidence,
    answers: Mapping[str, Any] | None = None,
    thresholds: Thresholds | None = None,
) -> Checklist:
    """Judge every item.

    A person's answer settles what needs a human. It never turns a failure into a pass; with `ok: false` it turns
    anything into a failure.

    Args:
        evidence: What was measured.
        answers: By item: `{"by", "at", "note", "ok"}`.
        thresholds: Where the lines are drawn.

    Raises:
        RequestError: If an answer is not one, or it or a joint's limit is for something that is not there.
    """
    limits = thresholds or Thresholds()
    said = parse_answers(answers or {})
    items = tuple(_item(name, judge(evidence, limits), said.get(name)) for name, judge in CHECKS.items())
    return Checklist(
        schema_version=SCHEMA_VERSION,
        deployable=all(item.status == Status.PASS for item in items),
        thresholds=limits,
        items=items,
    )


def write_checklist(checklist: Checklist, folder: Path) -> Path:
    """Write the checklist, and return its path."""
    path = folder / CHECKLIST_FILE
    write_json(path, checklist.to_json())
    return path


def parse_answers(answers: Mapping[str, Any]) -> dict[str, Answer]:
    """Return a person's answers by item.

    Raises:
        RequestError: If one is for no item, or lacks something.
    """
    return {name: _answer(name, answer) for name, answer in answers.items()}


def _answer(name: str, answer: Any) -> Answer:
    if name not in CHECKS:
        raise unknown("checklist item in answers", name, CHECKS, code="unknown_item")
    if isinstance(answer, Answer):
        return answer
    kinds = {"by": str, "at": str, "note": str, "ok": bool}
    if not isinstance(answer, Mapping) or {k: type(v) for k, v in answer.items()} != kinds or not answer["by"]:
        raise RequestError(
            f"The answer to {name!r} is {answer!r}.",
            code="bad_answer",
            advice='Expected {"by": "who", "at": "2026-01-31T12:00:00Z", "note": "what was looked at", "ok": true}.',
        )
    return Answer(**answer)


def _item(name: str, verdict: Verdict, answer: Answer | None) -> Item:
    status, advice = verdict.status, verdict.advice
    found: dict[str, Any] = {"summary": verdict.summary, **verdict.numbers}
    if answer is not None:
        found["answer"] = asdict(answer)
        if not answer.ok:
            status, advice = Status.FAIL, advice or "See the answer."
        elif status is Status.HUMAN:
            status, advice = Status.PASS, ""
    return Item(item=name, status=str(status), evidence=found, advice=advice)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
