"""Robots made from packages train in Isaac Lab's own tasks; assets are copied from a store on the network."""

import functools
import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG_S, CommandLine, make_bucket

from simyard.runner.assets.asset_root import embedded_root
from simyard.tasks.robots.recipes import RECIPES

pytestmark = pytest.mark.long  # each starts a simulator of its own; the first fetches packages of 230 MB

BUILD_S = 3 * HANG_S
"""Packages of 230 MB come over the network."""
EMBEDDED = ("Isaac-Humanoid-Direct", "Isaac-Humanoid", "Isaac-Ant", "Isaac-Cartpole")


def command(home: Path, **more: str) -> CommandLine:
    """The command on a machine of its own, without a Prefect server."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SIMYARD_", "PREFECT_"))}
    own.pop("ISAACSIM_ASSET_ROOT", None)
    return CommandLine(own | {"SIMYARD_HOME": str(home), "PREFECT_HOME": str(home / "prefect")} | more)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    done = command(folder)("assets", "build", timeout_s=BUILD_S)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("task", [*EMBEDDED, *(task for recipe in RECIPES.values() for task in recipe.tasks)])
def test_a_task_trains_with_what_was_built(home: Path, task: str, tmp_path: Path):
    config = tmp_path / "train.json"
    config.write_text(
        json.dumps(
            {
                "trainingConfig": {"task": task, "numEnvs": 8, "maxIterations": 2},
                "computeConfig": {"gpusPerNode": 0, "session": "off"},
            }
        )
    )
    done = command(home)("train", config, "--store", tmp_path / "store", "--json", timeout_s=HANG_S)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["status"] == "succeeded"
    assert [entry for entry in result["artifacts"] if entry.get("iteration") == 2]


def test_each_robot_has_its_licence_and_its_origin(home: Path):
    for recipe in RECIPES.values():
        target = home / "assets" / recipe.target
        assert "copyright" in target.with_name(f"{target.name}.LICENSE").read_text().lower()
        origin = json.loads(target.with_name(f"{target.name}.origin.json").read_text())
        assert origin["recipe"]["package"]["sha256"] == recipe.package.sha256


@pytest.fixture
def asset_store(tmp_path: Path) -> Iterator[str]:
    """A store on the network that has what embedded assets are, below a path."""
    embedded_root(tmp_path / "served" / "Assets" / "9.9")
    handler: Any = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/Assets/9.9"
    server.shutdown()


def test_what_a_task_needs_is_copied_from_a_store(asset_store: str, tmp_path: Path):
    root = tmp_path / "mirror"
    mirror = functools.partial(command(tmp_path), "assets", "mirror", timeout_s=HANG_S)
    done = mirror("Isaac-Cartpole-Direct", "--from", asset_store, "--out", root, "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["root"], said["missing"]) == (asset_store, [])
    robot = "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
    assert robot in said["copied"]
    assert (root / robot).read_bytes() == (tmp_path / "served/Assets/9.9" / robot).read_bytes()
    assert not list(root.glob(".mirror-*"))

    done = mirror("Isaac-Velocity-Flat-Cassie", "--from", asset_store, "--out", root)
    assert done.returncode == 1
    assert "missing  Isaac/IsaacLab/Robots/Agility/Cassie/cassie.usd" in done.stdout


def test_a_bucket_is_a_mirror_too(asset_store: str, s3_server: str, tmp_path: Path):
    bucket, robot = "s3://mirrored/assets", "Isaac/IsaacLab/Robots/Classic/Cartpole/cartpole.usd"
    own = command(tmp_path, **make_bucket(s3_server, "mirrored"))
    mirror = functools.partial(own, "assets", "mirror", "Isaac-Cartpole-Direct", "--json", timeout_s=HANG_S)
    into = mirror("--from", asset_store, "--out", bucket)
    assert into.returncode == 0, into.stderr
    root = tmp_path / "root"
    out_of = mirror("--from", bucket, "--out", root)
    assert out_of.returncode == 0, out_of.stderr
    said, again = (json.loads(done.stdout.splitlines()[-1]) for done in (into, out_of))
    assert again == said | {"root": bucket}
    assert (root / robot).read_bytes() == (tmp_path / "served/Assets/9.9" / robot).read_bytes()

    lacking = mirror("--from", f"{bucket}/elsewhere", "--out", tmp_path / "nothing")
    assert (lacking.returncode, json.loads(lacking.stdout.splitlines()[-1])["copied"]) == (1, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Isaac-Cartpole-Direct", "--from", "http://127.0.0.1:9/Assets"), "There is no route to 'http://127.0.0.1:9/"),
        (("Isaac-Cartpole-Drict", "--from", "http://127.0.0.1:9/Assets"), "Did you mean 'Isaac-Cartpole-Direct"),
        (("Isaac-Cartpole-Direct", "--from", "/data/assets"), "'/data/assets' is a folder"),
    ],
)
def test_a_copy_that_cannot_be_made_is_refused(tmp_path: Path, arguments: tuple[str, ...], said: str):
    done = command(tmp_path)("assets", "mirror", *arguments, "--out", tmp_path / "mirror", timeout_s=HANG_S)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mirror").exists()
