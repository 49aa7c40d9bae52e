"""Incoming webhooks, against a real service and a real Prefect server."""

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from helpers import Server
from serving import ROOT, SECRET, Answer, Service, github, signed
from standardwebhooks import Webhook

JOB = "job-01k00000000000000000000000"


def send(service: Service, name: str, payload: Any, *, url: str | None = None, **signature: Any) -> Answer:
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return service.call("POST", f"/hooks/{name}", body, headers=signed(body, **signature), url=url)


def flow_run(server: Server, answer: Answer) -> dict[str, Any]:
    assert answer.status == 202, answer.body
    return dict(server.ask(f"/flow_runs/{answer.json['flow_run_id']}"))


def test_a_payload_becomes_parameters(service: Service, deployments: Server) -> None:
    payload = {"who": "Ada", "deep": [{"x": 1.5}], "iterations": 7}
    run = flow_run(deployments, send(service, "train", payload))
    assert run["parameters"] == {
        "request": {
            "name": "by Ada, 1.5",
            "trainingConfig": {"task": "Isaac-Cartpole-Direct", "maxIterations": 7},
        },
        "store": service.store.url(),
        "pool": None,
    }
    assert {"simyard-hook", "hook:train", "project:default"} <= set(run["tags"])


def test_a_hook_starts_jobs_of_its_project(service: Service, deployments: Server) -> None:
    run = flow_run(deployments, send(service, "typed", {"id": JOB}))
    assert run["parameters"]["store"] == f"{service.store.url()}/projects/lab"


# Who may send


BODY = json.dumps({"id": JOB}).encode()
OTHER = "whsec_" + base64.b64encode(b"another-secret-0123456789").decode()


@pytest.mark.parametrize(
    "make",
    [
        dict,
        lambda: {**signed(BODY), "webhook-signature": "v1," + "A" * 43 + "="},
        lambda: {**signed(BODY), "webhook-signature": "é"},
        lambda: {**signed(BODY), "webhook-signature": "v1,é"},
        lambda: {**signed(BODY), "webhook-signature": signed(BODY)["webhook-signature"].removeprefix("v1,")},
        lambda: {**signed(BODY), "webhook-signature": "v2," + signed(BODY)["webhook-signature"].removeprefix("v1,")},
        lambda: signed(BODY + b" "),
        lambda: signed(BODY, secret=OTHER),
        lambda: {name: text for name, text in signed(BODY).items() if name != "webhook-timestamp"},
        lambda: {name: text for name, text in signed(BODY).items() if name != "webhook-signature"},
        lambda: {**signed(BODY), "webhook-timestamp": str(int(time.time()) + 1)},
        lambda: {**signed(BODY), "webhook-timestamp": "9" * 5000},
        lambda: {**signed(BODY), "webhook-id": "another"},
        lambda: github(BODY, "1"),
    ],
    ids=[
        "unsigned", "wrong", "not ASCII", "not ASCII of v1", "no version", "another version", "another body",
        "another secret", "no timestamp", "no signature", "another timestamp", "huge timestamp",
        "sent again under another id", "as GitHub signs",
    ],
)  # fmt: skip
def test_a_webhook_without_the_right_signature_is_refused(service: Service, make: Callable[[], dict[str, str]]) -> None:
    """It is signed when the test runs, minutes after it was found: a signature is good for five of them."""
    answer = service.call("POST", "/hooks/typed", BODY, headers=make())
    assert (answer.status, answer.json["code"]) == (401, "bad_signature")
    assert SECRET not in answer.body.decode()


@pytest.mark.parametrize(("off_s", "status"), [(-320, 401), (-280, 202), (280, 202), (320, 401)])
def test_a_signature_is_good_for_five_minutes_either_way(service: Service, off_s: int, status: int) -> None:
    answer = send(service, "typed", {"id": JOB}, at=time.time() + off_s)
    assert answer.status == status
    if status == 401:
        assert answer.json["code"] == "stale_signature"


def test_one_of_several_signatures_is_enough(service: Service) -> None:
    """A sender that changes its secret signs with the old and the new one for a while."""
    headers = signed(BODY)
    given = f"{signed(BODY, secret=OTHER)['webhook-signature']} {headers['webhook-signature']}"
    assert service.call("POST", "/hooks/typed", BODY, headers=headers | {"webhook-signature": given}).status == 202


