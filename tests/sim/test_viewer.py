"""A training that is looked at while it runs: where its page is, how long, and that it changes nothing."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import zstandard
from helpers import HANG_S, wait_until
from simulated import PATIENCE_S, Job, Yard
from websockets.sync.client import connect

pytestmark = [pytest.mark.sim, pytest.mark.long]  # simulators of their own start


def listening(port: int) -> set[str]:
    """Return the addresses of this machine on which somebody listens at a port."""
    found = psutil.net_connections("inet")
    return {one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == port}


def test_a_training_is_shown_on_loopback_alone_while_it_runs_and_is_the_same(yard: Yard, tmp_path: Path) -> None:
    plain = yard.train("task=Isaac-Cartpole", "maxIterations=60")
    arguments = ["train", yard.config, "--set", "task=Isaac-Cartpole", "maxIterations=60", "--view", "--json"]
    err = tmp_path / "err"
    with err.open("wb") as file:
        command = [sys.executable, "-m", "simyard", *map(str, arguments), "--store", str(yard.store)]
        training = subprocess.Popen(command, env=yard.simyard.env, stdout=subprocess.PIPE, stderr=file, text=True)
    said = wait_until(lambda: [line for line in err.read_text().splitlines() if "viewer:" in line], PATIENCE_S, "it")
    url = said[0].split()[-1]
    host, _, port = url.removeprefix("http://").partition(":")
    assert (host, listening(int(port))) == ("127.0.0.1", {"127.0.0.1"})

    # The page, and the bodies over the socket that it opens, of a simulation that goes on.
    with urllib.request.urlopen(url, timeout=HANG_S) as page:
        assert page.status == 200 and "<title>" in page.read().decode()
    version = subprocess.run(
        [sys.executable, "-c", "import viser; print(viser.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with connect(f"ws://{host}:{port}", subprotocols=[f"viser-v{version}"], max_size=None) as socket:  # type: ignore[list-item]
        got = b""
        while not (b"Mesh" in got and b"simyard" in got):
            message = socket.recv(timeout=HANG_S)
            assert isinstance(message, bytes)
            got += zstandard.ZstdDecompressor().decompressobj().decompress(message[16:])  # behind two lengths
    assert training.poll() is None

    # It is gone with the simulation, and the job is what it is without it.
    out, _ = training.communicate(timeout=2 * PATIENCE_S)
    assert training.returncode == 0, err.read_text()
    viewed = yard.read(subprocess.CompletedProcess(arguments, training.returncode, out, err.read_text()))
    viewed.assert_whole()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=HANG_S)
    assert viewed.measured() == plain.measured()
    for name in ("job.json", "params/env.yaml"):
        assert "viser" not in (viewed.artifacts / name).read_text()
    assert "view" not in json.loads((viewed.folder / "job.json").read_text())
    assert url in (viewed.artifacts / "runner.log").read_text()


def test_an_evaluation_is_shown_too(yard: Yard, trained: Callable[[str], Job]) -> None:
    job, size = trained("rsl_rl").id, ("numEpisodes=4", "numEnvs=4")
    done = yard.command("evaluate", "--job", job, "--set", *size, "--view", "--json", "--store", yard.store)
    yard.read(done).assert_whole()
    assert "viewer:      http://127.0.0.1:" in done.stderr
