"""Managed training runs whose rollouts do without a simulator, and whose trainer does as it is told.

The runner is the real one, and the task a package of a few lines: it stands for a simulator at the seam where users
put their own code, so that a run of many iterations takes seconds. Runs on Isaac Lab are in tests/sim.
"""

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers import CommandLine, changed, end, last_json, wait_until

PATIENCE_S = 480
"""A simulator's import takes a minute where other tests have the processors."""
TASK = '''
import time

class Task:
    """Each environment is one episode, whose return is its seed's last digit."""

    def __init__(self, context, seconds: float = 0.0):
        self.context, self.seconds = context, seconds

    def run(self):
        import numpy as np
        context = self.context
        time.sleep(self.seconds)
        reward = np.full(context.num_envs, (context.seed % 10) / context.steps, np.float32)
        for step in range(context.steps):
            context.recorder.record({"row": np.full((context.num_envs, 2), step, np.float32), "reward": reward})
            context.recorder.end(np.full(context.num_envs, step == context.steps - 1))
'''
TRAINER = """
import hashlib, json, os, pathlib, sys, time

manifest_path, output, parent = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
manifest = json.loads(manifest_path.read_text())
number = manifest["iteration"]
for row in manifest["rollouts"]:
    data = (manifest_path.parent / row["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["sha256"]
print(f"iteration {number} of {os.environ['RUN']}, parent {parent or 'none'}", flush=True)
how = json.loads(os.environ["HOW"]).get(str(number), "well")
marks = pathlib.Path(os.environ["MARKS"])
calls = len(list(marks.glob(f"{number}-*"))) + 1
(marks / f"{number}-{calls}").write_text("")
if how.startswith("sleep"):
    time.sleep(float(how.split()[1]))
if how == "fail" or (how == "fail once" and calls == 1):
    sys.exit("the trainer gives up")
before = pathlib.Path(parent.removeprefix("file://")).read_text() if parent else ""
(output / "checkpoint.pt").write_text(hashlib.sha256((before + manifest_path.read_text()).encode()).hexdigest())
metrics = {"loss": 1.0 / number, "score": json.loads(os.environ["SCORES"])[number - 1]}
(output / "metrics.json").write_text(json.dumps(metrics))
"""


LAB = {"task_module": "loops.task", "task_class_or_name": "Task", "task_package_uri": "package.zip"}


def _write_package(path: Path) -> None:
    """Write the task's package, always the same bytes: jobs with the same packages share simulators."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"loops/__init__.py": "", "loops/task.py": TASK}.items():
            archive.writestr(zipfile.ZipInfo(name), text)


@dataclass
class Loop:
    """Managed training runs on a machine and a store of their own."""

    command: CommandLine
    folder: Path
    store: Path
    pool: tuple[str, ...] = ()
    """`--pool NAME`, where they go through one."""
    scores: list[float] = field(default_factory=lambda: [float(number) for number in range(1, 61)])
    """What the trainer measures, by iteration."""
    known: set[str] = field(default_factory=set)
    """Runs that were there before the last one was begun."""

    def keep_warm(self, count: int) -> None:
        """Have this machine keep so many processes that have imported everything: each run takes them up."""
        _write_package(self.folder / "package.zip")
        rollout = {
            "runtime_profile": "isaac_lab_rollout",
            "execution": {"num_envs": 2, "steps": 5},
            "compute_config": {"gpus_per_node": 0},
            "isaac_lab": LAB,
        }
        (self.folder / "rollout.json").write_text(json.dumps(rollout))
        for _ in range(count):
            done = self.command("sessions", "start", self.folder / "rollout.json", "--store", self.store)
            assert done.returncode == 0, done.stderr

    def request(self, *, iterations: int = 3, parallel: int = 2, how: Any = (), seconds: float = 0.0, **changes: Any):
        """Return a request; `how` says what the trainer does in an iteration, changes are dotted keys."""
        _write_package(self.folder / "package.zip")
        (self.folder / "trainer.py").write_text(TRAINER)
        (self.folder / "marks").mkdir(exist_ok=True)
        request = {
            "name": "loop",
            "rollout_template": {
                "rollout_parallelism": parallel,
                "runtime_profile": "isaac_lab_rollout",
                "num_envs": 2,
                "steps": 5,
                "compute_config": {"gpus_per_node": 0},
                "isaac_lab": LAB | {"task_args": {"seconds": seconds}},
            },
            "trainer_spec": {
                "image_uri": "local",
                "entrypoint": "python trainer.py",
                "args_template": ["{dataset_manifest_path}", "{output_dir}", "{checkpoint_in_uri}"],
                "env": {
                    "RUN": "{run_id}", "HOW": "{{" + json.dumps(dict(how))[1:-1] + "}}",
                    "SCORES": json.dumps(self.scores), "MARKS": str(self.folder / "marks"),
                },
                "resources": {"gpu": 0, "cpu": 1, "memory_gb": 1},
            },
            "loop_policy": {"max_iterations": iterations},
        }  # fmt: skip
        return changed(request, changes)

    def write(self, **changes: Any) -> Path:
        """Write a request's file."""
        path = self.folder / "run.json"
        path.write_text(json.dumps(self.request(**changes)))
        return path

    def __call__(self, **changes: Any) -> "Run":
        """Take a run to its end."""
        arguments = ("--store", self.store, *self.pool, "--wait", "--json")
        done = self.command("managed", "start", self.write(**changes), *arguments, timeout_s=PATIENCE_S)
        assert "Traceback" not in done.stderr, done.stderr
        result = last_json(done)
        return Run(self, result["run_id"], result, done.returncode)

    def begin(self, **changes: Any) -> Any:
        """Begin a run in a process of its own; return the process."""
        path = self.write(**changes)
        self.known = {path.name for path in self.store.glob("training-runs/run-*")}
        return self.command.start("managed", "start", path, "--store", self.store, *self.pool, "--wait")

    @contextmanager
    def running(self, **changes: Any) -> Iterator[tuple["Run", Any]]:
        """Begin a run, and yield it once it is in the store, with its process, which is ended at last."""
        process = self.begin(**changes)
        try:
            yield self.newest(), process
        finally:
            end(process)

    def resume(self, run_id: str) -> Any:
        """Go on with a run in a process of its own; return the process."""
        return self.command.start("managed", "resume", run_id, "--store", self.store, *self.pool, "--wait")

    def newest(self) -> "Run":
        """Return the run that was begun last, once it is there."""
        before = set(self.known)

        def found() -> list[Path]:
            return [path for path in self.store.glob("training-runs/run-*/run.json") if path.parent.name not in before]

        (path,) = wait_until(found, PATIENCE_S, "a run in the store")
        return Run(self, path.parent.name, {}, 0)


