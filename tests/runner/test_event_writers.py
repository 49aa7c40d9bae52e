"""What was logged is on the disk at once, so that a kill takes nothing along."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simyard.tasks.metrics.events import EventReader, find_event_files

LOG_AND_DIE = """
import os, signal, sys
from simyard.runner import event_writers

{lines}
writer = SummaryWriter(sys.argv[1])
for step in range(50):
    writer.add_scalar("loss", step / 2, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("module", "first"),
    [
        ("torch.utils.tensorboard", "the import"),
        ("tensorboardX", "the change"),
        pytest.param("torch.utils.tensorboard", "the change", marks=pytest.mark.long),
        pytest.param("tensorboardX", "the import", marks=pytest.mark.long),
    ],
)
def test_every_scalar_survives_a_kill(module: str, first: str, tmp_path: Path):
    lines = [f"from {module} import SummaryWriter", "event_writers.write_at_once()"]
    script = LOG_AND_DIE.format(lines="\n".join(lines if first == "the import" else reversed(lines)))
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    (file,) = find_event_files(tmp_path)
    series = EventReader(file).read_new()["loss"]
    assert list(series.steps) == list(range(50))
    assert list(series.values) == [step / 2 for step in range(50)]
