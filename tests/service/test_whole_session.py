"""The public client of the same contract, unmodified, through a whole session on the real simulator; then our own."""

import io
import json
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hardsim as hs
import pytest
from containers import Podman
from helpers import HANG_S
from loops import TASK, TRAINER
from quickstart import BODY
from sites import Site

import simyard as ours

ROOT = Path(__file__).parents[2]
# Its parts are shown one by one: uploads, packages and rollouts on the simulator, and a job of a whole site.
pytestmark = [pytest.mark.sim, pytest.mark.long]

TIMEOUT_S = 400.0
PROGRAM = """\
import json
from pathlib import Path

import hardsim as hs

client = hs.HardsimClient.from_env()

robot_asset_id = client.upload_input_asset("./assets/franka.usdz", asset_kind="robot")
scene_asset_id = client.upload_input_asset("./assets/table_scene.usdz", asset_kind="scene")
task_package_asset_id = client.upload_input_asset(
    "./dist/my-isaac-lab-task.zip",
    asset_kind="isaac_lab_task_package",
)

job = client.submit_assets(
    robot_asset_id=robot_asset_id,
    scene_asset_id=scene_asset_id,
    robot_asset_type="usd",
    num_envs=1,
    steps=1024,
    physics_dt=0.005,
    substeps=2,
    runtime_profile="isaac_lab_rollout",
    isaac_lab={
        "task_module": "my_workloads.pick_and_lift",
        "task_class_or_name": "TabletopPickTask",
        "task_package_asset_id": task_package_asset_id,
        "task_args": {
            "force_video": True,
            "attach_distance_m": 0.08,
        },
    },
)

result = client.wait(job.job_id, poll_interval_s=2.0, timeout_s=1800.0, raise_on_error=False)
print(job.job_id, result["status"])
"""
"""The program of the jobs page, as it stands there."""
LAB = {"task_module": "loops.task", "task_class_or_name": "Task"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("session") / "home", SIMYARD_ALLOW_CPU_TRAINERS="on")
    made.up()
    yield made
    made.down()


@pytest.fixture
def client(site: Site) -> hs.HardsimClient:
    return hs.HardsimClient(site.key, site.url, max_retries=2)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "package.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {"loops/__init__.py": "", "loops/task.py": TASK}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return path


def test_a_rollout_from_upload_to_arrays(client: hs.HardsimClient, tmp_path: Path) -> None:
    import zarr

    example = json.loads((ROOT / "examples" / "rollouts" / "pick-lift.json").read_text())
    robot = client.upload_input(str(ROOT / "examples" / "rollouts" / "gripper_arm.urdf"))
    asked: dict[str, Any] = {
        "robot": robot, "scene": "table_top", "num_envs": 4, "steps": 300, "physics_dt": 0.02, "substeps": 8,
        "seed": 7, "video": False, "control": example["control"], "idempotency_key": "session",
    }  # fmt: skip
    job = client.run(**asked)
    assert client.run(**asked).job_id == job.job_id, "sent again it is the same job"
    with pytest.raises(hs.HardsimRequestError) as conflict:
        client.run(**{**asked, "steps": 299})
    assert conflict.value.status_code == 409

    lines = io.StringIO()
    ended = client.watch_job(job.job_id, poll_interval_s=0.5, timeout_s=TIMEOUT_S, stream=lines)
    assert (ended["status"], ended["attempt_count"], ended["error"]) == ("succeeded", 1, None)
    assert "status=running attempt=1" in lines.getvalue()
    assert client.wait(job.job_id)["status"] == "succeeded"

    files = {Path(path).name for path in job.download(str(tmp_path))}
    assert {"rollout.zarr", "artifact_manifest.json", "runner.log", "user_job.log"} <= files
    with zarr.storage.ZipStore(str(tmp_path / "rollout.zarr"), mode="r") as store:
        arrays = zarr.open_group(store, mode="r")
        assert arrays["data/action"].shape[0] == 4 * 300
    manifest = json.loads((tmp_path / "artifact_manifest.json").read_text())
    assert {entry["name"] for entry in manifest["artifacts"]} == files - {"artifact_manifest.json"}


