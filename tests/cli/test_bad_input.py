"""Everything that is refused before a simulator or Prefect is started: what is said, how fast, and nothing is left.

Each row gives what the message must hold: the repr of what was wrong, and what is allowed.
"""

import json
from pathlib import Path

import click.testing
import pytest
from helpers import LIBRARIES, changed, train_request

from simyard.cli.main import main
from simyard.cli.shared import JSON_KEYS
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

SOME_ID = "job-01k00000000000000000000000"
GOOD = {
    "name": "good",
    "trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 4, "maxIterations": 2},
    "computeConfig": {"gpusPerNode": 0},
}
ALLOWED_LIBRARIES = ", ".join(map(repr, sorted(LIBRARIES)))


def good(path, value):
    """The good config with one field changed, given by its dotted path."""
    return changed(GOOD, {path: value}, ".")


def row(name, path, value, *said):
    return pytest.param(good(path, value), said, id=name)


# The file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", ["config.json' is not valid JSON", "Mend it"], id="empty"),
        pytest.param(b" \n", ["is not valid JSON"], id="blank"),
        pytest.param(b"{", ["is not valid JSON", "line 1 column 2"], id="cut off"),
        pytest.param(b"task: cartpole", ["is not valid JSON"], id="yaml"),
        pytest.param(b'{"name": "a",}', ["is not valid JSON"], id="trailing comma"),
        pytest.param(b"[]", ["holds list, not an object", '{"trainingConfig"'], id="a list"),
        pytest.param(b'"Isaac-Cartpole-Direct"', ["holds str, not an object"], id="a string"),
        pytest.param(b"null", ["holds NoneType, not an object"], id="null"),
        pytest.param(b'{"name": "a", "name": "b"}', ["key 'name' stands twice"], id="a key twice"),
        pytest.param(
            b'{"trainingConfig": {"task": "a", "numEnvs": 1, "numEnvs": 2}}',
            ["'numEnvs' stands twice"],
            id="twice inside",
        ),
        pytest.param(b'{"retries": NaN}', ["NaN is not JSON"], id="NaN"),
        pytest.param(b'{"retries": -Infinity}', ["-Infinity is not JSON"], id="infinity"),
        pytest.param(b'{"retries": ' + b"1" * 5000 + b"}", ["is not valid JSON", "4300 digits"], id="5000 digits"),
        pytest.param(b'{"name": "\xff\xfe"}', ["is not valid JSON", "utf-8"], id="not UTF-8"),
        pytest.param(b"\xef\xbb\xbf{}", ["trainingConfig is missing"], id="a byte order mark, which is no fault"),
        pytest.param(b"\x00" * 100, ["is not valid JSON"], id="zeros"),
        pytest.param(b"[" * 400_000, ["is not valid JSON", "nested more than 20 deep"], id="nested deep"),
        pytest.param(b'{"a":' * 150_000, ["is not valid JSON", "nested more than 20 deep"], id="objects nested deep"),
        pytest.param(b'{"a":' * 21 + b"1" + b"}" * 21, ["nested more than 20 deep"], id="nested deeper than allowed"),
        pytest.param(b'{"retries": [1e999]}', ["inf is no number"], id="a number too large"),
        pytest.param(
            b'{"description": ["a \\udc80 b"]}', ["'a \\udc80 b' has half of a surrogate pair"], id="half a pair"
        ),
        pytest.param(b'{"\\ud800": 1}', ["'\\ud800' has half of a surrogate pair"], id="half a pair as a key"),
        pytest.param(b" " * 1_000_001, ["is too large", "1,000,000 bytes"], id="huge"),
    ],
)
def test_a_file_that_is_no_config(refuse, write, content, said):
    refuse("train", write(content), said=said)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("no such.json", ["'no such.json'", "No such file", "Name a JSON file"]),
        (".", ["'.'", "directory"]),
        ("/dev/zero", ["'/dev/zero'", "too large"]),
    ],
    ids=["nothing", "a folder", "a device"],
)
def test_a_path_that_is_no_file(refuse, path, said):
    refuse("train", path, said=said)


# The fields

