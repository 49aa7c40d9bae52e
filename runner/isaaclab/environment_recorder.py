"""Records an environment of Isaac Lab from inside, whatever drives it.

Success of episodes is read where the environment forgets it, and without a wait for the GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from simyard.runner.evaluation.episode_statistics import success_metric
from simyard.runner.recording.arrays import CUT_OFF, NOT_MEASURED
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.cameras import Cameras
from simyard.runner.video.films import RolloutFilm

if TYPE_CHECKING:
    import torch

_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_TWIST = ("vx", "vy", "vz", "wx", "wy", "wz")
TERMINATION = "success"
"""The termination that means success, where the task logs no metric."""


class EnvironmentRecorder:
    """Stands in the environment's own `step`, `reset` and `_reset_idx`, and changes nothing there.

    A row is the observation and the state on which an action was taken, the action as it reached the environment, and
    the reward that followed. Isaac Lab resets inside `step`: what it returns after an episode's end is the first
    observation of the next, and stands in the next row.
    """

    def __init__(
        self, env: Any, recorder: RolloutRecorder, film: RolloutFilm, success: SuccessReader | None = None
    ) -> None:
        """Take the place; what is recorded begins with the next reset.

        Args:
            env: A gymnasium environment of Isaac Lab, at any depth of wrappers.
            recorder: Takes the rows.
            film: Is shown the simulation's state, where it is wanted.
            success: Tells of each episode whether it succeeded, and whether it is kept; by default the task does.
        """
        self._base = env.unwrapped
        self._recorder = recorder
        self._film = film
        self._success = success or SuccessReader(self._base)
        robots = list(self._base.scene.articulations.values())
        self._robot = robots[0] if len(robots) == 1 else None
        self._floats = self._robot is not None and not bool(self._robot.is_fixed_base)
        self._before = Snapshot()
        self._stepping = False
        self._log_prob: Callable[[], Any] | None = None
        self._cameras: Cameras | None = None
        self._constant: dict[str, Any] = {}
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

    def add_constant(self, key: str, values: Any, about: str) -> None:
        """Record beside each action what every environment has all the time, `(num_envs,)`."""
        describe: Callable[..., None] = self._recorder.describe
        describe(key, about=about)
        self._constant[key] = values

    def add_cameras(self, cameras: Cameras, poses: Callable[[], Any]) -> None:
        """Record beside each action what cameras see before it.

        Args:
            cameras: The cameras.
            poses: Returns the poses of all bodies, as `Cameras.look` takes them.
        """
        self._cameras, self._poses = cameras, poses

    def _record_reset(self, *arguments: Any, **more: Any) -> Any:
        answer = self._reset(*arguments, **more)
        self._look(answer[0])
        return answer

    def _record_step(self, action: Any) -> Any:
        taken = action.clone()
        if self._film.wanted:
            self._film.capture_drawn()
        pictures = {} if self._cameras is None else self._cameras.look(self._poses)
        self._stepping = True
        try:
            answer = self._step(action)
        finally:
            self._stepping = False
        observations, reward, terminated, truncated, _ = answer
        drawn = {} if self._log_prob is None else {"log_prob": self._log_prob()}
        self._recorder.record(self._before.values, action=taken, reward=reward, **drawn, **pictures, **self._constant)
        if self._cameras is not None:
            self._cameras.begin((terminated | truncated).cpu().numpy())
        kept, success = self._success.kept(), self._success.take()
        self._recorder.end(terminated | truncated, terminated=terminated, success=success, kept=kept)
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
        """Name the entries of actions and observations as the task's managers do; a direct task has none."""
        describe: Callable[..., None] = self._recorder.describe
        describe("reward", about="Of the step.")
        actions = getattr(self._base, "action_manager", None)
        names = _numbered(actions.active_terms, actions.action_term_dim) if actions is not None else None
        describe("action", names=names, about="As it reached the environment.")

        observations: Any = getattr(self._base, "observation_manager", None)
        for group in self._base.single_observation_space:
            shapes = observations.group_obs_term_dim.get(group) if observations is not None else None
            names = None
            if shapes and observations.group_obs_concatenate[group] and all(len(shape) == 1 for shape in shapes):
                names = _numbered(observations.active_terms[group], [shape[0] for shape in shapes])
            describe(f"obs/{group}", names=names, about="What the action was taken on.")

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


def _numbered(terms: list[str], sizes: list[int]) -> list[str]:
    """Return a name for each entry of the terms' one vector."""
    return [
        term if size == 1 else f"{term}[{index}]"
        for term, size in zip(terms, sizes, strict=True)
        for index in range(size)
    ]


# --- success --------------------------------------------------------------------------------------------------------


