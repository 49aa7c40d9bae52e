"""What `rollout` refuses before a simulator is started: what is said, and nothing is left."""

import json
import zipfile

import pytest

from simyard.requests.config import check_config
from simyard.requests.rollout import RolloutRequest
from simyard.store.keys import new_job_id
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.shared.inputs import upload

UNKNOWN = "asset-" + "0" * 64
FR3 = "fr3_pick_lift_block_v1"
URDF = '<robot name="r"><link name="base"/></robot>'


@pytest.fixture
def good(tmp_path):
    """A standard request that nothing here refuses."""
    (tmp_path / "robot.urdf").write_text(URDF)
    return {
        "robot": {"urdf_uri": "robot.urdf"},
        "execution": {"num_envs": 2, "steps": 10},
        "control": {"task_mode": "hold"},
    }


def lab(**changes):
    return {
        "robot": None,
        "control": {},
        "runtime_profile": "isaac_lab_rollout",
        "isaac_lab": {"task_class_or_name": "Task", "task_module": "lift.task", "task_package_uri": "lift.zip"}
        | changes,
    }


def camera(**changes):
    """An output of one camera that is wrong in something."""
    good = {"name": "front", "pose": {"position": [1, 0, 0], "look_at": [0, 0, 0]}}
    return {"outputs": {"cameras": [{key: value for key, value in (good | changes).items() if value is not None}]}}


TWO = {"outputs": {"cameras": [{"name": "a", "body": "hand"}, {"name": "a", "body": "base"}]}}


def nested(depth):
    value = 1.0
    for _ in range(depth):
        value = {"in": value}
    return value