COUNTS = [
    ("text", "64", "valid integer, not '64'"),
    ("a fraction", 64.5, "valid integer, not 64.5"),
    ("a whole float", 64.0, "valid integer, not 64.0"),
    ("true", True, "valid integer, not True"),
    ("a list", [64], "valid integer, not [64]"),
    ("negative", -1, "greater than or equal to"),
    ("infinite", float("inf"), "inf"),
]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        # Unknown keys, at each level
        row(
            "unknown at the top", "traningConfig", {}, "'traningConfig'", "Did you mean 'trainingConfig'?", "'retries'"
        ),
        row("unknown in trainingConfig", "trainingConfig.numEnv", 5, "'numEnv'", "Did you mean 'numEnvs'?", "'seed'"),
        row("unknown in computeConfig", "computeConfig.gpus", 1, "'gpus'", "'gpusPerNode'", "'numNodes'"),
        row("unknown in resume", "resume", {"job": SOME_ID}, "'job'", "'fromJob'", "'checkpoint'"),
        row("unknown in timeouts", "timeouts.wallSecond", 5, "'wallSecond'", "Did you mean 'wallSeconds'?"),
        row("a key of evaluation", "trainingConfig.numEpisodes", 50, "'numEpisodes'", "Allowed:"),
        row("a key that is hostile", "__class__", 1, "'__class__'"),
        row("a key in another case", "trainingConfig.NumEnvs", 5, "'NumEnvs'", "Did you mean 'numEnvs'?"),
        row("a field in both spellings", "trainingConfig.num_envs", 5, "num_envs"),
        # Whole objects
        row("no trainingConfig", "trainingConfig", None, "trainingConfig", "not None"),
        row("trainingConfig is a list", "trainingConfig", [], "trainingConfig", "not []"),
        row("computeConfig is text", "computeConfig", "gpu", "computeConfig", "not 'gpu'"),
        row("timeouts is a number", "timeouts", 60, "timeouts", "not 60"),
        row("resume is text", "resume", SOME_ID, "resume", repr(SOME_ID)),
        # Counts
        *(row(f"numEnvs is {name}", "trainingConfig.numEnvs", value, "numEnvs", text) for name, value, text in COUNTS),
        row("numEnvs is zero", "trainingConfig.numEnvs", 0, "numEnvs", "greater than or equal to 1, not 0"),
        row("numEnvs is huge", "trainingConfig.numEnvs", 10**9, "less than or equal to 1000000, not 1000000000"),
        row("numEnvs is null", "trainingConfig.numEnvs", None, "valid integer, not None"),
        *(
            row(f"maxIterations is {n}", "trainingConfig.maxIterations", v, "maxIterations", text)
            for n, v, text in COUNTS
        ),
        row("maxIterations is zero", "trainingConfig.maxIterations", 0, "greater than or equal to 1, not 0"),
        row("maxIterations is huge", "trainingConfig.maxIterations", 10**12, "less than or equal to 10000000"),
        *(row(f"seed is {name}", "trainingConfig.seed", value, "seed", text) for name, value, text in COUNTS),
        row("seed is too large", "trainingConfig.seed", 2**31, "seed", "less than or equal to 2147483647"),
        *(row(f"retries is {name}", "retries", value, "retries", text) for name, value, text in COUNTS),
        row("retries is large", "retries", 21, "less than or equal to 20, not 21"),
        row("retries is null", "retries", None, "valid integer, not None"),
        row("numNodes is zero", "computeConfig.numNodes", 0, "numNodes", "greater than or equal to 1, not 0"),
        row("numNodes is large", "computeConfig.numNodes", 65, "numNodes", "less than or equal to 64, not 65"),
        row("numNodes without GPUs", "computeConfig.numNodes", 2, "2 machines train together on GPUs only"),
        row("numNodes is true", "computeConfig.numNodes", True, "valid integer, not True"),
        row("gpusPerNode is large", "computeConfig.gpusPerNode", 17, "less than or equal to 16, not 17"),
        row("gpusPerNode is negative", "computeConfig.gpusPerNode", -1, "greater than or equal to 0, not -1"),
        row("gpusPerNode is true", "computeConfig.gpusPerNode", True, "valid integer, not True"),
        row("priority is unknown", "computeConfig.priority", "urgent", "'high', 'normal' or 'low'", "not 'urgent'"),
        row("priority is a number", "computeConfig.priority", 1, "priority", "not 1"),
        row("acceptNvidiaEula is text", "computeConfig.acceptNvidiaEula", "yes", "boolean", "not 'yes'"),
        row("acceptNvidiaEula is a number", "computeConfig.acceptNvidiaEula", 1, "boolean", "not 1"),
        # Several GPUs
        row(
            "machines without a pool",
            "computeConfig",
            {"numNodes": 2, "gpusPerNode": 1},
            "computeConfig.numNodes is 2, and no pool was named",
            "--pool NAME",
            "SIMYARD_POOL",
        ),
        pytest.param(
            {
                "trainingConfig": {"task": "Isaac-Cartpole-Direct", "rlLibrary": "sb3"},
                "computeConfig": {"gpusPerNode": 2},
            },
            ["asks for 2 GPUs, and rlLibrary 'sb3' trains on one", "'rl_games'", "'rsl_rl'", "'skrl'"],
            id="several GPUs for a library of one",
        ),
        # Seconds
        row("wallSeconds is zero", "timeouts.wallSeconds", 0, "wallSeconds", "greater than 0, not 0"),
        row("wallSeconds is negative", "timeouts.wallSeconds", -5, "greater than 0, not -5"),
        row("wallSeconds is true", "timeouts.wallSeconds", True, "valid number, not True"),
        row("wallSeconds is text", "timeouts.wallSeconds", "8h", "valid number, not '8h'"),
        row("wallSeconds is a number in text", "timeouts.wallSeconds", "60", "valid number, not '60'"),
        row("wallSeconds is infinite", "timeouts.wallSeconds", float("inf"), "wallSeconds", "inf"),
        row("wallSeconds is a year", "timeouts.wallSeconds", 365 * 86400, "less than or equal to 2592000"),
        row("wallSeconds is null", "timeouts.wallSeconds", None, "valid number, not None"),
        row("iterationSeconds is negative", "timeouts.iterationSeconds", -1, "greater than 0, not -1"),
        row("firstIterationSeconds is zero", "timeouts.firstIterationSeconds", 0, "greater than 0, not 0"),
        row("graceSeconds is negative", "timeouts.graceSeconds", -1, "greater than or equal to 0, not -1"),
        row("closeSeconds is a day", "timeouts.closeSeconds", 86400, "less than or equal to 3600"),
        # Names
        row("mode is evaluate", "trainingConfig.mode", "evaluate", "mode", "'train'", "not 'evaluate'"),
        row("mode is unknown", "trainingConfig.mode", "Train", "'train'", "not 'Train'"),
        row(
            "rlLibrary is unknown",
            "trainingConfig.rlLibrary",
            "rslrl",
            "'rslrl'",
            "Did you mean 'rsl_rl'?",
            ALLOWED_LIBRARIES,
        ),
        row("rlLibrary is in capitals", "trainingConfig.rlLibrary", "PPO", "'PPO'", ALLOWED_LIBRARIES),
        row("rlLibrary is a number", "trainingConfig.rlLibrary", 3, "rlLibrary", "not 3"),
        row("simulator is unknown", "simulator", "isaacsim", "'isaacsim'", "Allowed: 'isaaclab'"),
        row("simulator is a list", "simulator", ["isaaclab"], "simulator", "not ['isaaclab']"),
        row("task is a path", "trainingConfig.task", "../../etc/passwd", "task", "'../../etc/passwd'"),
        row("task is empty", "trainingConfig.task", "", "task", "not ''"),
        row("task has a space", "trainingConfig.task", "Isaac Cartpole", "task", "'Isaac Cartpole'"),
        row("task is an option", "trainingConfig.task", "--help", "task", "'--help'"),
        row("task ends in a line", "trainingConfig.task", "Isaac-Ant\n", "task", r"'Isaac-Ant\n'"),
        row("task is a number", "trainingConfig.task", 5, "task", "not 5"),
        row("task is endless", "trainingConfig.task", "a" * 5000, "task", "aaa…"),
        row("name is empty", "name", "", "name", "not ''"),
        row("name has a control character", "name", "a\x1b[2Jb", "name", r"'a\x1b[2Jb'"),
        row("name ends in a line", "name", "a\n", "name", r"'a\n'"),
        row("name is endless", "name", "a" * 201, "at most 200 characters"),
        row("name is a number", "name", 5, "name", "not 5"),
        row("description is a list", "description", ["a"], "description", "not ['a']"),
        row("description is endless", "description", "a" * 4001, "at most 4000 characters"),
        row(
            "callback is code", "customEnvironmentCallback", "os.system('id')", "customEnvironmentCallback", "os.system"
        ),
        row("callback is a path", "customEnvironmentCallback", "../a.py", "'../a.py'"),
        # Overrides
        row("overrides is text", "overrides", "a=1", "overrides", "not 'a=1'"),
        row("overrides is an object", "overrides", {"a": 1}, "overrides", "not {'a': 1}"),
        row("overrides has a number", "overrides", [1], "overrides.0", "not 1"),
        row("overrides has a control character", "overrides", ["env.a=\x00"], "overrides.0", r"'env.a=\x00'"),
        row("overrides has too many", "overrides", ["env.a=1"] * 201, "overrides", "at most 200"),
        # Files
        row("package is not there", "customEnvironmentPath", "no.zip", "customEnvironment", "'no.zip'", "config.json"),
        row("package is a folder", "customEnvironmentPath", ".", "customEnvironment", "'.'"),
        row("package is nothing", "customEnvironmentPath", "", "customEnvironmentPath", "''"),
        row("package is a number", "customEnvironmentPath", 5, "customEnvironmentPath", "not 5"),
        row("package is far", "customEnvironmentS3Uri", "ftp://host/a.zip", "'ftp://host'", "'s3://BUCKET/PREFIX'"),
        row("package is a store", "customEnvironmentS3Uri", "s3://", "is not the address of a store"),
        row("package with a password", "customEnvironmentS3Uri", "s3://me:secret@b/a.zip", "credentials"),
        row("checkpoint is not there", "resume.checkpoint", "model_5.pt", "resume.checkpoint", "'model_5.pt'"),
        row("checkpoint is a folder", "resume.checkpoint", "..", "resume.checkpoint", "'..'"),
        row("checkpoint has a zero byte", "resume.checkpoint", "a\x00b", "resume.checkpoint"),
        row("checkpoint has a long name", "resume.checkpoint", "a" * 300, "resume.checkpoint", "there is no file"),
        row("checkpoint has an endless name", "resume.checkpoint", "a" * 5000, "resume.checkpoint", "4000 characters"),
        # Resuming
        row("resume from nothing", "resume", {}, "resume", "either from_job or checkpoint"),
        row("resume from both", "resume", {"fromJob": SOME_ID, "checkpoint": "a.pt"}, "either from_job or checkpoint"),
        row("resume from an unknown job", "resume.fromJob", SOME_ID, repr(SOME_ID), "simyard jobs list"),
        row("resume from a path", "resume.fromJob", "../../etc", "'../../etc' is not a job id", "job-01k"),
        row("resume from a line", "resume.fromJob", SOME_ID + "\n", "is not a job id"),
        row("resume from a number", "resume.fromJob", 5, "resume.fromJob", "not 5"),
        row("resume at a negative", "resume", {"fromJob": SOME_ID, "iteration": -1}, "resume.iteration", "not -1"),
        row("resume at true", "resume", {"fromJob": SOME_ID, "iteration": True}, "resume.iteration", "not True"),
        # Several fields
        pytest.param(
            GOOD | {"customEnvironmentPath": "a.zip", "customEnvironmentS3Uri": "s3://bucket/a.zip"},
            ["customEnvironmentPath or customEnvironmentS3Uri, not both"],
            id="both packages",
        ),
        pytest.param(
            good("trainingConfig.customEnvironmentS3Uri", "s3://bucket/a.zip")
            | {"customEnvironmentS3Uri": "s3://bucket/b.zip"},
            ["customEnvironmentS3Uri", "at the top and in trainingConfig"],
            id="a shared field in both places",
        ),
        pytest.param(
            {"trainingConfig": {"task": "T", "numEnvs": 0, "seed": -1}, "retrys": 1, "timeouts": {"wallSeconds": "x"}},
            ["numEnvs", "seed", "'retrys'", "wallSeconds"],
            id="every problem at once",
        ),
    ],
)
def test_a_field_that_is_wrong(refuse, write, config, said):
    result = refuse("train", write(config), said=said)
    assert "secret" not in result.output


