"""A config that is uploaded starts its job: as an asset, or through a hook that a bucket tells of it."""

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import Server
from serving import Answer, Service, signed
from vams import DISCOVERY, EVALUATION, TRAINING

from simyard.store.keys import JobKeys
from simyard.tasks.shared import inputs


def keep(service: Service, config: str, key: str, kind: str | None = "config", name: str = "a-config.json") -> Answer:
    """Upload a file by a URL, and make it an asset."""
    asked = {"filename": name, "size_bytes": len(config.encode())}
    link = service.call("POST", "/v0/inputs/presign-upload", asked, key=key)
    assert link.status == 200, link.body
    sent = link.json
    service.call(sent["upload_method"], sent["upload_url"], config.encode(), headers=sent["upload_headers"])
    body = {"input_uri": link.json["input_uri"]} | ({"kind": kind} if kind else {})
    return service.call("POST", "/v0/assets/register", body, key=key)


def started(server: Server, answer: Answer) -> dict[str, Any]:
    """The parameters of the flow run that a hook has started."""
    assert (answer.status, answer.json.get("started")) == (202, True), answer.body
    return dict(server.ask(f"/flow_runs/{answer.json['flow_run_id']}")["parameters"])


def test_a_config_that_is_registered_has_its_job_started_once(service: Service, deployments: Server) -> None:
    key = service.key("default", "assets", "jobs")
    first, again, unsaid = (keep(service, TRAINING, key, kind) for kind in ("config", "config", None))
    assert (first.status, first.json["kind"]) == (200, "config"), first.body
    job_id = first.json["job_id"]
    assert {again.json["job_id"], unsaid.json["job_id"]} == {job_id}
    (run,) = deployments.flow_runs(job_id)
    assert run["parameters"]["job_id"] == job_id

    # It is a job as POST /v0/jobs makes them: checked, frozen, and counted among those of the key.
    spec = service.store.get_json(JobKeys(job_id).job)
    assert (spec["task"], spec["renamed_from"]) == ("Isaac-Cartpole-Direct", "Isaac-Cartpole-Direct-v0")
    assert spec["request"] == json.loads(TRAINING)
    assert any(tag.startswith("key:") for tag in run["tags"])
    shown = service.call("GET", f"/v0/jobs/{job_id}", key=key)
    assert (shown.status, shown.json["status"]) == (200, "queued")
    assert "job_id" not in keep(service, "{}", key, "checkpoint", "model_1.pt").json


@pytest.mark.parametrize(
    ("config", "scopes", "status", "said"),
    [
        (TRAINING, ("assets",), 403, "needs the scope jobs; this API key has assets"),
        (TRAINING.replace('"numEnvs"', '"numEnv"'), ("assets", "jobs"), 422, "Did you mean 'numEnvs'?"),
        ("{", ("assets", "jobs"), 400, "The config 'a-config.json' is not valid JSON"),
        ("[]", ("assets", "jobs"), 400, "holds list, not an object"),
        ('{"exportConfig": 1}', ("assets", "jobs"), 422, "exportConfig"),
        (" " * 1_000_001, ("assets", "jobs"), 400, "is too large for a config"),
    ],
    ids=["no scope", "a slip", "no JSON", "a list", "another kind", "too large"],
)
def test_a_config_that_is_refused_is_not_kept(
    service: Service, config: str, scopes: tuple[str, ...], status: int, said: str
) -> None:
    key = service.key("default", *scopes)
    before = service.store.list("assets"), service.store.list("jobs")
    answer = keep(service, config, key)
    assert answer.status == status, answer.body
    assert said in str(answer.json["detail"])
    assert (service.store.list("assets"), service.store.list("jobs")) == before


# Through a hook


@pytest.fixture
def send(service: Service) -> Callable[..., Answer]:
    """Have the hook for configs hear of one."""

    def send(config: str, hook: str = "config", **signature: Any) -> Answer:
        body = json.dumps({"config": config}).encode()
        return service.call("POST", f"/hooks/{hook}", body, headers=signed(body, **signature))

    return send


def test_a_hook_starts_the_job_of_a_config_that_is_an_asset(
    service: Service, deployments: Server, send: Callable[..., Answer], tmp_path: Any
) -> None:
    (tmp_path / "a-config.json").write_text(TRAINING)
    record = inputs.upload(service.store, tmp_path / "a-config.json", "config", {})
    first, again = send(record.asset_id, delivery="of a config"), send(record.asset_id, delivery="of a config")
    assert started(deployments, first) == {
        "request": json.loads(TRAINING), "store": service.store.url(), "pool": None
    }  # fmt: skip
    assert (again.json["flow_run_id"], again.json["duplicate"]) == (first.json["flow_run_id"], True)
    run = deployments.ask(f"/flow_runs/{first.json['flow_run_id']}")
    assert {"simyard-hook", "hook:config", "project:default"} <= set(run["tags"])


