"""The state of a training beside its checkpoints: what the library does not save, written with each and read again.

On the CPU that is everything, the simulation too: a training that goes on computes what it would have computed. What
cannot be had is said in a note, and such a training begins its episodes anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from simyard.core.files import STATE_SUFFIX, AttemptPaths, superfluous_states
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.isaaclab.generators import generator_state, random_state, set_random
from simyard.runner.isaaclab.state_file import MOST_BYTES, Kept, StateError, read, write
from simyard.runner.isaaclab.state_places import bytes_of, differing, entries_of, mark_of, put_back, write_back
from simyard.runner.isaaclab.state_walk import Found, Region, walk
from simyard.runner.progress import say_note
from simyard.runner.rl import get_library

_CHEAP = re.compile(
    r"^library\.|^env\._sim_step_counter$|"
    r"\.(common_step_counter|episode_length_buf|_?episode_sums|_?terrain|(curriculum|command|event)_manager)($|[.\[])"
)
"""Paths that do without the simulation: counters, curricula, terrain, timers, sums, and the library's own."""
_MOST_NAMED = 3
_LARGE = 64 << 10
"""Bytes of memory that is looked at before it is written: of terrains, and what a solver keeps for contacts."""
_ALL_ELSE = "so do episodes, curricula, terrain levels and random numbers"
ANEW = "the simulation begins anew, with all robots as after a reset"
"""The beginning of a note that tells why a resumed training is not the one that was interrupted."""


class Keeper:
    """Keeps the state of one training: `begin` before its first iteration, `save` with each checkpoint."""

    def __init__(
        self,
        identity: Mapping[str, Any],
        *,
        inexact: str | None = None,
        source: Path | None = None,
        absent: str | None = None,
    ) -> None:
        """Prepare.

        Args:
            identity: Everything that must be the same where a simulation is to go on, by its name for people.
            inexact: Why the simulation is not kept, in words; None where it is.
            source: The state beside the checkpoint that the training goes on from.
            absent: Why there is none, in words; None for a training from scratch.
        """
        self._identity = dict(identity)
        self._inexact = inexact
        self._source = source
        self.has_state = source is not None
        self._absent = absent
        self._fresh: dict[str, Any] = {}
        self._marks: dict[str, int] = {}
        self._noted: set[str] = set()
        self._has_begun = False

    # --- kept -----------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Path, env: Any, own: Mapping[str, Any]) -> None:
        """Write the state that belongs to a checkpoint, which is about to be written; a training never fails of it."""
        if not self._has_begun:  # a runner of the user's own, say
            self._note_once("no state is kept beside checkpoints, nor taken up: the runner does not say when it begins")
            return
        path = checkpoint.with_name(checkpoint.name + STATE_SUFFIX)
        try:
            write(path, self._capture(env, own))
        except Exception as error:
            path.unlink(missing_ok=True)
            self._note_once(f"the training's state is not kept beside its checkpoints: {_words(error)}")
        states = sorted(path.parent.glob(f"*{STATE_SUFFIX}"), key=lambda state: state.stat().st_mtime_ns)
        for old in states[: superfluous_states([state.stat().st_size for state in states])]:
            old.unlink()

    def _capture(self, env: Any, own: Mapping[str, Any]) -> Kept:
        found = walk(_roots(env, own))
        regions, unchanged = self._changed(found.regions())
        lacking = self._inexact or _lacking(found, regions)
        if lacking is not None:
            if self._inexact is None:
                self._note_once(f"the simulation is not kept beside checkpoints: {lacking}")
            regions = [region for region in regions if _is_cheap(region.members[0].path)]
        changed = {
            path: [self._fresh.get(path), number.value]
            for path, number in found.numbers.items()
            if self._fresh.get(path) != number.value and (lacking is None or number.of_config or _is_cheap(path))
        }
        head = {
            "identity": self._identity,
            "inexact": lacking,
            "numbers": changed,
            "unchanged": unchanged,
            "generators": {path: generator_state(one) for path, one in found.generators.items()},
            "random": random_state(),
        }
        return Kept(head, [(bytes_of(region), entries_of(region)) for region in regions])

    def _changed(self, regions: Sequence[Region]) -> tuple[list[Region], dict[str, int]]:
        """Part memory into what is kept, and the large rest that is as it was made: terrains, by their checksums."""
        unchanged = {
            path: mark
            for region in regions
            if (mark := self._marks.get(path := region.members[0].path)) is not None
            and region.size >= _LARGE
            and mark_of(region) == mark
        }
        return [region for region in regions if region.members[0].path not in unchanged], unchanged

    # --- put back -------------------------------------------------------------------------------------------------

    def begin(self, env: Any, own: Mapping[str, Any]) -> bool:
        """Remember an environment as it was made, and put the state back; return whether its episodes go on.

        A training never fails of it: where the state cannot be put back, its environments are reset.
        """
        import torch

        self._has_begun = True
        made = walk(_roots(env, own))
        self._fresh = {path: number.value for path, number in made.numbers.items()}
        if self._inexact is None:
            large = [region for region in made.regions() if region.size >= _LARGE and region.device == "cpu"]
            self._marks = {region.members[0].path: mark_of(region) for region in large}
        if self._source is None:
            if self._absent is not None:
                say_note(f"{ANEW}: {self._absent}; {_ALL_ELSE}")
            return False
        source, self._source = self._source, None
        try:
            with torch.inference_mode():
                return self._put_back(env, own, read(source))
        except Exception as error:
            said = str(error) if isinstance(error, StateError) else f"cannot be put back ({_words(error):.200})"
            say_note(f"{ANEW}: the state beside the checkpoint {said}; {_ALL_ELSE}")
            _reset(env)
            return False

    def _put_back(self, env: Any, own: Mapping[str, Any], kept: Kept) -> bool:
        was = kept.head["identity"]
        changed = [name for name, value in self._identity.items() if was.get(name) != value]
        inexact = self._inexact or kept.head.get("inexact", "nothing says that it was")
        if inexact is None and not changed:
            problems = self._put_all(env, own, kept)
            if not problems:
                set_random(kept.head["random"])
                # The environment may have been made with other constants than that of the training.
                others = [path for path, mark in kept.head["unchanged"].items() if self._marks.get(path) != mark]
                if others:
                    about = f"{_listed(others)} is not what it was: it may compute something else"
                    say_note(f"the training goes on, but {about}")
                return True
            why = f"{_listed(problems)} cannot be put back"
        else:
            why = ", ".join(f"{name} was {was.get(name)!r:.60}" for name in changed)
            why = why or f"it was not kept, since {inexact!s:.200}"

        # Without the simulation: where robots stand follows from the terrain, so they are placed again before the rest.
        put_back(walk(_roots(env, own)), kept, self._fresh, _is_cheap)
        _reset(env)
        left = put_back(walk(_roots(env, own)), kept, self._fresh, _is_cheap)
        if "seed" not in changed:
            set_random(kept.head["random"], cuda="device" not in changed)
        also = f"; not carried over either: {_listed(left)}" if left else ""
        say_note(f"{ANEW}: {why}{also}")
        return "env.episode_length_buf" not in left

    def _put_all(self, env: Any, own: Mapping[str, Any], kept: Kept) -> list[str]:
        """Put everything back and look whether it is there, bit by bit; return the paths that differ."""
        import gymnasium
        import torch

        unchanged = kept.head["unchanged"]
        rest = [region for region in walk(_roots(env, own)).regions() if region.members[0].path in unchanged]
        copies = [(region, mark_of(region), bytes_of(region)) for region in rest]
        space = getattr(env.unwrapped, "action_space", None)
        if isinstance(space, gymnasium.spaces.Box):  # some attributes are made by the first step
            env.unwrapped.step(torch.zeros(space.shape, device=env.unwrapped.device))
        for region, mark, data in copies:
            if mark_of(region) != mark:
                write_back(region, data)
        put_back(walk(_roots(env, own)), kept, self._fresh, None)
        return differing(walk(_roots(env, own)), kept)

    def _note_once(self, note: str) -> None:
        if note not in self._noted:
            self._noted.add(note)
            say_note(note)


