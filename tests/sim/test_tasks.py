"""The facts about tasks, from Isaac Lab's own configurations; and the tasks of packages that mean no good."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest
from simulated import Player

from simyard.core.errors import RequestError
from simyard.core.task_facts import TaskFacts
from simyard.requests.settings import MachineSettings
from simyard.tasks.sessions.catalog import Catalog


def test_a_configuration_tells_agents_engines_assets_spaces_and_times(player: Player, tmp_path: Path) -> None:
    direct, managed = map(TaskFacts.from_json, player("test_tasks:describe", tmp_path))
    assert (direct.kind, managed.kind) == ("direct", "manager-based")
    for facts in (direct, managed):
        assert facts.why_not == ()
        assert [(agent.library, agent.name) for agent in facts.agents if agent.name == "default"] == [
            (library, "default") for library in facts.libraries
        ]
        assert set(facts.libraries) == {"rsl_rl", "rl_games", "sb3", "skrl"}
        assert facts.other_agents == ("torchrl_cfg_entry_point",)
        engines = {engine.name: engine for engine in facts.engines}
        assert facts.engine == "newton"
        assert engines["newton"].presets == ("newton_mjwarp",)
        assert "ovphysx" in engines["physx"].presets
        assert engines["kamino"].missing == ("a GPU",)
        assert {asset.path.rpartition("/")[2]: asset.here for asset in facts.assets} == {
            "cartpole.usd": True, "default_ground_plane.usda": True,
        }  # fmt: skip
        assert (facts.control_period_s, facts.episode_s, facts.num_envs) == (pytest.approx(1 / 60), 5.0, 4096)
    assert [(group.name, group.size) for group in direct.observations] == [("policy", 4)]
    assert [term.size for term in direct.actions] == [1]
    assert "rsl_rl_with_symmetry_cfg_entry_point" in {agent.key for agent in managed.agents}
    (group,) = managed.observations
    assert [term.name for term in group.terms] == ["joint_pos_rel", "joint_vel_rel"]
    assert {group.size, *(term.size for term in group.terms), managed.actions[0].size} == {None}


@pytest.mark.long  # an environment is made; that one is, and what it tells, test_contract.py shows in the default tier
def test_the_environment_tells_the_rest(player: Player, tmp_path: Path) -> None:
    facts = TaskFacts.from_json(player("test_tasks:measure", tmp_path))
    (group,) = facts.observations
    assert (facts.measured, facts.success, facts.runnable) == (True, "metric Metrics/success_rate", False)
    assert [(term.name, term.size) for term in (*group.terms, *facts.actions)] == [
        ("joint_pos_rel", 2), ("joint_vel_rel", 2), ("joint_effort", 1),
    ]  # fmt: skip


@pytest.mark.long  # three cold starts of the real simulator's Python; the way is the one of a job's check
def test_packages_tell_their_own_tasks_and_harm_none(tmp_path: Path) -> None:
    machine = MachineSettings(home=tmp_path / "home", store="", python=sys.executable)

    def tasks_of(name: str, module: str) -> list[TaskFacts]:
        folder = tmp_path / name / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(dedent(module))
        (folder.parent / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
            f'[project]\nname = "{name}"\nversion = "1"\n[tool.setuptools]\npackages = ["{name}"]\n'
        )
        return Catalog(machine).of_package(str(tmp_path / name), tmp_path)

    bad, good = tasks_of(
        "mixed",
        """
        import gymnasium
        from isaaclab.utils import configclass
        from isaaclab_tasks.core.cartpole.cartpole_direct_env_cfg import CartpoleEnvCfg

        @configclass
        class Good(CartpoleEnvCfg):
            "A \x1b[31mred\x1b[0m one."
            episode_length_s = 2.0

        def bad():
            raise SystemExit("boom")

        for name, config in (("Mine-Good", Good), ("Mine-Bad", bad)):
            gymnasium.register(
                id=name, entry_point="isaaclab_tasks.core.cartpole.cartpole_direct_env:CartpoleEnv",
                kwargs={"env_cfg_entry_point": config, "mine_cfg_entry_point": "x"},
            )
        """,
    )
    assert (good.task, good.episode_s, good.other_agents) == ("Mine-Good", 2.0, ("mine_cfg_entry_point",))
    assert good.why_not == ("it has no agent of rsl_rl, rl_games, sb3, skrl",)
    assert bad.task == "Mine-Bad"
    assert "boom" in bad.why_not[-1]
    (measured,) = Catalog(machine).of_package(str(tmp_path / "mixed"), tmp_path, "Mine-Good", measure=True)
    assert (measured.measured, measured.success) == (True, "metric Metrics/success_rate")
    with pytest.raises(RequestError, match=r"Unknown task 'Mine-Goood'\. Did you mean 'Mine-Good'\?"):
        Catalog(machine).of_package(str(tmp_path / "mixed"), tmp_path, "Mine-Goood")
    with pytest.raises(RequestError, match=r"The package 'dies' ends the simulator's process.*exit code 7"):
        tasks_of("dies", "import os; os._exit(7)")
    with pytest.raises(RequestError, match="registers no task"):
        tasks_of("silent", "")


# --- the simulator's side, which the player calls ---------------------------------------------------------------------


def describe(folder: Path) -> list[dict[str, object]]:
    from simyard.runner.isaaclab import catalog
    from simyard.runner.isaaclab.lookup import register_tasks

    register_tasks(None)
    return [facts.to_json() for facts in catalog.describe(["Isaac-Cartpole-Direct", "Isaac-Cartpole"])]


def measure(folder: Path) -> dict[str, object]:
    from simyard.runner.isaaclab import catalog
    from simyard.runner.isaaclab.lookup import register_tasks

    register_tasks(None)
    return catalog.measure("Isaac-Cartpole").to_json()
