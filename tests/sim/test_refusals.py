"""What the simulator's own environment refuses, before anything is simulated or created."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIG, train_request
from simulated import CARTPOLE, Yard

from simyard.core.errors import RequestError
from simyard.core.specs import Facts
from simyard.requests.config import read_config
from simyard.requests.jobs import TrainRequest
from simyard.runner.isaaclab import renames

pytestmark = pytest.mark.sim

TABLE: dict[str, str] = json.loads(Path(renames.__file__).with_name("renamed_tasks.json").read_text())
EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole-training-config.json"


@pytest.fixture(scope="module")
def check(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Facts]:
    """Have the simulator check a config, and see that this leaves nothing."""
    store = tmp_path_factory.mktemp("refusals")

    def ask(config: dict[str, Any], **training: Any) -> Facts:
        request = train_request({**config, "trainingConfig": {**config["trainingConfig"], **training}})
        return yard.check(request, store)

    return ask


@pytest.mark.parametrize(
    ("training", "code", "says"),
    [
        ({"task": "Isaac-Cartpole-Drict"}, "unknown_task", r"'Isaac-Cartpole-Drict'\. Did you mean '" + CARTPOLE),
        ({"task": "Isaac-Quadcopter-Direct-v0"}, "unknown_task", r"Quadcopter-Direct-v0'\. Did you mean 'Isaac-"),
        ({"task": "Isaac-Velocity-Flat-Anymal-D-v0"}, "assets_missing", r"anymal_d.*\.usd.*ISAACSIM_ASSET_ROOT"),
        ({"task": "humanoid"}, "unknown_task", r"Unknown task 'humanoid'.*Allowed: .*in all"),
        (
            {"task": "Isaac-Cartpole-Camera-Direct", "rlLibrary": "sb3"}, "library_without_config",
            "'Isaac-Cartpole-Camera-Direct' has no configuration for rlLibrary 'sb3'.*'rl_games', 'rsl_rl', 'skrl'",
        ),
        (
            {"task": "Isaac-Cartpole", "agent": "with_symetry"}, "unknown_agent",
            r"agent of 'rsl_rl' for task 'Isaac-Cartpole': 'with_symetry'\. Did you mean 'with_symmetry'.*'default', ",
        ),
        ({"rlLibrary": "skrl", "agent": "MAPPO"}, "unknown_agent", r"of 'skrl' for task .*'mappo'.*Allowed: 'default'"),
        ({"agent": "skrl_cfg_entry_point"}, "unknown_agent", "is none of rlLibrary 'rsl_rl'.*set rlLibrary"),
        ({"task": "Isaac-Velocity-Flat-Cassie"}, "assets_missing", r"cassie\.usd.*`simyard assets build`.*ISAACSIM_"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_trained(check: Callable[..., Facts], training: dict[str, Any], code: str, says: str):
    with pytest.raises(RequestError, match=says) as refused:
        check(CONFIG, **training)
    assert refused.value.failure.code == code


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("agent.save_intervall=5", r"'agent\.save_intervall'\. Did you mean 'agent\.save_interval'"),
        ("env.nope=3", r"Unknown override key 'env\.nope'.*Allowed: "),
        ("agent.save_interval=often", r"'often', a str\. agent\.save_interval is a int: 50"),
        ("agent.save_interval=true", r"a bool\. agent\.save_interval is a int"),
        ("agent.algorithm.gamma=[0.9,1]", r"a list\. agent\.algorithm\.gamma is a float"),
        ("agent.actor.hidden_dims=64", r"a int\. agent\.actor\.hidden_dims is a list"),
        ("agent.algorithm.learning_rate=1e-3,1e-4", r"a tuple\. agent\.algorithm\.learning_rate is a float"),
        ("agent.algorithm.learning_rate=lin_1e-3", r"'lin_1e-3', a str\. agent\.algorithm\.learning_rate is a float"),
        ("env.sim.dt=1/120", r"'1/120', a str\. env\.sim\.dt is a float"),
        ("agent.obs_groups={actor:[policy]}", r'reads it as text: quote the names.*\{"a": 1\}'),
        ("agent.max_iterations=7", r"simyard sets it\. Set trainingConfig\.maxIterations"),
        ("env.scene.num_envs=7", r"simyard sets it\. Set trainingConfig\.numEnvs"),
        ("env.seed=7", r"simyard sets it\. Set trainingConfig\.seed"),
        ("agent.device=cpu", r"simyard sets it\. Set computeConfig\.gpusPerNode"),
        ("agent.experiment_name=/etc", r"simyard sets it\. Leave it out"),
        ("agent.logger=wandb", r"agent\.logger is 'wandb', which is not installed.*Install wandb there"),
        ("agent.run_name=../../elsewhere", r"simyard sets it\. Leave it out"),
        ("physics=bullet", r"Isaac Lab refuses override 'physics=bullet'"),
        ("presets=bullet", r"Unknown preset.*newton_mjwarp"),
        ("agent.save_interval", r"is not understood.*'agent\.<key>=<value>'"),
        ("+agent.more=1", r"is not understood"),
        ("~agent.save_interval", r"is not understood"),
        ("hydra.run.dir=elsewhere", r"is not understood"),
        ("agent.actor.hidden_dims=[64", r"'\[64', a str\. Isaac Lab reads it as text"),
    ],
)
def test_an_override_that_would_not_do_what_it_says(check: Callable[..., Facts], override: str, says: str):
    with pytest.raises(RequestError, match=re.compile(says, re.DOTALL)) as refused:
        check({**CONFIG, "overrides": [override]})
    assert refused.value.failure.code == "bad_override"


@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ({"physics": "kamino"}, "engine_too_slow", r"'kamino' is some 60 .*Use 'newton', 'physx', or a GPU"),
        ({"overrides": ["physics=newton_kamino"]}, "engine_too_slow", r"60 times slower than 'newton' on a CPU"),
        ({"overrides": ["physics=isaacsim_physx"]}, "engine_absent", r"needs isaacsim, which .*has 'newton', 'physx'"),
        (
            {"physics": "newton", "trainingConfig": {"task": "IsaacContrib-DrLegs-Walk"}}, "engine_not_of_task",
            r"'IsaacContrib-DrLegs-Walk' has no physics 'newton'\. It has 'physx', 'kamino'\.",
        ),
        (
            {"physics": "newton", "trainingConfig": {"task": "IsaacContrib-Velocity-Flat-AnymalC-Direct"}},
            "engine_not_of_task", r"It has one engine alone: leave physics out",
        ),
        (
            {"trainingConfig": {"task": "IsaacContrib-Velocity-Flat-AnymalC-Direct"}}, "engine_absent",
            r"needs Isaac Sim, which .* does not have, for .*PhysxCfg.*image with Kit",
        ),
    ],
)  # fmt: skip
def test_an_engine_that_the_task_or_the_machine_does_not_have(
    check: Callable[..., Facts], config: dict[str, Any], code: str, says: str
):
    training = CONFIG["trainingConfig"] | config.get("trainingConfig", {})
    with pytest.raises(RequestError, match=says) as refused:
        check({**CONFIG, **config, "trainingConfig": training})
    assert refused.value.failure.code == code


def test_an_engine_becomes_the_preset_of_the_task_and_is_recorded(check: Callable[..., Facts]):
    for config, preset, engine in (
        ({"physics": "newton"}, "newton_mjwarp", "newton"),
        ({"physics": "physx"}, "ovphysx", "physx"),
        ({"physics": "physx", "overrides": ["physics=ovphysx"]}, "ovphysx", "physx"),
    ):
        facts = check({**CONFIG, **config})
        named = [override for override in facts.overrides if override.startswith("physics=")]
        assert (named, facts.physics) == ([f"physics={preset}"], engine)
    assert {"ovphysx", "ovstage"} <= set(facts.versions)


def test_an_id_of_2_x_is_taken_and_told(check: Callable[..., Facts]):
    facts = check(CONFIG, task=f"{CARTPOLE}-v0")
    assert facts.notes == (f"task '{CARTPOLE}-v0' of Isaac Lab 2.x is '{CARTPOLE}' in 3.0",)
    assert facts.overrides == check(CONFIG).overrides


WITH_PRESETS = [old for old, new in TABLE.items() if " " in new and "Camera-Showcase" not in old]
"""Ids that become a task and a preset; the showcase of cameras needs Kit, whatever it is called."""


@pytest.mark.long  # thirty configurations, each resolved twice; tests/runner/test_renames.py has the ids themselves
@pytest.mark.parametrize("old", WITH_PRESETS)
def test_the_presets_of_an_id_of_2_x_are_those_of_its_task(check: Callable[..., Facts], old: str):
    try:
        facts = check(CONFIG, task=old, rlLibrary="skrl" if "Showcase" in old else "rsl_rl")
    except RequestError as refused:  # after the configuration was resolved
        assert refused.failure.code == "assets_missing", refused
    else:
        assert TABLE[old].partition(" ")[2] in facts.overrides


def test_each_agent_has_keys_of_its_own(check: Callable[..., Facts]):
    mirrored = {**CONFIG, "overrides": ["agent.algorithm.symmetry_cfg.use_mirror_loss=true"]}
    check(mirrored, task="Isaac-Cartpole", agent="with_symmetry")
    with pytest.raises(RequestError, match=r"Unknown override key 'agent\.algorithm\.symmetry_cfg\.use_mirror_loss'"):
        check(mirrored, task="Isaac-Cartpole")


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (
            {"algorithm": {"learning_rat": 1e-3}},
            "merge",
            r"'agent\.algorithm\.learning_rat'\. Did you mean '.*\.learning_r",
        ),
        (
            {"save_interval": 5, "num_steps_per_env": 8},
            "replace",
            r"lacks agent\.actor\.activation, agent\.actor\.distribution",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_agents_configuration(
    check: Callable[..., Facts], tmp_path: Path, content: dict[str, Any], mode: str, says: str
):
    file = tmp_path / "agent.json"
    file.write_text(json.dumps(content))
    with pytest.raises(RequestError, match=says) as refused:
        check(CONFIG, agentConfig=str(file), agentConfigMode=mode)
    assert refused.value.failure.code == "bad_agent_config"


def test_a_file_changes_the_agent_and_overrides_change_it_further(check: Callable[..., Facts], tmp_path: Path):
    file = tmp_path / "agent.yaml"
    file.write_text(
        "seed: 5\nnum_steps_per_env: 8\nalgorithm: {learning_rate: 1e-4}\n"
        "actor: {class_name: RNNModel, rnn_type: gru, rnn_hidden_dim: 8, rnn_num_layers: 1}\n"
    )
    overrides = ["agent.actor.rnn_hidden_dim=16", "agent.algorithm.learning_rate=0.0001"]
    facts = check({**CONFIG, "overrides": overrides}, agentConfig=str(file))
    assert (facts.rollout, facts.agent) == (8, "rsl_rl_cfg_entry_point+agentConfig")
    assert facts.notes == (
        "override 'agent.algorithm.learning_rate=0.0001' changes nothing: it is 0.0001 already",
        "agentConfig: agent.seed not used: simyard sets them",
    )
    assert check(CONFIG).rollout == 16  # the next job has the task's own


def test_a_class_of_ones_own_must_import(check: Callable[..., Facts]):
    with pytest.raises(
        RequestError, match=r"agent\.actor\.class_name is 'nowhere\.net:Actor', which does not import: M"
    ):
        check({**CONFIG, "overrides": ["agent.actor.class_name=nowhere.net:Actor"]})


def test_a_robot_of_ones_own_must_be_there(check: Callable[..., Facts], tmp_path: Path):
    robot = tmp_path / "robot.usd"
    config = {**CONFIG, "overrides": [f"env.scene.cartpole.spawn.usd_path={robot}"]}
    with pytest.raises(RequestError, match=r"no file '.*/robot\.usd'.*`simyard upload .* --to usd`") as refused:
        check(config)
    assert refused.value.failure.code == "missing_file"
    robot.touch()
    assert check(config).overrides[-1] == config["overrides"][0]


def test_the_default_physics_may_be_named(check: Callable[..., Facts]):
    facts = check({**CONFIG, "overrides": ["physics=newton_mjwarp"]})
    assert facts.overrides == ("agent.device=cpu", "physics=newton_mjwarp")


def test_each_override_is_checked_against_those_before_it(check: Callable[..., Facts]):
    facts = check({**CONFIG, "overrides": ["agent.save_interval=5", "agent.save_interval=50"]})
    assert facts.overrides[-2:] == ("agent.save_interval=5", "agent.save_interval=50")
    again = check({**CONFIG, "overrides": ["agent.save_interval=5", "agent.save_interval=5"]})
    assert again.notes == ("override 'agent.save_interval=5' changes nothing: it is 5 already",)


@pytest.mark.parametrize(
    ("library", "override", "note"),
    [
        ("rsl_rl", "agent.save_interval=50", "override 'agent.save_interval=50' changes nothing: it is 50 already"),
        ("rsl_rl", "agent.clip_actions=null", "override 'agent.clip_actions=null' changes nothing: it is None already"),
        (
            "rsl_rl",
            "agent.wandb_project=mine",
            "override 'agent.wandb_project' has no effect: agent.logger is 'tensorboard'",
        ),
        ("rsl_rl", 'agent.obs_groups={"actor":["policy"],"critic":["policy"]}', None),
        ("rsl_rl", 'env.scene.cartpole.init_state.joint_pos={"slider_to_cart":0.1}', None),
        ("sb3", "agent.learning_rate=lin_3e-4", None),
        ("sb3", "agent.clip_range=lin_0.2", None),
        ("sb3", 'agent.policy_kwargs.net_arch={"pi":[64,64],"vf":[64,64]}', None),
        ("skrl", 'agent.models.policy.network=[{"name":"net","input":"OBSERVATIONS","layers":[64]}]', None),
        ("rl_games", "agent.params.config.learning_rate=1e-4", None),  # YAML reads the default, 5e-4, as text
    ],
)
def test_an_override_that_isaac_lab_takes(check: Callable[..., Facts], library: str, override: str, note: str | None):
    facts = check({**CONFIG, "overrides": [override]}, rlLibrary=library)
    assert facts.overrides[-1] == override
    said = [text for text in facts.notes if text.startswith("override")]
    assert said == ([note] if note else [])


def test_rl_games_gets_a_minibatch_that_divides_its_batch(check: Callable[..., Facts]):
    key = "agent.params.config.minibatch_size"
    facts = check(CONFIG, rlLibrary="rl_games")
    assert f"{key}=512" in facts.overrides
    assert facts.notes == (
        "minibatch_size fitted from 16384 to 512: it must divide numEnvs x horizon_length = 16 x 32 = 512",
    )
    assert check({**CONFIG, "overrides": [f"{key}=128"]}, rlLibrary="rl_games").notes == ()
    with pytest.raises(RequestError, match=r"=300 does not fit.*16 x 32 = 512.*nearest size that does is 256"):
        check({**CONFIG, "overrides": [f"{key}=300"]}, rlLibrary="rl_games")


def test_skrl_logs_every_iteration_unless_told_otherwise(check: Callable[..., Facts]):
    key = "agent.agent.experiment.write_interval"
    assert f"{key}=32" in check(CONFIG, rlLibrary="skrl").overrides
    facts = check({**CONFIG, "overrides": [f"{key}=7"]}, rlLibrary="skrl")
    assert [override for override in facts.overrides if override.startswith(key)] == [f"{key}=7"]


@pytest.mark.parametrize(("library", "rollout"), [("rsl_rl", 16), ("skrl", 32), ("rl_games", 32), ("sb3", 16)])
def test_a_good_request_passes_and_the_simulator_says_what_it_will_do(
    check: Callable[..., Facts], library: str, rollout: int
):
    facts = check(CONFIG, rlLibrary=library)
    assert (facts.simulator, facts.version, facts.flavor) == ("isaaclab", "3.0.0", "api")
    assert (facts.device, facts.rollout) == ("cpu", rollout)
    assert facts.overrides[0] == "physics=newton_mjwarp"
    assert {"isaaclab", "newton", "torch"} <= set(facts.versions)


def test_the_demos_config_passes(check: Callable[..., Facts]):
    config = read_config(EXAMPLE, TrainRequest)
    assert train_request(config).training_config.task == CARTPOLE
    facts = check({**config, "computeConfig": {"gpusPerNode": 0}})
    assert (facts.overrides, facts.notes) == (("physics=newton_mjwarp", "agent.device=cpu"), ())


def test_the_command_refuses_with_exit_code_2_and_creates_nothing(yard: Yard):
    before = sorted(yard.store.rglob("*"))
    bad = ("--set", "agent.save_intervall=5")
    refused = yard.read(yard.command("train", yard.config, *bad, "--store", yard.store, "--json"))
    assert (refused.exit_code, refused.result["status"], refused.result["job_id"]) == (2, "failed", None)
    assert (refused.result["error"]["code"], refused.result["error"]["category"]) == ("bad_override", "user")
    assert "Bad request: Unknown override key 'agent.save_intervall'." in refused.log
    assert "Did you mean 'agent.save_interval'?" in refused.log
    assert "Traceback" not in refused.log
    assert sorted(yard.store.rglob("*")) == before
