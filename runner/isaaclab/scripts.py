"""Isaac Lab 2.3: `isaaclab.sh -p scripts/reinforcement_learning/<library>/train.py`, a process of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.runner.isaaclab.lookup import scripts_folder
from simyard.runner.isaaclab.physics import engine_of
from simyard.runner.isaaclab.ranks import meeting_point, raise_failure_of_ranks
from simyard.runner.rl import LIBRARIES, Library


def version_of(folder: Path) -> str:
    """Return the version of an installation."""
    file = folder / "VERSION"
    return file.read_text(encoding="utf-8").strip() if file.is_file() else "2.3"


def check(job: JobSpec, library: Library) -> Facts:
    """Check the library's script without starting Kit; a bad task or override fails in Kit.

    Raises:
        RequestError: If this installation has no script for the library.
    """
    folder = scripts_folder()
    assert folder is not None
    if job.kind != "train":
        raise cannot(job.kind)
    if (engine := engine_of(job)) not in (None, "physx"):
        raise RequestError(
            f"Isaac Lab 2.3 has no physics {engine!r}.", code="engine_not_of_task", advice="It has 'physx' alone."
        )
    script = _script(folder, library)
    if not script.is_file():
        have = sorted(path.parent.name for path in script.parent.parent.glob("*/train.py"))
        raise RequestError(
            f"This Isaac Lab has no training script for rlLibrary {library.name!r}.",
            code="library_absent",
            advice=f"It has one for: {', '.join(map(repr, have))}.",
        )
    if library.needs_rollout:
        others = [repr(name) for name, known in LIBRARIES.items() if not known.needs_rollout]
        raise RequestError(
            f"rlLibrary {library.name!r} counts environment steps, and Isaac Lab 2.3 tells the steps of an iteration "
            "only after its app has started.",
            code="library_absent",
            advice=f"Use {' or '.join(others)} with 2.3, or Isaac Lab 3.0.",
        )
    return Facts(
        simulator=job.simulator,
        version=version_of(folder),
        flavor="scripts",
        device="cpu" if job.gpus == 0 else "cuda:0",
        rollout=1,  # not known before the app runs; a library that counts iterations does not need it
        overrides=tuple(job.overrides),
    )


def cannot(kind: str) -> RequestError:
    """Return the error for a kind of job that 2.3 cannot do."""
    return RequestError(
        f"Isaac Lab 2.3 cannot {kind} here: its environments live in an app that only its own scripts start.",
        code="needs_isaaclab_3",
        advice="Use Isaac Lab 3.0 (a checkpoint of 2.3 does not load there: its rsl_rl is older).",
    )


def command(attempt: AttemptSpec, facts: Facts, library: Library, checkpoint: Path | None, folder: Path) -> list[str]:
    """Return the command line of 2.3: `--headless` is needed, and a checkpoint resumes by other flags than in 3.0."""
    job = attempt.job
    until = library.limit(job.last_iteration, attempt.start_iteration)
    argv = [str(folder / "isaaclab.sh"), "-p", *_torchrun(attempt), str(_script(folder, library))]
    # It adds the rank on this machine alone to the seed, which would give the ranks of every machine the same ones.
    seed = job.seed + attempt.node * (job.gpus or 1)
    argv += ["--task", job.task, "--num_envs", str(job.num_envs), "--seed", str(seed)]
    argv += ["--max_iterations", str(until), "--headless"]
    argv += ["--distributed"] if attempt.world else ["--device", facts.device]
    if checkpoint is not None:
        argv += library.scripts_resume(checkpoint)
    return [*argv, *facts.overrides]


def _torchrun(attempt: AttemptSpec) -> list[str]:
    """Return the torchrun arguments; empty for a single process."""
    if attempt.world is None:
        return []
    return ["-m", "torch.distributed.run", *meeting_point(attempt.job, attempt.world)]


def run(attempt: AttemptSpec, facts: Facts, library: Library, checkpoint: Path | None, paths: AttemptPaths) -> None:
    """Run the script in the current folder, in this process's group, and wait for it.

    Raises:
        RuntimeError: If it exits with another code than 0.
    """
    folder = scripts_folder()
    assert folder is not None
    if attempt.world is not None:
        ranks = [*_torchrun(attempt), "-m", "simyard.runner.isaaclab.ranks", str(paths.root)]
        if code := subprocess.run([str(folder / "isaaclab.sh"), "-p", *ranks], check=False).returncode:
            raise_failure_of_ranks(paths, code)
    code = subprocess.run(command(attempt, facts, library, checkpoint, folder), check=False).returncode
    if code:
        raise RuntimeError(f"train.py ended with exit code {code}")


def _script(folder: Path, library: Library) -> Path:
    return folder / "scripts" / "reinforcement_learning" / library.name / "train.py"
