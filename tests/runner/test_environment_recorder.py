"""What is recorded from inside an environment, against what that environment went through."""

from types import SimpleNamespace

import numpy as np
import pytest
from lazy import lazy

from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder, Snapshot
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.films import RolloutFilm

torch = lazy("torch")
zarr = lazy("zarr")

ENVS, LIMIT = 3, 5


class Buffer:
    """As Isaac Lab gives its arrays to torch."""

    def __init__(self, tensor):
        self.torch = tensor


class Environment:
    """A point for each environment that goes where its actions push it, in the order of Isaac Lab's environments.

    Its observations are views of its state, and its state is one buffer for good: whatever is not copied in time is
    overwritten.
    """

    num_envs, device, max_episode_length = ENVS, "cpu", LIMIT

    def __init__(self, *, fixed, spreads=False):
        self.unwrapped = self
        self.extras = {}
        self.single_observation_space = {"policy": None, "picture": None}
        self.place = torch.zeros(ENVS, 2)
        self.picture = torch.zeros(ENVS, 2, 2, dtype=torch.uint8)
        self.pose, self.twist = torch.zeros(ENVS, 7), torch.zeros(ENVS, 6)
        self.episode_length_buf = torch.zeros(ENVS, dtype=torch.long)
        data = SimpleNamespace(
            joint_pos=Buffer(self.place), joint_vel=Buffer(self.place), root_pose_w=Buffer(self.pose),
            root_vel_w=Buffer(self.twist),
        )  # fmt: skip
        robot = SimpleNamespace(data=data, joint_names=["x", "y"], is_fixed_base=fixed)
        self.scene = SimpleNamespace(
            articulations={"robot": robot}, env_origins=torch.tensor([[0.0, 0, 0], [9, 0, 0], [0, 9, 0]])
        )
        self.lived = []
        """For each step: place and picture before, action, reward."""
        self._spreads = spreads

    def reset(self):
        self._reset_idx(torch.arange(ENVS, dtype=torch.int32))
        return self._observe(), {}

    def step(self, action):
        before = self.place.clone(), self.picture.clone(), action.clone()
        self.place += action
        action.zero_()  # some tasks scale actions where they are
        self.episode_length_buf += 1
        reward = self.place.sum(dim=1)
        self.lived.append((*before, reward.clone()))
        far, late = self.place[:, 0] > 1, self.episode_length_buf >= LIMIT
        if len(ended := (far | late).nonzero().flatten().int()):
            self._reset_idx(ended)
        return self._observe(), reward, far, late, self.extras

    def _reset_idx(self, env_ids):
        self.place[env_ids] = 0.0
        self.episode_length_buf[env_ids] = 0
        if self._spreads and len(env_ids) == ENVS:
            self.episode_length_buf[:] = 3

    def _observe(self):
        self.picture += 1
        self.pose[:, :3] = self.scene.env_origins + 0.5
        self.twist += 1
        return {"policy": self.place, "picture": self.picture}


ACTIONS = [[[0.4, 0.1 * step], [0.0, 0.2], [0.1, -0.1]] for step in range(8)]


def play(folder, env):
    """Take all actions, clip what was observed where it is, as a wrapper does; return the arrays of the rollout."""
    store = folder / "rollout.zarr"
    recorder = RolloutRecorder(store, num_envs=ENVS, longest=LIMIT, control_period_s=1, scratch=folder)
    with EnvironmentRecorder(env, recorder, RolloutFilm(folder, 1.0, wanted=False)) as inside:
        observations, _ = env.reset()
        for action in ACTIONS:
            kept = observations["policy"].clone()
            observations["policy"].clamp_(-0.01, 0.01)
            observations["policy"].copy_(kept)
            observations = env.step(torch.tensor(action))[0]
    assert inside.steps == len(ACTIONS)
    recorder.close()
    root = zarr.open_group(store, mode="r")
    return root, {name: value[:] for name, value in root.members(max_depth=None) if isinstance(value, zarr.Array)}


def by_step(arrays, key):
    """Return `(steps, num_envs, ...)`."""
    found = {}
    start = 0
    for env, first, end in zip(arrays["meta/env"], arrays["meta/start_step"], arrays["meta/episode_ends"], strict=True):
        for offset, row in enumerate(arrays[f"data/{key}"][start:end]):
            found[int(first) + offset, int(env)] = row
        start = end
    return np.stack([np.stack([found[step, env] for env in range(ENVS)]) for step in range(len(ACTIONS))])


def test_a_row_is_what_was_before_the_action_and_the_reward_after(tmp_path):
    env = Environment(fixed=True)
    _, arrays = play(tmp_path, env)
    places, pictures, actions, rewards = (torch.stack(values).numpy() for values in zip(*env.lived, strict=True))
    assert np.array_equal(by_step(arrays, "obs/policy"), places)
    assert np.array_equal(by_step(arrays, "joint_position"), places)
    assert np.array_equal(by_step(arrays, "obs/picture"), pictures)
    assert arrays["data/obs/picture"].dtype == np.uint8
    assert np.array_equal(by_step(arrays, "action"), actions)
    assert np.array_equal(by_step(arrays, "reward"), rewards)


def test_episodes_end_by_themselves_or_at_their_limit(tmp_path):
    _, arrays = play(tmp_path, Environment(fixed=True))
    ends = np.diff(arrays["meta/episode_ends"], prepend=0).tolist()
    found = sorted(zip(arrays["meta/env"].tolist(), arrays["meta/start_step"].tolist(), ends, strict=True))
    assert found == [(0, 0, 3), (0, 3, 3), (0, 6, 2), (1, 0, 5), (1, 5, 3), (2, 0, 5), (2, 5, 3)]
    assert sorted(arrays["meta/termination"].tolist()) == [0, 0, 1, 1, 2, 2, 2]
    assert set(arrays["meta/success"].tolist()) == {-1}


def test_the_base_of_a_robot_is_recorded_where_it_moves(tmp_path):
    (tmp_path / "fixed").mkdir()
    root, arrays = play(tmp_path, Environment(fixed=False))
    assert (arrays["data/root_pose"][:, :3] == 0.5).all(), "from each environment's own origin"
    assert by_step(arrays, "root_velocity")[:, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert root["data/root_pose"].attrs["names"] == ["x", "y", "z", "qx", "qy", "qz", "qw"]
    assert root["data/joint_position"].attrs["names"] == ["x", "y"]
    assert "data/root_pose" not in play(tmp_path / "fixed", Environment(fixed=True))[1]


def test_episodes_begin_at_their_start(tmp_path):
    _, arrays = play(tmp_path, Environment(fixed=True, spreads=True))
    assert np.diff(arrays["meta/episode_ends"], prepend=0).max() == LIMIT


@pytest.mark.parametrize("first", [True, False], ids=["made in inference mode", "made outside"])
def test_a_snapshot_is_of_one_moment(first):
    values = {"one": torch.arange(3.0), "many": torch.ones(3, 2, 2), "count": torch.ones(3, dtype=torch.int32)}
    snapshot = Snapshot()
    with torch.inference_mode(first):
        snapshot.take(values)
    assert all(torch.equal(snapshot.values[key], value) for key, value in values.items())
    before = {key: value.clone() for key, value in values.items()}
    for value in values.values():
        value += 1
    assert all(torch.equal(snapshot.values[key], value) for key, value in before.items())
    with torch.inference_mode(not first):
        snapshot.take(values)
    assert all(torch.equal(snapshot.values[key], value) for key, value in values.items())
    snapshot.take({"one": torch.zeros(3)})
    assert snapshot.values.keys() == {"one"}