CASES = [
    ("no execution", {"execution": None}, ["execution"]),
    ("no steps", {"execution": {"num_envs": 1}}, ["execution.steps is missing"]),
    ("no environments", {"execution": {"num_envs": 0, "steps": 1}}, ["num_envs", "not 0"]),
    ("a billion environments", {"execution": {"num_envs": 10**9, "steps": 1}}, ["num_envs", "131072", "1000000000"]),
    ("environments in text", {"execution": {"num_envs": "8", "steps": 1}}, ["num_envs", "not '8'"]),
    ("endless steps", {"execution": {"num_envs": 1, "steps": 10**12}}, ["steps", "10000000"]),
    ("seed is negative", {"execution": {"steps": 1, "seed": -1}}, ["seed", "not -1"]),
    ("dt is zero", {"physics": {"dt": 0}}, ["physics.dt", "not 0"]),
    ("dt is infinite", {"physics": {"dt": float("inf")}}, ["physics.dt", "inf"]),
    ("no substeps", {"physics": {"substeps": 0}}, ["substeps", "not 0"]),
    ("another format", {"outputs": {"log_format": "hdf5"}}, ["log_format", "'zarr'", "'hdf5'"]),
    ("video in text", {"outputs": {"video": "yes"}}, ["video", "'yes'"]),
    ("another job type", {"job_type": "train"}, ["job_type", "'rollout'"]),
    ("another profile", {"runtime_profile": "gazebo"}, ["runtime_profile", "'isaac_lab_rollout'", "'gazebo'"]),
    ("a slip", {"execution": {"steps": 1, "num_env": 1}}, ["'num_env'", "Did you mean 'num_envs'?"]),
    ("a field of training", {"trainingConfig": {}}, ["Unknown key 'trainingConfig'"]),
    ("a name with newlines", {"name": "a\nb"}, ["name", r"'a\nb'"]),
    ("no robot", {"robot": None}, ["robot is missing", f"unless task_mode is '{FR3}'"]),
    (
        "a robot beside one that the mode brings",
        {"control": {"task_mode": FR3}},
        ["leave robot out", f"task_mode '{FR3}' brings its own", "'pick_lift'"],
    ),
    (
        "physics beside a mode's own",
        {"robot": None, "execution": {"steps": 128}, "physics": {"dt": 0.01}, "control": {"task_mode": FR3}},
        ["leave physics out", f"task_mode '{FR3}'", "control.duration_s"],
    ),
    (
        "a mode in steps that are too few",
        {"robot": None, "control": {"task_mode": FR3}},
        ["execution.steps is 10", "30 or more", "3 s together"],
    ),
    (
        "a mode that takes no time",
        {"robot": None, "control": {"task_mode": FR3, "duration_s": 0}},
        ["control.duration_s", "a number from 0.5 to 60", "not 0"],
    ),
    ("an empty robot", {"robot": {}}, ["give one of", "urdf_uri", "mjcf_asset_id"]),
    ("two robots", {"robot": {"urdf_uri": "robot.urdf", "usd_uri": "robot.usd"}}, ["give one of"]),
    (
        "a robot that is not there",
        {"robot": {"urdf_uri": "other.urdf"}},
        ["robot.urdf_uri", "'other.urdf'", "robot.urdf"],
    ),
    ("a robot of another scheme", {"robot": {"urdf_uri": "ftp://host/r.urdf"}}, ["'ftp://host'"]),
    ("a robot with a newline", {"robot": {"urdf_uri": "a\nb.urdf"}}, ["urdf_uri", r"'a\nb.urdf'"]),
    ("an asset that is no id", {"robot": {"urdf_asset_id": "../../x"}}, ["urdf_asset_id", "'../../x'"]),
    ("an asset that is not there", {"robot": {"urdf_asset_id": UNKNOWN}}, [UNKNOWN]),
    (
        "a file that the robot is not",
        {"robot": {"urdf_uri": "robot.urdf", "file": "b.urdf"}},
        ["'robot.urdf' is one file, and 'b.urdf' was asked for", "send a .zip bundle"],
    ),
    ("two scenes", {"scene": {"usd_uri": "a.usd", "usd_asset_id": UNKNOWN}}, ["not both"]),
    ("a scene that is a path", {"scene": {"scene_id": "../etc"}}, ["scene_id", "'../etc'"]),
    ("an unknown scene", {"scene": {"scene_id": "warehouse"}}, ["'warehouse'", "'ground'"]),
    ("an unknown mode", {"control": {"task_mode": "holt"}}, ["'holt'", "Did you mean 'hold'?"]),
    ("NaN in control", {"control": {"task_mode": "sine", "amplitude": float("nan")}}, ["NaN"]),
    ("policy without a file", {"control": {"task_mode": "policy"}}, ["go together"]),
    ("a file without policy", {"policy": {"uri": "robot.urdf"}}, ["go together"]),
    ("overrides", {"overrides": ["env.x=1"]}, ["overrides are for registered tasks"]),
    ("two profiles in one", {"isaac_lab": {"task_class_or_name": "T"}}, ["goes with runtime_profile"]),
    ("a profile without its task", {"runtime_profile": "isaac_lab_rollout"}, ["isaac_lab is missing"]),
    ("a package that is not there", lab(), ["isaac_lab.task_package_uri", "'lift.zip'"]),
    ("a package without a module", lab(task_module=None), ["without task_module"]),
    ("a module that is a path", lab(task_module="../lift"), ["task_module", "'../lift'"]),
    ("a class with spaces", lab(task_class_or_name="a b"), ["task_class_or_name", "'a b'"]),
    ("arguments nested too deep", lab(task_args=nested(30)), ["nested"]),
    ("arguments too large", lab(task_args={"a": "x" * 300_000}), ["larger than"]),
    (
        "two GPUs",
        {"compute_config": {"gpus_per_node": 2}},
        ["asks for 2 GPUs, and a job of kind 'rollout' runs on one"],
    ),
    ("a camera without a name", camera(name=None), ["outputs.cameras.0.name is missing"]),
    ("a camera that is a path", camera(name="../a"), ["outputs.cameras.0.name", "'../a'"]),
    ("two cameras of one name", TWO, ["two cameras are named 'a'"]),
    ("too many cameras", {"outputs": {"cameras": [{}] * 9}}, ["outputs.cameras", "at most 8"]),
    ("a camera nowhere", camera(pose=None), ["give pose, body or both"]),
    ("a camera that looks at itself", camera(pose={"position": [1, 0, 0], "look_at": [1, 0, 0]}), ["another point"]),
    ("a point of two numbers", camera(pose={"position": [1, 0], "look_at": [0, 0, 0]}), ["position", "at least 3"]),
    ("a point far away", camera(pose={"position": [1e9, 0, 0], "look_at": [0, 0, 0]}), ["position", "1000"]),
    ("an odd picture", camera(width=321), ["outputs.cameras.0.width", "multiple of 2", "321"]),
    ("a huge picture", camera(height=4000), ["outputs.cameras.0.height", "1920", "4000"]),
    ("a picture in text", camera(width="320"), ["outputs.cameras.0.width", "'320'"]),
    ("no pictures a second", camera(fps=0), ["outputs.cameras.0.fps", "greater than 0"]),
    ("more pictures than steps", camera(fps=201), ["camera 'front'", "201 pictures", "200 control steps", "up to 200"]),
    ("a camera that sees all around", camera(fov=360), ["outputs.cameras.0.fov", "170"]),
    ("a slip in a camera", camera(fovv=50), ["'fovv'", "Did you mean 'fov'?"]),
    (
        "pictures of too many environments",
        camera(width=640, height=480) | {"execution": {"num_envs": 1000, "steps": 1}},
        ["1000 environments make 922 MB a step", "allowed: 268 MB"],
    ),
    (
        "too many pictures",
        camera() | {"execution": {"num_envs": 10, "steps": 1_000_000}},
        ["1,428,580 pictures", "allowed: 200,000"],
    ),
    ("arguments with infinity", lab(task_args={"a": float("inf")}), ["inf"]),
]


