"""Outgoing webhooks: told once, told again after a failure, given up in the end, and nobody waits for anybody."""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest
from helpers import CONFIG, HANG_S, Server, train_request, wait_until
from lazy import lazy
from serving import ROOT, Received, Receiver, Service
from standardwebhooks import WebhookVerificationError

from simyard.requests.settings import MachineSettings
from simyard.service.settings import Settings
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.collect import collect
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.shared.api_keys import webhook_secret
from simyard.tasks.shared.history import load_spec
from simyard.tasks.stage import stage

launching = lazy("simyard.service.prefect_api")
notifications = lazy("simyard.service.notifications")
prefect_settings = lazy("prefect.settings")

KEY_ID = "0123456789ab"
SECRET = b"0123456789abcdef0123456789abcdef"


class Outboxes:
    """A site's outbox, as copies of the service see it that a test runs by hand."""

    def __init__(self, folder: Path, launches: Any, *allowed: str) -> None:
        self.settings = Settings(
            machine=MachineSettings(home=folder / "home", store="", python=""),
            store=(folder / "store").as_uri(), secret=SECRET, private_hosts=frozenset(allowed),
        )  # fmt: skip
        self.launches = launches
        self.store: Store = self.settings.open()

    def copy(self) -> Any:
        """Return the outbox of a copy of the service that has just been started."""
        return notifications.Outbox(self.settings, self.launches)

    def job(self, *, ended: bool = True) -> str:
        """Put a job into the store."""
        resolved = resolve(train_request(CONFIG), self.store, keys.new_job_id())
        stage(resolved, self.store)
        if ended:
            self.end(resolved.spec.job_id)
        return resolved.spec.job_id

    def end(self, job_id: str) -> None:
        spec = load_spec(self.store, job_id)
        persist(spec, collect(spec, self.store, CANCELED), self.store)

    def ask(self, url: str, job_id: str | None = None, **more: Any) -> str:
        """Have the end of a job told."""
        job_id = job_id or self.job()
        notice = notifications.Notice(id=job_id, project="default", key_id=KEY_ID, url=url, **more)
        self.store.put_json(keys.outbox(job_id), notice.to_json())
        return job_id

    def waiting(self) -> list[str]:
        return [entry.key.rpartition("/")[2].removesuffix(".json") for entry in self.store.list(keys.OUTBOX)]

    def entry(self, job_id: str) -> dict[str, Any]:
        return dict(self.store.get_json(keys.outbox(job_id)))

    def make_due(self, job_id: str) -> None:
        self.store.put_json(keys.outbox(job_id), self.entry(job_id) | {"not_before": time.time()})

    def record(self, job_id: str) -> dict[str, Any]:
        return dict(self.store.get_json(JobKeys(job_id).notification))


@pytest.fixture(scope="session")
def launches(deployments: Server) -> Iterator[Any]:
    with prefect_settings.temporary_settings({prefect_settings.PREFECT_API_URL: deployments.url}):
        made = launching.Launches()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, launches: Any, receiver: Receiver, dead_port: int) -> Outboxes:
    return Outboxes(tmp_path, launches, f"127.0.0.1:{receiver.port}", f"127.0.0.1:{dead_port}")


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A path of the receiver that no other test has."""
    return f"/{tmp_path.name}"


def documented_verify() -> Callable[[str, dict[str, str], bytes], Any]:
    """Return the function that docs/webhooks.md tells receivers to use."""
    page = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.S)
    assert code
    names: dict[str, Any] = {}
    exec(code[1], names)
    return cast("Callable[[str, dict[str, str], bytes], Any]", names["verify"])


def check(got: Received, secret: str, event: str) -> dict[str, Any]:
    """Verify a webhook as docs/webhooks.md says, which is by the standard's library; return what it is about."""
    verify = documented_verify()
    told = verify(secret, got.headers, got.body)
    assert told == json.loads(got.body)
    assert abs(time.time() - int(got.headers["webhook-timestamp"])) < 60
    earlier = str(int(got.headers["webhook-timestamp"]) - 1)
    for headers, body in (
        (got.headers, got.body + b" "),
        (got.headers | {"webhook-id": "another"}, got.body),
        (got.headers | {"webhook-timestamp": earlier}, got.body),
    ):
        with pytest.raises(WebhookVerificationError, match="No matching signature"):
            verify(secret, headers, body)
    assert (told["event"], told["delivery_id"]) == (event, got.headers["webhook-id"])
    return dict(told["data"])


