"""What `evaluate` and `export-policy` refuse before a simulator is started: what is said, and nothing is left.

What a checkpoint holds is looked at in the simulator's Python: see tests/sim/test_evaluation.py.
"""

import json
import resource
import subprocess
import sys

import pytest

from simyard.cli.shared import JSON_KEYS
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest, ExportRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

SOME_ID = "job-01k00000000000000000000000"
TASK = "Isaac-Cartpole-Direct"
SECTIONS = {"evaluate": "trainingConfig", "export-policy": "exportConfig"}
BOTH = pytest.mark.parametrize("command", list(SECTIONS))
JOINT = {"slider_to_cart": {"maxEffort": 5}}
ANSWER = {"safety-monitor": {"ok": True, "by": "Ada"}}


@pytest.fixture
def good(tmp_path):
    """A config of each command that nothing here refuses."""
    (tmp_path / "model_1.pt").write_text("not looked into here")

    def config(command, **changes):
        section = {"task": TASK, "checkpointPath": "model_1.pt", **changes}
        return {SECTIONS[command]: {name: value for name, value in section.items() if value != "LEFT OUT"}}

    return config


# Fields of both

SHARED = [
    ("no task", {"task": "LEFT OUT"}, ["task is missing", "fromJob"]),
    ("task is a path", {"task": "../../etc"}, ["task", "'../../etc'"]),
    ("library is unknown", {"rlLibrary": "rslrl"}, ["'rslrl'", "Did you mean 'rsl_rl'?"]),
    ("library is a number", {"rlLibrary": 3}, ["rlLibrary", "not 3"]),
    ("numEnvs is zero", {"numEnvs": 0}, ["numEnvs", "greater than or equal to 1, not 0"]),
    ("numEnvs is text", {"numEnvs": "64"}, ["numEnvs", "not '64'"]),
    ("numEpisodes is zero", {"numEpisodes": 0}, ["numEpisodes", "not 0"]),
    ("numEpisodes is a fraction", {"numEpisodes": 2.5}, ["numEpisodes", "not 2.5"]),
    ("seed is negative", {"seed": -1}, ["seed", "not -1"]),
    ("a field of training", {"maxIterations": 5}, ["Unknown key 'maxIterations'", "Allowed:"]),
    ("a slip", {"numEpisods": 5}, ["'numEpisods'", "Did you mean 'numEpisodes'?"]),
    ("checkpoint is not there", {"checkpointPath": "model_2.pt"}, ["checkpointPath", "'model_2.pt'", "model_1.pt"]),
    ("checkpoint is a folder", {"checkpointPath": "."}, ["checkpointPath: there is no file '.'"]),
    ("checkpoint is nothing", {"checkpointPath": ""}, ["checkpointPath", "''"]),
    ("checkpoint is a number", {"checkpointPath": 5}, ["checkpointPath", "not 5"]),
    ("checkpoint has a zero byte", {"checkpointPath": "a\x00b"}, ["checkpointPath", r"'a\x00b'"]),
    ("checkpoint has a long name", {"checkpointPath": "a" * 300}, ["checkpointPath", "there is no file"]),
    ("policy is far", {"checkpointPath": "LEFT OUT", "policyS3Uri": "ftp://host/a.pt"}, ["'ftp://host'", "'s3://BUCK"]),
    ("policy is nowhere", {"checkpointPath": "LEFT OUT", "policyS3Uri": "s3://"}, ["is not the address of a store"]),
    ("policy with a password", {"checkpointPath": "LEFT OUT", "policyS3Uri": "s3://me:secret@b/a.pt"}, ["credentials"]),
    ("policy path not there", {"checkpointPath": "LEFT OUT", "policyPath": "/no/a.pt"}, ["policyPath", "'/no/a.pt'"]),
    ("nothing beside the config", {"checkpointPath": "LEFT OUT", "rlLibrary": "sb3"}, ["No checkpoint of 'sb3'"]),
    ("a job that is not there", {"fromJob": {"jobId": SOME_ID}}, ["There is no job", repr(SOME_ID), "jobs list"]),
    ("a job that is a path", {"fromJob": {"jobId": "../../etc"}}, ["'../../etc' is not a job id"]),
    ("a job that is a number", {"fromJob": {"jobId": 5}}, ["fromJob.jobId", "not 5"]),
    ("a job without an id", {"fromJob": {"which": "best"}}, ["fromJob.jobId is missing"]),
    ("a job in text", {"fromJob": SOME_ID}, ["fromJob", repr(SOME_ID)]),
    ("a job and a slip", {"fromJob": {"jobId": SOME_ID, "iter": 3}}, ["'iter'", "Did you mean 'iteration'?"]),
    ("which is unknown", {"fromJob": {"jobId": SOME_ID, "which": "newest"}}, ["which", "not 'newest'", "latest|best"]),
    ("every none", {"fromJob": {"jobId": SOME_ID, "which": "every:0"}}, ["which", "'every:0'"]),
    ("every endless", {"fromJob": {"jobId": SOME_ID, "which": "every:99999999"}}, ["which", "'every:99999999'"]),
    ("which without its number", {"fromJob": {"jobId": SOME_ID, "which": "iteration"}}, ["go together"]),
    ("a number without which", {"fromJob": {"jobId": SOME_ID, "iteration": 3}}, ["go together"]),
    ("iteration is negative", {"fromJob": {"jobId": SOME_ID, "which": "iteration", "iteration": -1}}, ["not -1"]),
]


