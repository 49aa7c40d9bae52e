"""The pages of tasks, prepared as the values that templates/tasks.html.j2 and task.html.j2 show."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from simyard.core.task_facts import TaskFacts
from simyard.service.job_page import TEMPLATES
from simyard.tasks.sessions.catalog import row
from simyard.tasks.shared.task_sheet import sheet

Link = Callable[[str | None], str]
"""From a task's id to the address of its page; from None to that of all tasks."""


def tasks_page(tasks: Sequence[TaskFacts], link: Link, nonce: str, seconds: float) -> str:
    """Return the page of all tasks.

    Args:
        tasks: The tasks.
        link: Returns the address of a page.
        nonce: Name of the page's style in its policy.
        seconds: Time for which its links are good.
    """
    rows = list(map(row, tasks))
    return TEMPLATES.render(
        "tasks.html.j2",
        title="Tasks", nonce=nonce, reload_ms=None, days=round(seconds / 86400),
        here=[one for one in rows if one.runnable], others=[one for one in rows if not one.runnable],
        links={one.task: link(one.task) for one in rows},
    )  # fmt: skip


def task_page(facts: TaskFacts, link: Link, nonce: str) -> str:
    """Return the page of a task."""
    library = next(iter(facts.libraries), "")
    config = {"name": facts.task, "trainingConfig": {"task": facts.task, "rlLibrary": library}}
    return TEMPLATES.render(
        "task.html.j2",
        title=facts.task, nonce=nonce, reload_ms=None, facts=facts, said=sheet(facts), all=link(None),
        config=json.dumps(config, indent=2),
    )  # fmt: skip