# A real service


def test_the_end_of_a_job_is_told_whatever_happens_meanwhile(service: Service, receiver: Receiver) -> None:
    key = service.key()
    receiver.answers["/job"] = [500]
    body = CONFIG | {"notify_url": receiver.url("/job")}
    job, same = (
        service.call("POST", "/v0/jobs", body, key=key, headers={"Idempotency-Key": "told-once"}).json for _ in range(2)
    )
    assert job["job_id"] == same["job_id"]
    assert receiver.got["/job"] == []
    assert service.call("POST", f"/v0/jobs/{job['job_id']}/cancel", b"", key=key).json["status"] == "canceled"
    wait_until(lambda: receiver.got["/job"], HANG_S, "a first delivery")
    service.stop()
    service.start()
    wait_until(lambda: service.store.exists(JobKeys(job["job_id"]).notification), HANG_S, "another delivery")
    wait_until(lambda: not service.store.list(keys.OUTBOX), HANG_S, "an empty outbox")
    wait_until(lambda: not service.store.list(keys.SENDING), HANG_S, "no trace of who sent it")

    first, second = receiver.got["/job"]
    secret = webhook_secret((service.home / "home" / "secret").read_bytes(), key.split("_")[2])
    data = check(second, secret, "job.canceled")
    assert (data["job_id"], data["status"]) == (job["job_id"], "canceled")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    record = service.store.get_json(JobKeys(job["job_id"]).notification)
    assert (record["delivered"], record["deliveries"], record["problem"]) == (True, 2, None)


RUN = {
    "rollout_template": {
        "runtime_profile": "isaac_lab_rollout",
        "isaac_lab": {"task_class_or_name": "Isaac-Cartpole-Direct"},
        "steps": 10,
    },
    "trainer_spec": {"image_uri": "local", "entrypoint": "python -V", "resources": {"gpu": 1}},
    "loop_policy": {"max_iterations": 1},
}
SWEEP = CONFIG | {"sweep": {"seeds": 3}}


@pytest.mark.parametrize(
    ("path", "body", "event", "name"),
    [
        ("/v1/training-runs", RUN, "training_run.canceled", "run_id"),
        ("/v1/sweeps", SWEEP, "sweep.canceled", "sweep_id"),
    ],
    ids=["a managed run", "a sweep"],
)
def test_the_end_is_told_of(
    service: Service, receiver: Receiver, path: str, body: dict[str, Any], event: str, name: str
) -> None:
    key = service.key("lab")
    made = service.call("POST", path, body | {"notify_url": receiver.url(f"/{name}")}, key=key)
    assert made.status == 201, made.body
    service.call("POST", f"{path}/{made.json[name]}/cancel", b"", key=key)
    (got,) = wait_until(lambda: receiver.got[f"/{name}"], HANG_S, "a delivery")
    secret = webhook_secret((service.home / "home" / "secret").read_bytes(), key.split("_")[2])
    assert check(got, secret, event)[name] == made.json[name]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/", "http://169.254.169.254/", "http://[::1]/", "http://10.0.0.1/", "http://2130706433/",
        "http://0x7f.1/", "http://localhost/", "http://a:b@1.1.1.1/", "http://1.1.1.1/\r\nX-A: 1", "ftp://1.1.1.1/",
    ],
)  # fmt: skip
def test_a_private_address_is_refused_before_the_job_is_made(service: Service, url: str) -> None:
    key = service.key("private")
    answer = service.call("POST", "/v0/jobs", CONFIG | {"notify_url": url}, key=key)
    assert (answer.status, answer.json["code"]) == (400, "refused_url")
    assert service.call("GET", "/v0/jobs", key=key).json["jobs"] == []


# Again, and in the end no more