@BOTH
@pytest.mark.parametrize(("changes", "said"), [pytest.param(*row[1:], id=row[0]) for row in SHARED])
def test_a_field_that_is_wrong(refuse, write, good, command, changes, said):
    result = refuse(command, write(good(command, **changes)), said=said)
    assert "secret" not in result.output


@BOTH
@pytest.mark.parametrize(
    ("compute", "gpus"),
    [({"gpusPerNode": 2}, 2), ({"numNodes": 2, "gpusPerNode": 4}, 8), ({"numNodes": 3}, 3)],
    ids=["GPUs", "GPUs of machines", "machines"],
)
def test_only_a_training_takes_several_gpus(refuse, write, good, command, compute, gpus):
    kind = {"evaluate": "evaluate", "export-policy": "export"}[command]
    said = [f"asks for {gpus} GPUs, and a job of kind {kind!r} runs on one", "gpusPerNode and numNodes to 1"]
    refuse(command, write({**good(command), "computeConfig": compute}), said=said)


# Fields of one


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"mode": "train"}, ["mode", "'evaluate'", "not 'train'"], id="mode is train"),
        pytest.param({"stepsPerEpisode": 0}, ["stepsPerEpisode", "not 0"], id="no steps"),
        pytest.param({"stepsPerEpisode": True}, ["stepsPerEpisode", "not True"], id="steps are true"),
        pytest.param({"recordVideo": "yes"}, ["recordVideo", "valid boolean, not 'yes'"], id="video is text"),
        pytest.param({"recordVideo": 1}, ["recordVideo", "not 1"], id="video is a number"),
        pytest.param({"requireVideo": None}, ["requireVideo", "not None"], id="requireVideo is null"),
        pytest.param({"videoEpisodes": []}, ["videoEpisodes", "at least 1"], id="no films"),
        pytest.param({"videoEpisodes": "first"}, ["videoEpisodes", "not 'first'"], id="films are text"),
        pytest.param({"videoEpisodes": ["last"]}, ["videoEpisodes", "'first', 'best' or 'worst'"], id="another film"),
        pytest.param({"videoEpisodes": [0]}, ["videoEpisodes", "greater than or equal to 1"], id="film 0"),
        pytest.param({"videoEpisodes": [True]}, ["videoEpisodes", "not True"], id="film true"),
        pytest.param({"videoEpisodes": ["first"] * 21}, ["videoEpisodes", "at most 20"], id="21 films"),
        pytest.param(
            {"recordVideo": True, "videoEpisodes": ["best", 51]}, ["videoEpisodes", "51", "50"], id="a film of none"
        ),
        pytest.param({"successTermination": "a b"}, ["successTermination", "'a b'"], id="a space"),
        pytest.param({"successTermination": ""}, ["successTermination", "''"], id="no termination"),
        pytest.param({"actionLimits": JOINT}, ["Unknown key 'actionLimits'"], id="limits are for an export"),
    ],
)
def test_a_field_of_an_evaluation_that_is_wrong(refuse, write, good, changes, said):
    refuse("evaluate", write(good("evaluate", **changes)), said=said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"numEpisodes": 1}, ["numEpisodes", "greater than or equal to 2"], id="one episode"),
        pytest.param({"recordVideo": True}, ["Unknown key 'recordVideo'"], id="video is for an evaluation"),
        pytest.param({"otherPhysics": "a b"}, ["otherPhysics", "'a b'"], id="a space"),
        pytest.param({"actionLimits": [1]}, ["actionLimits", "not [1]"], id="limits are a list"),
        pytest.param({"actionLimits": {"a b": {}}}, ["actionLimits", "'a b'"], id="a joint with a space"),
        pytest.param({"actionLimits": {"a": {"max": 1}}}, ["'max'", "'maxVelocity'"], id="an unknown limit"),
        pytest.param({"actionLimits": {"a": {"maxVelocity": 0}}}, ["maxVelocity", "not 0"], id="no velocity"),
        pytest.param({"actionLimits": {"a": {"maxEffort": -3}}}, ["maxEffort", "not -3"], id="effort below 0"),
        pytest.param({"actionLimits": {"a": {"position": [1]}}}, ["position"], id="half a position"),
        pytest.param({"actionLimits": {"a": {"position": [2, 1]}}}, ["position", "2", "1"], id="position turned"),
        pytest.param({"actionLimits": {"a": {}}}, ["actionLimits"], id="a joint without a limit"),
        pytest.param({"checklistAnswers": {"safety-monitor": True}}, ["checklistAnswers"], id="an answer is true"),
        pytest.param({"checklistAnswers": {"safety-monitor": {"ok": True}}}, ["by is missing"], id="nobody answers"),
        pytest.param(
            {"checklistAnswers": {"safety-monitor": {"ok": "yes", "by": "Ada"}}}, ["ok", "not 'yes'"], id="ok is text"
        ),
        pytest.param(
            {"checklistAnswers": {"safety-monitr": {"ok": True, "by": "Ada"}}},
            ["'safety-monitr'", "Did you mean 'safety-monitor'?"],
            id="an answer to nothing",
        ),
    ],
)
def test_a_field_of_an_export_that_is_wrong(refuse, write, good, changes, said):
    refuse("export-policy", write(good("export-policy", **changes)), said=said)