@dataclass
class Run:
    """One run, as the store has it."""

    loop: Loop
    run_id: str
    result: dict[str, Any]
    exit_code: int

    @property
    def folder(self) -> Path:
        return self.loop.store / "training-runs" / self.run_id

    def do(self, *arguments: str, **options: Any) -> Any:
        """Run `simyard managed WHAT RUN`."""
        what, *more = arguments
        return self.loop.command("managed", what, self.run_id, "--store", self.loop.store, *more, **options)

    def read(self, pattern: str) -> list[Any]:
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob(pattern))]

    @property
    def iterations(self) -> list[dict[str, Any]]:
        return self.read("iterations/*/iteration.json")

    @property
    def lineage(self) -> list[dict[str, Any]]:
        return self.read("checkpoints/*.json")

    @property
    def events(self) -> list[str]:
        return [event["event_type"] for event in self.read("events/*.json")]

    def datasets(self) -> list[dict[str, Any]]:
        return sorted(self.read("datasets/*.json"), key=lambda manifest: manifest["iteration"])

    @property
    def end(self) -> tuple[str, str]:
        """The status and the policy in `result.json`."""
        result = json.loads((self.folder / "result.json").read_text())
        return result["status"], result["ended_by"]

    def calls(self, iteration: int) -> list[dict[str, Any]]:
        """How the trainer's calls of an iteration ended."""
        return self.read(f"iterations/{iteration:06d}/trainer/*/outcome.json")

    def wait_for(self, event: str, count: int = 1) -> None:
        wait_until(lambda: self.events.count(event) >= count, PATIENCE_S, f"{count} times {event}")

    def assert_sound(self, iterations: int | None = None) -> None:
        """`simyard managed verify` finds nothing, the chain is whole, and no finished step was done twice."""
        verified = self.do("verify", "--json")
        assert last_json(verified)["problems"] == [], verified.stdout
        good = [ended for ended in self.iterations if ended["status"] == "succeeded"]
        if iterations is not None:
            assert len(good) == iterations
        made = {entry["checkpoint_id"]: entry for entry in self.lineage}
        chain = [made[ended["checkpoint_id"]] for ended in good]
        parents = [None, *(entry["checkpoint_id"] for entry in chain[:-1])]
        assert [entry["parent"] for entry in chain] == parents
        for ended in good:
            assert Counter(call["status"] for call in self.calls(ended["iteration"]))["succeeded"] == 1
            for job_id in ended["rollouts"]:
                outcomes = [
                    json.loads(path.read_text())
                    for path in self.loop.store.glob(f"jobs/{job_id}/attempts/*/outcome.json")
                ]
                assert sum(outcome["status"] == "succeeded" for outcome in outcomes) == 1
