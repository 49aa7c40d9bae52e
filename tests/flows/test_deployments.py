"""The deployments of prefect.yaml, run by a real worker on the real simulator."""

import hashlib
import json
import os
import subprocess
import urllib.error
import zipfile
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIG, HANG_S, LIBRARIES, PREFECT, CommandLine, Server, last_json, wait_until
from pools import ROOT, Api, Pool
from pydantic import BaseModel

from simyard.requests.jobs import EvaluateRequest, ExportRequest, RetrainRequest, TrainRequest
from simyard.requests.rollout import RolloutRequest
from simyard.store import keys


@pytest.mark.long  # a worker trains by a deployment in test_pool.py, on the real simulator in test_whole_session.py
@pytest.mark.sim
def test_a_deployment_trains_in_the_worker(deployed: Server, real_pool: Pool, api: Api) -> None:
    before = keys.new_job_id()
    started = subprocess.run(
        [PREFECT, "--no-prompt", "deployment", "run", "train/train", "--params", json.dumps({"request": CONFIG})],
        env={**os.environ, **deployed.env}, capture_output=True, text=True, timeout=HANG_S, check=True,
    )  # fmt: skip
    assert "Created flow run" in started.stdout
    (run,) = api("/flow_runs/filter", {"deployments": {"name": {"any_": ["train"]}}})
    state = api.final_state(run["id"], 180)
    assert (state["type"], state["message"]) == ("COMPLETED", "4 iterations")

    (job,) = (real_pool.store / "jobs").iterdir()
    assert before < job.name < keys.new_job_id(), "ids sort by time, whoever starts the job"
    manifest = json.loads((job / "artifact_manifest.json").read_text())
    assert {"checkpoints/model_3.pt", "metrics.csv", "curves.png", "report.md"} <= {
        entry["name"] for entry in manifest["artifacts"]
    }
    for entry in manifest["artifacts"]:
        assert hashlib.sha256((job / "artifacts" / entry["name"]).read_bytes()).hexdigest() == entry["sha256"]

    shown = api("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 100})
    assert {(artifact["key"].removeprefix(f"{job.name}-"), artifact["type"]) for artifact in shown} == {
        ("progress", "progress"),
        ("report", "markdown"),
        ("artifacts", "table"),
        ("store", "markdown"),
        ("curves", "image"),
    }
    by_key = {artifact["key"].removeprefix(f"{job.name}-"): artifact["data"] for artifact in shown}
    assert by_key["progress"] == 100.0
    assert job.as_uri() in by_key["store"]
    assert "](" not in by_key["report"] + by_key["store"], "no link that a browser cannot open"

    def logs() -> list[Any]:
        return api("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})

    def has_every_iteration() -> bool:
        text = "\n".join(entry["message"] for entry in logs())
        return all(f"Learning iteration {index}/4" in text for index in range(4))

    # Prefect sends logs in the background, and the last of them after the run's final state.
    wait_until(has_every_iteration, HANG_S, "the output of all iterations in the run's log")
    assert len(logs()) < 40, "lines come in batches"


@pytest.mark.parametrize(
    ("deployment", "some"),
    [
        ("train/train", {"request.trainingConfig.task", "request.timeouts.wallSeconds", "pool"}),
        ("evaluate/evaluate", {"request.trainingConfig.fromJob.jobId"}),
        ("export_policy/export_policy", {"request.exportConfig.fromJob.jobId"}),
        ("rollout/rollout", {"request.isaacLab.taskClassOrName"}),
        ("managed-training/managed_training", {"request.trainerSpec.imageUri"}),
        ("resume-training-run/resume_training_run", {"run_id"}),
        ("resume-job/resume_job", {"job_id"}),
        ("retrain/retrain", {"request.training.trainingConfig.task"}),
    ],
)
def test_every_field_of_the_form_is_described(deployed: Server, api: Api, deployment: str, some: set[str]) -> None:
    schema = api(f"/deployments/name/{deployment}")["parameter_openapi_schema"]
    described = dict(_fields(schema, schema.get("definitions", {})))
    assert some <= set(described)
    lacking = [name for name, field in described.items() if not field.get("description")]
    assert not lacking, f"no description: {lacking}"
    assert not [name for name, field in described.items() if "As for" in field["description"]], "a form stands alone"
    run_together = [
        name for name, field in described.items() if "." in name and field["title"].count(" ") < _words(name)
    ]
    assert not run_together, f"title is not in words: {run_together}"


@pytest.mark.parametrize(
    ("deployment", "model"),
    [
        ("train/train", TrainRequest),
        ("evaluate/evaluate", EvaluateRequest),
        ("export_policy/export_policy", ExportRequest),
        ("rollout/rollout", RolloutRequest),
        ("retrain/retrain", RetrainRequest),
    ],
)
def test_a_quick_run_has_all_that_it_needs(deployed: Server, api: Api, deployment: str, model: type[BaseModel]) -> None:
    found = api(f"/deployments/name/{deployment}")
    request = model.model_validate(found["parameters"]["request"])
    schema = found["parameter_openapi_schema"]
    shown = schema["definitions"][model.__name__]["properties"]
    assert set(found["parameters"]["request"]) <= set(shown), "the form knows this spelling"
    assert request.model_dump(by_alias=True, exclude_unset=True, mode="json") == found["parameters"]["request"]

    # The form can be sent as it is.
    sent = _filled_in(schema, schema["definitions"], found["parameters"])
    answer = api("/ui/schemas/validate", {"schema": schema, "values": sent})
    assert answer == {"errors": [], "valid": True}


def _filled_in(node: dict[str, Any], definitions: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return what Prefect's form sends when nothing is touched: every default besides what is given."""
    sent = {name: field["default"] for name, field in node["properties"].items() if "default" in field} | given
    for name, field in node["properties"].items():
        arms = [field, *field.get("anyOf", [])]
        model, *_ = [definitions[arm["$ref"].rpartition("/")[2]] for arm in arms if "$ref" in arm] or [{}]
        if model.get("properties") and isinstance(sent.get(name, {}), dict):
            sent[name] = _filled_in(model, definitions, sent.get(name, {}))
    return sent


def test_the_form_begins_with_what_the_job_is_about_and_shows_limits_and_choices(deployed: Server, api: Api) -> None:
    schema = api("/deployments/name/train/train")["parameter_openapi_schema"]
    assert list(schema["definitions"]["TrainRequest"]["properties"])[:3] == ["name", "trainingConfig", "resume"]
    fields = dict(_fields(schema, schema["definitions"]))
    envs = fields["request.trainingConfig.numEnvs"]
    assert envs["title"] == "Number of environments"
    assert (envs["type"], envs["minimum"], envs["default"]) == ("integer", 1, 4096)
    assert fields["request.trainingConfig.rlLibrary"]["enum"] == [*LIBRARIES]
    assert fields["request.simulator"]["enum"] == ["isaaclab"]
    del fields["request.trainingConfig.stopWhen.target"]  # a return may be any number
    for name, field in fields.items():
        for arm in field.get("anyOf", [field]):
            if arm.get("type") in ("integer", "number"):
                assert {"minimum", "exclusiveMinimum"} & set(arm), f"{name} has no lower limit"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvz": 4}}, id="unknown key"),
        pytest.param({"trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": -4}}, id="below the limit"),
        pytest.param({"trainingConfig": {"task": "Isaac-Cartpole-Direct", "rlLibrary": "rsl"}}, id="unknown library"),
    ],
)
def test_the_server_refuses_a_bad_request(deployed: Server, api: Api, wrong: dict[str, Any]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        api.start("train/train", {"request": wrong})
    assert refused.value.code in (409, 422)


def test_an_unknown_pool_is_a_bad_request(
    deployed: Server, simyard: CommandLine, write_config: Any, store: Path
) -> None:
    completed = simyard("train", write_config(), "--pool", "simyrad", "--store", store, "--json")
    assert completed.returncode == 2
    error = last_json(completed)["error"]
    assert error["code"] == "unknown_pool"
    assert "Did you mean 'simyard'?" in error["message"]
    assert not (store / "jobs").exists()


def _fields(node: dict[str, Any], definitions: dict[str, Any], path: str = "") -> Any:
    """Yield every (dotted name, field) of a form, with what a `$ref` adds."""
    for name, field in node.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        arms = [field, *field.get("anyOf", [])]
        referred = [definitions[arm["$ref"].rpartition("/")[2]] for arm in arms if "$ref" in arm]
        yield here, {**(referred[0] if referred else {}), **field}
        for model in referred:
            yield from _fields(model, definitions, here)


def _words(name: str) -> int:
    last = name.rpartition(".")[2]
    return sum(letter.isupper() for letter in last)


@pytest.mark.long  # a worker runs deployments in test_pool.py and test_up.py
def test_a_deployment_submits_a_rollout_once(
    deployed: Server, real_pool: Pool, api: Api, tmp_path: Path, store: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "counting.zip", "w") as archive:
        archive.writestr("counting/__init__.py", COUNTING)
    request = {
        "runtime_profile": "isaac_lab_rollout",
        "execution": {"num_envs": 2, "steps": 5},
        "compute_config": {"gpus_per_node": 0},
        "isaac_lab": {
            "task_module": "counting",
            "task_class_or_name": "Counting",
            "task_package_uri": str(tmp_path / "counting.zip"),
        },
    }
    for _ in range(2):
        run_id = api.start("rollout/rollout", {"request": request, "store": str(store), "idempotency_key": "night 7"})
        state = api.final_state(run_id, 120)
        assert (state["type"], state["message"]) == ("COMPLETED", "5 steps")
    (job,) = (store / "jobs").iterdir()
    manifest = json.loads((job / "artifact_manifest.json").read_text())
    assert {"rollout.zarr", "user_job.log"} <= {entry["name"] for entry in manifest["artifacts"]}


COUNTING = """
class Counting:
    def __init__(self, context):
        self.context = context

    def run(self):
        import numpy as np
        for step in range(self.context.steps):
            self.context.recorder.record({"step": np.full(self.context.num_envs, step)})
"""


@pytest.mark.long  # what is sent is started in this file
def test_sent_by_us_or_by_prefect_they_are_the_same(deployed: Server, api: Api, tmp_path: Path) -> None:
    what = (
        "entrypoint", "description", "tags", "parameters", "enforce_parameter_schema", "work_pool_name",
        "work_queue_name", "job_variables", "paused", "concurrency_options",
    )  # fmt: skip

    def known() -> dict[str, Any]:
        found = {}
        for entry in api("/deployments/filter", {"limit": 100}):
            limit = entry["global_concurrency_limit"]
            schedules = [{name: one[name] for name in ("schedule", "slug", "active")} for one in entry["schedules"]]
            own = {
                "limit": limit and limit["limit"],
                "schedules": schedules,
                "form": sorted(entry["parameter_openapi_schema"]["properties"]),
            }
            found[entry["name"]] = {name: entry[name] for name in what} | own
        return found

    ours = known()
    completed = subprocess.run(
        [PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", ROOT / "prefect.yaml"],
        cwd=tmp_path, env={**os.environ, **deployed.env}, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stdout + completed.stderr
    theirs = known()
    for name, entry in theirs.items():
        assert entry == ours[name]
    assert theirs.keys() == ours.keys()