@pytest.mark.parametrize("name", ["a b.zip", ".hidden.zip", "ü.zip", "a" * 130 + ".zip", "-rf.zip"])
def test_a_package_whose_name_cannot_be_kept(refuse, write, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    said = [repr(name), "letters, digits and . _ + -"]
    refuse("train", write(GOOD | {"customEnvironmentPath": name}), said=said)


# The command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], ["Missing CONFIG", "--from-job ID"], id="no config"),
        pytest.param(["CONFIG", "--from-job", SOME_ID], ["--from-job takes no CONFIG"], id="from-job and a config"),
        pytest.param(["--from-job", SOME_ID, "--set", "numEnvs=4"], ["no --set"], id="from-job and set"),
        pytest.param(["--from-job", SOME_ID], [repr(SOME_ID), "simyard jobs list"], id="from-job unknown"),
        pytest.param(["--from-job", "../../etc"], ["'../../etc' is not a job id"], id="from-job hostile"),
        pytest.param(["--from-job", ""], ["'' is not a job id"], id="from-job empty"),
        pytest.param(["CONFIG", "--set", "numEnvs"], ["'numEnvs' is not key=value", "numEnvs=64"], id="set no value"),
        pytest.param(["CONFIG", "--set", "=5"], ["'=5' is not key=value"], id="set no key"),
        pytest.param(["CONFIG", "--set", ""], ["'' is not key=value"], id="set nothing"),
        pytest.param(["CONFIG", "--set", "numEnv=5"], ["'numEnv'", "Allowed:"], id="set unknown"),
        pytest.param(["CONFIG", "--set", "numEnvs=many"], ["numEnvs", "not 'many'"], id="set text"),
        pytest.param(["CONFIG", "--set", "numEnvs=-4"], ["numEnvs", "not -4"], id="set negative"),
        pytest.param(["CONFIG", "--set", "numEnvs=NaN"], ["numEnvs", "not 'NaN'"], id="set NaN"),
        pytest.param(["CONFIG", "--set", "numEnvs=" + "[" * 50_000], ["numEnvs", "[[["], id="set nested deep"),
        pytest.param(["CONFIG", "--set", "trainingConfig=5"], ["trainingConfig", "not 5"], id="set an object away"),
        pytest.param(["CONFIG", "--set", "name.first=a"], ["'name' is no object"], id="set inside text"),
        pytest.param(["CONFIG", "--set", "trainingConfig..task=a"], ["''"], id="set an empty part"),
        pytest.param(
            ["CONFIG", "--set", "overrides=5", "--set", "env.a=1"], ["overrides is 5"], id="set overrides away"
        ),
        pytest.param(
            ["CONFIG", "--store", "ftp://host/a"], ["'ftp://host/a'", "'s3://BUCKET/PREFIX'"], id="store scheme"
        ),
        pytest.param(["CONFIG", "--store", "s3://"], ["'' is not a bucket's name"], id="store without a bucket"),
        pytest.param(["CONFIG", "--store", "s3://Not_A_Bucket/a"], ["'Not_A_Bucket'"], id="store bucket"),
        pytest.param(["CONFIG", "--store", "s3://bucket/../a"], ["'.' or '..'"], id="store prefix"),
        pytest.param(["CONFIG", "--store", "s3://me:secret@bucket/a"], ["credentials"], id="store with a password"),
        pytest.param(["CONFIG", "--store", "file://server/a"], ["'server' is another machine"], id="store host"),
        pytest.param(["CONFIG", "--store", "../a"], ["'../a'", "it has a '..'"], id="store above"),
        pytest.param(["CONFIG", "--store", "/"], ["root of the file system"], id="store root"),
        pytest.param(["CONFIG", "--store", "a\nb"], ["control character"], id="store with a line end"),
        pytest.param(["CONFIG", "--stor", "a"], ["No such option", "--store"], id="unknown option"),
        pytest.param(["CONFIG", "CONFIG"], ["Unexpected argument"], id="two configs"),
    ],
)
def test_a_command_that_is_wrong(refuse, write, arguments, said):
    config = write(GOOD)
    result = refuse("train", *(config if argument == "CONFIG" else argument for argument in arguments), said=said)
    assert "secret" not in result.output


