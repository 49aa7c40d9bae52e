"""Records an environment of Isaac Lab from inside, whatever drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from simyard.runner.isaaclab.success import SuccessReader
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.rollout_video import RolloutFilm

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
        self._floats = self._robot is not None and not bool(self._robot.is_fixed_base)
        self._before = Snapshot()
        self._stepping = False
        self._log_prob: Callable[[], Any] | None = None
        self.steps = 0
        """Control steps that were recorded."""
        self._describe()
        self._step, self._reset = self._base.step, self._base.reset
        self._base.step, self._base.reset = self._record_step, self._record_reset
        self._base._reset_idx = self._watch_reset

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._success.close()

    @property
    def success_source(self) -> str | None:
        """Source of the success of episodes; None if there is none."""
        return self._success.source

    def add_log_prob(self, log_prob: Callable[[], Any]) -> None:
        """Record beside each action how likely it was.

        Args:
            log_prob: Returns the log-density of the actions of the step that is being taken, `(num_envs,)`.
        """
        about = "Log-density of the action as it was drawn, under the policy that drew it, summed over its dimensions."
        self._recorder.describe("log_prob", about=about)
        self._log_prob = log_prob

    def _record_reset(self, *arguments: Any, **more: Any) -> Any:
        answer = self._reset(*arguments, **more)
        self._look(answer[0])
        return answer

    def _record_step(self, action: Any) -> Any:
        taken = action.clone()
        if self._film.wanted:
            self._film.capture(self._base.sim.physics_manager.get_state_0())
        self._stepping = True
        try:
            answer = self._step(action)
        finally:
            self._stepping = False
        observations, reward, terminated, truncated, _ = answer
        drawn = {} if self._log_prob is None else {"log_prob": self._log_prob()}
        self._recorder.record(self._before.values, action=taken, reward=reward, **drawn)
        self._recorder.end(terminated | truncated, terminated=terminated, success=self._success.take())
        self.steps += 1
        self._look(observations)
        return answer

    def _watch_reset(self, env_ids: Any) -> Any:
        answer = self._success.reset(env_ids) if self._stepping else self._success.begin(env_ids)
        if not self._stepping or env_ids.shape[0] == self._base.num_envs:
            # Some tasks spread the resets of all in training: episodes that begin in their middle.
            self._base.episode_length_buf[:] = 0
        return answer

    def _look(self, observations: Mapping[str, Any]) -> None:
        """Copy the observations of the next action: wrappers clip them in place, and the state goes on."""
        values = dict(_flat("obs", observations))
        if self._robot is not None:
            data = self._robot.data
            values |= {"joint_position": data.joint_pos.torch, "joint_velocity": data.joint_vel.torch}
        if self._floats:
            values |= {"root_pose": data.root_pose_w.torch, "root_velocity": data.root_vel_w.torch}
        self._before.take(values)
        if self._floats:
            self._before.values["root_pose"][:, :3] -= self._base.scene.env_origins

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
        if self._floats:
            place = "Of the root body before the step, from the environment's own origin."
            describe("root_pose", unit="m, quaternion", names=_POSE, about=place)
            motion = "Of the root body's centre of mass before the step, in the world's axes."
            describe("root_velocity", unit="m/s, rad/s", names=_TWIST, about=motion)


class Snapshot:
    """Copies of tensors as they are at one moment, in buffers that stay: one copy for all of a type, not one for each.

    At thousands of environments a step takes as long as it takes to launch its kernels, so their number is the cost.
    """

    def __init__(self) -> None:
        self.values: dict[str, torch.Tensor] = {}
        """The copies; the next moment overwrites them."""
        self._parts: list[tuple[torch.Tensor, list[str]]] = []

    def take(self, values: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors of `(num_envs, ...)`; the same ones every time."""
        import torch

        if self.values.keys() != values.keys():
            self._make(values)
        for buffer, keys in self._parts:
            torch.cat([_rows(values[key]) for key in keys], dim=1, out=buffer)

    def _make(self, values: Mapping[str, torch.Tensor]) -> None:
        import torch

        self._parts, self.values = [], {}
        by_type: dict[torch.dtype, list[str]] = {}
        for key, value in values.items():
            by_type.setdefault(value.dtype, []).append(key)
        for dtype, keys in by_type.items():
            flat = [_rows(values[key]) for key in keys]
            widths = [part.shape[1] for part in flat]
            # What is made in inference mode could not be written outside of it.
            with torch.inference_mode(False):
                buffer = torch.empty((flat[0].shape[0], sum(widths)), dtype=dtype, device=flat[0].device)
                self.values |= {
                    key: part.unflatten(1, values[key].shape[1:]) if values[key].ndim > 1 else part.squeeze(1)
                    for key, part in zip(keys, buffer.split(widths, dim=1), strict=True)
                }
            self._parts.append((buffer, keys))


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Return a view of `(num_envs, ...)` as `(num_envs, columns)`."""
    return values if values.ndim == 2 else values.reshape(values.shape[0], -1)


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
