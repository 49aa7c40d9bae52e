"""What `evaluate` and `export-policy` refuse before a simulator is started: what is said, and nothing is left.

What a checkpoint holds is looked at in the simulator's Python: see tests/sim/test_evaluation.py.
"""

import pytest

from simyard.core.errors import RequestError
from simyard.core.specs import Answer, JointLimits, Robot
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest, ExportRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

SOME_ID = "job-01k00000000000000000000000"
TASK = "Isaac-Cartpole-Direct"
SECTIONS = {"evaluate": "trainingConfig", "export-policy": "exportConfig"}
MODELS = {"evaluate": EvaluateRequest, "export-policy": ExportRequest}
KINDS = {"evaluate": "evaluate", "export-policy": "export"}
BOTH = pytest.mark.parametrize("command", list(SECTIONS))
JOINT = {"slider_to_cart": {"maxEffort": 5}}
ANSWER = {"safety-monitor": {"ok": True, "by": "Ada"}}


@pytest.fixture(autouse=True)
def checkpoint(tmp_path):
    (tmp_path / "model_1.pt").write_text("not looked into here")


def good(command, **changes):
    """A config of a command that nothing here refuses, but for the changes."""
    section = {"task": TASK, "checkpointPath": "model_1.pt", **changes}
    return {SECTIONS[command]: {name: value for name, value in section.items() if value != "LEFT OUT"}}


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


# Fields of one