def test_a_job_that_goes_on_is_not_told(site: Outboxes, receiver: Receiver, path: str) -> None:
    job_id = site.ask(receiver.url(path), site.job(ended=False))
    copy = site.copy()
    assert (copy.deliver(), copy.deliver()) == (0, 0)
    assert (receiver.got[path], site.waiting()) == ([], [job_id])
    site.end(job_id)
    assert copy.deliver() == 1
    assert check(receiver.got[path][0], webhook_secret(SECRET, KEY_ID), "job.canceled")["status"] == "canceled"


def test_what_fails_is_sent_again_later_and_given_up_in_the_end(site: Outboxes, receiver: Receiver, path: str) -> None:
    receiver.answers[path] = [500, 404, 301, *[503] * 20]
    job_id = site.ask(receiver.url(path))
    copy = site.copy()
    for number, pause_s in enumerate(notifications.PAUSES_S, 1):
        began = time.time()
        assert copy.deliver() == 0
        entry = site.entry(job_id)
        assert entry["failures"] == number
        assert began + pause_s <= entry["not_before"] <= time.time() + pause_s
        assert copy.deliver() == 0
        assert len(receiver.got[path]) == number, "it waits for its time"
        site.make_due(job_id)
    assert copy.deliver() == 1
    assert site.waiting() == []
    record = site.record(job_id)
    assert record | {"at": None} == {
        "delivered": False, "url": receiver.url("/…"), "event": "job.canceled", "delivery_id": f"{job_id}.canceled",
        "deliveries": len(notifications.PAUSES_S) + 1, "problem": "it answered 503", "at": None,
    }  # fmt: skip
    assert len({got.headers["webhook-id"] for got in receiver.got[path]}) == 1
    assert len(receiver.got[path]) == len(notifications.PAUSES_S) + 1


def test_a_dead_receiver_is_tried_again(site: Outboxes, receiver: Receiver, dead_port: int, path: str) -> None:
    job_id = site.ask(f"http://127.0.0.1:{dead_port}{path}")
    assert site.copy().deliver() == 0
    assert site.entry(job_id)["failures"] == 1
    site.store.put_json(keys.outbox(job_id), site.entry(job_id) | {"url": receiver.url(path), "not_before": 0.0})
    assert site.copy().deliver() == 1
    assert site.record(job_id)["deliveries"] == 2


def test_a_redirect_is_not_followed(site: Outboxes, receiver: Receiver, path: str) -> None:
    def redirect(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(307)
        handler.send_header("Location", receiver.url(f"{path}/other"))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    receiver.answers[path] = [redirect]
    job_id = site.ask(receiver.url(path))
    assert site.copy().deliver() == 0
    assert site.entry(job_id)["failures"] == 1
    assert receiver.got[f"{path}/other"] == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://169.254.169.254/"])
def test_a_name_that_leads_home_by_now_is_not_followed(site: Outboxes, url: str) -> None:
    job_id = site.ask(url)
    assert site.copy().deliver() == 0
    assert site.entry(job_id)["failures"] == 1


# Several copies of the service


def test_copies_that_look_at_once_send_it_once(site: Outboxes, receiver: Receiver, path: str) -> None:
    receiver.answers[path] = [_slowly(0.5)] * 40
    jobs = [site.ask(receiver.url(path)) for _ in range(4)]
    copies = [site.copy() for _ in range(6)]
    with ThreadPoolExecutor(len(copies)) as threads:
        settled = sum(threads.map(notifications.Outbox.deliver, copies))
    assert settled == len(jobs)
    assert sorted(json.loads(got.body)["data"]["job_id"] for got in receiver.got[path]) == sorted(jobs)
    assert site.waiting() == []
    assert site.store.list(keys.SENDING) == []


def _slowly(seconds: float) -> Any:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(seconds)
        handler.send_response(204)
        handler.end_headers()

    return answer


def test_a_copy_that_died_while_sending_is_stood_in_for(site: Outboxes, receiver: Receiver, path: str) -> None:
    job_id = site.ask(receiver.url(path))
    site.store.put_bytes(keys.sending_once(job_id, 1), b"{}")
    assert site.copy().deliver() == 0
    assert receiver.got[path] == []
    file = site.store.path(keys.sending_once(job_id, 1))
    assert file is not None
    os.utime(file, (time.time() - notifications.CLAIM_S - 1,) * 2)
    assert site.copy().deliver() == 1
    assert len(receiver.got[path]) == 1


def test_what_was_delivered_by_one_who_died_then_is_not_sent_again(
    site: Outboxes, receiver: Receiver, path: str
) -> None:
    job_id = site.ask(receiver.url(path))
    site.store.put_json(JobKeys(job_id).notification, {"delivered": True})
    assert site.copy().deliver() == 0
    assert (receiver.got[path], site.waiting()) == ([], [])


# What must not keep the others


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"id": "job-01k00000000000000000000001"}',
        b'{"id": "{id}", "project": "default", "key_id": "k", "url": "http://x/", "not_before": "soon"}',
        b'{"id": "{id}", "project": "default", "key_id": "k", "url": "http://x/", "not_before": NaN}',
        b'{"id": "{id}", "project": "default", "key_id": 7, "url": "http://x/"}',
        b'{"id": "{id}", "project": "../..", "key_id": "k", "url": "http://x/"}',
        b'{"id": "{id}", "project": "default", "key_id": "k", "url": "http://\xc3\xbc/"}',
        b'{"id": "another", "project": "default", "key_id": "k", "url": "http://x/"}',
    ],
)
def test_an_entry_that_is_none_is_thrown_away(site: Outboxes, receiver: Receiver, path: str, content: bytes) -> None:
    bad = "job-01k00000000000000000000000"
    site.store.put_bytes(keys.outbox(bad), content.replace(b"{id}", bad.encode()))
    job_id = site.ask(receiver.url(path))
    assert site.copy().deliver() == 1
    assert site.record(job_id)["delivered"]
    assert site.waiting() == []


