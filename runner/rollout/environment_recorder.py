"""Records an environment of Isaac Lab from inside, whatever drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from simyard.runner.rollout.film import RolloutFilm
from simyard.runner.rollout.recorder import RolloutRecorder
from simyard.runner.rollout.success import SuccessReader

if TYPE_CHECKING:
    import torch

_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")


class EnvironmentRecorder:
    """Stands in the environment's own `step`, `reset` and `_reset_idx`, and changes nothing there.

    A row is the observation and the state on which an action was taken, the action as it reached the environment, and
    the reward that followed. Isaac Lab resets inside `step`: what it returns after an episode's end is the first
    observation of the next, and stands in the next row.
    """

    def __init__(self, env: Any, recorder: RolloutRecorder, film: RolloutFilm) -> None:
        """Take the place; what is recorded begins with the next reset.

        Args:
            env: A gymnasium environment of Isaac Lab, at any depth of wrappers.
            recorder: Takes the rows.
            film: Is shown the simulation's state, where it is wanted.
        """
        self._base = env.unwrapped
        self._recorder = recorder
        self._film = film
        self._success = SuccessReader(self._base)
        self._robot = _only_robot(self._base)
        self._seen: dict[str, torch.Tensor] = {}
        self._stepping = False
        self.steps = 0
        """Control steps that were recorded."""
        self._describe()
        self._step, self._reset = self._base.step, self._base.reset
        self._base.step, self._base.reset = self._record_step, self._record_reset
        self._base._reset_idx = self._watch_reset

    @property
    def success_source(self) -> str | None:
        """What says that an episode succeeded; None when nothing does."""
        return self._success.source if self.is_rate else None

    @property
    def is_rate(self) -> bool:
        """Whether what was recorded as success is: a task's metric may be a share of goals, say."""
        return self._success.is_rate

    def _record_reset(self, *arguments: Any, **more: Any) -> Any:
        answer = self._reset(*arguments, **more)
        self._see(answer[0])
        return answer

    def _record_step(self, action: Any) -> Any:
        row = {**self._seen, **self._state(), "action": action.clone()}
        if self._film.wanted:
            self._film.capture(self._base.sim.physics_manager.get_state_0())
        self._stepping = True
        try:
            answer = self._step(action)
        finally:
            self._stepping = False
        observations, reward, terminated, truncated, _ = answer
        self._recorder.record(row, reward=reward)
        self._recorder.end(terminated | truncated, terminated=terminated, success=self._success.take())
        self.steps += 1
        self._see(observations)
        return answer

    def _watch_reset(self, env_ids: Any) -> Any:
        answer = self._success.reset(env_ids) if self._stepping else self._success.begin(env_ids)
        # Some tasks spread their resets in training: episodes that begin in their middle.
        self._base.episode_length_buf[env_ids.long() if hasattr(env_ids, "long") else slice(None)] = 0
        return answer

    def _see(self, observations: Mapping[str, Any]) -> None:
        """Copy what the next action will be taken on: wrappers clip it where it is, and tasks write into it."""
        self._seen = {key: value.clone() for key, value in _flat("obs", observations)}

    def _state(self) -> dict[str, torch.Tensor]:
        if self._robot is None:
            return {}
        data = self._robot.data
        pose = data.root_pose_w.torch.clone()
        pose[:, :3] -= self._base.scene.env_origins
        return {
            "joint_position": data.joint_pos.torch.clone(),
            "joint_velocity": data.joint_vel.torch.clone(),
            "root_pose": pose,
            "root_velocity": data.root_vel_w.torch.clone(),
        }

    def _describe(self) -> None:
        describe: Callable[..., None] = self._recorder.describe
        describe("reward", about="Of the step.")
        describe("action", names=_action_names(self._base), about="As it reached the environment.")
        names = _observation_names(self._base)
        for group in self._base.single_observation_space:
            describe(f"obs/{group}", names=names.get(group), about="What the action was taken on.")
        if self._robot is not None:
            joints = self._robot.joint_names
            describe("joint_position", unit="rad or m", names=joints, about="Before the step.")
            describe("joint_velocity", unit="rad/s or m/s", names=joints, about="Before the step.")
            place = "Of the root body before the step, from the environment's own origin."
            describe("root_pose", unit="m, quaternion", names=_POSE, about=place)
            motion = "Of the root body's centre of mass before the step, in the world's axes."
            describe("root_velocity", unit="m/s, rad/s", names=_TWIST, about=motion)


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every tensor of nested dictionaries with its key."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _flat(f"{path}/{name}", item)
    else:
        yield path, value


def _only_robot(base: Any) -> Any:
    """Return the scene's articulation, where there is just one."""
    articulations = list(base.scene.articulations.values())
    return articulations[0] if len(articulations) == 1 else None


def _action_names(base: Any) -> list[str] | None:
    """Return a name for each entry of the action; a direct task has none."""
    manager = getattr(base, "action_manager", None)
    return _numbered(manager.active_terms, manager.action_term_dim) if manager is not None else None


def _observation_names(base: Any) -> dict[str, list[str]]:
    """Return a name for each entry of the groups that are one vector; a direct task has none."""
    manager = getattr(base, "observation_manager", None)
    if manager is None:
        return {}
    named = {}
    for group, terms in manager.active_terms.items():
        shapes = manager.group_obs_term_dim[group]
        if manager.group_obs_concatenate[group] and all(len(shape) == 1 for shape in shapes):
            named[group] = _numbered(terms, [shape[0] for shape in shapes])
    return named


def _numbered(terms: list[str], sizes: list[int]) -> list[str]:
    return [
        term if size == 1 else f"{term}[{index}]"
        for term, size in zip(terms, sizes, strict=True)
        for index in range(size)
    ]
