"""Trainers in containers, against a real podman."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager

import containers
import psutil
import pytest
from helpers import HANG_S, wait_until

from simyard.core.errors import Category, RequestError, WorkloadError
from simyard.tasks.managed.engines.base import Exit, TrainerCall
from simyard.tasks.managed.engines.container import ContainerEngine, require_image_name

MEMORY = 64 << 20
START_AND_DIE = """
import json, os, sys
from pathlib import Path
from simyard.tasks.managed.engines.container import ContainerEngine
from simyard.tasks.managed.engines.base import TrainerCall
call = json.loads(sys.argv[1])
ContainerEngine().start(TrainerCall(**call | {"folder": Path(call["folder"]), "work": Path(call["work"])}))
os._exit(9)
"""


@pytest.fixture
def engine(podman, monkeypatch):
    """An engine that leaves nothing behind in podman."""
    monkeypatch.setenv("DOCKER_HOST", podman.address)
    before = {container.name for container in podman.client.containers.list(all=True)}
    engine = ContainerEngine()
    yield engine
    for container in podman.client.containers.list(all=True):
        if container.name not in before:
            engine.sweep(container.name)


@pytest.fixture
def call(podman, tmp_path):
    """Make the call of a shell script, or of a program."""

    def make(script="", **changes):
        folder = tmp_path / "a folder: ünïcode"
        (folder / "input").mkdir(parents=True, exist_ok=True)
        (folder / "output").mkdir(exist_ok=True)
        given = {
            "name": f"simyard-{uuid.uuid4().hex[:12]}", "image": podman.busybox, "argv": ("sh", "-c", script),
            "env": {}, "folder": folder, "work": tmp_path, "gpus": 0, "cpus": 1.0, "memory_bytes": MEMORY,
        }  # fmt: skip
        return TrainerCall(**given | changes)

    return make


def ended(trainer, timeout_s=HANG_S):
    return wait_until(trainer.poll, timeout_s, "the trainer's end")


def logs(call):
    return [(call.folder / name).read_text() for name in ("stdout.log", "stderr.log")]


def names(podman):
    # `containers.list` looks at each once more, and podman answers 500 for one that has gone meanwhile.
    return [name.lstrip("/") for container in podman.client.api.containers(all=True) for name in container["Names"]]


@contextmanager
def silent(podman):
    """Have the engine answer nothing meanwhile."""
    os.kill(podman.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(podman.process.pid, signal.SIGCONT)


def processes(argument):
    return [process for process in psutil.process_iter(["cmdline"]) if argument in (process.info["cmdline"] or [])[1:2]]


def test_reads_its_input_writes_its_output_and_prints(engine, podman, call):
    made = call("cd /simyard; cat input/seen; mkdir output/sub; echo new >output/sub/file; touch input/mine")
    (made.folder / "input/seen").write_text("from outside\n")
    trainer = engine.start(made)
    assert ended(trainer) == Exit(code=1)
    assert logs(made) == ["from outside\n", "touch: input/mine: Read-only file system\n"]
    left = made.folder / "output/sub/file"
    assert (left.read_text(), left.stat().st_uid) == ("new\n", os.getuid())
    trainer.end(0)
    assert made.name not in names(podman)


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("exit 3", Exit(code=3)),
        pytest.param("kill -KILL $$", Exit(code=None, signal="SIGKILL"), marks=pytest.mark.long),
        pytest.param("kill -TERM $$", Exit(code=None, signal="SIGTERM"), marks=pytest.mark.long),
    ],
    ids=["code", "killed", "terminated"],
)
def test_how_it_ended_is_told(engine, call, script, end):
    assert ended(engine.start(call(script))) == end


@pytest.mark.long  # a second image
def test_python_runs_with_the_entrypoint_as_given(engine, podman, call):
    program = "import json, hashlib, argparse, zipfile, sys; print(json.dumps(sys.argv[1:]))"
    made = call(image=podman.python, argv=("python3", "-c", program, "--a b", "ü'\""), memory_bytes=256 << 20)
    assert ended(engine.start(made)) == Exit(code=0), logs(made)
    assert json.loads(logs(made)[0]) == ["--a b", "ü'\""]


@pytest.mark.long  # a container more; test_reads_its_input… has one from its start to its end
def test_the_images_own_entrypoint_takes_the_arguments(engine, podman, call):
    plain = podman.client.containers.create(podman.busybox, ["true"])
    plain.commit("localhost/simyard-own", "1", changes='ENTRYPOINT ["echo", "own"]')
    plain.remove()
    made = call(image="localhost/simyard-own:1", argv=("a", "b c"), own_entrypoint=True)
    assert ended(engine.start(made)).code == 0
    assert logs(made)[0] == "own a b c\n"


def test_environment_limits_and_lack_of_privileges_arrive(engine, podman, call):
    made = call(
        "echo $ASKED $NVIDIA_VISIBLE_DEVICES $OMP_NUM_THREADS; id -u; cat /proc/self/status",
        env={"ASKED": "a  $b"},
        cpus=0.5,
    )
    trainer = engine.start(made)
    assert ended(trainer) == Exit(code=0)
    out = logs(made)[0].splitlines()
    assert out[:2] == ["a $b void 1", str(os.getuid())]
    assert {"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} <= set(out)
    container = podman.client.containers.get(made.name)
    limits = container.attrs["HostConfig"]
    assert (limits["Memory"], limits["MemorySwap"], limits["NanoCpus"]) == (MEMORY, MEMORY, 500_000_000)
    assert container.labels == {"simyard": "trainer", "simyard.call": made.name}


@pytest.mark.long  # the engine's own rule
def test_more_cpus_than_the_machine_has_are_all_of_them(engine, podman, call):
    made = call("true", cpus=10_000.0)
    assert ended(engine.start(made)) == Exit(code=0)
    assert podman.client.containers.get(made.name).attrs["HostConfig"]["NanoCpus"] == os.cpu_count() * 10**9


@pytest.mark.long  # that limits arrive is shown by test_environment_limits…
def test_it_is_killed_at_its_memory_limit_which_is_named_as_the_reason(engine, podman, call):
    end = ended(engine.start(call(argv=("tail", "/dev/zero"))))
    assert (end.code, end.signal) == (None, "SIGKILL")
    if not end.out_of_memory:
        wait_until((podman.folder / "oom").exists, HANG_S, "the note of podman's monitor, which comes after the end")
        pytest.skip("this podman kills at the limit, and its monitor leaves the note of it where podman does not look")


def test_output_can_be_read_while_it_runs(engine, call):
    made = call("echo first; echo worse >&2; sleep 60")
    trainer = engine.start(made)
    wait_until(lambda: logs(made) == ["first\n", "worse\n"], HANG_S, "its first lines")
    assert trainer.poll() is None
    trainer.end(0)


@pytest.mark.long  # test_output_can_be_read… has a few lines
@pytest.mark.parametrize("lines", [10_000, 50_000])
def test_a_lot_of_output_is_complete(engine, call, lines):
    made = call(f"i=0; while [ $i -lt {lines} ]; do echo line $i; i=$((i+1)); done")
    assert ended(engine.start(made), 60) == Exit(code=0)
    assert logs(made)[0].splitlines() == [f"line {i}" for i in range(lines)]


def test_ended_in_the_middle_with_its_children(engine, podman, call):
    unlikely = str(uuid.uuid4().int % 10**9)
    made = call(f"sleep {unlikely} & sleep {unlikely} & echo ready; wait")
    trainer = engine.start(made)
    wait_until(lambda: logs(made)[0] == "ready\n", HANG_S, "its start")
    assert len(processes(unlikely)) == 2
    began = time.monotonic()
    trainer.end(20)
    assert time.monotonic() - began < 15  # SIGTERM is heard
    assert made.name not in names(podman)
    assert processes(unlikely) == []
    trainer.end(0)  # again is nothing


def test_killed_after_the_grace(engine, podman, call):
    made = call("trap 'echo heard' TERM; echo ready; while true; do sleep 0.1; done")
    trainer = engine.start(made)
    wait_until(lambda: logs(made)[0] == "ready\n", HANG_S, "its start")
    trainer.end(4)  # the shell hears it between two of its sleeps, which a busy machine makes longer
    assert logs(made)[0] == "ready\nheard\n"
    assert made.name not in names(podman)


@pytest.mark.parametrize("runs", [True, pytest.param(False, marks=pytest.mark.long)], ids=["running", "exited"])
def test_a_call_whose_starter_died_ends_with_it(engine, podman, call, runs):
    """Nobody would enforce its time limit, and the next caller could not say how it ended."""
    made = call("sleep 600" if runs else "exit 0")
    fields = {name: getattr(made, name) for name in made.__dataclass_fields__}
    text = json.dumps(fields | {"folder": str(made.folder), "work": str(made.work)})
    assert subprocess.run([sys.executable, "-c", START_AND_DIE, text], timeout=HANG_S, check=False).returncode == 9
    wait_until(lambda: made.name not in names(podman), HANG_S, "the container's end")


@pytest.mark.long  # test_a_call_whose_starter_died… ends one likewise
def test_what_is_left_of_a_call_is_ended_first(engine, podman, call):
    made = call("echo new")
    old = podman.client.containers.run(made.image, ["sleep", "600"], name=made.name, detach=True)
    assert ended(engine.start(made)) == Exit(code=0)
    assert logs(made)[0] == "new\n"
    assert podman.client.containers.get(made.name).id != old.id


@pytest.mark.long  # a kill at one moment more
def test_a_container_that_was_never_started_is_made_again(engine, podman, call):
    made = call("echo new")
    old = podman.client.containers.create(made.image, ["echo", "old"], name=made.name)
    assert ended(engine.start(made)) == Exit(code=0)
    assert logs(made)[0] == "new\n"
    assert podman.client.containers.get(made.name).id != old.id


@pytest.mark.parametrize("program", ["nope", "/bin/nope", "./nope"])
def test_a_program_that_is_not_in_the_image_is_refused(engine, podman, call, program):
    made = call(argv=(program, "x"))
    with pytest.raises(RequestError, match=f"has no program '{program}'") as refused:
        engine.start(made)
    assert refused.value.failure.code == "no_program"
    assert made.name not in names(podman)


@pytest.mark.long  # a second engine
def test_an_engine_without_an_init_runs_it_all_the_same(monkeypatch, call):
    with containers.serving('init_path = "/nowhere/init"') as bare:
        monkeypatch.setenv("DOCKER_HOST", bare.address)
        made = call("echo $$", image=bare.busybox)
        assert ended(ContainerEngine().start(made)) == Exit(code=0)
    assert logs(made)[0] == "1\n"


def test_an_image_that_is_there_is_enough(engine, podman):
    engine.require(podman.busybox, 0)
    engine.require(podman.busybox.removesuffix(":latest"), 0)


def test_an_image_that_cannot_be_had_is_refused_in_the_engines_words(engine):
    with pytest.raises(
        RequestError, match=r"'127.0.0.1:1/none:2' is not there .*pinging container registry"
    ) as refused:
        engine.require("127.0.0.1:1/none:2", 0)
    assert refused.value.failure.code == "image_missing"


@pytest.mark.parametrize(
    "image",
    ["", " ", "-v", "--privileged", "a b", "Upper/case", "a/B:1", "a:", "a:b:c", "a//b", "/a", "a/", "a;b", "a\n",
     "../a", "https://a.b/c", "a@sha256:12", "-a.b/c", "a" * 256],
)  # fmt: skip
def test_what_is_no_image_name_never_reaches_the_engine(monkeypatch, image):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/podman.sock")
    with pytest.raises(RequestError) as refused:
        ContainerEngine().require(image, 0)
    assert refused.value.failure.code == "bad_image"
    assert repr(image) in str(refused.value)


@pytest.mark.parametrize("address", ["unix:///nowhere/podman.sock", "tcp://127.0.0.1:1", "nonsense"])
def test_no_engine_is_told(monkeypatch, address):
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(RequestError, match="No container engine answers") as refused:
        ContainerEngine().require("a/b:1.0", 0)
    assert refused.value.failure.code == "no_container_engine"
    assert address in str(refused.value)


@pytest.mark.parametrize(
    "image",
    ["a", "a/b:1.0", "localhost/a", "a.b:5000/c-d/e_f__g:V1", "reg:5000/a", "Registry.io/a", f"a@sha256:{'0' * 64}"],
)
def test_every_way_to_name_an_image_is_an_image_name(image):
    require_image_name(image)


def test_gpus_that_podman_would_not_give_are_refused(engine, podman):
    with pytest.raises(RequestError, match="cannot give them: podman") as refused:
        engine.require(podman.busybox, 1)
    assert refused.value.failure.code == "no_gpu"


def test_swept(engine, podman, call):
    made = call("trap '' TERM; sleep 60; sleep 60")
    engine.start(made)
    began = time.monotonic()
    engine.sweep(made.name)
    assert time.monotonic() - began < 8  # without a grace
    assert made.name not in names(podman)
    engine.sweep(made.name)


def test_a_container_that_somebody_removed_is_a_failure_of_the_machine(engine, podman, call):
    made = call("sleep 60")
    trainer = engine.start(made)
    podman.client.api.remove_container(made.name, force=True)
    with pytest.raises(WorkloadError, match="was removed") as failed:
        trainer.poll()
    assert failed.value.failure.category is Category.INFRA


@pytest.mark.long  # test_an_engine_that_stays_silent… has the watch
def test_an_engine_that_is_silent_for_a_moment_loses_nothing(engine, podman, call):
    trainer = ContainerEngine(silence_s=12).start(call("sleep 2; exit 5"))
    with silent(podman):
        assert trainer.poll() is None
    assert ended(trainer) == Exit(code=5)


def test_an_engine_that_stays_silent_is_lost(engine, podman, call):
    trainer = ContainerEngine(silence_s=1).start(call("sleep 60"))
    with silent(podman), pytest.raises(WorkloadError, match="did not answer for 1 s") as failed:
        wait_until(trainer.poll, HANG_S, "the engine is given up")
    assert (failed.value.failure.code, failed.value.failure.category) == ("engine_lost", Category.INFRA)


def test_what_the_engine_refuses_is_its_failure(engine, call):
    made = call("true", image="localhost/simyard-nowhere:1")
    with pytest.raises(WorkloadError, match="simyard-nowhere") as failed:
        engine.start(made)
    assert failed.value.failure.code == "engine_failed"
