"""Calls of a trainer as a child process: how each end is told, and that nothing of it runs on."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from gpus import install_driver
from helpers import HANG_S, wait_until

from simyard.core.artifacts import ROLLOUT
from simyard.core.errors import Category, RequestError, WorkloadError
from simyard.core.files import own
from simyard.core.records import this_process
from simyard.core.run_records import DatasetManifest, DatasetRollout, TrainerAttempt, TrainerStatus
from simyard.requests.config import check_config
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.settings import MachineSettings
from simyard.runner.workload import with_token
from simyard.store import keys
from simyard.store.keys import JobKeys, RunKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.managed.engines.base import STDOUT, TrainerCall
from simyard.tasks.managed.engines.local import LocalEngine
from simyard.tasks.managed.run import ResolvedRun, RunSpec, load_run, resolve_run, stage_run
from simyard.tasks.managed.trainer import TrainerObserver, call_key, check_trainer, outcome_of, run_trainer

GOOD = 'write("metrics.json", "{}"); write("checkpoint.pt", "weights")'
PREFIX = """
import json, os, pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[1])
def write(name, text): (out / name).write_text(text)
def succeed(**metrics): write("metrics.json", json.dumps(metrics)); write("checkpoint.pt", "weights")
"""


class Trainer:
    """Calls a trainer of some lines, in the first iteration of a run that has one rollout."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.site = MachineSettings(home=folder / "home", store=str(store), python=sys.executable)
        self.store = Store.open(str(store))
        self.script = folder / "train.py"
        self.lines: list[str] = []

    def run_spec(self, **trainer) -> ResolvedRun:
        request = {
            "rollout_template": {
                "runtime_profile": "isaac_lab_rollout", "steps": 1,
                "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
            },
            "trainer_spec": {
                "image_uri": "local", "entrypoint": "python train.py",
                "args_template": ["{output_dir}", "{dataset_manifest_path}"], **trainer,
            },
            "loop_policy": {"max_iterations": 1},
        }  # fmt: skip
        checked = check_config(request, TrainingRunRequest)
        return resolve_run(checked, self.store, keys.new_run_id(), self.folder, self.site)

    def dataset(self, run: RunSpec, content: bytes) -> str:
        """Put a dataset of one file into the store, which says that it is `arrays`; return its digest."""
        key = JobKeys(keys.new_job_id())
        self.store.put_bytes(key.artifact(ROLLOUT.name), content)
        row = DatasetRollout(
            job_id=key.job_id, uri="", path=f"rollouts/{key.job_id}/{ROLLOUT.name}",
            sha256=hashlib.sha256(b"arrays").hexdigest(), size_bytes=6, manifest_sha256="", seed=1, num_envs=1, steps=1,
            episodes=1, recorded_steps=1, mean_return=None, success_rate=None,
        )  # fmt: skip
        manifest = DatasetManifest(
            run_id=run.run_id, iteration=1, iteration_id="iter-0001", checkpoint=None, rollouts=(row,), episodes=1,
            recorded_steps=1, arrays={},
        )  # fmt: skip
        data = json.dumps(manifest.to_json()).encode()
        digest = hashlib.sha256(data).hexdigest()
        self.store.put_bytes(RunKeys(run.run_id).dataset(digest), data)
        return digest

    def __call__(self, body: str, stopped=lambda: None, rollout=b"arrays", killed_s: float = 0.0, **trainer):
        """Call it once, after a caller that was killed so many seconds on; return the outcome in the store."""
        self.script.write_text(PREFIX + textwrap.dedent(body))
        resolved = self.run_spec(**trainer)
        stage_run(resolved, self.store)
        run = load_run(self.store, resolved.spec.run_id)
        attempt = TrainerAttempt(
            run_id=run.run_id, iteration=1, number=1, dataset_sha256=self.dataset(run, rollout), checkpoint=None
        )
        if killed_s:
            beat = TrainerStatus(**this_process(), attempt=attempt, seconds=killed_s)
            self.store.put_record(call_key(attempt, "status.json"), beat)
        with suppress(WorkloadError):  # the outcome says so too
            run_trainer(attempt, run, self.store, self.site, TrainerObserver(lines=self.lines.extend, stopped=stopped))
        assert list(with_token(attempt.name)) == [], "something runs on"
        assert not (self.site.home / "work").exists() or not list((self.site.home / "work").glob("*/*"))
        outcome = outcome_of(attempt, self.store)
        assert outcome is not None
        return outcome