EVALUATION = [
    ("a factor is unknown", {"variations": {"motorStrengh": [0.5]}}, ["'motorStrengh'", "'motor_strength'?"]),
    ("a factor stands twice", {"variations": {"actionDelay": [1], "action_delay": [2]}}, ["stands there twice"]),
    ("a level is too low", {"variations": {"mass": [-1]}}, ["mass: -1", "numbers from 0.01 to 100 (x)"]),
    ("a level is no number", {"variations": {"mass": [True]}}, ["mass: True", "mass and inertia of every body"]),
    ("a delay is a fraction", {"variations": {"actionDelay": [1.5]}}, ["action_delay: 1.5", "whole numbers"]),
    ("a factor without parts", {"variations": {"mass.arm": [2]}}, ["'mass' has no parts"]),
    ("an axis is unknown", {"variations": {"centerOfMass.q": [1]}}, ["'q'", "Allowed: 'x', 'y', 'z'"]),
    ("an event without a name", {"variations": {"event": [{"a": 1}]}}, ["event.NAME"]),
    ("an event with a number", {"variations": {"event.push": [1]}}, ["event.push", "velocity_range"]),
    ("nothing is varied", {"variations": {"mass": [1]}}, ["0 arms", "1 to 256"]),
    ("a hypercube of one level", {"variations": {"mass": [2]}, "design": "latin_hypercube"}, ["no range of numbers"]),
    ("conditions and engines", {"variations": {"mass": [2]}, "across": ["newton", "physx"]}, ["not both"]),
    ("pairs without environments", {"variations": {"mass": [2]}, "numEnvs": 3}, ["leave numEnvs out"]),
    ("a million arms", {"variations": {"mass": [2]}, "numEpisodes": 999_999}, ["1,999,998 environments", "fewer arms"]),
    ("two plans", {"plan": {"difference": 0.1, "halfWidth": 0.1}}, ["give either difference or halfWidth"]),
    ("a plan and a number", {"plan": {"difference": 0.1}, "numEpisodes": 50}, ["leave numEpisodes out"]),
    ("a plan of a hair", {"plan": {"difference": 0.001}}, ["plan: a difference of 0.001", "20,000 at most"]),
    ("a plan and arms", {"plan": {"halfWidth": 0.1}, "variations": {"mass": [2]}}, ["plan.difference"]),
    ("engines recorded", {"record": True, "across": ["newton", "physx"]}, ["leave across or plan out"]),
    ("mode is train", {"mode": "train"}, ["mode", "'evaluate'", "not 'train'"]),
    ("no steps", {"stepsPerEpisode": 0}, ["stepsPerEpisode", "not 0"]),
    ("steps are true", {"stepsPerEpisode": True}, ["stepsPerEpisode", "not True"]),
    ("video is text", {"recordVideo": "yes"}, ["recordVideo", "valid boolean, not 'yes'"]),
    ("video is a number", {"recordVideo": 1}, ["recordVideo", "not 1"]),
    ("requireVideo is null", {"requireVideo": None}, ["requireVideo", "not None"]),
    ("no films", {"videoEpisodes": []}, ["videoEpisodes", "at least 1"]),
    ("films are text", {"videoEpisodes": "first"}, ["videoEpisodes", "not 'first'"]),
    ("another film", {"videoEpisodes": ["last"]}, ["videoEpisodes", "'first', 'best' or 'worst'"]),
    ("film 0", {"videoEpisodes": [0]}, ["videoEpisodes", "greater than or equal to 1"]),
    ("film true", {"videoEpisodes": [True]}, ["videoEpisodes", "not True"]),
    ("21 films", {"videoEpisodes": ["first"] * 21}, ["videoEpisodes", "at most 20"]),
    ("a film of none", {"recordVideo": True, "videoEpisodes": ["best", 51]}, ["videoEpisodes", "51", "50"]),
    ("a space", {"successTermination": "a b"}, ["successTermination", "'a b'"]),
    ("no termination", {"successTermination": ""}, ["successTermination", "''"]),
    ("limits are for an export", {"actionLimits": JOINT}, ["Unknown key 'actionLimits'"]),
    ("across one engine", {"across": ["physx"]}, ["across names two or more", "['physx']"]),
    ("across one engine twice", {"across": ["physx", "physx"]}, ["different engines", "['physx', 'physx']"]),
    ("across an engine that is none", {"across": ["newton", "bullet"]}, ["across", "'newton', 'physx'", "'bullet'"]),
    ("across text", {"across": "newton"}, ["across", "'newton'"]),
    ("across episodes that are no pairs", {"across": ["newton", "physx"], "numEnvs": 20}, ["numEnvs is 20", "50"]),
]
EXPORT = [
    ("one episode", {"numEpisodes": 1}, ["numEpisodes", "greater than or equal to 2"]),
    ("video is for an evaluation", {"recordVideo": True}, ["Unknown key 'recordVideo'"]),
    ("a space", {"otherPhysics": "a b"}, ["otherPhysics", "'a b'"]),
    ("limits are a list", {"actionLimits": [1]}, ["actionLimits", "not [1]"]),
    ("a joint with a space", {"actionLimits": {"a b": {}}}, ["actionLimits", "'a b'"]),
    ("an unknown limit", {"actionLimits": {"a": {"max": 1}}}, ["'max'", "'maxVelocity'"]),
    ("no velocity", {"actionLimits": {"a": {"maxVelocity": 0}}}, ["maxVelocity", "not 0"]),
    ("effort below 0", {"actionLimits": {"a": {"maxEffort": -3}}}, ["maxEffort", "not -3"]),
    ("half a position", {"actionLimits": {"a": {"position": [1]}}}, ["position"]),
    ("position turned", {"actionLimits": {"a": {"position": [2, 1]}}}, ["position", "2", "1"]),
    ("a joint without a limit", {"actionLimits": {"a": {}}}, ["actionLimits"]),
    ("sensors are text", {"robot": {"sensors": "imu"}}, ["sensors", "'imu'"]),
    ("noise below 0", {"robot": {"noise": {"joint_pos": -1}}}, ["noise", "greater than or equal to 0", "-1"]),
    ("a delay turned", {"robot": {"delayS": [0.2, 0.1]}}, ["delayS is the least and the most", "[0.2, 0.1]"]),
    ("an unknown part of a robot", {"robot": {"arms": 2}}, ["'arms'", "'delayS', 'noise', 'sensors'"]),
    ("functions elsewhere", {"mujoco": {"functions": "../terms.py"}}, ["functions", "'../terms.py'"]),
    ("a model at the root", {"mujoco": {"model": "/etc/robot.xml"}}, ["model", "'/etc/robot.xml'"]),
    ("an answer is true", {"checklistAnswers": {"safety-monitor": True}}, ["checklistAnswers"]),
    ("an empty name", {"checklistAnswers": {"safety-monitor": {"ok": True, "by": ""}}}, ["by"]),
    ("nobody answers", {"checklistAnswers": {"safety-monitor": {"ok": True}}}, ["by is missing"]),
    ("ok is text", {"checklistAnswers": {"safety-monitor": {"ok": "yes", "by": "Ada"}}}, ["ok", "not 'yes'"]),
    ("an answer to nothing", {"checklistAnswers": {"safety-monitr": ANSWER["safety-monitor"]}},
     ["'safety-monitr'", "Did you mean 'safety-monitor'?"]),
    ("all of one", {"fromJob": {"jobId": SOME_ID, "which": "all"}}, ["'all'", "export one: latest, best or iteration"]),
    ("every of one", {"fromJob": {"jobId": SOME_ID, "which": "every:2"}}, ["'every:2'", "export one: latest, best or"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "changes", "said"),
    [
        pytest.param(command, changes, said, id=f"{command}: {name}")
        for command, rows in {"evaluate": SHARED + EVALUATION, "export-policy": SHARED + EXPORT}.items()
        for name, changes, said in rows
    ],
)
def test_a_field_that_is_wrong(refuse, write, command, changes, said):
    result = refuse(command, write(good(command, **changes)), said=said)
    assert "secret" not in result.output


@BOTH
@pytest.mark.parametrize(
    ("compute", "gpus"),
    [({"gpusPerNode": 2}, 2), ({"numNodes": 2, "gpusPerNode": 4}, 8), ({"numNodes": 3}, 3)],
    ids=["GPUs", "GPUs of machines", "machines"],
)
def test_only_a_training_takes_several_gpus(refuse, write, command, compute, gpus):
    said = [f"asks for {gpus} GPUs, and a job of kind {KINDS[command]!r} runs on one", "gpusPerNode and numNodes to 1"]
    refuse(command, write({**good(command), "computeConfig": compute}), said=said)


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("evaluate", {"name": "a"}, ["trainingConfig is missing"]),
        ("export-policy", {"name": "a"}, ["exportConfig is missing"]),
        ("evaluate", good("export-policy"), ["trainingConfig is missing", "'exportConfig'"]),
        ("export-policy", good("evaluate"), ["exportConfig is missing", "'trainingConfig'"]),
        ("train", good("evaluate", checkpointPath="LEFT OUT", mode="evaluate"), ["mode", "'evaluate'"]),
        ("train", {"trainingConfig": {"task": TASK, "exportPolicy": "yes"}}, ["exportPolicy", "boolean, not 'yes'"]),
    ],
)
def test_the_section_of_another_command(refuse, write, command, config, said):
    refuse(command, write(config), said=said)


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
def test_a_command_that_is_wrong(refuse, write, command, arguments, said):
    config = write(good(command))
    refuse(command, *(config if argument == "CONFIG" else argument for argument in arguments), said=said)


