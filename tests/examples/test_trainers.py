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
    def estimates(rewards, values, terminated, gamma, lam):
        one = episodes(ppo, rewards, [len(rewards)], [terminated])
        return ppo.gae(one, torch.tensor(values), gamma, lam).tolist()

    rewards, values = [1.0, 2.0, 3.0], [0.5, 1.0, 4.0]
    # Surprises by hand, gamma 0.5: 1 + 0.5 * 1 - 0.5 = 1; 2 + 0.5 * 4 - 1 = 3; 3 + 0.5 * (0 or 4) - 4.
    assert estimates(rewards, values, True, 0.5, 0.5) == pytest.approx([1 + 0.25 * (3 + 0.25 * -1), 3 + 0.25 * -1, -1])
    assert estimates(rewards, values, False, 0.5, 0.5) == pytest.approx([1 + 0.25 * (3 + 0.25 * 1), 3 + 0.25 * 1, 1])
    assert estimates(rewards, values, False, 0.5, 0.0) == pytest.approx([1, 3, 1])
    assert estimates([5.0], [2.0], True, 0.9, 0.9) == pytest.approx([3])


def test_advantages_of_many_episodes_are_those_of_each_alone_row_by_row(ppo):
    """Lengths on both sides of every power of two, and an episode of one row at either end."""
    lengths = [1, 2, 3, 4, 5, 7, 8, 9, 100, 1]
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, sum(lengths), generator=generator)
    many = episodes(ppo, rewards.tolist(), lengths, [index % 2 == 0 for index in range(len(lengths))])
    expected, start = [], 0
    for length, terminated in zip(lengths, many.terminated.tolist(), strict=True):
        own = values[start : start + length].tolist()
        later, following, found = 0.0, 0.0 if terminated else own[-1], []
        for reward, value in zip(rewards[start : start + length].tolist()[::-1], own[::-1], strict=True):
            later = reward + 0.99 * following - value + 0.99 * 0.98 * later
            following = value
            found.append(later)
        expected += found[::-1]
        start += length
    assert ppo.gae(many, values, 0.99, 0.98).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("rows", "sizes"), [(5000, [2048, 2048, 904]), (2**17, [2**12] * 32)])
def test_more_rows_make_larger_minibatches_and_not_more_than_are_allowed(ppo, rows, sizes):
    options = ppo.parse(["--dataset-manifest-path", "m", "--output-dir", "o"])
    dealt = ppo.minibatches(torch.zeros(rows), options)
    assert [len(part) for part in dealt] == sizes
    assert torch.cat(dealt).sort().values.tolist() == list(range(rows))


def episodes(ppo, rewards, lengths, terminated):
    """Rollouts of which only the rewards matter."""
    rows = len(rewards)
    return ppo.Rollouts(
        observations=torch.ones(rows, 1), actions=torch.zeros(rows, 1), rewards=torch.tensor(rewards), log_prob=None,
        ends=torch.tensor(lengths).cumsum(0), terminated=torch.tensor(terminated),
    )  # fmt: skip


def test_only_an_episode_that_terminated_has_nothing_after_it(ppo):
    rollouts = episodes(ppo, [0.0] * 6, [2, 2, 2], [False, True, False])

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


def test_its_optimiser_is_torchs_to_the_bit_and_hands_its_state_over(ppo):
    """Step for step beside `torch.optim.Adam`, one network at a time, and each goes on from the other's state."""
    torch.manual_seed(0)
    networks = [torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.Linear(3, 2)]) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    own, theirs = ppo.Adam(list(networks[0]), 0.01), torch.optim.Adam(networks[1].parameters(), lr=0.01)
    for number in range(6):
        seen, part = torch.randn(8, 3), number % 2
        for network, optimizer in zip(networks, (own, theirs), strict=True):
            for parameter in network.parameters():
                parameter.grad = None
            network[part](seen).square().mean().backward()
            optimizer.step()
        assert [p.tolist() for p in networks[0].parameters()] == [p.tolist() for p in networks[1].parameters()]
        if number == 3:  # in the middle they change places
            saved = theirs.state_dict(), own.state_dict()
            assert saved[0]["param_groups"] == saved[1]["param_groups"]
            own, theirs = ppo.Adam(list(networks[0]), 0.01), torch.optim.Adam(networks[1].parameters(), lr=0.01)
            own.load_state_dict(saved[0])
            theirs.load_state_dict(saved[1])


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