@pytest.fixture
def trainer(tmp_path, store):
    return Trainer(tmp_path, store)


def test_a_success_is_kept_with_its_logs_and_its_checkpoint(trainer):
    outcome = trainer(
        """
        manifest = json.loads(pathlib.Path(sys.argv[2]).read_text())
        assert (pathlib.Path(sys.argv[2]).parent / manifest["rollouts"][0]["path"]).read_bytes() == b"arrays"
        print("learns"); print("and warns", file=sys.stderr)
        succeed(loss=0.5, by={"layer": [1, 2.5]}, note="fine")
        """
    )
    assert outcome.status == "succeeded", outcome
    assert outcome.metrics == {"loss": 0.5, "by": {"layer": [1, 2.5]}, "note": "fine"}
    assert trainer.store.get_bytes(outcome.checkpoint.key) == b"weights"
    assert sorted(trainer.lines) == ["and warns", "learns"]
    attempt = next(Path(trainer.site.store).glob("training-runs/*/iterations/*/trainer/001"))
    assert (attempt / "stdout.log").read_text() == "learns\n"
    assert (attempt / "stderr.log").read_text() == "and warns\n"


def test_what_a_killed_caller_left_of_another_call_goes_with_the_next(trainer):
    left = trainer.site.home / "work/run-1/1-1"
    own(left).close()  # as the kernel does
    assert trainer("succeed()").status == "succeeded"
    assert not left.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("ends", ["sys.exit(1)", "write('metrics.json', '{}')"], ids=["without a word", "as if well"])
def test_a_trainer_that_finds_no_room_is_not_to_blame(trainer, ends):
    trainer.site.home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", trainer.site.home], check=True)
    try:
        outcome = trainer(f"""
        try:
            write("ballast", "x" * 2_000_000)
        except OSError:
            {ends}
        """)
    finally:
        subprocess.run(["umount", "--lazy", trainer.site.home], check=True)
    assert (outcome.failure.code, outcome.failure.category) == ("disk_full", Category.INFRA)
    assert "The trainer failed: " in outcome.failure.message


@pytest.mark.parametrize("address", ["models/last.pt", "{out}/models/last.pt", "{out_uri}/models/last.pt", "{store}"])
def test_a_checkpoint_may_be_named_by_its_address(trainer, address):
    trainer.store.put_bytes("elsewhere/last.pt", b"weights from elsewhere")
    outcome = trainer(
        f"""
        (out / "models").mkdir(); write("models/last.pt", "weights from elsewhere"); write("metrics.json", "{{}}")
        store = {trainer.store.url("elsewhere/last.pt")!r}
        write("checkpoint_out_uri.txt", {address!r}.format(out=out, out_uri=out.as_uri(), store=store) + "\\n")
        """
    )
    assert outcome.status == "succeeded", outcome
    assert trainer.store.get_bytes(outcome.checkpoint.key) == b"weights from elsewhere"


