"""Rollouts of task packages that do without a simulator: how each end is told, by the real runner in a real process."""

import itertools
import json
import sys
import threading
import zipfile
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from lazy import lazy
from scenario.play import Left, running_below

from simyard.core.errors import WorkloadError
from simyard.requests.config import check_config
from simyard.requests.rollout import RolloutRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import Observer
from simyard.tasks.collect import collect
from simyard.tasks.launch import launch_inline
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.stage import stage

pytestmark = pytest.mark.system

zarr = lazy("zarr")

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
TASK = '''
import ctypes, os, signal, sys, time

class Task:
    """Two environments, whose rows say which step and which environment they are of."""

    def __init__(self, context, at: int = 5, how: str = "well"):
        self.context, self.at, self.how = context, at, how

    def run(self):
        import numpy as np
        context = self.context
        context.log.info("begins with seed %d", context.seed)
        print("printed by the task")
        for step in range(context.steps):
            if step == self.at:
                getattr(self, self.how.replace(" ", "_"))()
            rows = np.stack([np.full(context.num_envs, step), np.arange(context.num_envs)], axis=1)
            context.recorder.record({"row": rows.astype(np.float32), "reward": np.ones(context.num_envs, np.float32)})
            last = step == context.steps - 1
            context.recorder.end(np.full(context.num_envs, last), success=np.array([1] + [0] * (context.num_envs - 1)))

    def well(self):
        pass

    def raise_error(self):
        raise ValueError("the gripper has no fingers")

    def exit(self):
        sys.exit(0)

    def exit_at_once(self):
        os._exit(0)

    def import_what_is_not_there(self):
        import a_package_that_nobody_has

    def crash(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(600)

    def eat_everything(self):
        while True:
            try:
                time.sleep(600)
            except Exception:
                pass


class Silent(Task):
    def run(self):
        self.context.log.info("records nothing")


class Own(Task):
    """Writes its own store."""

    def run(self):
        import numpy as np, zarr
        group = zarr.open_group(str(self.context.output / "rollout.zarr"), mode="w")
        group.create_array("positions", data=np.arange(6.0).reshape(3, 2))


class Film(Task):
    def run(self):
        import numpy as np
        super().run()
        for step in range(12):
            picture = np.zeros((48, 64, 3), np.uint8)
            picture[:, step : step + 30] = 200
            self.context.video.add(picture)


class BlackFilm(Task):
    def run(self):
        import numpy as np
        super().run()
        for _ in range(12):
            self.context.video.add(np.zeros((48, 64, 3), np.uint8))


class CrashAfterwards(Task):
    """What simulators do when the interpreter ends."""

    def run(self):
        super().run()
        import atexit
        atexit.register(lambda: ctypes.string_at(0))
'''


@dataclass
class Roller:
    """Runs rollouts of the package."""

    folder: Path
    store: Store
    site: MachineSettings

    def request(self, name="Task", *, how="well", at=5, steps=20, video=False, timeouts=None):
        with zipfile.ZipFile(self.folder / "package.zip", "w") as archive:
            archive.writestr("endings/__init__.py", "")
            archive.writestr("endings/task.py", TASK)
        return {
            "runtime_profile": "isaac_lab_rollout",
            "execution": {"num_envs": 2, "steps": steps, "seed": 3},
            "outputs": {"video": video},
            "compute_config": {"gpus_per_node": 0},
            "timeouts": {"grace_seconds": 2, **(timeouts or {})},
            "retries": 1,
            "isaac_lab": {
                "task_module": "endings.task",
                "task_class_or_name": name,
                "task_package_uri": "package.zip",
                "task_args": {"how": how, "at": at} if name == "Task" else {},
            },
        }

    def __call__(self, *arguments, observer=None, **changes):
        request = check_config(self.request(*arguments, **changes), RolloutRequest)
        resolved = resolve(request, self.store, keys.new_job_id(), self.folder)
        stage(resolved, self.store)
        failure = None
        try:
            with Sessions(self.site) as sessions:
                launch_inline(resolved.spec, self.store, sessions, observer or Observer())
        except WorkloadError as error:
            failure = error.failure
        result = persist(resolved.spec, collect(resolved.spec, self.store, failure), self.store).to_json()
        left = Left(self.store, Path(self.site.store) / "jobs" / result["job_id"], result)
        _check_records(left)
        return left


