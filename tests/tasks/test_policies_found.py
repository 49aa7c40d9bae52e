"""Which checkpoint a request means, and what it takes over from the job that trained it."""

import json
import shutil
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import train_request
from scenario import play

from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest, ExportRequest
from simyard.requests.rollout import RolloutRequest
from simyard.requests.settings import MachineSettings
from simyard.store import keys
from simyard.store.store import Store, sha256_file
from simyard.tasks.kinds.policy_sources import in_order_of, inherit, newest_training, order_of
from simyard.tasks.resolve import resolve
from simyard.tasks.shared import inputs
from simyard.tasks.stage import stage

EXAMPLE = Path(__file__).parents[2] / "examples" / "cartpole_heavy"
SOME_ID = "job-01k00000000000000000000000"
ITERATIONS = (1, 3, 5, 7, 9, 11, 12)
"""Of the checkpoints of a scenario of twelve iterations."""
BEST = 5
"""Its return rises until index 5 and is below 0 from then on; after iteration 5 it was 40."""


@pytest.fixture
def asset(tmp_path):
    """A folder with a config's folder in it."""
    (tmp_path / "asset" / "simulation").mkdir(parents=True)
    return tmp_path / "asset"


@pytest.fixture(scope="module")
def yard(tmp_path_factory, waiting):
    """A store of its own, and who plays into it."""
    folder = tmp_path_factory.mktemp("found")
    return play.Player(
        MachineSettings(home=folder / "home", store=str(folder / "a store"), python=str(play.PYTHON)), waiting
    )


@pytest.fixture(scope="module")
def trained(yard):
    """A training that was at its best in the middle."""
    left = yard.play("unlearn at 5", overrides=["agent.a=1", "agent.b=2"])
    assert left.result["status"] == "succeeded", left.error
    assert [entry["iteration"] for entry in left.checkpoints] == list(ITERATIONS)
    return left


@pytest.fixture
def find(yard, asset):
    """Resolve a request that lies in the asset, and return the frozen job."""

    def resolve_request(model=EvaluateRequest, base=asset / "simulation", top=None, **config):
        section = "exportConfig" if model is ExportRequest else "trainingConfig"
        if "fromJob" not in config:
            config = {"task": "Scenario", **config}
        request = check_config({section: config, **(top or {})}, model)
        return resolve(request, yard.store, keys.new_job_id(), base).spec

    return resolve_request