@pytest.mark.parametrize("which", ["all", "every:2"])
def test_an_export_is_of_one_policy(refuse, write, good, which):
    config = good("export-policy", fromJob={"jobId": SOME_ID, "which": which})
    refuse("export-policy", write(config), said=[repr(which), "export one: latest, best or iteration"])


@BOTH
def test_a_section_that_is_missing(refuse, write, command):
    refuse(command, write({"name": "a"}), said=[f"{SECTIONS[command]} is missing"])


def test_the_section_of_another_command(refuse, write, good):
    refuse("evaluate", write(good("export-policy")), said=["trainingConfig is missing", "'exportConfig'"])
    refuse("export-policy", write(good("evaluate")), said=["exportConfig is missing", "'trainingConfig'"])


@BOTH
def test_every_problem_is_named_at_once(refuse, write, good, command):
    config = {**good(command, numEnvs=0, seed="a"), "retrys": 1, "timeouts": {"wallSeconds": 0}}
    refuse(command, write(config), said=["numEnvs", "seed", "'retrys'", "wallSeconds"])


def test_training_says_where_an_evaluation_goes(refuse, write, good):
    refuse("train", write(good("evaluate", checkpointPath="LEFT OUT", mode="evaluate")), said=["mode", "'evaluate'"])
    config = {"trainingConfig": {"task": TASK, "exportPolicy": "yes"}}
    refuse("train", write(config), said=["exportPolicy", "valid boolean, not 'yes'"])


# The command


@BOTH
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], ["Missing CONFIG", "--job ID"], id="nothing"),
        pytest.param(["--set", "numEnvs=4"], ["Missing CONFIG"], id="settings alone"),
        pytest.param(["--which", "best"], ["--which needs --job", "`latest`"], id="which of nothing"),
        pytest.param(["CONFIG", "--which", "best"], ["--which needs --job"], id="which of a config"),
        pytest.param(["--job", "latest"], ["No training has succeeded in", "Train first"], id="latest of none"),
        pytest.param(["--job", SOME_ID], ["There is no job", repr(SOME_ID)], id="job unknown"),
        pytest.param(["--job", "../../etc"], ["'../../etc' is not a job id"], id="job hostile"),
        pytest.param(["--job", ""], ["'' is not a job id"], id="job empty"),
        pytest.param(["--job", '", "which": "all'], ["is not a job id"], id="job is JSON"),
        pytest.param(["--job", SOME_ID, "--which", "newest"], ["which", "not 'newest'"], id="which unknown"),
        pytest.param(["--job", SOME_ID, "--which", ""], ["which", "not ''"], id="which nothing"),
        pytest.param(["--job", SOME_ID, "--which", "iteration"], ["go together"], id="no iteration"),
        *(
            pytest.param(
                ["--job", SOME_ID, "--which", f"iteration:{text}"],
                ["which", f"not 'iteration:{text[:9]}"],
                id=f"iteration is {name}",
            )
            for name, text in (
                ("nothing", ""),
                ("below 0", "-1"),
                ("a fraction", "1.5"),
                ("text", "last"),
                ("a brace", "{"),
                ("endless", "9" * 5000),
            )
        ),
        pytest.param(["--job", SOME_ID, "--from-job", SOME_ID], ["No such option", "--from-job"], id="unknown option"),
        pytest.param(["CONFIG", "CONFIG"], ["Unexpected argument"], id="two configs"),
        pytest.param(["CONFIG", "--set", "numEpisodes=many"], ["numEpisodes", "not 'many'"], id="set text"),
        pytest.param(["CONFIG", "--set", "numEpisode=5"], ["'numEpisode'", "Allowed:"], id="set unknown"),
        pytest.param(["CONFIG", "--set", "fromJob=latest"], ["fromJob", "not 'latest'"], id="set a job in text"),
        pytest.param(["CONFIG", "--set", "checkpointPath.a=b"], ["'checkpointPath' is no object"], id="set inside"),
        pytest.param(["CONFIG", "--store", "ftp://host/a"], ["'ftp://host/a'", "'s3://BUCK"], id="store scheme"),
    ],
)
def test_a_command_that_is_wrong(refuse, write, good, command, arguments, said):
    config = write(good(command))
    refuse(command, *(config if argument == "CONFIG" else argument for argument in arguments), said=said)