@pytest.mark.parametrize(
    ("address", "code", "said"),
    [
        ("/etc/passwd", "bad_reference", "no path below its folder"),
        ("file:///etc/passwd", "bad_reference", "in no store that may be read"),
        ("file:///proc/self/environ", "bad_reference", "in no store that may be read"),
        ("../../../secret", "bad_reference", "no path below its folder"),
        ("{out_uri}/%2e%2e/%2e%2e/secret", "bad_reference", "no path below its folder"),
        ("{out}//etc/passwd", "bad_reference", "no path below its folder"),
        ("{out_uri}//etc/passwd", "bad_reference", "no path below its folder"),
        ("a%00b", "missing_file", "there is no file"),
        ("{out_uri}/a%00b", "bad_reference", "no path below its folder"),
        ("link.pt", "bad_reference", "a symbolic link"),
        ("folder/passwd", "bad_reference", "a symbolic link"),
        ("hard.pt", "bad_reference", "a hard link"),
        ("pipe.pt", "bad_reference", "a FIFO"),
        (".", "bad_reference", "no path below its folder"),
        ("x" * 300, "bad_reference", "too long"),
        ("s3://another-bucket/model.pt", "store_not_allowed", "in no store that jobs of this service may read"),
        ("s3://listed-not/model.pt", "store_not_allowed", "in no store that jobs of this service may read"),
        ("https://example.org/model.pt", "bad_reference", "in no store that may be read"),
        ("{store}/projects/other/jobs/a.pt", "bad_reference", "in no store that may be read"),
        ("{store}/service/keys/a.json", "bad_reference", "in no store that may be read"),
        ("{store}/../secret", "bad_key", "is not a key"),
    ],
)
def test_an_address_leads_nowhere_but_where_the_api_leads(trainer, tmp_path, monkeypatch, address, code, said):
    monkeypatch.setenv("SIMYARD_INPUT_STORES", "s3://listed")
    (tmp_path / "secret").write_text("everybody's password")
    for key in ("projects/other/jobs/a.pt", "service/keys/a.json"):
        trainer.store.put_bytes(key, b"everybody's password")
    outcome = trainer(
        f"""
        os.symlink("/etc/passwd", out / "link.pt"); os.symlink("/etc", out / "folder"); os.mkfifo(out / "pipe.pt")
        os.link({str(tmp_path / "secret")!r}, out / "hard.pt"); write("metrics.json", "{{}}")
        address = {address!r}.format(out=out, out_uri=out.as_uri(), store={trainer.store.url()!r})
        write("checkpoint_out_uri.txt", address)
        """
    )
    assert (outcome.status, outcome.failure.code) == ("failed", code)
    assert said in outcome.failure.message
    assert outcome.failure.advice
    assert trainer.store.list("assets") == []


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ('write("checkpoint.pt", "weights")', "trainer_failed", "left no metrics.json"),
        (GOOD.replace("{}", "{"), "trainer_failed", "not valid JSON"),
        (GOOD.replace("{}", "[1]"), "trainer_failed", "holds list, not an object"),
        (GOOD.replace('"{}"', '\'{"loss": NaN}\''), "trainer_failed", "loss is nan"),
        (GOOD.replace('"{}"', '\'{"a": {"b": [1, -Infinity]}}\''), "trainer_failed", "a.b[1] is -inf"),
        (GOOD.replace('"{}"', '\'{"loss": 1e999}\''), "trainer_failed", "loss is inf"),
        (GOOD.replace('"{}"', "'{\"a\":' + '[' * 1200 + ']' * 1200 + '}'"), "trainer_failed", "more than 100 deep"),
        (GOOD.replace('"{}"', r"""'{"a": "\\ud800"}'"""), "trainer_failed", "half of a surrogate pair"),
        ('write("metrics.json", "{}")', "trainer_failed", "left no checkpoint"),
        (GOOD + '; write("checkpoint_out_uri.txt", "x")', "trainer_failed", "checkpoint.pt and checkpoint_out_uri.txt"),
        (GOOD.replace('"weights"', '""'), "trainer_failed", "checkpoint.pt is empty"),
        ('write("metrics.json", "{}"); os.symlink("/etc/passwd", out / "checkpoint.pt")', "trainer_failed",
         "checkpoint.pt cannot be read: it is a symbolic link, no regular file"),
        ('write("checkpoint.pt", "weights"); os.symlink("/etc/passwd", out / "metrics.json")', "trainer_failed",
         "metrics.json cannot be read: it is a symbolic link, no regular file"),
        ('write("checkpoint.pt", "weights"); os.mkfifo(out / "metrics.json")', "trainer_failed",
         "metrics.json cannot be read: it is a FIFO, no regular file"),
        ('write("metrics.json", "{}"); write("checkpoint_out_uri.txt", "x" * 5000)', "trainer_failed",
         "checkpoint_out_uri.txt has more than 4,000 bytes"),
        ('write("metrics.json", "{}"); write("checkpoint_out_uri.txt", "not there.pt")', "trainer_failed", "2 words"),
        ('write("metrics.json", "{}"); write("checkpoint_out_uri.txt", "gone.pt")', "missing_file", "'gone.pt'"),
        (GOOD + "; sys.exit(3)", "trainer_failed", "The trainer failed: It ended with exit code 3."),
        (GOOD + "; os.kill(os.getpid(), 9)", "killed", "SIGKILL"),
        (GOOD + "; os.kill(os.getpid(), 11)", "killed", "SIGSEGV"),
    ],
)  # fmt: skip
def test_what_is_not_as_promised_is_a_failure(trainer, body, code, said):
    outcome = trainer(body)
    assert (outcome.status, outcome.failure.code) == ("failed", code)
    assert said in outcome.failure.message


