"""A played service, and a client of either kind connected to it."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import played_service
import pytest
from played_service import KEY, Played

import simyard as hs


@pytest.fixture
def service() -> Iterator[Played]:
    with played_service.serve() as played:
        yield played


class Waiting:
    """An asynchronous object, used as if it were not."""

    def __init__(self, inner: Any, runner: asyncio.Runner) -> None:
        self._inner, self._runner = inner, runner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._call(found) if callable(found) else found

    def _call(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            if inspect.isasyncgen(result):
                return self._lines(result)
            if inspect.iscoroutine(result):
                result = self._runner.run(result)
            return Waiting(result, self._runner) if isinstance(result, hs.AsyncJob) else result

        return call

    def _lines(self, lines: Any) -> Iterator[str]:
        while True:
            try:
                yield self._runner.run(lines.__anext__())
            except StopAsyncIteration:
                return


@pytest.fixture
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Make a client, quick to repeat unless it is said; of both kinds in a test marked so.

    One kind is generated from the other: both are played where `concurrency.py` has two ways.
    """
    made: list[Any] = []
    with asyncio.Runner() as runner:

        def make(url: str, **options: Any) -> Any:
            options = {"retry_backoff_s": 0.01, **options}
            if getattr(request, "param", "sync") == "sync":
                made.append(hs.Client(KEY, url, **options))
            else:
                made.append(Waiting(hs.AsyncClient(KEY, url, **options), runner))
            return made[-1]

        yield make
        for client in made:
            client.close()


@pytest.fixture
def client(service: Played, connect: Callable[..., Any]) -> Any:
    return connect(service.url)