def test_uploaded_assets_are_named_by_id(client: hs.HardsimClient, tmp_path: Path) -> None:
    asset_id = client.upload_input_asset(
        str(ROOT / "examples" / "rollouts" / "gripper_arm.urdf"), asset_kind="robot", metadata={"gripper": "two"}
    )
    assert client.get_input_asset(asset_id)["metadata"] == {"gripper": "two"}
    assert asset_id in {asset["asset_id"] for asset in client.list_input_assets()}
    usd = tmp_path / "scene.usda"
    usd.write_text('#usda 1.0\n(\n    defaultPrim = "World"\n)\ndef Xform "World"\n{\n}\n')
    scene_id = client.upload_input_asset(str(usd), asset_kind="scene")
    job = client.submit_assets(
        robot_asset_id=asset_id, robot_asset_type="urdf", scene_asset_id=scene_id, num_envs=1, steps=5, video=False
    )
    assert client.cancel(job.job_id)["job_id"] == job.job_id
    with pytest.raises(hs.HardsimJobCanceledError):
        job.wait(poll_interval_s=0.5, timeout_s=TIMEOUT_S)
    with pytest.raises(hs.HardsimJobCanceledError):
        job.download(str(tmp_path))


def test_each_error_is_typed(site: Site, client: hs.HardsimClient) -> None:
    with pytest.raises(hs.HardsimAuthenticationError):
        hs.HardsimClient("sy_live_nobody", site.url).list_input_assets()
    with pytest.raises(hs.HardsimNotFoundError):
        client.status("job-01k00000000000000000000000")
    with pytest.raises(hs.HardsimNotFoundError):
        client.get_training_run("run-01k00000000000000000000000")
    with pytest.raises(hs.HardsimRequestError) as wrong:
        client.run(robot="/etc/passwd", scene="ground", num_envs=0, steps=1)
    assert wrong.value.status_code == 422
    assert "num_envs" in wrong.value.detail
    # A robot that is none is found out before anything is simulated.
    with pytest.raises(hs.HardsimRequestError) as refused:
        client.run(robot="/etc/passwd", scene="ground", num_envs=1, steps=1)
    assert refused.value.status_code == 400
    made = subprocess.run(
        [sys.executable, "-m", "simyard", "keys", "create", "--requests-per-minute", "1", "--json"],
        env=site.env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    limited = hs.HardsimClient(json.loads(made.stdout)["key"], site.url, max_retries=0)
    limited.list_input_assets()
    with pytest.raises(hs.HardsimRateLimitError):
        limited.list_input_assets()


@pytest.mark.long  # a simulator more; the words are those of tests/cli
def test_a_job_that_fails_says_why(site: Site, client: hs.HardsimClient, package: Path) -> None:
    asset = client.upload_input_asset(str(package), asset_kind="isaac_lab_task_package")
    body = {
        "runtime_profile": "isaac_lab_rollout",
        "isaac_lab": {**LAB, "task_package_asset_id": asset, "task_args": {"no_such": 1}},
        "execution": {"num_envs": 1, "steps": 1},
        "compute_config": {"gpus_per_node": 0},
        "retries": 0,
    }
    job_id = site.call("POST", "/v0/jobs", body)["job_id"]
    with pytest.raises(hs.HardsimJobFailedError) as failed:
        client.wait(job_id, poll_interval_s=0.5, timeout_s=TIMEOUT_S)
    assert "no_such" in str(failed.value), "the original failure comes first"
    names = {entry["name"] for entry in failed.value.payload["artifacts"]}
    assert {"runner.log", "diagnostics.json", "user_job.log", "command.stdout.log", "command.stderr.log"} <= names
    assert b"error_code=" in client.download_artifact(job_id, "runner.log")


@pytest.mark.long  # its parts stand in tests/service and tests/cli
def test_a_managed_run_is_watched_to_its_end(client: hs.HardsimClient, package: Path, tmp_path: Path) -> None:
    asset = client.upload_input_asset(str(package), asset_kind="isaac_lab_task_package")
    (tmp_path / "trainer.py").write_text(TRAINER)
    (tmp_path / "marks").mkdir()
    asked: dict[str, Any] = {
        "project_id": "proj_demo",
        "name": "managed-loop",
        "rollout_template": {
            "rollout_parallelism": 1,
            "runtime_profile": "isaac_lab_rollout",
            "num_envs": 2,
            "steps": 5,
            "isaac_lab": {**LAB, "task_package_asset_id": asset},
            "compute_config": {"gpus_per_node": 0},
        },
        "trainer_spec": {
            "image_uri": "local",
            "entrypoint": f"{sys.executable} {tmp_path / 'trainer.py'}",
            "args_template": ["{dataset_manifest_path}", "{output_dir}", "{checkpoint_in_uri}"],
            "env": {"RUN": "{run_id}", "HOW": "{{}}", "SCORES": "[1, 2, 3]", "MARKS": str(tmp_path / "marks")},
            "resources": {"gpu": 0, "cpu": 1, "memory_gb": 1},
        },
        "loop_policy": {"max_iterations": 3},
        "idempotency_key": "the loop",
    }
    run_id = client.create_training_run(**asked)["run_id"]
    assert client.create_training_run(**asked)["run_id"] == run_id
    assert client.pause_training_run(run_id)["status"] == "paused"
    resumed = threading.Timer(3.0, lambda: client.resume_training_run(run_id))
    resumed.start()
    lines = io.StringIO()
    run = client.watch_training_run(run_id, poll_interval_s=0.5, timeout_s=TIMEOUT_S, stream=lines)
    assert (run["status"], run["ended_by"], run["current_iteration"]) == ("succeeded", "max_iterations", 3)
    said = lines.getvalue()
    assert said.count("checkpoint.created:") == 3, "each event once"
    assert "status=paused" in said
    assert client.wait_training_run(run_id)["status"] == "succeeded"
    assert [ended["iteration"] for ended in client.list_training_iterations(run_id)] == [1, 2, 3]
    checkpoints = client.list_run_checkpoints(run_id)
    assert [entry["iteration"] for entry in checkpoints] == [3, 2, 1]
    assert client.get_latest_checkpoint(run_id) == checkpoints[0]
    assert run_id in {found["run_id"] for found in client.list_training_runs()}
    with pytest.raises(hs.HardsimRequestError) as ended:
        client.pause_training_run(run_id)
    assert ended.value.status_code == 409


@pytest.mark.long  # test_managed_train.py cancels one
def test_a_managed_run_is_canceled(client: hs.HardsimClient, package: Path) -> None:
    asset = client.upload_input_asset(str(package), asset_kind="isaac_lab_task_package")
    template = {
        "runtime_profile": "isaac_lab_rollout", "num_envs": 1, "steps": 5, "compute_config": {"gpus_per_node": 0},
        "isaac_lab": {**LAB, "task_package_asset_id": asset, "task_args": {"seconds": 60}},
    }  # fmt: skip
    trainer = {"image_uri": "local", "entrypoint": "true"}
    run_id = client.create_training_run(
        project_id="p", name="n", rollout_template=template, trainer_spec=trainer, loop_policy={"max_iterations": 9}
    )["run_id"]
    began = time.monotonic()
    while client.get_training_run(run_id)["status"] == "queued":
        assert time.monotonic() - began < TIMEOUT_S
        time.sleep(0.5)
    client.cancel_training_run(run_id)
    with pytest.raises(hs.HardsimRequestError) as canceled:
        client.wait_training_run(run_id, poll_interval_s=0.5, timeout_s=TIMEOUT_S)
    assert "status=canceled" in canceled.value.detail


@pytest.mark.long  # rollouts of an FR3 take minutes; test_jobs_api.py sends the same request
def test_the_quickstart_from_its_image_to_its_checkpoints(podman: Podman, tmp_path: Path) -> None:
    """The request as it stands but for the registry and the GPU, which this machine lacks, and the script that watches.

    The image is built from the example's Dockerfile, on a base that has the name of the one which it names.
    """
    podman.client.images.get(podman.python).tag("docker.io/library/python", "3.12-slim")
    folder = ROOT / "examples" / "managed_training" / "smoke_trainer"
    image, _ = podman.client.images.build(path=str(folder), tag="localhost/hardsim-trainer-smoke:0.1.1")
    without = Site(tmp_path / "home", DOCKER_HOST=podman.address, SIMYARD_ALLOW_CPU_TRAINERS="on")
    without.up()
    try:
        trainer = {**BODY["trainer_spec"], "image_uri": image.tags[0]}
        trainer["resources"] = {**trainer["resources"], "gpu": 0}
        run_id = without.call("POST", "/v1/training-runs", {**BODY, "trainer_spec": trainer})["run_id"]

        # The quickstart's own lines.
        client = hs.HardsimClient(without.key, without.url)
        print(client.get_training_run(run_id))
        print(client.list_training_events(run_id, limit=20))
        run = client.watch_training_run(run_id, poll_interval_s=5.0, timeout_s=6 * HANG_S)  # there a day

        # Its contract: of each iteration metrics, a checkpoint and an entry in the lineage.
        assert (run["status"], run["current_iteration"]) == ("succeeded", 3)
        checkpoints = client.list_run_checkpoints(run_id)
        assert [entry["iteration"] for entry in checkpoints] == [3, 2, 1]
        for iteration in without.call("GET", f"/v1/training-runs/{run_id}/iterations")["iterations"]:
            assert iteration["metrics"]["episodes"] == 16
            for job_id in iteration["rollouts"]:
                assert without.job(job_id)["summary"]["success"]["rate"] == 1.0
        path = f"/v1/training-runs/{run_id}/checkpoints/{checkpoints[0]['checkpoint_id']}/download-url"
        with urllib.request.urlopen(without.call("GET", path)["url"]) as answer:
            assert json.load(answer)["parent_sha256"] == checkpoints[1]["sha256"]
    finally:
        without.down()


@pytest.mark.long  # a second job of the simulator
def test_the_seeds_script_runs_with_our_client(site: Site, tmp_path: Path) -> None:
    env = {**site.env, "SIMYARD_API_KEY": site.key, "SIMYARD_API_URL": site.url}
    packed = tmp_path / "gripper_lift.zip"
    folder = ROOT / "examples" / "rollouts" / "gripper_lift"
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                archive.write(path, path.relative_to(folder))
    script = ROOT / "examples" / "client" / "isaac_lab_job.py"
    done = subprocess.run(
        [sys.executable, script, packed, "gripper_lift.task", "GripperLift", "--envs", "2", "--steps", "300", "--dt",
         "0.02", "--substeps", "8", "--cpu"],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout


@pytest.mark.long  # a third job of the simulator
def test_the_jobs_pages_program_runs_with_another_import_line(site: Site, tmp_path: Path) -> None:
    """Word for word, in the folder that the example's script fills; its README shows the same program."""
    import zarr

    example = ROOT / "examples" / "rollouts" / "pick_and_lift"
    program = PROGRAM.replace("import hardsim as hs", "import simyard as hs")
    assert program in (example / "README.md").read_text()
    subprocess.run([sys.executable, example / "make_assets.py", tmp_path], check=True, timeout=HANG_S)
    env = {name: value for name, value in site.env.items() if not name.startswith("SIMYARD_API_")}
    env |= {"HARDSIM_API_KEY": site.key, "HARDSIM_API_URL": site.url}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    job_id, status = done.stdout.split()

    client = ours.Client(site.key, site.url)
    assert status == "succeeded", client.status(job_id)["error"]
    files = {Path(path).name: Path(path) for path in client.download(job_id, str(tmp_path / "left"))}
    assert {
        "rollout.zarr", "render.mp4", "artifact_manifest.json", "runner.log", "user_job.log", "command.stderr.log"
    } <= set(files)  # fmt: skip
    assert "1 of 1 blocks are up" in files["user_job.log"].read_text()
    with zarr.storage.ZipStore(str(files["rollout.zarr"]), mode="r") as store:
        arrays: Any = zarr.open_group(store, mode="r")
        height = arrays["data/block_pose"][:, 2]
        assert len(height) == 1024
        assert height[-1] - height[0] > 0.15, "held by friction, 20 cm up"
        assert arrays["meta/success"][:].tolist() == [1]