@pytest.fixture
def roll(tmp_path, store):
    yield Roller(
        tmp_path,
        Store.open(str(store)),
        MachineSettings(home=tmp_path / "home", store=str(store), python=sys.executable),
    )
    assert running_below(tmp_path) == []


def _check_records(left):
    """Every runner.log, and diagnostics.json where there is one, is what the schemas say."""
    schema = json.loads((SCHEMAS / "runner-log.schema.json").read_text())
    lines = (left.folder / "artifacts" / "runner.log").read_text().splitlines()
    for line in lines:
        jsonschema.validate(_pairs(line), schema)
    assert _pairs(lines[-1])["status"] == left.result["status"]
    if left.result["status"] == "failed":
        jsonschema.validate(left.diagnostics, json.loads((SCHEMAS / "diagnostics.schema.json").read_text()))
    else:
        assert not (left.folder / "artifacts" / "diagnostics.json").exists()


def _pairs(line):
    pairs = {}
    decoder = json.JSONDecoder()
    while line:
        key, _, rest = line.partition("=")
        if rest.startswith('"'):
            value, end = decoder.raw_decode(rest)
            line = rest[end:].removeprefix(" ")
        else:
            value, _, line = rest.partition(" ")
        pairs[key] = value
    return pairs


def rows(left):
    """Return the recorded rows of each episode, read by zarr from the one file that is left."""
    with zarr.storage.ZipStore(left.folder / "artifacts" / "rollout.zarr", mode="r") as opened:
        group = zarr.open_group(opened, mode="r")
        ends = [0, *group["meta/episode_ends"][:].tolist()]
        data = group["data/row"][:]
        return [data[start:end].tolist() for start, end in itertools.pairwise(ends)], dict(group.attrs)


def names(left):
    return {entry["name"] for entry in left.result["artifacts"]}


def test_a_success_has_everything_that_was_promised(roll):
    left = roll("Task")
    assert left.result["status"] == "succeeded", left.error
    assert {"rollout.zarr", "summary.json", "user_job.log", "runner.log", "asset_staging.log"} <= names(left)
    assert (left.folder / "artifact_manifest.json").exists()
    episodes, attributes = rows(left)
    assert episodes == [[[float(step), float(env)] for step in range(20)] for env in range(2)]
    assert attributes["job_id"] == left.result["job_id"]
    assert attributes["seed"] == 3
    summary = left.result["summary"]
    assert (summary["episodes"], summary["recorded_steps"]) == (2, 40)
    assert summary["success"]["rate"] == 0.5
    assert summary["return"]["mean"] == 20.0
    log = (left.folder / "artifacts" / "user_job.log").read_text()
    assert "INFO begins with seed 3" in log
    assert "printed by the task" in left.stdout()
    staged = (left.folder / "artifacts" / "asset_staging.log").read_text()
    assert "asset=package.zip" in staged
    assert "status=ok" in staged


FAILURES = [
    ("raise error", "exception", "ValueError: the gripper has no fingers"),
    pytest.param("exit", "exit_called", "sys.exit(0)", marks=pytest.mark.long),
    ("exit at once", "ended_without_result", "exit code 0"),
    pytest.param("import what is not there", "missing_dependency", "a_package_that_nobody_has", marks=pytest.mark.long),
]


@pytest.mark.parametrize(
    ("how", "code", "message"), FAILURES, ids=["raise error", "exit", "exit at once", "import what is not there"]
)
def test_the_first_cause_is_told_and_what_was_recorded_is_kept(roll, how, code, message):
    left = roll(how=how)
    assert (left.result["status"], left.error["code"], left.error["category"]) == ("failed", code, "user")
    assert message in left.error["message"]
    assert left.error["advice"]
    assert left.diagnostics["error"] == left.error["message"]
    assert any("begins with seed" in line for line in left.diagnostics["tails"]["user_job.log"])
    assert "printed by the task" in left.diagnostics["tails"]["command.stdout.log"]
    assert len(left.attempts) == 1, "a user's error is not tried again"
    assert not (left.folder / "artifact_manifest.json").exists()
    assert {"runner.log", "user_job.log", "command.stdout.log", "command.stderr.log", "diagnostics.json"} <= names(left)
    if how != "exit at once":
        episodes, _ = rows(left)
        assert episodes == [[[float(step), float(env)] for step in range(5)] for env in range(2)]
        assert "raise" not in how or "ValueError" in (left.folder / "artifacts" / "user_job.log").read_text()