def test_the_library_of_the_standard_signs_what_is_taken(service: Service) -> None:
    now = datetime.now(UTC)
    signature = Webhook(SECRET).sign("of-the-library", now, BODY.decode())
    headers = {"webhook-id": "of-the-library", "webhook-timestamp": str(int(now.timestamp()))}
    answer = service.call("POST", "/hooks/typed", BODY, headers=headers | {"webhook-signature": signature})
    assert answer.status == 202, answer.body


def test_an_unknown_hook_is_not_there_whoever_signs(service: Service) -> None:
    told = {service.call("POST", "/hooks/other", BODY, headers=h).body for h in ({}, signed(BODY))}
    assert len(told) == 1
    assert service.call("POST", "/hooks/other", BODY).status == 404


@pytest.mark.parametrize("delivery", [None, "x" * 201, "\x7f"], ids=["none", "too long", "not printable"])
def test_a_delivery_needs_an_id(service: Service, delivery: str | None) -> None:
    headers = {**signed(BODY), "webhook-id": delivery or ""}
    answer = service.call("POST", "/hooks/typed", BODY, headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "bad_delivery_id")


# Once


def test_another_hook_may_have_the_same_delivery_id(service: Service) -> None:
    payload = {"id": JOB, "ref": "refs/heads/main", "forced": False}
    answers = [send(service, name, payload, delivery="shared") for name in ("typed", "main-only")]
    assert len({answer.json["flow_run_id"] for answer in answers}) == 2


@pytest.mark.long  # two services more
def test_the_same_delivery_is_the_same_flow_run_whichever_copy_gets_it(service: Service, deployments: Server) -> None:
    first = send(service, "typed", {"id": JOB}, delivery="once")
    again = send(service, "typed", {"id": JOB}, delivery="once")
    urls = [service.url, service.start()] * 4
    with ThreadPoolExecutor(len(urls)) as threads:
        futures = [threads.submit(send, service, "typed", {"id": JOB}, delivery="both", url=url) for url in urls]
        answers = [future.result() for future in futures]
    assert {answer.status for answer in answers} == {202}
    assert [answer.json["duplicate"] for answer in answers].count(False) == 1
    assert len({answer.json["flow_run_id"] for answer in answers}) == 1
    assert len(deployments.flow_runs("hook:typed:both")) == 1

    service.stop_first()  # what is left was started after the first delivery, as after a restart
    later = send(service, "typed", {"id": JOB}, delivery="once")
    assert [answer.json["duplicate"] for answer in (first, again, later)] == [False, True, True]
    assert len({answer.json["flow_run_id"] for answer in (first, again, later)}) == 1
    assert len(deployments.flow_runs("hook:typed:once")) == 1


# Conditions, and what is missing


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"ref": "refs/heads/dev", "forced": False}, 'ref is not "refs/heads/main"'),
        ({"forced": False}, "the payload has no ref"),
        ({"ref": "refs/heads/main", "forced": 0}, "forced is not false"),
    ],
    ids=["another", "missing", "another type"],
)
def test_a_payload_that_meets_no_condition_starts_nothing(service: Service, payload: Any, why: str) -> None:
    answer = send(service, "main-only", payload)
    assert (answer.status, answer.json) == (202, {"started": False, "why": why})


@pytest.mark.parametrize(
    ("payload", "missing"),
    [
        ({"deep": [{"x": 1}], "iterations": 1}, "payload.who"),
        ({"who": "a", "deep": [], "iterations": 1}, "payload.deep.0.x"),
        ({"who": "a", "deep": {"0": "text"}, "iterations": 1}, "payload.deep.0.x"),
        ({"who": "a", "deep": "text", "iterations": 1}, "payload.deep.0.x"),
    ],
    ids=["top", "past the end", "of a text", "of no list"],
)
def test_what_a_payload_lacks_is_named(service: Service, payload: Any, missing: str) -> None:
    answer = send(service, "train", payload)
    assert answer.status == 422
    assert [problem["msg"] for problem in answer.json["detail"]] == [f"{missing} is missing"]


def test_a_deployment_that_is_not_there_is_no_fault_of_the_sender(service: Service) -> None:
    answer = send(service, "nowhere", {})
    assert (answer.status, answer.json["code"]) == (503, "not_deployed")
    assert "no-such/deployment" in answer.json["detail"]


def test_parameters_that_the_flow_does_not_take_are_told(service: Service) -> None:
    answer = send(service, "wrong", {})
    assert (answer.status, answer.json["code"]) == (400, "bad_parameters")


# Hostile payloads


def train(**changes: Any) -> dict[str, Any]:
    return {"who": "a", "deep": [{"x": "b"}], "iterations": 1} | changes


