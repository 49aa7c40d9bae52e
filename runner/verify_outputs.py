"""Checks of the files that a job promised: a checkpoint counts only when it loads and its weights are finite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from simyard.core.files import AttemptPaths, sha256_of
from simyard.core.records import Opened
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.rl import Library, Scale, get_library
from simyard.runner.rl.base import tensors_of


def open_results(paths: AttemptPaths, attempt: AttemptSpec, facts: Facts) -> tuple[Opened, ...]:
    """Open the files that the attempt promised, on the simulator's own Python."""
    if attempt.node:
        return ()  # the first machine collects
    if attempt.job.kind == "train":
        return open_checkpoints(paths, attempt, facts)
    # What an evaluation or an export writes is opened before it gets its name.
    return tuple(_hashed(path, paths.output) for path in sorted(paths.output.rglob("*")) if path.is_file())


def _hashed(path: Path, folder: Path) -> Opened:
    return Opened(name=str(path.relative_to(folder)), sha256=sha256_of(path), finite=None, error=None)


def open_checkpoints(paths: AttemptPaths, attempt: AttemptSpec, facts: Facts) -> tuple[Opened, ...]:
    """Open the attempt's newest checkpoint on the simulator's own Python; return nothing where there is none."""
    library = get_library(attempt.job.library)
    scale = Scale(num_envs=attempt.job.num_envs, rollout=facts.rollout)
    numbered = [
        (iteration, path.stat().st_mtime_ns, path)
        for path in paths.work.glob(library.checkpoint_glob)
        if (iteration := library.iteration_of(path, attempt.start_iteration, scale)) is not None
    ]
    return (open_checkpoint(max(numbered)[-1], library),) if numbered else ()


def open_checkpoint(path: Path, library: Library) -> Opened:
    """Load one checkpoint and look at every tensor in it."""
    record = Opened(name=path.name, sha256=None, tensors=0, finite=None, error=None)
    try:
        record = replace(record, sha256=sha256_of(path))
        tensors = [tensor for part in library.load_own(path) for _, tensor in tensors_of("", part)]
        finite = all(bool(tensor.isfinite().all()) for tensor in tensors)
        return replace(record, tensors=len(tensors), finite=finite)
    except Exception as error:
        return replace(record, error=f"{type(error).__name__}: {error}")
