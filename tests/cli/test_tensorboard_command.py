"""`simyard tensorboard`: event files of jobs, followed from any store, shown by the real TensorBoard."""

import json
import os
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from helpers import HANG_S, CommandLine, wait_until
from scenario.play import NOTHING

from simyard.cli.tensorboard import follow
from simyard.store import keys
from simyard.store.store import Store

JOB = keys.new_job_id()


def write(store: Store, source: Path, data: bytes) -> None:
    source.write_bytes(data)
    with source.open("rb") as file:
        store.put_growing(keys.JobKeys(JOB).attempt(1).file("events/rsl_rl/toy/today/events.out.tfevents.1"), file)


def test_a_file_is_followed_as_it_grows(tmp_path: Path) -> None:
    store, folder = Store.open(str(tmp_path / "store")), tmp_path / "shown"
    store.put_bytes(keys.JobKeys(JOB).attempt(1).file("metrics.csv"), b"step\n")
    shown = folder / JOB / "001" / "events.out.tfevents.1"
    for data in (b"one", b"one two", b"one two", b"one two three"):
        write(store, tmp_path / "events", data)
        follow(store, (JOB,), folder)
        assert shown.read_bytes() == data
    with shown.open("rb") as open_before:
        write(store, tmp_path / "events", b"one two three four")
        follow(store, (JOB,), folder)
        assert open_before.read() == b"one two three four"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [shown.name]


@pytest.mark.long  # it imports TensorBoard; that its files grow in place is tested above
@pytest.mark.system
def test_tensorboard_shows_a_running_job(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    store = Store.open(str(tmp_path / "store"))
    store.put_json(keys.JobKeys(JOB).job, NOTHING.to_json() | {"job_id": JOB})
    with SummaryWriter(str(tmp_path / "logs")) as writer:

        def log(step: int) -> None:
            writer.add_scalar("Train/mean_reward", step, step)
            writer.flush()
            (file,) = (tmp_path / "logs").iterdir()
            write(store, tmp_path / "copy", file.read_bytes())

        log(0)
        env = {**os.environ, "SIMYARD_HOME": str(tmp_path / "home")}
        shown = CommandLine(env).start("tensorboard", JOB, "--store", str(tmp_path / "store"))
        url = shown.stdout.readline().split()[1]

        def points() -> int:
            asked = f"{url}data/plugin/scalars/scalars?run={JOB}/001&tag=Train/mean_reward"
            try:
                with urllib.request.urlopen(asked) as answer:
                    return len(json.load(answer))
            except urllib.error.HTTPError:
                return 0

        wait_until(lambda: points() == 1, HANG_S, "the first point")
        for step in range(1, 5):
            log(step)
        wait_until(lambda: points() == 5, HANG_S, "the others")
        shown.send_signal(signal.SIGINT)
        assert shown.wait(HANG_S) == 0
