"""Start a managed training run from its JSON, watch it, and fetch the newest checkpoint.

export SIMYARD_API_KEY=sy_live_… SIMYARD_API_URL=http://127.0.0.1:8400
python managed_training.py run.json policy.pt
"""

import argparse
import json
from pathlib import Path

import simyard as hs

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("request", type=Path, help="the run's JSON")
parser.add_argument("checkpoint", help="where the newest checkpoint goes")
parser.add_argument("--interval", type=float, default=5.0, help="how often to look, in seconds")
parser.add_argument("--timeout", type=float, default=24 * 3600.0, help="seconds")
options = parser.parse_args()
request = json.loads(options.request.read_text())

client = hs.Client.from_env()
robot = request["rollout_template"].get("robot", {})
for kind in ("urdf", "usd", "mjcf"):
    # The service reads no paths of this machine: what the JSON names beside itself is sent.
    if (path := options.request.parent / robot.get(f"{kind}_uri", "")).is_file():
        del robot[f"{kind}_uri"]
        robot[f"{kind}_asset_id"] = client.upload_input_asset(str(path), asset_kind="robot")

run_id = client.create_training_run(**request)["run_id"]
print(client.get_training_run(run_id)["status"])
run = client.watch_training_run(
    run_id, poll_interval_s=options.interval, timeout_s=options.timeout, raise_on_error=False
)
for iteration in client.list_training_iterations(run_id):
    print(iteration)
if newest := client.get_latest_checkpoint(run_id):
    print(client.download_checkpoint(run_id, newest["checkpoint_id"], options.checkpoint))
if run["status"] != "succeeded":
    raise SystemExit(run["error"] or 1)