def keeper_of(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths, *, anew: bool = False) -> Keeper:
    """Return the keeper of an attempt's state; of one that begins `anew` on purpose nobody looks for an earlier one."""
    job, resume = attempt.job, attempt.resume
    of_agent = ("agent.", "+agent.", "~agent.")
    identity = {
        "task": job.task,
        "numEnvs": job.num_envs,
        "device": facts.device,
        "physics": facts.physics,
        "seed": job.seed,
        "overrides": [override for override in facts.overrides if not override.startswith(of_agent)],
        "packages": [package.sha256 for package in job.packages],
        "versions": facts.versions,
    }
    source = absent = None
    if resume is not None and resume.state is not None:
        source = paths.inputs / resume.state.name
    elif resume is not None and attempt.start_iteration and not anew:
        absent = f"no state of the training came with {resume.checkpoint.name!r}"
    inexact = "resume.exact is false" if job.exact is False else None
    if facts.device != "cpu":
        inexact = "it is on a GPU"
    elif not get_library(job.library).resumes_exactly:
        inexact = f"{job.library} resets its environments when it begins"
    return Keeper(identity, inexact=inexact, source=source, absent=absent)


def _roots(env: Any, own: Mapping[str, Any]) -> list[tuple[str, Any]]:
    from isaaclab.physics import PhysicsManager

    def classes(cls: Any) -> Iterator[Any]:
        yield cls
        for subclass in cls.__subclasses__():
            yield from classes(subclass)

    physics = [(f"physics.{cls.__name__}", cls) for cls in classes(PhysicsManager)]
    return [("env", env.unwrapped), ("library", own), *physics]


def _is_cheap(path: str) -> bool:
    return bool(_CHEAP.search(path))


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _MOST_NAMED} more" if len(paths) > _MOST_NAMED else ""
    return ", ".join(map(repr, paths[:_MOST_NAMED])) + more


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _lacking(found: Found, regions: Sequence[Region]) -> str | None:
    """Return the reason for which a simulation cannot be kept; None where it can."""
    from isaaclab.sim import SimulationContext

    simulation = SimulationContext.instance()
    if simulation is None or not hasattr(simulation.cfg.physics, "solver_cfg"):
        return "the engine keeps it to itself (only Newton's can be read)"
    if found.out_of_reach:
        return f"{_listed(found.out_of_reach)} cannot be read"
    if (size := sum(region.size for region in regions)) > MOST_BYTES:
        return f"it has {size / 1e6:.0f} MB, more than {MOST_BYTES / 1e6:.0f} MB"
    return None


def _reset(env: Any) -> None:
    """Reset all environments where the terrain says; a curriculum would take it for the end of an episode."""
    curriculum = getattr(env.unwrapped, "curriculum_manager", None)
    if curriculum is not None:
        curriculum.compute = lambda env_ids=None: None
    try:
        env.unwrapped.reset()
    finally:
        if curriculum is not None:
            del curriculum.compute
