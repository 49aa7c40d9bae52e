"""The few operations that asyncio and threads do differently: `generate_client.py` exchanges the two by name."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import IO, Any, TypeVar

Result = TypeVar("Result")

CHUNK_BYTES = 1024 * 1024
sync_sleep, async_sleep = time.sleep, asyncio.sleep


def sync_call(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that may block."""
    return function(*arguments)


async def async_call(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function that may block, in a thread."""
    return await asyncio.to_thread(function, *arguments)


def sync_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the content of a file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


async def async_chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Yield the content of a file, read in a thread."""
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


def sync_together(functions: Sequence[Callable[[], Result]], at_once: int, stop: threading.Event) -> list[Result]:
    """Call functions side by side in threads; return their results in order.

    Args:
        functions: The functions.
        at_once: The most that run at the same time.
        stop: Set when the first one fails; the error is raised when all have ended.
    """
    with ThreadPoolExecutor(at_once) as pool:
        running = [pool.submit(function) for function in functions]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
            failed = [future for future in running if future.done() and future.exception()]
            if failed:
                failed[0].result()
            return [future.result() for future in running]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


async def async_together(
    functions: Sequence[Callable[[], Awaitable[Result]]], at_once: int, stop: threading.Event
) -> list[Result]:
    """Run coroutines side by side; return their results in order.

    Args:
        functions: The coroutine functions.
        at_once: The most that run at the same time.
        stop: Set when the first one fails; the error is raised when all have ended.
    """
    places = asyncio.Semaphore(at_once)

    async def run(function: Callable[[], Awaitable[Result]]) -> Result:
        async with places:
            return await function()

    running = [asyncio.ensure_future(run(function)) for function in functions]
    try:
        return await asyncio.gather(*running)
    except BaseException:
        stop.set()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        raise
