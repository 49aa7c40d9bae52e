"""Warp's kernels, counted while they are compiled: with an empty cache that takes minutes before anything moves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from simyard.runner.progress import say_activity


@contextmanager
def compilations_told() -> Iterator[None]:
    """Say of every module of kernels that it is being compiled, while the body runs; those in the cache are not.

    How many there will be nobody knows: each is made when the solver first needs it.
    """
    if "warp" not in sys.modules:
        yield
        return
    from warp._src import build

    count = 0

    def told(compile_module: Any) -> Any:
        def compile_and_tell(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            say_activity(f"compiling kernels: {count} so far")
            return compile_module(*arguments, **options)

        return compile_and_tell

    originals = {name: getattr(build, name) for name in ("build_cpu", "build_cuda")}
    for name, original in originals.items():
        setattr(build, name, told(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(build, name, original)
