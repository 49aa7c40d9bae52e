"""What earlier checks found out: it refuses at once, and never what the simulator would have taken."""

import json
from dataclasses import replace

import pytest
from helpers import train_request
from scenario import play

from simyard.core.errors import RequestError
from simyard.core.specs import InputFile
from simyard.requests.settings import MachineSettings
from simyard.runner.isaaclab.overrides import refuse_known
from simyard.runner.rl import get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.fingerprint import Findings
from simyard.tasks.sessions.pool import Sessions

pytestmark = pytest.mark.system

FOUND = {
    "tasks": {
        "Scenario": ["env_cfg_entry_point", "rsl_rl_cfg_entry_point", "rsl_rl_tiny_cfg_entry_point"],
        "Scenery": ["env_cfg_entry_point"],
    },
    "physics": {"Scenario": ["newton_mjwarp", "ovphysx"]},
    "keys": {
        "Scenario rsl_rl": {
            "env": None,
            "env.decimation": 2,
            "agent": None,
            "agent.save_interval": 50,
            "agent.logger": None,
            "agent.load": False,
        }
    },
}
PACKAGE = InputFile(name="mine.zip", key="assets/0/mine.zip", sha256="0" * 64, size_bytes=1)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine on which nothing is known yet, and whose Python also looks into a folder of ours."""
    monkeypatch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
    monkeypatch.setenv("SCENARIO_FINDINGS", json.dumps(FOUND))
    (tmp_path / "code" / "mine.dist-info").mkdir(parents=True)
    (tmp_path / "code" / "mine.dist-info" / "entry_points.txt").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    return MachineSettings(home=tmp_path / "home", store=str(tmp_path / "store"), python=str(play.PYTHON))


def job(machine, *, task="Scenario", overrides=(), **changes):
    config = play.config("", overrides=list(overrides))
    spec = resolve(train_request(config), Store.open(machine.store), keys.new_job_id()).spec
    return replace(spec, task=task, **changes)


@pytest.fixture
def learnt(machine):
    """The same machine after one job was checked there, by a real process."""
    with Sessions(machine) as sessions:
        lease = sessions.take(job(machine), machine.store)
        lease.check(job(machine), None, {})
        Findings(machine, job(machine)).learn(lease.workload)
        lease.give_back()
    return machine


def test_nothing_is_refused_where_nothing_is_known(machine):
    Findings(machine, job(machine, task="Nowhere")).refuse()


def test_what_a_check_found_out_refuses_the_next_job_with_the_nearest_names_until_something_changes(learnt, tmp_path):
    with pytest.raises(RequestError, match=r"Unknown task 'Scenaro'\. Did you mean 'Scenario'\?.*'Scenery'") as refused:
        Findings(learnt, job(learnt, task="Scenaro")).refuse()
    assert refused.value.failure.code == "unknown_task"
    with pytest.raises(RequestError, match=r"'Scenery' has no configuration for rlLibrary 'rsl_rl'"):
        Findings(learnt, job(learnt, task="Scenery")).refuse()
    with pytest.raises(RequestError, match=r"override key 'agent\.save_intervall'.*'agent\.save_interval'"):
        Findings(learnt, job(learnt, overrides=["agent.save_intervall=3"])).refuse()
    Findings(learnt, job(learnt, overrides=["agent.save_interval=3"])).refuse()
    with pytest.raises(RequestError, match=r"'Scenario' has no physics 'kamino'\. It has 'newton', 'physx'\."):
        Findings(learnt, job(learnt, physics="kamino")).refuse()
    with pytest.raises(RequestError, match=r"for task 'Scenario': 'tinny'\. Did you mean 'tiny'.*'default', 'tiny'"):
        Findings(learnt, job(learnt, agent="rsl_rl_tinny_cfg_entry_point")).refuse()
    tiny = job(learnt, agent="rsl_rl_tiny_cfg_entry_point", overrides=["agent.save_intervall=3"])
    Findings(learnt, tiny).refuse()  # the keys of an agent that nobody has looked at yet

    # Each engine has keys of its own, and those of PhysX nobody has looked at yet.
    Findings(learnt, job(learnt, physics="physx", overrides=["agent.save_intervall=3"])).refuse()

    # A package of the job's own may register any task.
    Findings(learnt, job(learnt, task="Mine", packages=(PACKAGE,))).refuse()
    Findings(learnt, job(learnt, task="Mine", import_callback="mine:register")).refuse()

    # And so may a distribution that is installed, or one that gets another entry point.
    entry_points = tmp_path / "code" / "mine.dist-info" / "entry_points.txt"
    entry_points.write_text("[isaaclab.tasks]\nmine = mine\n")
    Findings(learnt, job(learnt, task="Mine")).refuse()


def test_a_module_that_is_new_in_an_old_folder_ends_what_is_known(learnt, tmp_path):
    (tmp_path / "code" / "more.py").write_text("")
    Findings(learnt, job(learnt, task="Mine")).refuse()


def test_other_variables_and_other_devices_are_other_environments(learnt, monkeypatch):
    Findings(learnt, job(learnt, task="Mine", gpus=1)).refuse()
    monkeypatch.setenv("WHAT_A_TASK_MAY_READ", "1")
    Findings(learnt, job(learnt, task="Mine")).refuse()


def test_a_file_that_is_broken_is_as_none(learnt):
    (path,) = (learnt.home / "cache" / "findings").iterdir()
    for content in (b"", b"{", b"[1]", b'{"jobs": []}'):
        path.write_bytes(content)
        Findings(learnt, job(learnt, task="Mine")).refuse()


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["agent.nope=1"], "Unknown override key 'agent.nope'"),
        (["agent.save_interval=1", "agent.nope=1"], "Unknown override key 'agent.nope'"),
        (["nonsense"], "is not understood"),
        (["env.seed=3"], "simyard sets it"),
        (["agent.save_interval=often"], "gives 'often', a str. agent.save_interval is a int: 50 unless overridden"),
        (["agent.load=maybe"], "gives 'maybe', a str"),
        (["agent.save_interval=null"], None),
        (["agent.load=True"], None),
        (["agent.save_interval=1e3"], None),
        (["agent.save_interval=5"], None),
        (["agent.clip=often"], "Unknown override key"),
        (["physics=physx", "agent.nope=1"], None),  # a preset is another configuration, wherever it stands
        (["agent.nope=1", "physics=physx"], None),
        (["agent.save_interval={nope:1}", "agent.save_interval.nope=1"], None),
    ],
)
def test_an_override_is_refused_where_that_is_certain(overrides, refused):
    def ask():
        refuse_known("Scenario", get_library("rsl_rl"), overrides, FOUND["keys"])

    if refused is None:
        ask()
        return
    with pytest.raises(RequestError) as error:
        ask()
    assert refused in str(error.value)