@BOTH
def test_settings_reach_a_section_in_snake_case(refuse, write, command):
    """Every name may be written so; what is refused here is the setting, and not the section."""
    (section,) = good(command).values()
    snake = {"evaluate": "training_config", "export-policy": "export_config"}[command]
    result = refuse(command, write({snake: section}), "--set", "numEnvs=0", said=["numEnvs", "not 0"])
    assert "Unknown key" not in result.stderr


# What needs a job in the store


@BOTH
def test_a_job_that_is_no_training(refuse, store, tmp_path, command):
    opened = Store.open(str(store))
    resolved = resolve(check_config(good(command), MODELS[command]), opened, keys.new_job_id(), tmp_path)
    stage(resolved, opened)
    job_id, kind = resolved.spec.job_id, KINDS[command]
    refuse("evaluate", "--job", job_id, said=[repr(job_id), f"is a job of kind {kind!r}", "Name a training job"])
    refuse("export-policy", "--job", job_id, said=[f"is a job of kind {kind!r}"])
    refuse("evaluate", "--job", "latest", said=["No training has succeeded"])


@BOTH
def test_a_checkpoint_whose_name_cannot_be_kept(refuse, write, tmp_path, command):
    (tmp_path / "model 1.pt").write_text("")
    config = good(command, checkpointPath="model 1.pt")
    refuse(command, write(config), said=["checkpointPath", "'model 1.pt'", "letters, digits and . _ + -"])


def test_the_sites_sensors_are_those_of_an_export_that_names_none(store, tmp_path, monkeypatch):
    def robot_of(**config):
        request = check_config(good("export-policy", **config), MODELS["export-policy"])
        spec = resolve(request, Store.open(str(store)), SOME_ID, tmp_path).spec
        said = [note for note in spec.notes if "SIMYARD_ROBOT_SENSORS" in note]
        return spec.export.robot.sensors, said

    monkeypatch.setenv("SIMYARD_ROBOT_SENSORS", "joint_encoders, imu")
    note = "robot.sensors are those of this site, SIMYARD_ROBOT_SENSORS: joint_encoders, imu"
    assert robot_of() == (("joint_encoders", "imu"), [note])
    assert robot_of(robot={"sensors": []}) == ((), []), "a request that says there are none is believed"
    assert robot_of(robot={"sensors": ["camera"]}) == (("camera",), [])
    monkeypatch.setenv("SIMYARD_ROBOT_SENSORS", "joint_encoder")
    with pytest.raises(RequestError, match="SIMYARD_ROBOT_SENSORS has 'joint_encoder'"):
        robot_of()


@BOTH
def test_the_good_config_is_good(store, tmp_path, command):
    """What the rows change is accepted as it is, with everything else that may be said."""
    robot = {"sensors": ["imu"], "noise": {"joint_pos": 0.1}, "delayS": [0, 0.02]}
    more = (
        {"actionLimits": JOINT, "robot": robot, "checklistAnswers": ANSWER}
        if command == "export-policy"
        else {"numEpisodes": 7}
    )
    spec = resolve(check_config(good(command, **more), MODELS[command]), Store.open(str(store)), SOME_ID, tmp_path).spec
    assert [policy.checkpoint.name for policy in spec.policies] == ["model_1.pt"]
    if spec.export is not None:
        assert spec.export.action_limits == {"slider_to_cart": JointLimits(max_effort=5)}
        assert spec.export.robot == Robot(sensors=("imu",), noise={"joint_pos": 0.1}, delay_s=(0.0, 0.02))
        assert spec.export.answers == {"safety-monitor": Answer(ok=True, by="Ada", note="", at=spec.created_at)}
    assert list(store.iterdir()) == []