class SuccessReader:
    """Stands around the environment's `_reset_idx`, as the evaluation's meter does, for thousands of environments.

    A task logs its metric as the mean over the episodes that end together. The meter resets each environment by itself
    to have it of one episode, which takes longer than the simulation where many end in every step. Here the tensor is
    caught that the task takes the mean of: it has a value for each episode. Only of a task that computes its metric in
    another way the environments are reset one by one.
    """

    def __init__(self, base: Any) -> None:
        """Begin to read.

        Args:
            base: The unwrapped environment of Isaac Lab.
        """
        import torch

        self._base = base
        self._reset = base._reset_idx
        self._means = _Means()
        self._metric: str | None = None
        self._is_mean = False
        self._now = torch.full((base.num_envs,), -1.0, device=base.device)
        self._any = False

    def close(self) -> None:
        """Give torch its mean back."""
        self._means.close()

    @property
    def source(self) -> str | None:
        """Source of the success of episodes; None if there is none."""
        if self._metric is not None:
            return f"metric {self._metric}"
        return f"termination {TERMINATION}" if self._has_termination else None

    def begin(self, env_ids: Any) -> Any:
        """Reset without an episode that ends, and find out what the task says of success."""
        with self._means.caught():
            answer = self._reset(env_ids)
        log = self._base.extras.get("log", {})
        self._metric = success_metric(log)
        self._is_mean = self._metric is not None and self._means.vector(log[self._metric]) is not None
        return answer

    def reset(self, env_ids: Any) -> Any:
        """Reset the environments whose episodes end in this step, and read of each whether it succeeded."""
        if self._metric is None:
            if self._has_termination:
                self._say(env_ids, self._base.termination_manager.get_term(TERMINATION)[env_ids])
            return self._reset(env_ids)
        if self._is_mean:
            with self._means.caught():
                answer = self._reset(env_ids)
            if (parts := self._means.vector(self._value())) is not None:
                self._say(env_ids, parts)
            return answer
        for index in range(len(env_ids)):
            answer = self._reset(env_ids[index : index + 1])
            if (value := self._value()) is not None:
                self._say(env_ids[index : index + 1], value)
        return answer

    def kept(self) -> torch.Tensor | None:
        """Return which episodes that ended in this step are kept, `(num_envs,)`; None for all."""
        return None

    def take(self) -> torch.Tensor | None:
        """Return the values read in this step, `(num_envs,)`: 1, 0, or -1 where the metric is neither.

        That is of environments whose episodes ended in it, and of the others anything. None where nothing was read.
        """
        taken, self._any = self._any, False
        return self._now if taken else None

    @property
    def _has_termination(self) -> bool:
        manager = getattr(self._base, "termination_manager", None)
        return manager is not None and TERMINATION in manager.active_terms

    def _value(self) -> Any:
        return self._base.extras.get("log", {}).get(self._metric)

    def _say(self, env_ids: Any, values: Any) -> None:
        import torch

        values = torch.as_tensor(values, dtype=torch.float32, device=self._now.device).view(-1)
        if values.shape == env_ids.shape:  # else it is a mean over others too: those that go on, or all of the past
            self._now[env_ids] = values.where(values == values.bool(), -1.0)
            self._any = True


def check_rate(recording: Path) -> bool:
    """Forget the success of all episodes of a finished recording if the metric did not say it of each that ended.

    Some tasks log a share of goals, or a mean over the past: its zeros alone would make a rate of 0.

    Returns:
        Whether it did.
    """
    import zarr

    meta: Any = zarr.open_group(recording, mode="r+")["meta"]
    success = meta["success"]
    unsaid = (success[:] == NOT_MEASURED) & (meta["termination"][:] != CUT_OFF)
    if unsaid.any():
        success[:] = NOT_MEASURED
    return not unsaid.any()


class _Means:
    """Remembers the vectors that torch takes the mean of.

    It stands where code finds that function and that method. torch's own way to watch calls, a mode, costs each of the
    hundred other calls of a reset some microseconds, which adds up to a tenth of the step.
    """

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._function, self._method = torch.mean, torch.Tensor.mean
        self._is_watching = False
        self._taken: list[tuple[Any, Any]] = []
        # For good: a class that changes in every step makes all attributes of all tensors slow to find.
        torch.Tensor.mean = lambda *arguments, **more: self._take(self._method, *arguments, **more)

    def close(self) -> None:
        """Leave the method as it was; it is inherited."""
        del self._torch.Tensor.mean

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Remember the means that are taken inside, and forget those before."""
        self._taken, self._is_watching = [], True
        self._torch.mean = functools.partial(self._take, self._function)
        try:
            yield
        finally:
            self._torch.mean, self._is_watching = self._function, False

    def vector(self, mean: Any) -> Any:
        """Return the vector that a mean was taken of; None if it is none of the last ones."""
        return next((vector for result, vector in self._taken if result is mean), None)

    def _take(self, original: Any, *arguments: Any, **more: Any) -> Any:
        if not (self._is_watching and arguments and arguments[0].ndim == 1):
            return original(*arguments, **more)
        vector = arguments[0].clone()  # the task may clear it before it comes back
        result = original(*arguments, **more)
        self._taken.append((result, vector))
        return result
