"""The trainers of examples/managed_training, called as a managed run calls them, on small datasets made by hand."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import HANG_S
from lazy import lazy

torch = lazy("torch")
zarr = lazy("zarr")

ROOT = Path(__file__).parents[2] / "examples" / "managed_training"
SMOKE, PPO = ROOT / "smoke_trainer" / "train_smoke.py", ROOT / "ppo_trainer" / "train_ppo.py"
STEPS, EPISODES = 40, 25


def arguments(folder, output, checkpoint="", *more):
    named = {"--dataset-manifest-path": folder / "manifest.json", "--output-dir": output}
    return [*(str(part) for pair in named.items() for part in pair), "--checkpoint-in-uri", checkpoint, *more]


def run(trainer, *given):
    command = [sys.executable, trainer, *arguments(*given)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)


def manifest(folder, files, **fields):
    """Write the manifest of some files."""
    rollouts = [
        {"path": str(path.relative_to(folder)), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), **fields}
        for path in files
    ]
    (folder / "manifest.json").write_text(
        json.dumps({"rollouts": rollouts, "episodes": 2 * len(files), "recorded_steps": 9})
    )


@pytest.fixture
def dataset(tmp_path):
    """Two files that only the smoke trainer takes for rollouts."""
    files = [tmp_path / "rollouts" / name / "rollout.zarr" for name in ("job-1", "job-2")]
    for path in files:
        path.parent.mkdir(parents=True)
        path.write_text(path.parent.name)
    manifest(tmp_path, files, mean_return=1.5, episodes=2)
    return tmp_path


def test_the_smoke_trainer_leaves_a_chain(dataset):
    first = run(SMOKE, dataset, dataset / "one")
    assert first.returncode == 0, first.stderr
    assert json.loads((dataset / "one/metrics.json").read_text()) == {
        "episodes": 4, "recorded_steps": 9, "mean_return": 1.5
    }  # fmt: skip
    checkpoint = dataset / "one/checkpoint.pt"
    assert json.loads(checkpoint.read_text())["parent_sha256"] is None
    assert run(SMOKE, dataset, dataset / "two", checkpoint.as_uri()).returncode == 0
    found = json.loads((dataset / "two/checkpoint.pt").read_text())
    assert found["parent_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert found["dataset_sha256"] == hashlib.sha256((dataset / "manifest.json").read_bytes()).hexdigest()


def test_the_smoke_trainer_leaves_out_what_was_not_measured(dataset):
    manifest(dataset, sorted(dataset.rglob("rollout.zarr")), mean_return=None, episodes=2)
    assert run(SMOKE, dataset, dataset / "out").returncode == 0
    assert "mean_return" not in json.loads((dataset / "out/metrics.json").read_text())


def test_a_rollout_that_is_not_what_the_manifest_says_is_refused(dataset):
    (dataset / "rollouts/job-2/rollout.zarr").write_text("other")
    done = run(SMOKE, dataset, dataset / "out")
    assert done.returncode == 1
    assert "rollouts/job-2/rollout.zarr has sha256" in done.stderr
    assert not (dataset / "out").exists()


# PPO


@pytest.fixture(scope="module")
def ppo():
    """The trainer as a module."""
    spec = importlib.util.spec_from_file_location("train_ppo", PPO)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_advantages_are_the_discounted_surprises(ppo):
    rewards, values = [1.0, 2.0, 3.0], [0.5, 1.0, 4.0]
    # Surprises by hand, gamma 0.5: 1 + 0.5 * 1 - 0.5 = 1; 2 + 0.5 * 4 - 1 = 3; 3 + 0.5 * after - 4.
    assert ppo.gae(rewards, values, 0.0, 0.5, 0.5) == pytest.approx([1 + 0.25 * (3 + 0.25 * -1), 3 + 0.25 * -1, -1])
    assert ppo.gae(rewards, values, 4.0, 0.5, 0.5) == pytest.approx([1 + 0.25 * (3 + 0.25 * 1), 3 + 0.25 * 1, 1])
    assert ppo.gae(rewards, values, 4.0, 0.5, 0.0) == pytest.approx([1, 3, 1])
    assert ppo.gae([5.0], [2.0], 0.0, 0.9, 0.9) == pytest.approx([3])


def test_only_an_episode_that_terminated_has_nothing_after_it(ppo):
    rollouts = ppo.Rollouts(
        observations=torch.ones(6, 1), actions=torch.zeros(6, 1), rewards=torch.zeros(6), log_prob=None,
        episodes=[slice(0, 2), slice(2, 4), slice(4, 6)], terminated=[False, True, False],
    )  # fmt: skip

    def critic(observations):
        return torch.full((len(observations),), 10.0)

    advantage, target = ppo.estimate(critic, rollouts, gamma=0.9, lam=0.0)
    assert advantage.tolist() == pytest.approx([-1, -1, -1, -10, -1, -1])
    assert torch.equal(target, advantage + 10)


def write_rollout(path, actions, seen, log_prob):
    """Write what a rollout has: the reward is the higher, the closer the action is to what is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {
        "data/obs/policy": seen, "data/action": actions, "data/reward": -np.square(actions - seen[:, :1])[:, 0],
        "meta/episode_ends": np.arange(1, EPISODES + 1) * STEPS, "meta/termination": np.ones(EPISODES, np.int8),
    }  # fmt: skip
    if log_prob is not None:
        arrays["data/log_prob"] = log_prob
    with zarr.storage.ZipStore(path, mode="w") as store:
        root = zarr.create_group(store)
        for name, values in arrays.items():
            root.create_array(name, data=values.astype(np.float32) if values.dtype == np.float64 else values)
    manifest(path.parents[1], [path])


