"""Files of an agent's configuration: what is read of them, and what becomes of the configuration of a task."""

from pathlib import Path

import pytest
from helpers import CONFIG, train_request

from simyard.core.errors import RequestError
from simyard.runner.isaaclab.agent_files import MAX_BYTES, combined, read_agent_file
from simyard.runner.rl import get_library
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve


def a_file(folder: Path, text: str, name: str = "agent.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rate: 1e-3", 0.001),
        ("rate: 5E4", 50000.0),
        ("rate: 1.5e-3", 0.0015),
        ("rate: 3", 3),
        ("rate: lin_1e-3", "lin_1e-3"),
        ("rate: '1e-3'", "1e-3"),
    ],
)
def test_a_number_of_yaml_is_a_number(tmp_path, text, value):
    (found,) = read_agent_file(a_file(tmp_path, text)).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("a: 1", "agent.txt", r"'agent\.txt' is named otherwise\. Allowed: \.yaml, \.yml, \.json"),
        ("a: [1", "agent.yaml", "cannot be read: while parsing"),
        ("a: &b [1]\nc: *b", "agent.yaml", "it has an alias, which is not taken: write the value again"),
        ("a: 1\na: 2", "agent.yaml", "key 'a' stands twice"),
        ("a: !!python/object/apply:os.system [ls]", "agent.yaml", "cannot be read: could not determine a constructor"),
        ("a: 2026-01-01", "agent.yaml", "a: date is no type that JSON knows"),
        ("a: .nan", "agent.yaml", "a: nan is no number"),
        ("- a", "agent.yaml", r"holds \['a'\]\. Write keys and values"),
        ("", "agent.yml", "holds None"),
        ('{"a": 1', "agent.json", "cannot be read: Expecting"),
        ("a: " + "1" * MAX_BYTES, "agent.yaml", "is too large. Allowed: 262,144 bytes"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path, text, name, says):
    with pytest.raises(RequestError, match=says) as refused:
        read_agent_file(a_file(tmp_path, text, name))
    assert refused.value.failure.code == "bad_agent_config"


SKRL = {
    "seed": 42,
    "models": {"policy": {"network": [{"layers": [32]}], "clip_actions": False}},
    "agent": {"class": "PPO", "rollouts": 16, "learning_rate": 3e-4, "kwargs": None},
    "trainer": {"timesteps": 100},
}


def test_a_file_is_merged_and_what_it_leaves_out_stays():
    wanted = {"agent": {"rollouts": 8, "kwargs": {"a": 1}}, "models": {"policy": {"network": []}}, "seed": 7}
    assert combined(SKRL, wanted, get_library("skrl"), replaces=False) == {
        "seed": 42,  # simyard's own
        "models": {"policy": {"network": [], "clip_actions": False}},
        "agent": {"class": "PPO", "rollouts": 8, "learning_rate": 3e-4, "kwargs": {"a": 1}},
        "trainer": {"timesteps": 100},
    }
    assert SKRL["agent"]["rollouts"] == 16


def test_a_file_replaces_all_but_what_simyard_sets():
    wanted = {"agent": {"class": "PPO", "rollouts": 8}, "trainer": {}}
    assert combined(SKRL, wanted, get_library("skrl"), replaces=True) == {
        "agent": {"class": "PPO", "rollouts": 8}, "trainer": {"timesteps": 100}, "seed": 42
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"agent": {"rollout": 8}},
            r"key in trainingConfig\.agentConfig: 'agent\.agent\.rollout'.*'agent\.agent\.roll",
        ),
        ({"agnt": {}}, r"'agent\.agnt'\. Did you mean 'agent\.agent'"),
        ({"agent": {"rollouts": "many"}}, r"agent\.agent\.rollouts gives 'many', a str.*is a int: 16"),
        ({"models": {"policy": {"clip_actions": 1}}}, "gives 1, a int"),
    ],
)
def test_a_key_that_is_not_there_or_a_value_of_another_type_is_refused(content, says):
    with pytest.raises(RequestError, match=says) as refused:
        combined(SKRL, content, get_library("skrl"), replaces=False)
    assert refused.value.failure.code == "bad_agent_config"


def test_a_request_has_its_file_among_the_inputs_of_the_job(tmp_path):
    store = Store.open(str(tmp_path / "store"))
    file = a_file(tmp_path, "save_interval: 5")
    training = CONFIG["trainingConfig"] | {"agentConfig": "agent.yaml", "agentConfigMode": "merge"}

    def resolved():
        return resolve(train_request({**CONFIG, "trainingConfig": training}), store, keys.new_job_id(), tmp_path)

    job = resolved()
    assert job.spec.agent_config and job.spec.agent_config.mode == "merge"
    assert (job.inputs[-1].file, job.inputs[-1].path) == (job.spec.agent_config.file, file)
    file.write_text("save_interval: [")
    with pytest.raises(RequestError, match=r"agentConfig: 'agent\.yaml' cannot be read: while parsing"):
        resolved()