@pytest.mark.parametrize("command", ["show", "cancel", "resume", "download"])
@pytest.mark.parametrize(
    ("job_id", "said"),
    [
        pytest.param(SOME_ID, ["There is no job", repr(SOME_ID), "simyard jobs list"], id="unknown"),
        pytest.param("../../etc", ["'../../etc' is not a job id"], id="hostile"),
        pytest.param("job-*", ["'job-*' is not a job id", "job-01k"], id="a pattern"),
        pytest.param("", ["'' is not a job id"], id="empty"),
    ],
)
def test_a_job_that_is_not_there(refuse, tmp_path, command, job_id, said):
    refuse("jobs", command, job_id, *([tmp_path / "to"] if command == "download" else []), said=said)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("limit", ["-1", "0", "many", "1.5"])
def test_a_limit_that_is_no_count(refuse, limit):
    refuse("jobs", "list", "--limit", limit, said=["--limit", limit])


# What needs a job in the store


@pytest.fixture
def earlier(store):
    """A job that was staged and never run."""
    resolved = resolve(train_request(GOOD), Store.open(str(store)), keys.new_job_id())
    stage(resolved, Store.open(str(store)))
    return resolved.spec.job_id


def test_resuming_a_job_without_a_checkpoint(refuse, write, earlier):
    refuse("train", write(good("resume.fromJob", earlier)), said=[repr(earlier), "no valid checkpoint"])


