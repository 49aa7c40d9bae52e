"""Export: a policy in two formats, with the proof that they are the policy, and the checklist before a robot moves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from simyard.core.artifacts import CHECKLIST, ROBOT_MODEL, SUMMARY
from simyard.core.files import AttemptPaths, write_json
from simyard.core.specs import AttemptSpec, Facts
from simyard.runner.evaluation.across import paired_returns
from simyard.runner.evaluation.episode_statistics import Episode, EpisodeMeter
from simyard.runner.evaluation.evaluate import open_policy
from simyard.runner.evaluation.summary import summarize
from simyard.runner.exporting import STEPS, formats
from simyard.runner.exporting.checks import Checklist, check
from simyard.runner.exporting.contract import FILES, ONNX, TORCHSCRIPT, Contract, write_contract
from simyard.runner.exporting.describe import (
    EventTerm,
    RewardTerm,
    actuator_delays,
    curriculum,
    describe,
    events,
    rewards,
    terminations,
)
from simyard.runner.exporting.elsewhere import StateRecorder, in_mujoco
from simyard.runner.exporting.evidence import (
    AFTER_RESET,
    Evidence,
    FiniteWatch,
    LongRun,
    PairRecorder,
    SecondSimulator,
    Thresholds,
    measure_actions,
    measure_history,
    measure_normalizer,
)
from simyard.runner.exporting.golden import write_golden
from simyard.runner.exporting.parity import LIMIT, Parity, check_parity
from simyard.runner.exporting.verdict import Status
from simyard.runner.isaaclab.environment import settle
from simyard.runner.isaaclab.lookup import overrides_under
from simyard.runner.isaaclab.physics import ENGINES, is_selector
from simyard.runner.progress import say_activity, say_count
from simyard.runner.rl.base import Policy
from simyard.runner.rl.inference import single_precision
from simyard.runner.rl.networks import OBSERVATIONS, Network

LONG_RUN_ENVS = 4
SAY_EVERY_S = 1.0


def export_policy(attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
    """Export the job's policy, and leave formats, contract, checklist and summary in the output folder.

    Raises:
        RequestError: If the policy cannot be exported.
        WorkloadError: If an exported file is not the same policy.
    """
    _Export(attempt, facts, paths).run()


@dataclass(frozen=True, kw_only=True)
class _Traced:
    """The policy as it was trained: its rollouts, and the description of its environment."""

    pairs: PairRecorder
    starts: Mapping[str, Any] | None
    network: Network
    critic_groups: tuple[str, ...]
    episodes: list[Episode]
    contract: Contract
    curriculum: Mapping[str, float | None] | None
    randomization: Mapping[str, EventTerm] | None
    reward_terms: Mapping[str, RewardTerm] | None
    terminations: tuple[str, ...]
    actuator_delays: Mapping[str, tuple[float, float]] | None


class _Export:
    """One export in progress."""

    def __init__(self, attempt: AttemptSpec, facts: Facts, paths: AttemptPaths) -> None:
        assert attempt.job.export is not None
        self.job = attempt.job
        self.wanted = attempt.job.export
        self.policy = attempt.job.policies[0]
        self.facts = facts
        self.paths = paths
        self.done = 0
        self.doing = ""
        self.steps = 0
        self.steps_before = 0
        self.said = 0.0

    def run(self) -> None:
        """Do every step, in the order of `STEPS`."""
        began = time.monotonic()
        traced = self._trace()
        pairs, contract = traced.pairs, traced.contract
        limits, robot = self.wanted.action_limits, self.wanted.robot
        # Now, not after minutes of simulation: a limit may be for a joint that is not there, a sensor for nothing seen.
        check(Evidence(contract=contract, action_limits=limits, robot=robot), self.wanted.answers)

        # The proof's children start and load their runtimes while this process simulates.
        observations = pairs.observations
        write_golden(self.paths.output, LIMIT, observations, pairs.actions, pairs.first_steps)
        with ThreadPoolExecutor(1) as beside:
            proof = beside.submit(
                check_parity, self.paths.output, traced.network, observations, pairs.actions, pairs.first_steps
            )
            long_run = self._run_long()
            self._finished("long run")
            say_activity("comparing both formats with the library")
            parity = proof.result()
            parity.require()
            self._finished("parity")
            plain = beside.submit(self._run_in_mujoco, traced)
            other, why_not = self._run_elsewhere(traced.episodes)
            say_activity("playing in plain MuJoCo")
            in_plain, why_not_plain = plain.result()
        self._finished("second simulator")

        # Everything that was measured, judged item by item.
        evidence = Evidence(
            contract=contract,
            parity=parity,
            reward_contributions=pairs.contributions,
            reward_terms=traced.reward_terms,
            terminations=traced.terminations,
            critic_groups=traced.critic_groups,
            normalized=measure_normalizer(observations[OBSERVATIONS], contract.normalizer)
            if contract.normalizer
            else None,
            history=measure_history(observations[OBSERVATIONS], pairs.first_steps, contract)
            if OBSERVATIONS in observations
            else None,
            actuator_delays=traced.actuator_delays,
            robot=robot,
            actions=measure_actions(pairs.actions, pairs.first_steps),
            action_limits=limits,
            long_run=long_run,
            second_simulators=tuple(one for one in (other, in_plain) if one),
            second_problems=tuple(why for why in (why_not, why_not_plain) if why),
            curriculum=traced.curriculum,
            stages=self.wanted.stages,
            randomization=traced.randomization,
        )
        checklist = check(evidence, self.wanted.answers)
        write_json(self.paths.output / CHECKLIST.name, checklist.to_json())
        elsewhere = {
            "second_simulator": other.to_json() if other else None,
            "second_simulator_problem": why_not,
            "mujoco": in_plain.to_json() if in_plain else None,
            "mujoco_problem": why_not_plain,
        }
        self._write_summary(traced.episodes, parity, checklist, elsewhere)
        self._finished("checklist")
        print(f"Export time: {time.monotonic() - began:.2f} seconds")

    def _trace(self) -> _Traced:
        """Play the policy as it was trained, and write formats and contract while its environment stands."""
        output, checkpoint = self.paths.output, self.policy.checkpoint
        with single_precision(), self._open(change=self._write_model) as (env, actor):
            network = actor.network()
            pairs, states = PairRecorder(env, network), StateRecorder(env)
            self._begin(f"playing {self.wanted.num_episodes} episodes")
            episodes = self._play(env, actor, self.wanted.num_episodes)
            for _ in range(AFTER_RESET if network.states else 0):
                actor.step()  # the last episodes may have ended with the last step: a memory is to be seen set back
            self._finished("rollouts")

            say_activity("writing both formats")
            metadata = {"task": self.job.task, "library": self.job.library, "checkpoint_sha256": checkpoint.sha256}
            formats.write_onnx(network, output / FILES[ONNX], metadata)
            formats.write_torchscript(network, output / FILES[TORCHSCRIPT])
            contract = describe(
                env,
                actor,
                network,
                output,
                ranges=pairs.ranges,
                task=self.job.task,
                checkpoint_sha256=checkpoint.sha256,
                iteration=self.policy.iteration,
            )
            write_contract(contract, output)
            self._finished("formats")
            # A fresh environment tells the beginning of its curriculum; training's end is what counts.
            stages = {} if curriculum(env) == {} else self.wanted.curriculum
            return _Traced(
                pairs=pairs,
                starts=states.starts(),
                network=network,
                critic_groups=actor.critic_groups,
                episodes=episodes,
                contract=contract,
                curriculum=stages,
                randomization=events(env),
                reward_terms=rewards(env),
                terminations=terminations(env),
                actuator_delays=actuator_delays(env),
            )

    def _run_long(self) -> LongRun:
        """Play far beyond the episode length, the time limit moved and nothing else changed."""
        factor = Thresholds().long_run_factor

        def lengthen(env_cfg: Any) -> None:
            env_cfg.episode_length_s *= factor + 1

        count = min(self.job.num_envs, LONG_RUN_ENVS)
        with self._open(num_envs=count, change=lengthen) as (env, actor):
            actor.begin()
            watch = FiniteWatch(env)
            normal = round(env.unwrapped.max_episode_length / (factor + 1))
            self._begin(f"playing {factor:g} times as long as an episode")
            while watch.steps < normal * factor and not watch.non_finite:
                actor.step()
                self._say()
        return LongRun(
            steps=watch.steps,
            episode_steps=normal,
            environments=count,
            non_finite=watch.non_finite,
            early_terminations=watch.terminations,
        )

    def _run_elsewhere(self, here: list[Episode]) -> tuple[SecondSimulator | None, str | None]:
        """Play in another engine from the same starts; return the comparison in pairs, or None and why there is none.

        The first episodes of every environment are pairs.
        """
        own = self.facts.physics or ""
        ours = _first_episodes(here)
        reasons = []
        for name in [self.wanted.other_physics] if self.wanted.other_physics else ENGINES:
            if name == own:
                continue
            try:
                overrides = self._overrides_under(name)
                with self._open(overrides=overrides, change=self._end_when_converged) as (env, actor):
                    self._begin(f"playing under {name}")
                    theirs = _first_episodes(self._play(env, actor, len(ours)))
            except Exception as error:  # whatever the other engine lacks here: the export stands without it
                reasons.append(f"{name}: {(str(error).splitlines() or [type(error).__name__])[0]}")
                continue
            gap = paired_returns(ours, theirs)
            low, high = gap["interval_95"] or (gap["mean"], gap["mean"])
            return SecondSimulator(
                reference_physics=own,
                physics=name,
                episodes=len(ours),
                reference_return=sum(ours) / len(ours),
                mean_return=sum(theirs) / len(theirs),
                drop_interval=(-high, -low),
            ), None
        return None, "; ".join(reasons) or "the task has no other physics engine"

    def _write_model(self, env_cfg: Any) -> None:
        """Have Newton write its conversion of the robot to MJCF, into the current folder, if its solver is MuJoCo's."""
        solver: Any = getattr(env_cfg.sim.physics, "solver_cfg", None)
        if hasattr(solver, "save_to_mjcf"):
            solver.save_to_mjcf = ROBOT_MODEL.name

    def _run_in_mujoco(self, traced: _Traced) -> tuple[SecondSimulator | None, str | None]:
        """Play in plain MuJoCo, from the starts of the rollouts; return the comparison, or None and the reason."""
        model = self.paths.output / ROBOT_MODEL.name
        converted = self.paths.work / ROBOT_MODEL.name
        named = self.wanted.mujoco.model
        if named or converted.exists():
            shutil.copyfile(self.paths.overlay / named if named else converted, model)
        if traced.starts is None or traced.contract.simulation is None:
            return None, "the scene is not one robot alone"
        functions = self.wanted.mujoco.functions
        return in_mujoco(
            traced.contract,
            self.paths.output,
            self.paths.overlay / named if named else model,
            self.paths.overlay / functions if functions else None,
            dict(traced.starts),
            traced.episodes,
            self.facts.physics or "",
            self.job.seed,
        )

    def _overrides_under(self, name: str) -> list[str]:
        """Return the job's Hydra arguments with another engine; one of its task's presets may be named too."""
        if name in ENGINES:
            return overrides_under(name, self.job, self.facts.device, self.facts.overrides)
        return [f"physics={name}", *(one for one in self.facts.overrides if not is_selector(one))]

    def _end_when_converged(self, env_cfg: Any) -> None:
        """Have Kamino's solver end its loop when every world has converged, not always after 100 rounds.

        The rounds that follow change nothing: a world that has converged is left alone. Isaac Lab has them counted out
        because not every CUDA driver can end a loop in a graph; on the CPU it can be ended, after half of them.
        """
        solver: Any = getattr(getattr(env_cfg.sim.physics, "solver_cfg", None), "dynamics_solver_cfg", None)
        if hasattr(solver, "use_graph_conditionals") and self.facts.device == "cpu":
            solver.use_graph_conditionals = True

    def _open(self, **options: Any) -> AbstractContextManager[tuple[Any, Policy]]:
        return open_policy(self.job, self.policy, self.facts, self.paths, **options)

    def _play(self, env: Any, actor: Policy, count: int) -> list[Episode]:
        """Play completed episodes; call it once for an environment."""
        episodes: list[Episode] = []
        longest = env.unwrapped.max_episode_length + 1
        pairs = count <= self.job.num_envs  # of all engines, where no environment has a second episode that counts
        meter = EpisodeMeter(
            env,
            episodes=count,
            longest=longest,
            seed=self.job.seed,
            undisturbed=pairs,
            on_episode=episodes.append,
        )
        settle(env, self.job.seed)
        actor.begin()
        while not meter.done:
            actor.step()
            self._say()
        return episodes

    def _begin(self, what: str) -> None:
        self.doing, self.steps_before = what, self.steps
        say_activity(what)

    def _say(self) -> None:
        self.steps += 1
        if time.monotonic() - self.said > SAY_EVERY_S:
            say_count("check", self.done, len(STEPS), step=self.steps)
            say_activity(f"{self.doing}: step {self.steps - self.steps_before}")
            self.said = time.monotonic()

    def _finished(self, step: str) -> None:
        self.done += 1
        assert STEPS[self.done - 1] == step, f"{step} is not step {self.done}"
        say_count("check", self.done, len(STEPS), step=self.steps)

    def _write_summary(
        self,
        episodes: list[Episode],
        parity: Parity,
        checklist: Checklist,
        elsewhere: Mapping[str, Any],
    ) -> None:
        figures, checkpoint = summarize(episodes, None), self.policy.checkpoint
        largest = max(found.largest for found in parity.differences if found.largest is not None)
        open_items = [item.item for item in checklist.items if item.status == Status.HUMAN]
        failed = [item.item for item in checklist.items if item.status == Status.FAIL]
        counted = f"{len(failed)} failed, {len(open_items)} for a person"
        verdict = "deployable" if checklist.deployable else f"not deployable: {counted}"
        lines = ["", "| format | batch | rows | largest difference |", "|---|---|---|---|"]
        lines += [
            f"| {found.format} | {found.batch} | {found.rows} | {found.largest:.3g} |" for found in parity.differences
        ]
        lines += ["", f"Allowed: {parity.limit:g}. Checklist: {verdict}.", "", *checklist.rows().splitlines()]
        summary = {
            "checkpoint": {"name": checkpoint.name, "sha256": checkpoint.sha256, "iteration": self.policy.iteration},
            "return": figures["return"],
            "length": figures["length"],
            "parity": parity.to_json() | {"largest": largest},
            **elsewhere,
            "deployable": checklist.deployable,
            "failed": failed,
            "needs_a_human": open_items,
            "headline": f"largest difference {largest:.2g} (allowed {parity.limit:g}), {verdict}",
            "report": lines,
        }
        write_json(self.paths.output / SUMMARY.name, summary)


def _first_episodes(episodes: list[Episode]) -> list[float]:
    """Return the return of each environment's first episode, in the order of the environments."""
    first: dict[int, float] = {}
    for episode in episodes:
        first.setdefault(episode.env, episode.total)
    return [first[env] for env in sorted(first)]