def test_what_looks_like_a_placeholder_in_a_payload_is_text(service: Service, deployments: Server) -> None:
    sent = train(who="{payload.secret}", secret="x", deep=[{"x": "{payload.who.__class__} {0.__class__} %s ${x}"}])
    run = flow_run(deployments, send(service, "train", sent))
    assert run["parameters"]["request"]["name"] == (
        "by {payload.secret}, {payload.who.__class__} {0.__class__} %s ${x}"
    )


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (train(iterations={"x": 1}), "trainingConfig.maxIterations"),
        (train(iterations="7"), "trainingConfig.maxIterations"),
        (train(iterations=1.5), "trainingConfig.maxIterations"),
        (train(who={"a": 1}), "payload.who"),
        (train(who=None), "payload.who"),
        (train(iterations=None), "payload.iterations: it is null, where the mapping needs a value"),
        (train(who="a\nb"), "name"),
        (train(who="a\x00b"), "payload.who"),
        (train(who="x" * 500), "name"),
    ],
    ids=["object", "text", "fraction", "object in text", "null in text", "null", "line break", "NUL", "long"],
)
def test_a_value_that_does_not_fit_is_refused(service: Service, payload: Any, told: str) -> None:
    answer = send(service, "train", payload)
    assert answer.status == 422, answer.body
    problem = answer.json["detail"][0]
    assert told in f"{'.'.join(problem['loc'])}: {problem['msg']}"


@pytest.mark.parametrize("file", [None, ""], ids=["null", "empty"])
def test_a_payload_without_a_file_does_not_have_another_one_evaluated(service: Service, file: str | None) -> None:
    answer = send(service, "file", {"file": file})
    assert answer.status == 422, answer.body
    assert not answer.json.get("started")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ({"__prefect_kind": "jinja", "template": "{{ 1 + 1 }}"}, 422, "payload"),
        ({"inner": [{"__prefect_kind": "workspace_variable", "variable_name": "x"}]}, 422, "payload"),
        ({"a": "\ud800"}, 400, "half of a surrogate pair"),
        (json.loads("[" * 30 + "]" * 30), 400, "nested more than 20 deep"),
        ({"a": "x" * 300_000}, 422, "payload"),
    ],
    ids=["template", "variable", "half a character", "deep", "large"],
)
def test_what_no_parameter_may_hold_is_refused(service: Service, arguments: Any, status: int, said: str) -> None:
    answer = send(service, "free", {"arguments": arguments})
    assert answer.status == status, answer.body
    assert said in str(answer.json["detail"])


def test_an_object_stays_what_it_is(service: Service, deployments: Server) -> None:
    given = {"a": [1, 2.5, None, True, {"b": "ü"}]}
    run = flow_run(deployments, send(service, "free", {"arguments": given}))
    assert run["parameters"]["request"]["isaacLab"]["taskArgs"] == given


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a": "' + b"x" * (1_000_001 - 9) + b'"}', 413),
        (b'{"a": "' + b"x" * (1_000_000 - 9) + b'"}', 422),
        (b'{"id": NaN}', 400),
        (b'{"id": 1e999}', 400),
        (b'{"id": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", None),
        (b"", 400),
        (b"\xff", 400),
        (b"payload=%7B%7D", 400),
    ],
    ids=["1 MB and a byte", "1 MB", "NaN", "infinity", "nested", "empty", "not UTF-8", "form"],
)
def test_a_body_that_is_no_payload_is_refused(service: Service, body: bytes, status: int | None) -> None:
    answer = send(service, "typed", body)
    assert answer.status in ((400, 422) if status is None else (status,)), answer.body
    assert b"Traceback" not in answer.body


# Files


def test_a_payload_may_name_files_where_all_jobs_may_read_them(service: Service, deployments: Server) -> None:
    for uri in ("s3://robots/policies/a.pt", f"{service.store.url()}/jobs/{JOB}/artifacts/model_1.pt"):
        run = flow_run(deployments, send(service, "file", {"file": uri}))
        assert run["parameters"]["request"]["trainingConfig"]["checkpointPath"] == uri