def test_an_exception_shows_its_last_lines(trainer):
    assert trainer('raise ValueError("the batch is empty")').tail[-1] == "ValueError: the batch is empty"


def test_the_wall_clock_limit_ends_it_with_everything_it_started(trainer):
    outcome = trainer('subprocess.Popen(["sleep", "600"], start_new_session=True); time.sleep(600)', timeout_seconds=1)
    assert outcome.failure.code == "wall_clock_limit"
    assert 1 <= outcome.seconds < 30


def test_what_a_trainer_used_whose_caller_was_killed_is_counted(trainer):
    outcome = trainer("succeed()", killed_s=40.0, resources={"gpu": 2, "cpu": 1, "memory_gb": 1})
    assert outcome.status == "succeeded"
    assert 80.0 < outcome.gpu_seconds == pytest.approx(2 * (40.0 + outcome.seconds), abs=0.01)


@pytest.mark.parametrize("env", ["None", "{}"], ids=["as it is", "without its environment"])
def test_what_it_leaves_running_is_ended_too(trainer, env):
    outcome = trainer(
        f"""
        daemon = "import subprocess as s; print(s.Popen(['sleep', '600'], start_new_session=True, stdout=-3).pid)"
        pid = int(subprocess.run([sys.executable, "-c", daemon], env={env}, stdout=-1, text=True).stdout)
        succeed(pid=pid)
        """
    )
    assert outcome.status == "succeeded", outcome
    assert not psutil.pid_exists(outcome.metrics["pid"])


def test_more_memory_than_it_may_have_ends_it(trainer):
    body = f"block = bytearray(400_000_000); time.sleep(60); {GOOD}"
    outcome = trainer(body, resources={"memory_gb": 0.2})
    assert (outcome.failure.code, outcome.failure.category) == ("out_of_memory", "resource")


def test_a_trainer_without_gpu_memory_is_told_so(trainer, tmp_path, monkeypatch):
    body = 'raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")'
    alone = trainer(body).failure
    assert (alone.code, alone.category) == ("gpu_out_of_memory", "resource")
    assert "smaller batches" in alone.advice
    install_driver(tmp_path, monkeypatch, ["0, GPU-11aa, NVIDIA H200, 143771, 1171"], ["GPU-11aa, 4321, 142000"])
    beside = trainer(body).failure
    assert (beside.code, beside.category) == ("gpu_out_of_memory", "infra")
    assert "wanted 2,147 MB more; others hold 148,898 MB: process 4321" in beside.message


def test_it_has_the_cores_it_asked_for(trainer):
    outcome = trainer('succeed(cores=len(os.sched_getaffinity(0)), threads=os.environ["OMP_NUM_THREADS"])')
    assert outcome.metrics == {"cores": 1, "threads": "1"}