def test_resuming_with_another_library(refuse, write, earlier):
    config = good("resume.fromJob", earlier)
    config["trainingConfig"]["rlLibrary"] = "skrl"
    refuse("train", write(config), said=["'rsl_rl'", "'skrl'", "Set rlLibrary to 'rsl_rl'"])


def test_downloading_a_job_that_has_not_ended(refuse, earlier, tmp_path):
    refuse("jobs", "download", earlier, tmp_path / "to", said=["has not ended", "queued"])


def test_a_store_that_is_a_file(tmp_path, write):
    (tmp_path / "file").write_text("")
    result = click.testing.CliRunner().invoke(main, ["train", str(write(GOOD)), "--store", str(tmp_path / "file")])
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert repr(str(tmp_path / "file")) in result.stderr


# The answer


@pytest.mark.parametrize(
    ("arguments", "config", "code"),
    [
        (["train", "config.json"], good("trainingConfig.numEnvs", 0), "bad_config"),
        (["evaluate", "config.json"], {"trainingConfig": {"task": "T", "numEnvs": 0}}, "bad_config"),
        (["export-policy", "config.json"], {"exportConfig": {"task": "T", "numEnvs": 0}}, "bad_config"),
        (["sessions", "start", "no such.json"], GOOD, "no_config"),
        (["upload", "config.json", "--kind", "robot"], GOOD, "bad_asset_name"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_refusal_as_json(refuse, write, arguments, config, code):
    write(config)
    result = refuse(*arguments, "--json", said=[arguments[-1] if code == "no_config" else ""])
    answer = json.loads(result.stdout.splitlines()[-1])
    assert tuple(answer) == JSON_KEYS
    nothing = dict.fromkeys(JSON_KEYS) | {"artifacts": [], "attempts": 0}
    assert answer == nothing | {"status": "failed", "error": answer["error"]}
    assert set(answer["error"]) == {"code", "category", "message", "advice"}
    assert (answer["error"]["code"], answer["error"]["category"]) == (code, "user")


def test_a_pool_that_is_not_there(simyard, write, store):
    refused = simyard("train", write(GOOD), "--store", store, "--pool", "nowhere")
    assert refused.returncode == 2, refused.stderr
    assert "'nowhere'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(store.iterdir()) == []


def test_the_good_config_is_good(tmp_path, store):
    """What the rows change is accepted as it is."""
    assert resolve(train_request(GOOD), Store.open(str(store)), SOME_ID, Path(tmp_path)).spec.num_envs == 4