@pytest.mark.long  # it learns from real rollouts in test_managed_training.py
def test_ppo_makes_what_paid_more_likely(ppo, tmp_path):
    rows = STEPS * EPISODES
    noise = np.random.default_rng(0)
    seen = noise.uniform(-1, 1, (rows, 2)).astype(np.float32)
    write_rollout(tmp_path / "one/a/rollout.zarr", noise.uniform(-1, 1, (rows, 1)), seen, None)
    ppo.main(arguments(tmp_path / "one", tmp_path / "first", "", "--seed", "1"))
    metrics = json.loads((tmp_path / "first/metrics.json").read_text())
    assert metrics["mean_episode_length"] == STEPS
    assert not {"kl", "policy_loss"} & metrics.keys(), "no policy was there to improve"

    checkpoint = tmp_path / "first/checkpoint.pt"
    before = player(ppo, checkpoint)
    with torch.no_grad():
        torch.manual_seed(0)
        actions = before(torch.from_numpy(seen)).sample()
        log_prob = before(torch.from_numpy(seen)).log_prob(actions).sum(-1)
    write_rollout(tmp_path / "two/a/rollout.zarr", actions.numpy(), seen, log_prob.numpy())
    second = run(PPO, tmp_path / "two", tmp_path / "second", checkpoint.as_uri(), "--seed", "2")
    assert second.returncode == 0, second.stderr
    metrics = json.loads((tmp_path / "second/metrics.json").read_text())
    assert metrics["policy_loss"] < 0
    assert 0 < metrics["kl"] < 0.3
    assert all(np.isfinite(value) for value in metrics.values())

    after = player(ppo, tmp_path / "second/checkpoint.pt")
    with torch.no_grad():
        change = after(torch.from_numpy(seen)).log_prob(actions).sum(-1) - log_prob
    close = (actions[:, 0] - torch.from_numpy(seen)[:, 0]).abs()
    assert change[close < 0.3].mean() > 0.05 > -0.05 > change[close > 1.5].mean()
    state = torch.load(tmp_path / "second/checkpoint.pt", weights_only=True)
    assert state["iter"] == 2
    steps = {int(each["step"]) for each in state["optimizer_state_dict"]["state"].values()}
    assert max(steps) > 15, "the optimiser went on from where it was"


def player(ppo, checkpoint):
    """The policy of a checkpoint."""
    state = ppo.load(checkpoint)["actor_state_dict"]
    actor = ppo.Actor(ppo.sizes(state), torch.nn.ELU, 1.0)
    actor.load_state_dict(state)
    return actor


def test_ppo_refuses_rollouts_that_were_not_sampled(ppo, tmp_path):
    seen = np.zeros((STEPS * EPISODES, 2))
    write_rollout(tmp_path / "data/a/rollout.zarr", seen[:, :1], seen, None)
    actor = ppo.Actor([2, 4, 1], torch.nn.ELU, 1.0)
    torch.save({"actor_state_dict": actor.state_dict()}, tmp_path / "model.pt")
    given = arguments(tmp_path / "data", tmp_path / "out", (tmp_path / "model.pt").as_uri())
    with pytest.raises(SystemExit, match=r"no data/log_prob\. Set control.sample to true"):
        ppo.main(given)
    (tmp_path / "data/a/rollout.zarr").write_bytes(b"other")
    with pytest.raises(SystemExit, match=r"a/rollout\.zarr has sha256"):
        ppo.main(given)