def test_a_task_that_records_nothing_has_not_succeeded(roll):
    left = roll("Silent")
    assert (left.error["code"], left.error["category"]) == ("artifact_missing", "user")
    assert "rollout.zarr" in left.error["message"]
    assert "context.recorder" in left.error["advice"]


@pytest.mark.long  # a job more
def test_a_task_may_write_its_own_store(roll):
    left = roll("Own")
    assert left.result["status"] == "succeeded", left.error
    with zarr.storage.ZipStore(left.folder / "artifacts" / "rollout.zarr", mode="r") as opened:
        assert zarr.open_group(opened, mode="r")["positions"][2, 1] == 5.0
    assert left.result["summary"]["episodes"] is None


@pytest.mark.long  # as in test_endings.py
def test_a_crash_of_the_clean_up_is_no_failure(roll):
    left = roll("CrashAfterwards")
    assert left.result["status"] == "succeeded", left.error


def test_a_killed_task_is_tried_again_and_leaves_what_had_left_the_machine(roll):
    left = roll(how="crash", at=15)
    assert (left.result["status"], left.error["code"], left.error["category"]) == ("failed", "killed", "infra")
    assert "SIGKILL" in left.error["message"]
    assert "attempts" in left.result


def test_a_cancel_ends_it_within_seconds_and_keeps_what_was_recorded(roll):
    seen = threading.Event()

    def progress(now):
        if now.stage == "working":
            seen.set()

    left = roll(how="hang", at=15, observer=Observer(progress=progress, canceled=seen.is_set))
    assert left.result["status"] == "canceled"
    episodes, _ = rows(left)
    assert [len(episode) for episode in episodes] == [15, 15]


@pytest.mark.long  # a simulator that hangs is killed in test_endings.py
def test_a_task_that_will_not_end_is_killed(roll):
    left = roll(how="eat everything", timeouts={"wall_seconds": 12.0})
    assert (left.result["status"], left.error["code"]) == ("failed", "wall_clock_limit")


@pytest.mark.long  # a job more; films are made in tests/sim
def test_a_film_is_promised_where_it_was_asked_for(roll):
    left = roll("Film", video=True)
    assert left.result["status"] == "succeeded", left.error
    assert left.result["summary"]["video"]["frames"] == 12
    assert (left.folder / "artifacts" / "render.mp4").stat().st_size > 1000


@pytest.mark.long  # test_video_files.py judges films
def test_a_black_film_is_no_film(roll):
    left = roll("BlackFilm", video=True)
    assert (left.result["status"], left.error["code"]) == ("failed", "video_impossible")
    assert "black" in left.error["message"]
    assert [len(episode) for episode in rows(left)[0]] == [20, 20]


@pytest.mark.long  # a job more
def test_without_a_film_the_reason_is_told(roll):
    left = roll("Task", video=True)
    assert left.error["code"] == "video_impossible"
    assert "kept no picture" in left.error["message"]


def test_an_asset_that_is_gone_is_told_as_that(roll):
    request = check_config(roll.request(), RolloutRequest)
    resolved = resolve(request, roll.store, keys.new_job_id(), roll.folder)
    stage(resolved, roll.store)
    roll.store.delete(resolved.spec.packages[0].key)
    with pytest.raises(WorkloadError, match=r"package\.zip"), Sessions(roll.site) as sessions:
        launch_inline(resolved.spec, roll.store, sessions, Observer())
    attempt = Path(roll.site.store) / "jobs" / resolved.spec.job_id / "attempts/001"
    staged = (attempt / "files/asset_staging.log").read_text()
    assert "status=failed" in staged
    assert "asset=package.zip" in staged
    told = json.loads((attempt / "files/diagnostics.json").read_text())
    assert "package.zip" in told["error"]
    assert told["tails"]["asset_staging.log"]
