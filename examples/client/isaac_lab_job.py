"""Send a robot, a scene and a task package, run the task, and fetch what it left.

export SIMYARD_API_KEY=sy_live_… SIMYARD_API_URL=http://127.0.0.1:8400
python isaac_lab_job.py gripper_lift.zip gripper_lift.task GripperLift --robot arm.usdz --scene table.usdz
"""

import argparse
import json

import simyard as hs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("package", help="the task package, a .zip")
parser.add_argument("module", help="its module that has the task")
parser.add_argument("task", help="the task's class or registered name")
parser.add_argument("--robot", help="a USD that the task reads")
parser.add_argument("--scene", help="the same")
parser.add_argument("--args", type=json.loads, default={}, help="what the task is called with, as JSON")
parser.add_argument("--envs", type=int, default=1)
parser.add_argument("--steps", type=int, default=1024)
parser.add_argument("--dt", type=float, default=0.005, help="seconds of a control step")
parser.add_argument("--substeps", type=int, default=2)
parser.add_argument("--video", action="store_true")
parser.add_argument("--cpu", action="store_true", help="take no GPU, even where there is one")
parser.add_argument("--timeout", type=float, default=1800.0, help="seconds")
parser.add_argument("--output", default="isaac_lab_job")
options = parser.parse_args()

client = hs.Client.from_env()
robot = options.robot and client.upload_input_asset(options.robot, asset_kind="robot")
scene = options.scene and client.upload_input_asset(options.scene, asset_kind="scene")
package = client.upload_input_asset(options.package, asset_kind="isaac_lab_task_package")

job = client.submit_assets(
    robot_asset_id=robot,
    scene_asset_id=scene,
    robot_asset_type="usd",
    num_envs=options.envs,
    steps=options.steps,
    physics_dt=options.dt,
    substeps=options.substeps,
    runtime_profile="isaac_lab_rollout",
    isaac_lab={
        "task_module": options.module,
        "task_class_or_name": options.task,
        "task_package_asset_id": package,
        "task_args": options.args,
    },
    outputs={"video": options.video},
    compute_config={"gpus_per_node": 0} if options.cpu else None,
)
result = client.wait(job.job_id, poll_interval_s=2.0, timeout_s=options.timeout, raise_on_error=False)
print(job.job_id, result["status"])

# A failed job leaves its logs, and they say why.
for path in client.download(job.job_id, options.output, raise_on_error=False):
    print(path)
if result["status"] != "succeeded":
    raise SystemExit(result["error"] or 1)
