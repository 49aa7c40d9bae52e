"""Failed episodes as data: `rollout.zarr` of an evaluation, through the recorder of rollouts."""

from __future__ import annotations

import shutil
from typing import Any, TypedDict

from simyard.core.artifacts import ROLLOUT
from simyard.core.files import AttemptPaths
from simyard.core.specs import Facts, JobSpec
from simyard.runner.evaluation.episode_statistics import Episode, failed
from simyard.runner.isaaclab.environment_recorder import EnvironmentRecorder, SuccessReader
from simyard.runner.recording.arrays import NOT_MEASURED, pack
from simyard.runner.recording.recorder import RolloutRecorder
from simyard.runner.video.films import RolloutFilm


class Recorded(TypedDict):
    """What was kept of the failed episodes."""

    file: str
    episodes: int
    steps: int


class FailureRecording:
    """Stands around an environment whose episodes are counted, and keeps those that count and have failed."""

    def __init__(self, env: Any, job: JobSpec, facts: Facts, paths: AttemptPaths, longest: int) -> None:
        """Take the place outside of the meter, which tells of each episode before its step is over.

        Args:
            env: The environment.
            job: The job.
            facts: Of its check.
            paths: The attempt's folders.
            longest: Steps after which an episode is cut off.
        """
        import torch

        base, wanted = env.unwrapped, job.evaluation
        assert wanted is not None
        self._folder, self._target = paths.root / "failures", paths.output / ROLLOUT.name
        self._told = _Told(base)
        arms = [{"name": "control", "levels": {}}, *(arm.to_json() for arm in wanted.arms or ())]
        self._recorder = RolloutRecorder(
            self._folder,
            num_envs=base.num_envs,
            longest=min(longest, base.max_episode_length) + 1,
            control_period_s=float(base.step_dt),
            scratch=paths.root,
            attributes={
                "job_id": job.job_id, "task": job.task, "seed": job.seed, "profile": "failures", "arms": arms,
                "versions": facts.versions,
            },
            whole_alone=True,
        )  # fmt: skip
        film = RolloutFilm(paths.root, float(base.step_dt), wanted=False)
        inside = EnvironmentRecorder(env, self._recorder, film, self._told)
        arm = torch.arange(base.num_envs, dtype=torch.int32, device=base.device) // (base.num_envs // len(arms))
        about = "Index of the conditions among the attribute `arms`."
        inside.add_constant("arm", arm if wanted.arms else torch.zeros_like(arm), about)

    def tell(self, episode: Episode) -> None:
        """Keep an episode that counts, if it has failed."""
        self._told.tell(episode)

    def seal(self) -> Recorded:
        """Pack what was kept into one file."""
        figures = self._recorder.close()
        pack(self._folder, self._target)
        shutil.rmtree(self._folder)
        return {"file": ROLLOUT.name, "episodes": figures.counts.episodes, "steps": figures.counts.steps}


class _Told(SuccessReader):
    """Success as the meter says it, which reads it where the environment forgets it."""

    def __init__(self, base: Any) -> None:
        import torch

        self._reset = base._reset_idx
        self._success = torch.full((base.num_envs,), float(NOT_MEASURED), device=base.device)
        self._kept = torch.zeros(base.num_envs, dtype=torch.bool, device=base.device)

    def tell(self, episode: Episode) -> None:
        """Note an episode that counts."""
        self._success[episode.env] = NOT_MEASURED if episode.success is None else float(episode.success)
        self._kept[episode.env] = failed(episode)

    def close(self) -> None:
        """Do nothing: nothing of torch's was replaced."""

    def begin(self, env_ids: Any) -> Any:
        """Reset."""
        return self._reset(env_ids)

    def reset(self, env_ids: Any) -> Any:
        """Reset."""
        return self._reset(env_ids)

    def kept(self) -> Any:
        """Return which episodes that ended in this step are kept, and forget that."""
        kept = self._kept.clone()
        self._kept[:] = False
        return kept

    def take(self) -> Any:
        """Return the success of the episodes that ended in this step."""
        return self._success