def test_our_secrets_stay_with_us(trainer, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    outcome = trainer('succeed(seen=[name for name in os.environ if name.startswith(("AWS_", "PREFECT_"))])')
    assert outcome.metrics == {"seen": []}


def test_the_value_of_a_variable_is_in_no_record(trainer, monkeypatch):
    monkeypatch.setenv("HUB_TOKEN", "hunter2")
    trainer.site = replace(trainer.site, trainer_variables=frozenset({"HUB_TOKEN"}))
    assert "HUB_TOKEN" not in trainer.site.workload_env(), "a simulator needs it not"
    outcome = trainer(
        'succeed(right=(os.environ["TOKEN"], os.environ["PLAIN"]) == ("hunter2", "swordfish 1"))',
        env={"TOKEN": {"variable": "HUB_TOKEN"}, "PLAIN": "swordfish {iteration}"},
    )
    assert outcome.metrics == {"right": True}
    written = {path.name: path.read_text() for path in Path(trainer.site.store).rglob("*.json")}
    assert [name for name, text in written.items() if "swordfish" in text] == ["secrets.json"]
    assert "hunter2" not in "".join(written.values())
    assert json.loads(written["run.json"])["request"]["trainer_spec"]["env"]["PLAIN"] == "********"


def test_a_cancel_ends_it(trainer):
    began = time.monotonic()
    outcome = trainer("time.sleep(600)", stopped=lambda: CANCELED if time.monotonic() - began > 1 else None)
    assert (outcome.status, outcome.failure.category) == ("canceled", "canceled")


def test_it_dies_with_the_process_that_called_it(tmp_path):
    """Whoever drives a run may be killed by a signal that nobody can handle."""
    script = f"""
import sys, time
from pathlib import Path
from simyard.requests.settings import MachineSettings
from simyard.tasks.managed.engines.base import TrainerCall
from simyard.tasks.managed.engines.local import LocalEngine
folder = Path({str(tmp_path)!r})
call = TrainerCall(name="dies-{tmp_path.name}", image="local", argv=("sleep", "600"), env={{}}, folder=folder,
                   work=folder, gpus=0, cpus=1, memory_bytes=10**9)
LocalEngine(MachineSettings.from_env()).start(call)
print("started", flush=True)
time.sleep(600)
"""
    caller = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "started\n"
    name = f"dies-{tmp_path.name}"
    wait_until(lambda: any("sleep" in psutil.Process(pid).name() for pid in with_token(name)), HANG_S, "the trainer")
    caller.kill()
    caller.wait()
    wait_until(lambda: not list(with_token(name)), HANG_S, "the trainer's end")


@pytest.mark.parametrize(
    ("visible", "gpus", "seen"),
    [(None, 2, "0,1"), (None, 0, ""), ("3", 1, "3"), ("GPU-11aa, GPU-22bb", 1, "GPU-11aa"), ("1,2", 0, "")],
)
def test_its_gpus_are_of_those_that_this_process_may_use(tmp_path, monkeypatch, visible, gpus, seen):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    engine = LocalEngine(MachineSettings(home=tmp_path, store="", python=sys.executable))
    call = TrainerCall(
        name=f"gpus-{tmp_path.name}", image="local", argv=("sh", "-c", "echo =$CUDA_VISIBLE_DEVICES="), env={},
        folder=tmp_path, work=tmp_path, gpus=gpus, cpus=1, memory_bytes=10**9,
    )  # fmt: skip
    child = engine.start(call)
    wait_until(lambda: child.poll() is not None, HANG_S, "its end")
    assert (tmp_path / STDOUT).read_text() == f"={seen}=\n"


def test_one_of_the_same_name_that_was_left_is_ended_first(tmp_path):
    engine = LocalEngine(MachineSettings(home=tmp_path, store="", python=sys.executable))
    call = TrainerCall(
        name=f"same-{tmp_path.name}", image="local", argv=("sleep", "600"), env={}, folder=tmp_path, work=tmp_path,
        gpus=0, cpus=1, memory_bytes=10**9,
    )  # fmt: skip
    engine.start(call)
    first = set(with_token(call.name))
    assert first
    second = engine.start(call)
    wait_until(lambda: set(with_token(call.name)) - first, HANG_S, "the second one")
    assert not first & set(with_token(call.name))
    assert second.poll() is None
    second.end(0.0)
    assert list(with_token(call.name)) == []


@pytest.mark.parametrize(
    ("trainer_spec", "code", "said"),
    [
        ({"entrypoint": "./train.sh"}, "no_program", "no program './train.sh'"),
        ({"resources": {"gpu": 64}}, "no_gpu", "gpu is 64"),
        ({"env": {"TOKEN": {"variable": "AWS_SECRET_ACCESS_KEY"}}}, "no_trainer_variable", "'AWS_SECRET_ACCESS_KEY'"),
        ({"env": {"TOKEN": "********"}}, "masked_value", "was shown so in place of its value"),
    ],
)
def test_what_cannot_be_called_is_refused_before_the_first_rollout(trainer, trainer_spec, code, said):
    with pytest.raises(RequestError, match=said) as caught:
        check_trainer(trainer.run_spec(**trainer_spec).spec, trainer.site)
    assert caught.value.failure.code == code


def test_logs_are_in_the_store_while_it_runs(trainer):
    seen = threading.Event()

    def look():
        if any(path.stat().st_size for path in Path(trainer.site.store).rglob("stdout.log")):
            seen.set()

    outcome = trainer(f'print("begins", flush=True); time.sleep(8); {GOOD}', stopped=look)
    assert outcome.status == "succeeded"
    assert seen.is_set()


def test_the_digest_of_a_rollout_is_checked(trainer):
    outcome = trainer("succeed()", rollout=b"other arrays")
    assert (outcome.status, outcome.failure.category) == ("failed", "infra")
    assert ROLLOUT.name in outcome.failure.message