def put(path, content=None):
    """Write a file whose content says which one it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or str(path))
    return path


def policies(spec):
    return [(policy.checkpoint.name, policy.iteration) for policy in spec.policies]


def assert_is(spec, path):
    (policy,) = spec.policies
    assert policy.checkpoint.sha256 == sha256_file(path)
    assert policy.checkpoint.key == keys.asset(policy.checkpoint.sha256, path.name)
    assert policy.checkpoint.size_bytes == path.stat().st_size


# Files


def test_the_first_source_that_is_given_counts(find, asset, trained):
    by_path = put(asset / "simulation" / "one" / "model_9.pt")
    by_uri = put(asset / "elsewhere" / "model_8.pt")
    by_other_path = put(asset / "two" / "model_7.pt")
    beside = put(asset / "simulation" / "model_6.pt")
    given = {
        "checkpointPath": "one/model_9.pt",
        "policyS3Uri": by_uri.as_uri(),
        "policyPath": str(by_other_path),
        "fromJob": {"jobId": trained.result["job_id"]},
    }
    for field, path in zip(list(given)[:3], (by_path, by_uri, by_other_path), strict=True):
        assert_is(find(**given), path)
        assert find(**given).policies[0].trusted is False, "whoever trained it, this file is from outside"
        del given[field]
    assert policies(find(**given)) == [("model_11.pt", 12)]
    assert find(**given).policies[0].trusted is True
    assert_is(find(), beside)


@pytest.mark.parametrize(
    ("files", "given", "taken"),
    [
        (["model_vecnormalize.pkl"], {}, "one/model_vecnormalize.pkl"),
        (["model_vecnormalize.pkl"], {"normalizerPath": "../other.pkl"}, "../other.pkl"),
        (["a_vecnormalize.pkl", "b_vecnormalize.pkl"], {}, None),  # whose they are nobody knows
        ([], {}, None),
        (["model_vecnormalize.pkl"], {"rlLibrary": "rsl_rl"}, None),  # its checkpoints hold them
    ],
    ids=["beside it", "named", "two beside it", "none", "another library"],
)
def test_statistics_of_observations_beside_a_checkpoint_are_taken(find, asset, files, given, taken):
    folder = asset / "simulation" / "one"
    put(folder / "model.zip")
    put(asset / "other.pkl")
    for name in files:
        put(folder / name)
    (policy,) = find(**{"rlLibrary": "sb3", "checkpointPath": "one/model.zip", **given}).policies
    found = policy.normalizer and policy.normalizer.sha256
    assert found == (sha256_file(asset / "simulation" / taken) if taken else None)


def test_of_a_training_that_kept_its_last_statistics_alone_only_the_last_policy_is_played(find, yard, trained):
    """A sweep measures what can be measured, and says what not, before a simulator starts."""
    own_id = keys.new_job_id()
    job, result = keys.JobKeys(own_id), trained.store.get_json(keys.JobKeys(trained.result["job_id"]).result)
    source = keys.JobKeys(trained.result["job_id"])
    yard.store.put_json(job.job, yard.store.get_json(source.job) | {"job_id": own_id})
    for entry in yard.store.list(source.attempts):
        yard.store.copy(entry.key, entry.key.replace(trained.result["job_id"], own_id))
    statistics = {
        "name": "normalizer/model_vecnormalize.pkl",
        "kind": "normalizer",
        "size_bytes": 1,
        "sha256": "0" * 64,
    }
    yard.store.put_json(job.result, result | {"job_id": own_id, "artifacts": [*result["artifacts"], statistics]})
    for which in ("all", "latest", "every:2"):
        spec = find(fromJob={"jobId": own_id, "which": which})
        assert [(policy.iteration, policy.normalizer.name) for policy in spec.policies] == [
            (ITERATIONS[-1], "model_vecnormalize.pkl")
        ]
        said = "left out: iterations 1, 3, 5, 7, 9, 11, whose statistics of observations rsl_rl did not keep"
        assert spec.notes == (None if which == "latest" else (said,))
    with pytest.raises(RequestError, match=r"iteration 5 .*statistics were not kept.*take iteration 12") as refused:
        find(fromJob={"jobId": own_id, "which": "iteration", "iteration": 5})
    assert refused.value.failure.code == "normalizer_missing"


def test_nothing_is_written_while_a_policy_is_looked_for(find, asset, yard, trained):
    put(asset / "simulation" / "model_6.pt")
    before = [entry.key for entry in yard.store.list()]
    find()
    find(fromJob={"jobId": trained.result["job_id"], "which": "best"})
    assert [entry.key for entry in yard.store.list()] == before


def test_a_policy_in_a_bucket(find, asset, s3_server, monkeypatch):
    bucket = urllib.request.Request(f"{s3_server}/policies", method="PUT")
    urllib.request.urlopen(bucket).close()
    for name, value in (("ENDPOINT_URL", s3_server), ("ACCESS_KEY_ID", "robot"), ("SECRET_ACCESS_KEY", "key")):
        monkeypatch.setenv(f"AWS_{name}", value)
    path = put(asset / "model_30.pt")
    Store.open("s3://policies/runs").put_file("42/model_30.pt", path)
    spec = find(policyS3Uri="s3://policies/runs/42/model_30.pt")
    assert_is(spec, path)
    assert spec.policies[0].iteration == 31
    with pytest.raises(RequestError, match=r"policyS3Uri: there is nothing at 's3://policies/runs/42/model_31\.pt'"):
        find(policyS3Uri="s3://policies/runs/42/model_31.pt")


@pytest.mark.parametrize("field", ["checkpointPath", "policyPath"])
def test_a_path_starts_from_the_configs_folder_or_else_from_the_one_above(find, asset, field):
    above = put(asset / "runs" / "model_1.pt")
    assert_is(find(**{field: "runs/model_1.pt"}), above)
    beside = put(asset / "simulation" / "runs" / "model_1.pt")
    assert_is(find(**{field: "runs/model_1.pt"}), beside)
    assert_is(find(**{field: str(above)}), above)
    with pytest.raises(RequestError, match=rf"{field}: there is no file 'runs/model_2\.pt'.*has: model_1\.pt"):
        find(**{field: "runs/model_2.pt"})


@pytest.mark.parametrize(
    ("library", "names", "newest", "iteration"),
    [
        ("rsl_rl", ["model_999.pt", "model_1500.pt", "model_50.pt"], "model_1500.pt", 1501),
        ("skrl", ["checkpoints/agent_9600.pt", "checkpoints/agent_12800.pt", "best_agent.pt"], "agent_12800.pt", None),
        ("rl_games", ["nn/last_cartpole_ep_90_rew_4.pth", "nn/last_cartpole_ep_100_rew_3.pth", "nn/cartpole.pth"],
         "last_cartpole_ep_100_rew_3.pth", 100),
        ("sb3", ["model_99999_steps.zip", "model_100000_steps.zip"], "model_100000_steps.zip", None),
    ],
)  # fmt: skip
def test_numbers_in_names_are_numbers(find, asset, library, names, newest, iteration):
    for name in (*names, "exported/policy.pt", "exported/model_20000.pt", "unrelated.txt"):
        put(asset / "simulation" / name)
    assert policies(find(rlLibrary=library)) == [(newest, iteration)]


def test_what_was_exported_is_no_checkpoint(find, asset):
    put(asset / "simulation" / "exported" / "model_7.pt")
    for folder in (asset / "simulation", asset / "simulation" / "exported"):
        with pytest.raises(RequestError, match="No checkpoint of 'rsl_rl' beside the config") as refused:
            find(base=folder)
        assert refused.value.failure.code == "no_checkpoint"
        assert "checkpointPath, policyS3Uri, policyPath or fromJob" in refused.value.failure.advice


def test_the_checkpoints_of_another_library_are_not_found(find, asset):
    put(asset / "simulation" / "nn" / "last_cartpole_ep_100_rew_3.pth")
    with pytest.raises(RequestError, match="No checkpoint of 'sb3' beside the config"):
        find(rlLibrary="sb3")


# Of a job


@pytest.mark.parametrize(
    ("which", "iterations"),
    [
        ("latest", [12]),
        ("best", [BEST]),
        ("all", list(ITERATIONS)),
        ("every:1", list(ITERATIONS)),
        ("every:2", [1, 5, 9, 12]),
        ("every:3", [1, 7, 12]),
        ("every:100", [12]),
    ],
)
def test_which_of_a_jobs_checkpoints(find, trained, which, iterations):
    spec = find(fromJob={"jobId": trained.result["job_id"], "which": which})
    assert policies(spec) == [(f"model_{iteration - 1}.pt", iteration) for iteration in iterations]
    digests = {entry["iteration"]: entry["sha256"] for entry in trained.checkpoints}
    assert [policy.checkpoint.sha256 for policy in spec.policies] == [digests[iteration] for iteration in iterations]
    assert all(policy.trusted for policy in spec.policies)
    assert len({policy.label for policy in spec.policies}) == len(iterations)


@pytest.mark.parametrize("iteration", ITERATIONS)
def test_an_iteration_of_a_job(find, trained, iteration):
    wanted = {"jobId": trained.result["job_id"], "which": "iteration", "iteration": iteration}
    assert policies(find(fromJob=wanted)) == [(f"model_{iteration - 1}.pt", iteration)]
    assert policies(find(ExportRequest, fromJob=wanted)) == [(f"model_{iteration - 1}.pt", iteration)]


def test_the_best_is_told_by_what_was_logged(find, trained):
    rows = trained.metrics()
    returns = {int(row["step"]): float(row["Train/mean_reward"]) for row in rows}
    assert max(ITERATIONS, key=lambda iteration: returns[iteration - 1]) == BEST
    assert returns[BEST - 1] == 40.0


def test_of_several_attempts_the_later_ones_checkpoint_counts(find, yard):
    left = yard.play("kill at 8 once", retries=1)
    assert left.result["attempts"] == 2
    spec = find(fromJob={"jobId": left.result["job_id"], "which": "all"})
    assert [policy.iteration for policy in spec.policies] == list(ITERATIONS)
    kept = {entry["iteration"]: entry["sha256"] for entry in left.checkpoints}
    assert {policy.iteration: policy.checkpoint.sha256 for policy in spec.policies} == kept


def test_latest_is_the_newest_training_that_succeeded(find, trained, yard):
    yard.play("crash at 6", retries=0)
    for model in (EvaluateRequest, ExportRequest):
        spec = find(model, fromJob={"jobId": "latest"})
        assert spec.from_job == newest_training(yard.store).job_id
        assert spec.from_job >= trained.result["job_id"]
        assert [policy.iteration for policy in spec.policies] == [ITERATIONS[-1]]


def test_a_store_without_a_training_has_no_latest(tmp_path):
    request = check_config({"trainingConfig": {"fromJob": {"jobId": "latest"}}}, EvaluateRequest)
    with pytest.raises(RequestError, match="No training has succeeded in") as refused:
        resolve(request, Store.open(str(tmp_path / "empty")), keys.new_job_id(), tmp_path)
    assert refused.value.failure.code == "unknown_job"


def test_a_job_that_failed_has_what_it_saved(find, yard):
    left = yard.play("crash at 6", retries=0)
    assert left.result["status"] == "failed"
    job_id = left.result["job_id"]
    assert policies(find(fromJob={"jobId": job_id})) == [("model_4.pt", 5)]
    assert policies(find(fromJob={"jobId": job_id, "which": "best"})) == [("model_4.pt", 5)]


# What is taken over


def test_task_library_and_overrides_are_the_jobs(find, trained):
    spec = find(fromJob={"jobId": trained.result["job_id"]})
    assert (spec.task, spec.library, spec.from_job) == ("Scenario", "rsl_rl", trained.result["job_id"])
    assert spec.overrides == ("agent.a=1", "agent.b=2")
    assert spec.seed == 42, "a seed is the evaluation's own"
    assert spec.resume is None
    assert spec.request == {"trainingConfig": {"fromJob": {"jobId": trained.result["job_id"]}}}


def test_what_the_request_says_itself_counts_more(find, trained):
    source = {"jobId": trained.result["job_id"]}
    spec = find(fromJob=source, task="Scenario-Play", seed=7, top={"overrides": ["agent.b=3", "env.c=4"]})
    assert (spec.task, spec.seed) == ("Scenario-Play", 7)
    assert spec.overrides == ("agent.a=1", "agent.b=3", "env.c=4")


@pytest.mark.parametrize(
    ("trained_with", "asked", "engine", "overrides", "order"),
    [
        ({"physics": "physx"}, {}, "physx", [], None),
        ({"overrides": ["physics=ovphysx"]}, {}, None, ["physics=ovphysx"], None),
        ({"physics": "physx"}, {"physics": "newton"}, "newton", [], "physx"),
        ({"overrides": ["physics=ovphysx"]}, {"physics": "newton"}, "newton", [], "physx"),
        ({"physics": "physx"}, {"overrides": ["physics=newton_mjwarp"]}, None, ["physics=newton_mjwarp"], "physx"),
        ({}, {}, None, [], None),
    ],
)
def test_the_engine_is_the_jobs_unless_the_request_names_one_in_either_way(
    yard, trained_with, asked, engine, overrides, order
):
    def resolved(**config):
        config = {**config, "trainingConfig": {"task": "Isaac-Cartpole-Direct"}}
        return resolve(train_request(config), yard.store, keys.new_job_id()).spec

    trained_by = resolved(**trained_with)
    spec = in_order_of(inherit(resolved(**asked), trained_by, None), order_of(trained_by, yard.store))
    assert spec.order == order, "a policy moves the joints that it was trained on, whatever order the engine has"
    again = replace(spec, job_id=keys.new_job_id())
    assert in_order_of(inherit(resolved(**asked), again, None), order_of(again, yard.store)).order == order
    assert (spec.physics, [*spec.overrides]) == (engine, overrides)
    assert ("physics" in spec.to_json()) == (engine is not None), "a job that names no engine is as it always was"


ASSUMED = "trainedUnder was not given: the joints and bodies of model_1.pt are taken"


@pytest.mark.parametrize(
    ("said", "order", "notes"),
    [("physx", "physx", None), ("newton", None, None), (None, None, ASSUMED)],
)
def test_a_file_keeps_the_order_of_the_engine_that_it_is_said_to_come_from(find, yard, asset, said, order, notes):
    file = put(asset / "model_1.pt")
    under = {"trainedUnder": said} if said else {}

    def assert_ordered(spec, found):
        assert found == order, "it moves the joints that it was trained on"
        assert (spec.notes is None) if notes is None else spec.notes[0].startswith(notes), "what nobody said is said"

    def trained(**more):
        config = {"physics": "newton", "trainingConfig": {"task": "Scenario"}, **more}
        return resolve(train_request(config), yard.store, keys.new_job_id(), asset).spec

    for model in (EvaluateRequest, ExportRequest):
        spec = find(model, checkpointPath="model_1.pt", top={"physics": "newton"}, **under)
        assert_ordered(spec, spec.order)
    spec = trained(resume={"checkpoint": "model_1.pt", **under})
    assert_ordered(spec, spec.order)
    start = {"checkpoint": "model_1.pt", **under}
    spec = trained(stages=[{"name": "a", "start": start, "maxIterations": 1}])
    assert_ordered(spec, spec.stages[0].order if said != "newton" else None)

    # A file, or an upload that says it itself.
    about = {"trained_under": said} if said else {}
    asset_id = inputs.upload(yard.store, file, "checkpoint", about).asset_id
    for policy in ({"uri": str(file), **under}, {"asset_id": asset_id}):
        spec = rolled(yard, policy)
        assert_ordered(spec, spec.order)
    if said:  # the request counts more
        other = "newton" if said == "physx" else "physx"
        assert rolled(yard, {"asset_id": asset_id, "trained_under": other}).order == {"physx": "physx"}.get(other)


def rolled(yard, policy):
    """The frozen rollout of a policy under Newton."""
    config = {
        "runtime_profile": "isaac_lab_rollout", "execution": {"steps": 1}, "control": {"task_mode": "policy"},
        "isaac_lab": {"task_class_or_name": "Isaac-Ant-Direct", "physics": "newton"}, "policy": policy,
    }  # fmt: skip
    return resolve(check_config(config, RolloutRequest), yard.store, keys.new_job_id()).spec


@pytest.mark.parametrize(
    ("trained_with", "order"),
    [({"physics": "physx"}, "physx"), ({"physics": "newton", "order": "physx"}, "physx"), ({}, None)],
)
def test_the_order_of_what_another_job_trained_goes_with_it(yard, trained, trained_with, order):
    earlier = trained.folder.parent / keys.new_job_id()
    shutil.copytree(trained.folder, earlier)
    spec = json.loads((earlier / "job.json").read_text())
    (earlier / "job.json").write_text(json.dumps(spec | {"job_id": earlier.name} | trained_with))

    def resolved(**more):
        config = {"physics": "newton", "trainingConfig": {"task": "Scenario"}, **more}
        return resolve(train_request(config), yard.store, keys.new_job_id()).spec

    first, second = resolved(stages=[
        {"name": "a", "maxIterations": 1}, {"name": "b", "start": {"job": earlier.name}, "maxIterations": 1}
    ]).stages  # fmt: skip
    assert (first.order, second.order) == (None, order)
    assert resolved(resume={"fromJob": earlier.name}).order == order
    assert not [note for note in resolved(resume={"fromJob": earlier.name}).notes or () if "trainedUnder" in note]


def test_an_engine_is_said_of_files_alone_and_is_one_of_those_there_are(find, yard, asset, trained):
    put(asset / "model_1.pt")
    of_job, file = {"fromJob": {"jobId": trained.result["job_id"]}}, {"checkpointPath": "model_1.pt"}
    assert find(**of_job, **file, trainedUnder="physx", top={"physics": "newton"}).order == "physx"
    for model in (EvaluateRequest, ExportRequest):
        with pytest.raises(RequestError, match="trainedUnder is of a checkpoint file"):
            find(model, **of_job, trainedUnder="physx")
        with pytest.raises(RequestError, match=r"trainedUnder: .*'newton', 'physx' or 'kamino', not 'bullet'"):
            find(model, **file, trainedUnder="bullet")
    for more in (
        {"resume": {"fromJob": SOME_ID, "trainedUnder": "physx"}},
        {"stages": [{"name": "a", "start": {"job": SOME_ID, "trainedUnder": "physx"}, "maxIterations": 1}]},
    ):
        with pytest.raises(RequestError, match="trainedUnder is of a checkpoint file"):
            train_request({"trainingConfig": {"task": "Scenario"}, **more})
    with pytest.raises(RequestError, match="trainedUnder is of a checkpoint file"):
        rolled(yard, {"from_job": {"job_id": SOME_ID}, "trained_under": "physx"})


SMALL, TINY = "rsl_rl_small_cfg_entry_point", "rsl_rl_tiny_cfg_entry_point"


@pytest.mark.parametrize(
    ("trained_with", "asked", "agent", "file"),
    [
        ({"agent": "small"}, {}, SMALL, None),
        ({"agent": "small"}, {"agent": TINY}, TINY, None),
        ({"agent": "small", "agentConfig": "a.json"}, {}, SMALL, "a.json"),
        ({"agent": "small", "agentConfig": "a.json"}, {"agent": "tiny"}, TINY, None),
        ({"agentConfig": "a.json"}, {"agentConfig": "b.json"}, None, "b.json"),
    ],
)
def test_the_agent_and_its_file_are_the_jobs_unless_the_request_names_another(
    yard, tmp_path, trained_with, asked, agent, file
):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text('{"save_interval": 5}')

    def resolved(config):
        config = {"trainingConfig": {"task": "Isaac-Cartpole-Direct", **config}}
        return resolve(train_request(config), yard.store, keys.new_job_id(), tmp_path).spec

    spec = inherit(resolved(asked), resolved(trained_with), None)
    assert (spec.agent, spec.agent_config and spec.agent_config.file.name) == (agent, file)
    bare = resolved({}).to_json()
    assert not {"agent", "agent_config"} & set(bare), "a job that names no agent is as it always was"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"physics": "bullet"}, r"physics: .*'newton', 'physx' or 'kamino', not 'bullet'"),
        (
            {"physics": "physx", "overrides": ["physics=newton_mjwarp"]},
            r"physics is 'physx', and override 'physics=newton_mjwarp' brings 'newton'.*name a preset of 'physx'",
        ),
        ({"physics": "newton", "trainingConfig": {"physics": "physx"}}, "stands at the top and in trainingConfig"),
    ],
)
def test_one_engine_is_named_and_it_is_one_of_those_there_are(yard, config, says):
    config = {**config, "trainingConfig": {"task": "Scenario", **config.get("trainingConfig", {})}}
    with pytest.raises(RequestError, match=says):
        resolve(train_request(config), yard.store, keys.new_job_id())


ON_FOUR = {"gpusPerNode": 4, "priority": "low", "acceptNvidiaEula": True}


@pytest.mark.parametrize(
    ("trained_on", "given", "played_on"),
    [
        pytest.param(ON_FOUR, {}, (1, "low", True, True), id="one of its GPUs"),
        pytest.param({"numNodes": 2}, {}, (1, "normal", False, True), id="one of its machines"),
        pytest.param({"gpusPerNode": 0, "session": "off"}, {}, (0, "normal", False, False), id="the CPU, and alone"),
        pytest.param({}, {}, (None, "normal", False, True), id="what there is"),
        pytest.param(
            {**ON_FOUR, "session": "off"},
            {"gpusPerNode": None, "priority": "high", "acceptNvidiaEula": False, "session": "auto"},
            (None, "high", False, True),
            id="what the request says itself",
        ),
    ],
)
def test_the_machine_is_the_jobs(find, yard, asset, trained_on, given, played_on):
    """Its session is warm for the very task."""
    training = resolve(train_request(play.config("", computeConfig=trained_on)), yard.store, keys.new_job_id())
    stage(training, yard.store)
    put(asset / "model_1.pt")
    for model in (EvaluateRequest, ExportRequest):
        source = {"fromJob": {"jobId": training.spec.job_id}, "checkpointPath": "model_1.pt"}
        spec = find(model, **source, top={"computeConfig": given} if given else {})
        assert (spec.gpus, spec.priority, spec.accepts_eula, spec.session) == played_on
        assert spec.ranks == 1


def test_packages_and_their_callback_are_the_jobs(find, yard, asset):
    package = asset / "heavy.zip"
    with zipfile.ZipFile(package, "w") as archive:
        for path in EXAMPLE.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(EXAMPLE.parent))
    config = play.config("", customEnvironmentPath=str(package), customEnvironmentCallback="heavy:register")
    resolved = resolve(train_request(config), yard.store, keys.new_job_id())
    stage(resolved, yard.store)
    put(asset / "model_1.pt")
    source = {"jobId": resolved.spec.job_id}
    for model in (EvaluateRequest, ExportRequest):
        spec = find(model, fromJob=source, checkpointPath="model_1.pt")
        assert spec.packages == resolved.spec.packages
        assert spec.import_callback == "heavy:register"
    other = asset / "other.zip"
    other.write_bytes(package.read_bytes())
    own = {"customEnvironmentPath": str(other), "customEnvironmentCallback": "other"}
    spec = find(fromJob=source, checkpointPath="model_1.pt", top=own)
    assert [file.name for file in spec.packages] == ["other.zip"]
    assert spec.import_callback == "other"


@pytest.mark.parametrize(
    ("model", "asked", "episodes", "started"),
    [
        (EvaluateRequest, None, 7, 7), (EvaluateRequest, None, 1000, 100), (EvaluateRequest, 4096, 1000, 4096),
        (EvaluateRequest, 3, 7, 3), (ExportRequest, None, 5, 5), (ExportRequest, None, 500, 64),
        (ExportRequest, 9, 5, 9),
    ],
)  # fmt: skip
def test_as_many_environments_as_were_asked_for_and_else_none_without_an_episode(
    find, asset, model, asked, episodes, started
):
    put(asset / "model_1.pt")
    spec = find(model, checkpointPath="model_1.pt", numEnvs=asked, numEpisodes=episodes)
    assert (spec.num_envs, (spec.evaluation or spec.export).num_episodes) == (started, episodes)


@pytest.mark.parametrize(
    ("asked", "films", "required"),
    [
        ({}, ("first", "best", "worst"), False),
        ({"recordVideo": None}, ("first", "best", "worst"), False),
        ({"recordVideo": False}, (), False),
        ({"videoEpisodes": ["first"]}, ("first",), False),
        ({"recordVideo": False, "videoEpisodes": ["first"]}, (), False),
        ({"recordVideo": False, "requireVideo": True}, ("first", "best", "worst"), True),
        ({"recordVideo": True}, ("first", "best", "worst"), False),
        ({"requireVideo": True}, ("first", "best", "worst"), True),
        ({"recordVideo": True, "videoEpisodes": [3, "best"]}, ("3", "best"), False),
    ],
)
def test_films_are_made_unless_the_config_says_no(find, asset, asked, films, required):
    put(asset / "model_1.pt")
    evaluation = find(checkpointPath="model_1.pt", **asked).evaluation
    assert (evaluation.videos, evaluation.require_video) == (films, required)


# What is refused


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ({"jobId": SOME_ID}, "unknown_job", f"There is no job '{SOME_ID}'"),
        ({"jobId": "../../etc"}, None, "'../../etc' is not a job id"),
        ({"which": "iteration", "iteration": 4}, "no_checkpoint", r"no checkpoint of iteration 4\. .*1, 3, 5, 7, 9"),
        ({"which": "iteration", "iteration": 0}, "no_checkpoint", "no checkpoint of iteration 0"),
    ],
)
def test_a_checkpoint_that_is_not_there(find, trained, source, code, says):
    for model in (EvaluateRequest, ExportRequest):
        with pytest.raises(RequestError, match=says) as refused:
            find(model, fromJob={"jobId": trained.result["job_id"], **source})
        assert code in (None, refused.value.failure.code)


def test_a_job_that_is_no_training(find, yard, asset):
    put(asset / "simulation" / "model_6.pt")
    request = check_config({"trainingConfig": {"task": "Scenario"}}, EvaluateRequest)
    evaluation = resolve(request, yard.store, keys.new_job_id(), asset / "simulation")
    stage(evaluation, yard.store)
    with pytest.raises(RequestError, match="is a job of kind 'evaluate'") as refused:
        find(fromJob={"jobId": evaluation.spec.job_id})
    assert refused.value.failure.code == "not_a_training"


def test_a_job_that_has_saved_nothing(find, yard):
    never_begun, without = yard.stage(""), yard.play("save-nothing", iterations=2, retries=0)
    for job_id in (never_begun.job_id, without.result["job_id"]):
        with pytest.raises(RequestError, match="has no valid checkpoint") as refused:
            find(fromJob={"jobId": job_id, "which": "all"})
        assert refused.value.failure.code == "no_checkpoint"


@pytest.mark.parametrize("more", [{}, {"checkpointPath": "model_1.pt"}])
def test_another_library_than_the_jobs(find, trained, asset, more):
    put(asset / "model_1.pt")
    with pytest.raises(RequestError, match=r"trained with 'rsl_rl', and rlLibrary is 'skrl'") as refused:
        find(fromJob={"jobId": trained.result["job_id"]}, rlLibrary="skrl", **more)
    assert refused.value.failure.code == "wrong_library"


def test_a_training_that_logged_no_return_has_no_best(find, yard, trained):
    """What it left may be no table at all: a workload wrote it."""
    left = yard.play("", iterations=2)
    for table in (
        "step,wall_time,Loss/value\n0,1.0,1.0\n1,2.0,0.5\n",
        "step,wall_time,Train/mean_reward\nx,1.0,1\n0,1.0,high\n0,1.0,nan\n0\n",
        'step,wall_time,"Train/mean_reward\n0,1.0,1\n',
        f"step,wall_time,Train/mean_reward\n0,1.0,{'1' * 200_000}\n",
        "\x00\udcff",
    ):
        for path in left.folder.rglob("metrics.csv"):
            path.write_text(table, errors="surrogateescape")
        with pytest.raises(RequestError, match="has logged no mean return to find the best checkpoint by") as refused:
            find(fromJob={"jobId": left.result["job_id"], "which": "best"})
        assert refused.value.failure.code == "no_metrics"