@BOTH
def test_settings_reach_a_section_in_snake_case(refuse, write, good, command):
    """Every name may be written so; what is refused here is the setting, and not the section."""
    (section,) = good(command).values()
    snake = {"evaluate": "training_config", "export-policy": "export_config"}[command]
    result = refuse(command, write({snake: section}), "--set", "numEnvs=0", said=["numEnvs", "not 0"])
    assert "Unknown key" not in result.stderr


# What needs a job in the store


def staged(store, model, config, base):
    resolved = resolve(check_config(config, model), store, keys.new_job_id(), base)
    stage(resolved, store)
    return resolved.spec.job_id


@BOTH
def test_a_job_that_is_no_training(refuse, good, store, tmp_path, command):
    opened = Store.open(str(store))
    model = {"evaluate": EvaluateRequest, "export-policy": ExportRequest}[command]
    job_id = staged(opened, model, good(command), tmp_path)
    kind = {"evaluate": "evaluate", "export-policy": "export"}[command]
    refuse("evaluate", "--job", job_id, said=[repr(job_id), f"is a job of kind {kind!r}", "Name a training job"])
    refuse("export-policy", "--job", job_id, said=[f"is a job of kind {kind!r}"])
    refuse("evaluate", "--job", "latest", said=["No training has succeeded"])


@BOTH
def test_a_checkpoint_whose_name_cannot_be_kept(refuse, write, good, tmp_path, command):
    (tmp_path / "model 1.pt").write_text("")
    config = good(command, checkpointPath="model 1.pt")
    refuse(command, write(config), said=["checkpointPath", "'model 1.pt'", "letters, digits and . _ + -"])


@BOTH
def test_the_good_config_is_good(good, store, tmp_path, command):
    """What the rows change is accepted as it is, with everything else that may be said."""
    more = {"actionLimits": JOINT, "checklistAnswers": ANSWER} if command == "export-policy" else {"numEpisodes": 7}
    model = {"evaluate": EvaluateRequest, "export-policy": ExportRequest}[command]
    spec = resolve(check_config(good(command, **more), model), Store.open(str(store)), SOME_ID, tmp_path).spec
    assert [policy.checkpoint.name for policy in spec.policies] == ["model_1.pt"]
    assert list(store.iterdir()) == []


# The answer


@BOTH
def test_the_refusal_as_json(refuse, write, good, command):
    result = refuse(command, write(good(command, numEnvs=0)), "--json", said=["numEnvs"])
    answer = json.loads(result.stdout.splitlines()[-1])
    assert tuple(answer) == JSON_KEYS
    assert (answer["status"], answer["summary"], answer["artifacts"]) == ("failed", None, [])
    assert (answer["error"]["code"], answer["error"]["category"]) == ("bad_config", "user")


@BOTH
def test_the_real_command_refuses_at_once_without_importing_prefect(write, good, store, tmp_path, command):
    code = (
        "import sys\nfrom simyard.cli.main import main\ntry:\n    main()\n"
        "finally:\n    print([m for m in ('prefect', 'torch', 'matplotlib') if m in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(write(good(command, seed=-1))), "--store", str(store)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"Bad request: {SECTIONS[command]}.seed: ")
    assert done.stderr.splitlines()[1:] == ["[]"]
    assert list(store.iterdir()) == []
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 4
