"""Ids of Isaac Lab 2.x: the table against the tasks of the installed release, and who keeps an old id."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from simyard.core.specs import JobSpec
from simyard.runner.isaaclab import renames
from simyard.runner.isaaclab.lookup import as_registered
from simyard.runner.isaaclab.renames import as_asked, current_id, note, with_current_id

TABLE = json.loads(Path(renames.__file__).with_name("renamed_tasks.json").read_text())


def job(task, *overrides):
    return JobSpec(
        job_id="job-1", kind="train", name="n", simulator="isaaclab", task=task, library="rsl_rl", num_envs=1, seed=1,
        overrides=overrides,
    )  # fmt: skip


def test_every_new_id_is_a_task_of_the_installed_release_and_no_old_one_is():
    spec = importlib.util.find_spec("isaaclab_tasks")
    assert spec is not None
    assert spec.origin is not None
    sources = "".join(path.read_text() for path in Path(spec.origin).parent.rglob("__init__.py"))
    registered = set(re.findall(r'\bid="(Isaac(?:Contrib)?-[\w-]+)"', sources))
    assert len(registered) > 130
    assert {new.split()[0] for new in TABLE.values()} <= registered
    assert not registered & set(TABLE)
    # Whatever 3.0 has can be asked for as 2.x would have called it; of some it knows the old id itself.
    missing = registered - {new.split()[0] for new in TABLE.values()}
    assert not [
        name for name in missing if f"Isaac-{name.partition('-')[2]}-v0" not in registered and name[-3:] != "-v0"
    ]


@pytest.mark.parametrize(
    ("old", "new", "presets"),
    [
        ("Isaac-Cartpole-Direct-v0", "Isaac-Cartpole-Direct", ()),
        ("Isaac-Cartpole-v0", "Isaac-Cartpole", ()),
        ("Isaac-Ant-Direct-v0", "Isaac-Ant-Direct", ()),
        ("Isaac-Humanoid-Direct-v0", "Isaac-Humanoid-Direct", ()),
        ("Isaac-Velocity-Flat-Anymal-D-v0", "Isaac-Velocity-Flat-AnymalD", ()),
        ("Isaac-Velocity-Rough-Anymal-D-v0", "Isaac-Velocity-Rough-AnymalD", ()),
        ("Isaac-Velocity-Rough-Anymal-D-Play-v0", "Isaac-Velocity-Rough-AnymalD", ()),
        ("Isaac-Velocity-Flat-Unitree-Go2-v0", "Isaac-Velocity-Flat-UnitreeGo2", ()),
        ("Isaac-Velocity-Rough-Anymal-C-v0", "IsaacContrib-Velocity-Rough-AnymalC", ()),
        ("Isaac-Lift-Cube-Franka-v0", "IsaacContrib-Lift-Cube-Franka", ()),
        ("Isaac-Franka-Cabinet-Direct-v0", "Isaac-Open-Drawer-Franka-Direct", ()),
        ("Isaac-Dexsuite-Kuka-Allegro-Lift-v0", "Isaac-Lift-KukaAllegro", ()),
        ("Isaac-Cart-Double-Pendulum-Direct-v0", "Isaac-Pendulum-MARL-Direct", ()),
        ("Isaac-Repose-Cube-Shadow-Vision-Direct-v0", "Isaac-Reorient-Cube-Shadow-Camera-Direct", ()),
        ("Isaac-Cartpole-Depth-v0", "Isaac-Cartpole-Camera", ("presets=depth",)),
        ("isaaclab_tasks:Isaac-Ant-v0", "isaaclab_tasks:Isaac-Ant", ()),
    ],
)
def test_an_old_id_is_the_new_one_and_the_job_knows_both(old, new, presets):
    renamed = with_current_id(job(old, "agent.x=1"))
    assert (renamed.task, renamed.renamed_from, renamed.overrides) == (new, old, (*presets, "agent.x=1"))
    assert current_id(old) == new
    assert with_current_id(renamed) == renamed
    assert JobSpec.from_json(renamed.to_json()) == renamed
    assert as_asked(renamed) == job(old, "agent.x=1")
    (sentence,) = note(renamed)
    assert sentence.startswith(f"task {old!r} of Isaac Lab 2.x is {new!r}")
    assert ("its settings for play are not applied" in sentence) == ("-Play-" in old)
    assert all(preset in sentence for preset in presets)


@pytest.mark.parametrize("task", ["Isaac-Ant", "IsaacContrib-Stack-Cube-SO101-v0", "MyCustomTask-v0", "pkg:Mine-v1"])
def test_any_other_id_stays(task):
    assert with_current_id(job(task)) == as_asked(job(task)) == job(task)
    assert note(job(task)) == ()
    assert "renamed_from" not in job(task).to_json()


def test_a_preset_that_the_request_chooses_is_its_own():
    chosen = with_current_id(job("Isaac-Cartpole-Depth-v0", "presets=rgb"))
    assert (chosen.task, chosen.overrides) == ("Isaac-Cartpole-Camera", ("presets=rgb",))


def test_a_package_that_has_kept_an_old_id_gets_its_own_task():
    import gymnasium

    renamed = with_current_id(job("Isaac-Cartpole-Depth-v0"))
    assert as_registered(renamed) == renamed
    gymnasium.register("Isaac-Cartpole-Depth-v0", "mine:Task", kwargs={"env_cfg_entry_point": "mine:Cfg"})
    try:
        assert as_registered(renamed) == job("Isaac-Cartpole-Depth-v0")
        assert as_registered(replace(renamed, renamed_from=None)).task == "Isaac-Cartpole-Camera"
    finally:
        del gymnasium.registry["Isaac-Cartpole-Depth-v0"]