def test_a_job_that_was_deleted_is_forgotten(site: Outboxes, receiver: Receiver, path: str) -> None:
    gone = site.ask(receiver.url(path))
    site.store.delete_prefix(JobKeys(gone).prefix)
    site.ask(receiver.url(path), "job-01k00000000000000000000000")
    kept = site.ask(receiver.url(path))
    assert site.copy().deliver() == 1
    assert site.waiting() == []
    assert site.store.list_dirs(keys.JOBS) == [kept]


def test_a_job_that_cannot_be_read_keeps_no_other(site: Outboxes, receiver: Receiver, path: str) -> None:
    broken, job_id = site.ask(receiver.url(path)), site.ask(receiver.url(path))
    site.store.put_bytes(JobKeys(broken).job, b"{")
    assert site.copy().deliver() == 1
    assert site.record(job_id)["delivered"]
    assert site.waiting() == [broken]


def test_a_slow_receiver_keeps_nobody_else(tmp_path: Path, launches: Any, receiver: Receiver, path: str) -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(20)]
    ports = [listener.getsockname()[1] for listener in listeners]
    allowed = [f"127.0.0.1:{port}" for port in (*ports, receiver.port)]
    site = Outboxes(tmp_path, launches, *allowed)
    for port in ports:
        for _ in range(2):
            site.ask(f"http://127.0.0.1:{port}/")
    job_id = site.ask(receiver.url(path))
    given_up_before = []

    def hang_up() -> None:
        wait_until(lambda: receiver.got[path], HANG_S, "the webhook of the receiver that answers")
        entries = [site.store.get_json_or_none(keys.outbox(waiting)) for waiting in site.waiting()]
        given_up_before.extend(entry["failures"] for entry in entries if entry)  # one is gone when it came
        for listener in listeners:
            listener.close()

    hanging_up = threading.Thread(target=hang_up)
    hanging_up.start()
    assert site.copy().deliver() == 1
    hanging_up.join()
    assert given_up_before and sum(given_up_before) < 20, "it came while others were waited for, and not after them"
    assert site.record(job_id)["delivered"]
    failures = sorted(site.entry(waiting)["failures"] for waiting in site.waiting())
    assert failures == [0] * 20 + [1] * 20, "one of each receiver was tried"


def test_a_clock_that_was_set_back_keeps_nothing(site: Outboxes, receiver: Receiver, path: str) -> None:
    site.ask(receiver.url(path), not_before=time.time() + 86400)
    waits = site.ask(receiver.url(path), not_before=time.time() + 60)
    assert site.copy().deliver() == 1
    assert site.waiting() == [waits]