@pytest.mark.parametrize(("changes", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_bad_request_is_refused_in_words(good, changes, said, refuse, write):
    refuse("rollout", write({key: value for key, value in (good | changes).items() if value is not None}), said=said)


def test_what_is_not_in_the_package_is_missed_before_anything_starts(good, refuse, write, tmp_path):
    with zipfile.ZipFile(tmp_path / "lift.zip", "w") as archive:
        archive.writestr("lift/__init__.py", "")
        archive.writestr("lift/tasks.py", "")
    request = good | lab()
    said = ["'lift.task'", "Did you mean 'lift.tasks'?"]
    refuse("rollout", write({key: value for key, value in request.items() if value is not None}), said=said)


def test_a_small_archive_with_millions_of_elements_is_refused(good, refuse, write, tmp_path):
    with zipfile.ZipFile(tmp_path / "robot.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("robot.urdf", f"<robot>{'<a/>' * 3_000_000}</robot>")
    request = good | {"robot": {"urdf_uri": "robot.zip"}}
    refuse("rollout", write(request), said=["'robot.urdf' has more than 200,000 elements"])


def test_an_asset_of_another_kind_is_refused(good, refuse, write, store, tmp_path):
    record = upload(Store.open(str(store)), tmp_path / "robot.urdf", "scene", {})
    request = good | {"robot": {"urdf_asset_id": record.asset_id}}
    refuse("rollout", write(request), said=["kind 'scene'", "--kind robot"])


def test_an_error_of_the_whole_request_does_not_print_it(good, refuse, write):
    result = refuse("rollout", write(good | {"robot": {}}), said=["robot: give one of urdf_uri, "])
    assert "{" not in result.stderr
    result = refuse("rollout", write(good | {"policy": {"uri": "p.onnx"}}), said=["a policy go together"])
    assert "urdf_uri" not in result.stderr


def test_a_pointer_of_git_lfs_is_told_as_such(good, refuse, write, tmp_path):
    (tmp_path / "robot.urdf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refuse("rollout", write(good), said=["'robot.urdf' is a pointer of Git LFS", "git lfs pull"])


def test_a_bundle_of_several_robots_asks_for_the_line_and_takes_it(good, refuse, write, store, tmp_path):
    with zipfile.ZipFile(tmp_path / "robots.zip", "w") as archive:
        archive.writestr("left.urdf", URDF)
        archive.writestr("right.urdf", URDF)
    robot = {"urdf_uri": "robots.zip"}
    refuse("rollout", write(good | {"robot": robot}), said=["'left.urdf', 'right.urdf'", '"file": "left.urdf"'])
    said = ["Unknown file of 'robots.zip'", "'up.urdf'", "'left.urdf', 'right.urdf'"]
    refuse("rollout", write(good | {"robot": robot | {"file": "up.urdf"}}), said=said)

    # By the request, or by what was said at the upload; the request decides.
    record = upload(Store.open(str(store)), tmp_path / "robots.zip", "robot", {"entry": "right.urdf"})

    def entry(robot):
        request = check_config(good | {"robot": robot}, RolloutRequest)
        return resolve(request, Store.open(str(store)), new_job_id(), tmp_path).spec.rollout.robot.entry

    assert entry(robot | {"file": "left.urdf"}) == "left.urdf"
    assert entry({"urdf_asset_id": record.asset_id}) == "right.urdf"
    assert entry({"urdf_asset_id": record.asset_id, "file": "left.urdf"}) == "left.urdf"


def test_a_file_of_ten_megabytes_is_not_read(refuse, write):
    refuse("rollout", write(b'{"name": "' + b"x" * 10_000_000 + b'"}'), said=["too large", "1,000,000 bytes"])


def test_an_idempotency_key_has_limits(good, refuse, write):
    refuse("rollout", write(good), "--idempotency-key", "k" * 257, said=["257 characters", "1 to 256"])
    refuse("rollout", write(good), "--idempotency-key", "  ", said=["0 characters"])


def test_without_a_config_the_command_says_so(refuse):
    refuse("rollout", said=["Missing CONFIG"])


def test_both_spellings_are_one_request(good):
    camel = {"runtimeProfile": "standard", "robot": {"urdfUri": "r.urdf"}, "execution": {"numEnvs": 2, "steps": 1}}
    snake = {"runtime_profile": "standard", "robot": {"urdf_uri": "r.urdf"}, "execution": {"num_envs": 2, "steps": 1}}
    assert check_config(camel, RolloutRequest) == check_config(json.loads(json.dumps(snake)), RolloutRequest)
