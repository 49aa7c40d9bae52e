"""`/v1/sweeps` and its pages without a worker: what is taken, told, drawn and fetched."""

import html
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import left_jobs
import pytest
from browser import CHROMIUM, Tab, browsing
from helpers import HANG_S, Server, wait_until
from serving import Service
from swept import CONFIG, OF_TWO, RATE, put_sweep
from test_jobs_api import SWEEP, Api, sweep
from test_pages import HOSTILE, Page

from simyard.service.prefect_api import Launches
from simyard.service.sweep_page import SweepLinks, sweep_page
from simyard.store import keys
from simyard.store.store import Store


@pytest.fixture(scope="module")
def seen(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str, str]]:
    """A key of a project, and its sweeps: one that has ended, and one in its seventh training."""
    api, home = Api(service, f"p{uuid.uuid4().hex[:8]}"), tmp_path_factory.mktemp("swept")
    named = CONFIG | {"name": HOSTILE.replace("\n", " ")[:200]}
    yield api, put_sweep(api.store, home), put_sweep(api.store, home, named, trainings=7)


def test_a_sweep_is_begun_paused_and_canceled(service: Service, deployments: Server) -> None:
    api = Api(service, f"p{uuid.uuid4().hex[:8]}")
    first = api("POST", "/v1/sweeps", SWEEP, headers={"Idempotency-Key": "s"})
    assert first.status == 201, first.body
    sweep_id = first.json["sweep_id"]
    again = api("POST", "/v1/sweeps", SWEEP, headers={"Idempotency-Key": "s"})
    assert (again.status, again.json["sweep_id"]) == (200, sweep_id)
    assert api("POST", "/v1/sweeps", {**SWEEP, "name": "x"}, headers={"Idempotency-Key": "s"}).status == 409
    (flow_run,) = deployments.flow_runs(sweep_id)
    assert flow_run["parameters"]["request"] == SWEEP, "what was sent is what runs"
    path = f"/v1/sweeps/{sweep_id}"
    assert (first.json["status"], first.json["best"], first.json["verdict"]) == ("queued", None, None)
    assert api("POST", f"{path}/pause").json["status"] == "paused"
    assert api("POST", f"{path}/resume").json["status"] == "queued"
    assert api("GET", f"{path}/best").json["code"] == "nothing_measured"
    for what in ("settings", "events"):
        assert api("GET", f"{path}/{what}").json == {what: []}
    canceled = api("POST", f"{path}/cancel").json
    assert (canceled["status"], canceled["ended_by"]) == ("canceled", "canceled")
    assert api("POST", f"{path}/cancel").json["status"] == "canceled", "said twice it is the same"
    assert api("POST", f"{path}/resume").status == 409
    assert [one["sweep_id"] for one in api("GET", "/v1/sweeps").json["sweeps"]] == [sweep_id]
    assert deployments.flow_runs(sweep_id)[0]["state_type"] == "CANCELLED"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (sweep({RATE: {"low": 0.1, "high": 0.1}}, sampler="random", trials=3), "is empty"),
        (sweep({RATE: {"low": -1, "high": 1, "log": True}}, sampler="tpe", trials=3), "needs a range above 0"),
        (sweep({f"agent.x{n}": {"values": [*range(100)]} for n in range(3)}), "the grid has 1,000,000 settings"),
        (sweep({"agnt.x": {"values": [1]}}), "Unknown parameter 'agnt.x'"),
        (sweep({RATE: {"values": [1]}}, sheduler={}), "sheduler"),
    ],
)
def test_a_bad_sweep_is_422_and_leaves_nothing(service: Service, body: dict[str, Any], says: str) -> None:
    api = Api(service, f"p{uuid.uuid4().hex[:8]}")
    answer = api("POST", "/v1/sweeps", body)
    assert answer.status == 422, answer.body
    assert says in answer.body.decode()
    assert api("GET", "/v1/sweeps").json["sweeps"] == []


def test_an_ended_sweep_tells_its_verdict_its_settings_and_its_best(seen: tuple[Api, str, str]) -> None:
    api, ended, begun = seen
    told = api("GET", f"/v1/sweeps/{ended}").json
    assert (told["status"], told["best_setting"], told["settings"]) == ("succeeded", 2, 6)
    assert told["best"] == pytest.approx(4.775, abs=1e-3)
    assert [row["number"] for row in told["verdict"]["table"]][:2] == [2, 3]
    assert told.keys() == api("GET", f"/v1/sweeps/{begun}").json.keys(), "the same fields while it runs"
    settings = api("GET", f"/v1/sweeps/{ended}/settings").json["settings"]
    assert [one["number"] for one in settings] == [*range(6)]
    best = api("GET", f"/v1/sweeps/{ended}/best").json
    assert (best["number"], best["seed"], best["config"]["trainingConfig"]["seed"]) == (2, 43, 43)
    events = api("GET", f"/v1/sweeps/{ended}/events?limit=2").json["events"]
    assert [one["event_type"] for one in events][-1] == "sweep.ended"
    url = api("GET", f"/v1/sweeps/{ended}/artifacts/curves.png/download-url").json["url"]
    assert api.service.call("GET", url).body.startswith(b"\x89PNG")
    missing = api("GET", f"/v1/sweeps/{ended}/artifacts/..%2Fsweep.json/download-url")
    assert missing.status == 404, missing.body
    assert "There are: report.md, curves.png" in api(
        "GET", f"/v1/sweeps/{ended}/artifacts/x/download-url").json["detail"]  # fmt: skip


