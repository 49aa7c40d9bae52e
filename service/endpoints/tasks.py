"""`/v1/tasks`: the tasks that can be trained, and what each of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from simyard.core.task_facts import TaskFacts
from simyard.service.auth import JobsCaller
from simyard.service.endpoints.pages import tasks_link
from simyard.service.task_book import TaskBook
from simyard.tasks.sessions.catalog import TaskRow, chosen, row

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@dataclass(frozen=True, kw_only=True)
class TaskList:
    """Tasks, sorted by id."""

    tasks: tuple[TaskRow, ...]
    page_url: str
    """Address of the list for a browser; it needs no key for seven days."""


@dataclass(frozen=True, kw_only=True)
class ShownTask(TaskFacts):
    """A task."""

    page_url: str
    """Address of its page for a browser; it needs no key for seven days."""


def task_book(request: Request) -> TaskBook:
    """Return the application's."""
    book: TaskBook = request.app.state.task_book
    return book


_Book = Annotated[TaskBook, Depends(task_book)]


@router.get("", summary="List tasks")
def list_tasks(
    caller: JobsCaller,
    book: _Book,
    text: Annotated[str | None, Query(max_length=200, description="Part of an id or of the description.")] = None,
    runnable: Annotated[bool, Query(description="Only those that can be trained on the service's machine.")] = False,
    library: Annotated[str | None, Query(max_length=200, description="Only those that this library trains.")] = None,
    physics: Annotated[str | None, Query(max_length=200, description="Only those that have this engine.")] = None,
) -> TaskList:
    """Return the registered tasks, with the reasons that some cannot be trained on the service's machine."""
    found = chosen(book.tasks(), text=text, runnable=runnable, library=library, physics=physics)
    return TaskList(tasks=tuple(map(row, found)), page_url=tasks_link(caller.settings, caller.base_url, caller.key))


@router.get("/{task}", summary="Show a task")
def show_task(task: str, caller: JobsCaller, book: _Book) -> ShownTask:
    """Return a task: agents, physics, assets, observations, actions, times, and whether its success is known."""
    facts = book.task(task)
    link = tasks_link(caller.settings, caller.base_url, caller.key, facts.task)
    return ShownTask(**vars(facts), page_url=link)