def test_a_hook_starts_nothing_from_what_is_no_config(
    service: Service, send: Callable[..., Answer], tmp_path: Any
) -> None:
    """A job leaves its config in the store: were it one, a bucket that tells of it would start job after job."""
    (tmp_path / "model_1.pt").write_text(TRAINING)
    other = inputs.upload(service.store, tmp_path / "model_1.pt", "checkpoint", {})
    left = "jobs/job-01k00000000000000000000000/artifacts/training-config.json"
    service.store.put_bytes(left, TRAINING.encode())
    for uri, code, said in (
        (f"{service.store.url()}/{left}", "bad_reference", "is no config that a hook may start a job from"),
        ("training-config.json", "bad_reference", "Give s3://BUCKET/KEY in a store that SIMYARD_INPUT_STORES lists"),
        ("/etc/passwd", "bad_reference", "'/etc/passwd'"),
        ("s3://others/a-config.json", "store_not_allowed", "SIMYARD_INPUT_STORES"),
        (other.asset_id, "wrong_asset_kind", "'checkpoint'"),
        (f"asset-{'0' * 64}", "unknown_asset", "There is no asset"),
        ("asset-1", None, "'asset-1'"),
    ):
        answer = send(uri)
        assert answer.status in (400, 404), answer.body
        assert code in (None, answer.json["code"]), answer.body
        assert said in str(answer.json["detail"])
    (tmp_path / "b-config.json").write_text(EVALUATION)
    relative = inputs.upload(service.store, tmp_path / "b-config.json", "config", {})
    answer = send(relative.asset_id)
    assert (answer.status, answer.json["code"]) == (400, "bad_reference")
    assert "trainingConfig.checkpointPath" in answer.json["detail"] or "checkpoint_path" in answer.json["detail"]


@pytest.fixture
def bucket(s3_server: str) -> Iterator[Callable[[str, bytes], str]]:
    """Put an object into the bucket that all jobs may read."""

    def put(key: str, data: bytes = b"") -> str:
        url, headers = f"{s3_server}/robots/{key}".rstrip("/"), {"Content-Type": "application/octet-stream"}
        urllib.request.urlopen(urllib.request.Request(url, data or None, headers, method="PUT")).close()
        return f"s3://robots/{key}"

    put("")
    yield put


@pytest.mark.long  # a service and a bucket of its own; the asset above comes by the same way
def test_a_bucket_that_tells_of_a_config_has_its_job_started(
    make_site: Callable[..., Service], s3_server: str, bucket: Callable[..., str], deployments: Server
) -> None:
    """The folder is that of the readme: paths start from the config's folder or the one above it."""
    site = make_site(AWS_ENDPOINT_URL=s3_server, AWS_ACCESS_KEY_ID="robot", AWS_SECRET_ACCESS_KEY="secret")
    site.start()

    def tell(key: str, name: str = "uploaded-config") -> Answer:
        event = {"Records": [{"s3": {"bucket": {"name": "robots"}, "object": {"key": key}}}]}
        body = json.dumps(event).encode()
        return site.call("POST", f"/hooks/{name}", body, headers=signed(body))

    asset = "my-training-asset"
    bucket(f"{asset}/training/cartpole-training-config.json", TRAINING.encode())
    bucket(f"{asset}/evaluation/cartpole-evaluation-config.json", EVALUATION.encode())
    bucket(f"{asset}/evaluation/newest-evaluation-config.json", DISCOVERY.encode())
    for number in (0, 100, 499):
        bucket(f"{asset}/checkpoints/model_{number}.pt", b"x")
    for number in (999, 1500):
        bucket(f"{asset}/evaluation/model_{number}.pt", b"x")

    trained = started(deployments, tell(f"{asset}/training/cartpole-training-config.json"))
    assert trained["request"] == json.loads(TRAINING)
    wanted = json.loads(EVALUATION)
    wanted["trainingConfig"]["checkpointPath"] = f"s3://robots/{asset}/checkpoints/model_499.pt"
    evaluated = started(deployments, tell(f"{asset}/evaluation/cartpole-evaluation-config.json"))
    assert evaluated["request"] == wanted
    found = started(deployments, tell(f"{asset}/evaluation/newest-evaluation-config.json"))
    assert found["request"]["trainingConfig"]["checkpointPath"] == f"s3://robots/{asset}/evaluation/model_1500.pt"

    bucket("top-config.json", EVALUATION.encode())
    bucket("alone/a-config.json", DISCOVERY.encode())
    bucket(f"{asset}/up-config.json", EVALUATION.replace("checkpoints/", "../../others/").encode())
    for key, code, said in (
        ("top-config.json", "missing_file", "there is no file 'checkpoints/model_499.pt' beside the config"),
        ("alone/a-config.json", "no_checkpoint", "No checkpoint of 'rsl_rl' beside the config"),
        (f"{asset}/up-config.json", "missing_file", "'../../others/model_499.pt'"),
        ("none-config.json", "missing_file", "there is nothing at 's3://robots/none-config.json'"),
    ):
        answer = tell(key)
        assert (answer.status, answer.json["code"]) == (400, code), answer.body
        assert said in answer.json["detail"]