def test_the_page_of_a_sweep_shows_its_verdict_and_pictures(seen: tuple[Api, str, str]) -> None:
    api, ended, begun = seen
    answer = api.service.call("GET", api("GET", f"/v1/sweeps/{ended}").json["page_url"])
    page = Page(answer.body.decode())
    assert not page.is_live
    assert "leads setting 3, but not beyond noise" in page.words
    assert "The policy diverged." in page.words
    assert len([one for one in page.all("img") if str(one["src"]).startswith("data:image/png;base64,")]) == 3
    policy = answer.headers["content-security-policy"]
    assert "img-src 'self' data:" in policy and "script-src 'nonce-" in policy
    running = Page(api("GET", f"/sweeps/{begun}").body.decode())
    assert running.is_live and "best so far" in running.words
    assert not [tag for tag, _ in running.tags if tag == "img" and "pwned" in str(_)]
    assert "pwned = 1" in running.words, "a name is text"
    (back,) = [str(one["href"]) for one in page.all("a") if urlsplit(str(one["href"])).path == "/sweeps"]
    listed = Page(api.service.call("GET", back).body.decode())
    links = [str(one["href"]) for one in listed.all("a")]
    assert {urlsplit(link).path for link in links} == {f"/sweeps/{ended}", f"/sweeps/{begun}"}
    assert api.service.call("GET", links[0]).status == 200, "the list's links need no key"
    other = re.sub(re.escape(ended), begun, html.unescape(next(link for link in links if ended in link)))
    assert api.service.call("GET", other).status == 404, "a link is good for one sweep"
    assert api.service.call("GET", f"/sweeps/{ended}").status == 401


def test_the_best_of_a_sweep_are_one_click_from_each_other(seen: tuple[Api, str, str]) -> None:
    api, ended, _ = seen
    home = api("GET", "/v1/home").json["page_url"]
    around = Page(api.service.call("GET", home).body.decode())
    (sweeps,) = [str(one["href"]) for one in around.all("a") if urlsplit(str(one["href"])).path == "/sweeps"]
    listed = Page(api.service.call("GET", sweeps).body.decode())
    (link,) = [str(one["href"]) for one in listed.all("a") if f"/sweeps/{ended}?" in str(one["href"])]
    page = Page(api.service.call("GET", link).body.decode())
    compared = [str(one["href"]) for one in page.all("a") if urlsplit(str(one["href"])).path == "/compare"]
    assert "Side by side: the best 5 settings , the seeds of the best setting" in page.words
    for job_id in {job_id for address in compared for job_id in parse_qs(urlsplit(address).query)["job"]}:
        left_jobs.training(api.store, job_id=job_id)  # of a sweep in a store of numbers there are none
    for address, count in zip(compared, (5, 2), strict=True):
        answer = api.service.call("GET", address)
        assert (answer.status, f"{count} jobs side by side" in Page(answer.body.decode()).words) == (200, True)
    alone = Page(api.service.call("GET", api("GET", f"/v1/sweeps/{ended}").json["page_url"]).body.decode())
    assert "Side by side" not in alone.words, "a link to one sweep leads to its jobs alone"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_shows_a_sweep_at_any_width(seen: tuple[Api, str, str], tmp_path: Path) -> None:
    """No sideways scrolling of the page, no complaint; a page that is live renews itself until the sweep has ended."""
    api, ended, begun = seen
    with browsing(tmp_path) as tab:
        for sweep_id in (ended, begun):
            url = api("GET", f"/v1/sweeps/{sweep_id}").json["page_url"]
            for width in (360, 1440):
                tab.open(url, width, dark=width == 360)
                assert tab.js("document.documentElement.scrollWidth") <= width
                assert tab.js("[...document.images].every(one => one.naturalWidth > 300)")
        assert _is_live(tab)
        result = api.store.get_json(keys.SweepKeys(ended).result) | {"sweep_id": begun, "name": "renamed"}
        api.store.put_json(keys.SweepKeys(begun).result, result)
        wait_until(lambda: not _is_live(tab), HANG_S, "the page to see the end")
        assert tab.js("document.querySelector('h1').textContent") == "renamed"
        assert tab.complaints == []


def _is_live(tab: Tab) -> bool:
    return bool(tab.js("'live' in document.querySelector('main').dataset"))


def test_the_page_of_several_objectives_has_a_column_for_each_and_marks_the_front(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    sweep_id = put_sweep(store, tmp_path, OF_TWO)
    links = SweepLinks(all="/sweeps", job=str)
    page = Page(
        sweep_page(store, sweep_id, cast(Launches, None), links, "x")
    )  # of one that has ended Prefect is not asked
    assert "Train/mean_reward 95 % Train/mean_episode_length 95 % front seeds failed" in page.words
    assert re.search(
        r"1 2: learning_rate 0\.001, entropy_coef 0 4\.775 \[\S+ \S+ 200\.5 \[\S+ \S+ yes 2 of 2", page.words
    )
    assert "seed Train/mean_reward Train/mean_episode_length iterations" in page.words
    assert re.search(r"2 43 4\.\d+ 201 60 succeeded", page.words), "both values of a seed"
    assert [str(one["alt"])[:16] for one in page.all("img")][1:3] == ["Settings and wha", "The Pareto front"]
