"""Tasks whose policy sees images, by the renderer that runs on a CPU: trained, evaluated and exported."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from simulated import Job, Player, Yard

from simyard.core.errors import RequestError
from simyard.requests.config import check_config, read_config
from simyard.requests.jobs import TrainRequest
from simyard.runner.exporting.contract import CONTRACT_FILE, read_contract

# Networks for images are exported in process too; these draw, 20 s of CPU each.
pytestmark = [pytest.mark.sim, pytest.mark.long]

TASK = "Isaac-Cartpole-Camera-Direct"
SIDE = 40
"""The smallest image, of so many pixels each way, that the networks of all libraries take."""
SMALL = (f"env.scene.tiled_camera.width={SIDE}", f"env.scene.tiled_camera.height={SIDE}", "env.episode_length_s=0.5")
ENVS, EPISODES = 4, 5
AGENTS = {
    "rsl_rl": ("agent.num_steps_per_env=8", "agent.algorithm.num_mini_batches=2"),
    "skrl": ("agent.agent.rollouts=8", "agent.agent.mini_batches=2"),
    "rl_games": ("agent.params.config.horizon_length=8",),
}

each_library = pytest.mark.parametrize("library", AGENTS)


@pytest.fixture(scope="module")
def trained(yard: Yard) -> Callable[[str], Job]:
    def train(library: str) -> Job:
        sizes = (f"numEnvs={ENVS}", "maxIterations=1")
        return yard.train(f"task={TASK}", f"rlLibrary={library}", *sizes, *SMALL, *AGENTS[library])

    return cache(train)


@pytest.fixture(scope="module")
def evaluated(yard: Yard, trained: Callable[[str], Job]) -> Callable[[str], Job]:
    size = (f"numEpisodes={EPISODES}", f"numEnvs={ENVS}")
    return cache(lambda library: yard.evaluate(trained(library), *size, overrides=(*SMALL, *AGENTS[library])))


@pytest.fixture(scope="module")
def exported(yard: Yard, trained: Callable[[str], Job]) -> Callable[[str], Job]:
    def export(library: str) -> Job:
        size = (f"numEpisodes={ENVS}", f"numEnvs={ENVS}")
        # The second simulator of one is any that runs here.
        other = () if library == "rsl_rl" else ("otherPhysics=isaacsim_physx",)
        return yard.export(trained(library), *size, *other, overrides=(*SMALL, *AGENTS[library]))

    return cache(export)


@each_library
def test_it_is_trained_and_exported_with_an_input_for_its_images(
    library: str, trained: Callable[[str], Job], exported: Callable[[str], Job]
):
    trained(library).assert_whole()
    job = exported(library)
    job.assert_whole()
    contract = read_contract(job.artifacts / CONTRACT_FILE)
    (image,) = contract.images or ()
    assert contract.input is None
    assert (image.name, image.group, image.shape) == ("policy", "policy", (None, 6, SIDE, SIDE)), "two frames of RGB"
    assert (image.layout, image.dtype) == ("NCHW", "float32")
    assert -1 <= image.lowest < image.highest <= 1, "each image less its own mean"
    assert [(group.name, group.start, group.size) for group in contract.observation_groups] == [
        ("policy", None, 6 * SIDE * SIDE), ("critic", None, 4),
    ]  # fmt: skip
    parity = job.json("summary.json")["parity"]
    assert parity["largest"] < 1e-4
    assert all(part["rows"] >= 64 for part in parity["differences"])


@each_library
def test_driven_by_the_export_the_episodes_are_those_of_the_evaluation(
    library: str, player: Player, exported: Callable[[str], Job], evaluated: Callable[[str], Job], tmp_path: Path
):
    job = evaluated(library)
    job.assert_whole()
    overrides = json.loads((job.folder / "attempts/001/outcome.json").read_text())["facts"]["overrides"]
    policy = str(exported(library).artifacts)
    driven = player("drive_exported:drive", tmp_path, policy, overrides, EPISODES, ENVS)
    rows = job.rows("episodes.csv")
    assert len(rows) == EPISODES == len(driven)
    for row, mine in zip(rows, driven, strict=True):
        assert (int(row["env"]), int(row["length"]), row["ended"]) == (mine["env"], mine["length"], mine["ended"])
        assert mine["total"] == pytest.approx(float(row["return"]), abs=1e-4)


@pytest.mark.parametrize(
    ("renderer", "says"),
    [
        ("isaacsim_rtx", "needs Isaac Sim, which .* does not have, for a Kit-based renderer"),
        ("ovrtx", "draws its cameras with OVRTX, which .* does not have"),
        ("rtx", "draws its cameras with OVRTX, which .* does not have"),
    ],
)
def test_a_renderer_that_is_not_here_is_refused_before_anything_starts(renderer: str, says: str, yard: Yard):
    settings = (f"task={TASK}", f"renderer={renderer}", f"numEnvs={ENVS}")
    request = check_config(read_config(yard.config, TrainRequest, settings), TrainRequest)
    with pytest.raises(RequestError, match=says) as refused:
        yard.check(request, yard.config.parent)
    assert refused.value.failure.code == "engine_absent"
