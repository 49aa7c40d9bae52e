"""Isaac Lab 2.3: `isaaclab.sh -p scripts/reinforcement_learning/<library>/train.py`, a process of its own."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.core.files import AttemptPaths
from simyard.core.specs import AttemptSpec, Facts, JobSpec
from simyard.runner.isaaclab.agents import find_agent
from simyard.runner.isaaclab.lookup import fit_library, scripts_folder
from simyard.runner.isaaclab.physics import engine_of
from simyard.runner.isaaclab.ranks import meeting_point, raise_failure_of_ranks
from simyard.runner.rl import LIBRARIES, Library, Scale

_AGENT_FILE = re.compile(r"f'\{(\w+)\.__name__\}:(.+\.yaml)'")
"""The entry point of an agent's configuration in a file beside its task, as `ast.unparse` writes it."""


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
    if job.stages is not None:
        raise RequestError(
            "The job has stages, and a script of Isaac Lab 2.3 trains in one go.",
            code="no_stages",
            advice="Train on Isaac Lab 3.0, or leave stages out.",
        )
    if job.agent_config is not None:
        raise cannot("use agentConfig")
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
    agent = _agent_config(folder, job, library)
    if agent is None and library.needs_rollout:
        others = [repr(name) for name, known in LIBRARIES.items() if not known.needs_rollout]
        raise RequestError(
            f"rlLibrary {library.name!r} counts environment steps, and no file in {str(folder / 'source')!r} tells "
            f"those of an iteration of task {job.task!r}.",
            code="library_without_config",
            advice=f"Name one of Isaac Lab's own tasks that has a configuration for {library.name!r}, or use "
            f"{' or '.join(others)}, or Isaac Lab 3.0.",
        )
    # An agent that is told nothing takes the first GPU, whatever the simulation runs on.
    device = "cpu" if job.gpus == 0 else "cuda:0"
    own = [f"++{override}" for override in library.device_overrides(device)]  # a file may leave the key out
    facts = Facts(
        simulator=job.simulator,
        version=version_of(folder),
        flavor="scripts",
        device=device,
        rollout=1,
        overrides=(*own, *job.overrides),
        notes=()
        if job.order in (None, "physx")
        else (
            f"the checkpoint has the order of joints and bodies of {job.order!r}; Isaac Lab 2.3 knows that of 'physx' "
            "alone, in which a robot of many joints would move the wrong ones",
        ),
    )
    return facts if agent is None else fit_library(job, library, agent, facts, own)


def _agent_config(folder: Path, job: JobSpec, library: Library) -> dict[str, Any] | None:
    """Return the agent's configuration of one of Isaac Lab's own tasks, with overrides; None where no YAML file has it.

    Tasks cannot be imported outside of the app, so their source is read. The configurations of RSL-RL are Python.
    """
    import yaml

    _, file = _agent(folder, job, library)
    if file is None:
        return None
    config: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for override in job.overrides:
        key, _, value = override.partition("=")
        node, (*outer, last) = config, key.split(".")
        if outer[:1] == ["agent"]:
            for name in outer[1:]:
                node = node.setdefault(name, {})
            node[last] = yaml.safe_load(value)
    return config


def _agent(folder: Path, job: JobSpec, library: Library) -> tuple[str | None, Path | None]:
    """Return the key of the job's agent, None for the library's own, and the YAML file that it stands for.

    Raises:
        RequestError: The task has no such agent; of one that is registered elsewhere nothing is known.
    """
    registered = _registered(folder, job.task)
    key = find_agent(job.task, library, job.agent, registered) if registered else job.agent or library.agent_key
    return (None if key == library.agent_key else key), registered.get(key)


def _registered(folder: Path, task: str) -> dict[str, Path | None]:
    """Return the keys of a task's registration, with the YAML file that each names; none where it is not found."""
    for source in sorted((folder / "source" / "isaaclab_tasks" / "isaaclab_tasks").rglob("__init__.py")):
        text = source.read_text(encoding="utf-8")
        if f'"{task}"' not in text:
            continue
        for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            kwargs = given.get("kwargs")
            if "id" not in given or ast.unparse(given["id"]) != repr(task) or not isinstance(kwargs, ast.Dict):
                continue
            named = {key.value: value for key, value in zip(kwargs.keys, kwargs.values, strict=True)
                     if isinstance(key, ast.Constant)}  # fmt: skip
            files = {str(key): _AGENT_FILE.fullmatch(ast.unparse(value)) for key, value in named.items()}
            return {key: source.parent / found[1] / found[2] if found else None for key, found in files.items()}
    return {}


def cannot(kind: str) -> RequestError:
    """Return the error for a kind of job, or a part of one, that 2.3 cannot do."""
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
    agent, _ = _agent(folder, job, library)
    argv += ["--agent", agent] if agent else []
    argv += library.arguments(Scale(num_envs=job.num_envs, rollout=facts.rollout))
    if checkpoint is not None:
        argv += library.scripts_resume(checkpoint)
    return [*argv, *facts.overrides]


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `isaaclab.sh` starts, and takes the Python that has Isaac Sim.

    Its first command, `tabs`, fails in a terminal that it does not know, which ends it. And it takes the Python of an
    activated virtual environment, ours say, before Isaac Sim's own.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("CONDA_PREFIX", "VIRTUAL_ENV")}
    if not (folder / "_isaac_sim" / "python.sh").is_file():  # Isaac Sim is packages of this Python then
        env["VIRTUAL_ENV"] = sys.prefix
    return {**env, "TERM": "xterm"}


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
    env = environment(folder)
    if attempt.world is not None:
        ranks = [*_torchrun(attempt), "-m", "simyard.runner.isaaclab.ranks", str(paths.root)]
        if code := subprocess.run([str(folder / "isaaclab.sh"), "-p", *ranks], env=env, check=False).returncode:
            raise_failure_of_ranks(paths, code)
    code = subprocess.run(command(attempt, facts, library, checkpoint, folder), env=env, check=False).returncode
    if code:
        raise RuntimeError(f"train.py ended with exit code {code}")


def _script(folder: Path, library: Library) -> Path:
    return folder / "scripts" / "reinforcement_learning" / library.name / "train.py"