@pytest.mark.parametrize(
    "uri",
    [
        "/etc/passwd", "model.pt", "../model.pt", "file:///etc/passwd", "s3://others/model.pt",
        "s3://robots-of-others/model.pt", "s3://robots/../others/model.pt", "S3://robots/model.pt",
        "s3://user:word@robots/model.pt", "http://127.0.0.1/model.pt", "https://example.com/model.pt",
        "job-store/block/model.pt", "{store}/projects/lab/model.pt", "{store}/service/keys/x.json",
        "{store}/%73ervice/keys/x.json", "{store}/../home/secret", "{store}/%2e%2e/home/secret", "{store}s/secret",
        "{payload.file}",
    ],
)  # fmt: skip
def test_a_payload_may_name_no_other_file(service: Service, uri: str) -> None:
    answer = send(service, "file", {"file": uri.replace("{store}", service.store.url())})
    assert answer.status == 400, answer.body
    assert answer.json["code"] in ("bad_reference", "store_not_allowed", "bad_key", "bad_store_url")


# The examples


EXAMPLES: dict[str, Any] = {
    "dataset-arrived": {"event": "dataset.arrived", "dataset": {"name": "kitchen"}, "iterations": 60},
    "git-push": {"ref": "refs/heads/main", "after": "0a1b2c3d", "repository": {"full_name": "lab/task"}},
    "new-checkpoint": {
        "Records": [
            {
                "eventName": "ObjectCreated:Put",
                "s3": {"bucket": {"name": "robots"}, "object": {"key": "checkpoints/model_60.pt", "size": 1}},
            }
        ]
    },
    "uploaded-config": {
        "Records": [{"s3": {"bucket": {"name": "robots"}, "object": {"key": "cartpole/training/a-config.json"}}}]
    },
}


def test_the_examples_are_all_here() -> None:
    assert set(EXAMPLES) == set(json.loads(Path(ROOT / "examples" / "hooks.json").read_text()))


def test_a_dataset_that_arrived_has_the_policy_trained_again(service: Service, deployments: Server) -> None:
    run = flow_run(deployments, send(service, "dataset-arrived", EXAMPLES["dataset-arrived"]))
    training = run["parameters"]["request"]["training"]
    assert training["name"] == "Retraining for kitchen"
    assert training["trainingConfig"]["maxIterations"] == 60
    other = send(service, "dataset-arrived", {"event": "dataset.deleted"})
    assert other.json["started"] is False


def test_a_push_has_the_policy_evaluated(service: Service, deployments: Server) -> None:
    body = json.dumps(EXAMPLES["git-push"]).encode()
    first, again = (service.call("POST", "/hooks/git-push", body, headers=github(body, "72d3162e")) for _ in range(2))
    request = flow_run(deployments, first)["parameters"]["request"]
    assert request["customEnvironmentS3Uri"] == "s3://robots/packages/0a1b2c3d.zip"
    assert again.json["duplicate"] is True
    wrong = service.call("POST", "/hooks/git-push", body, headers=github(body, "1", OTHER))
    assert wrong.status == 401
    assert service.call("POST", "/hooks/git-push", body, headers=signed(body)).status == 401
    hostile = json.dumps(EXAMPLES["git-push"] | {"after": "../../others/evil"}).encode()
    assert service.call("POST", "/hooks/git-push", hostile, headers=github(hostile, "2")).status == 400


def test_a_new_checkpoint_is_evaluated(service: Service, deployments: Server) -> None:
    run = flow_run(deployments, send(service, "new-checkpoint", EXAMPLES["new-checkpoint"]))
    assert run["parameters"]["request"]["trainingConfig"]["policyS3Uri"] == "s3://robots/checkpoints/model_60.pt"
    record = {"s3": {"bucket": {"name": "others"}, "object": {"key": "model.pt"}}}
    answer = send(service, "new-checkpoint", {"Records": [record]})
    assert (answer.status, answer.json["code"]) == (400, "store_not_allowed")


def test_the_documented_commands_work(service: Service, deployments: Server) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    shown, commands = re.search(r"```json\n(.*?)```", page, re.S), re.search(r"```bash\n(.*?)```", page, re.S)
    assert shown and commands
    examples = json.loads((ROOT / "examples" / "hooks.json").read_text())
    assert json.loads(shown[1]).items() <= examples.items()
    env = {**os.environ, "SIMYARD_URL": service.url, "SIMYARD_HOOK_BUCKET": SECRET}
    done = subprocess.run(["bash", "-euc", commands[1]], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = flow_run(deployments, Answer(202, {}, done.stdout.encode()))
    assert run["parameters"]["request"]["name"] == "Evaluation of checkpoints/model_60.pt"


def test_nothing_that_was_refused_was_started(service: Service, deployments: Server) -> None:
    before = service.store.list()
    send(service, "file", {"file": "/etc/passwd"}, delivery="refused")
    assert deployments.flow_runs("hook:file:refused") == []
    assert service.store.list() == before
