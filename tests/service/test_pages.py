"""A job's page: what it shows of every state of a job, to whom, and what it never does."""

import html
import html.parser
import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import left_jobs
import pytest
import recorded
import records
from accessible import problems
from axe import axe, serious
from browser import CHROMIUM, browsing
from helpers import HANG_S, Server, make_bucket, wait_until
from lazy import lazy
from scenario import play
from serving import Answer, Service, site
from swept import put_sweep

from simyard.core.errors import Category, Failure
from simyard.core.records import ApiKey
from simyard.core.specs import Bounds
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest
from simyard.requests.settings import MachineSettings
from simyard.service.job_page import TEMPLATES
from simyard.service.settings import Settings
from simyard.service.signatures import seal
from simyard.service.tables import MOST_KEPT, Drawing, Drawings, Tables
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.attempt.attempt import CANCELED
from simyard.tasks.collect import collect
from simyard.tasks.pages.charts import MOST_POINTS, Curve, plot, thinned, unbroken
from simyard.tasks.persist import persist
from simyard.tasks.resolve import resolve
from simyard.tasks.sessions.pool import Sessions
from simyard.tasks.shared import api_keys
from simyard.tasks.stage import stage

pages = lazy("simyard.service.endpoints.pages")

HOSTILE = "<script>pwned = 1</script>\"'><img src=x onerror=pwned=1>&amp;"


@dataclass
class Page(html.parser.HTMLParser):
    """A page as a browser would read it."""

    text: str
    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What is between the tags; nothing of styles and scripts."""

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.text)
        assert self._open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.said.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.said).split())

    @property
    def is_live(self) -> bool:
        return "data-live" in self.all("main")[0]


class Yard:
    """Jobs in a service's store, played by the scenario simulator, and their pages."""

    def __init__(self, service: Service, settings: Settings, player: play.Player, sessions: Sessions) -> None:
        self.service = service
        self.settings = settings
        self.player = player
        self.sessions = sessions
        self.store = service.store
        self.api_key, self.of_another, self.revoked = (
            api_keys.create(self.store, project, ("admin",), "of pages")[1]
            for project in ("default", "another", "default")
        )
        api_keys.revoke(self.store, self.revoked.key_id)

    def link(self, job_id: str) -> str:
        return pages.page_link(self.settings, self.service.url, self.api_key, job_id)

    def forged(self, job_id: str, *, key: ApiKey, purpose: Any = "page", seconds: float = 60) -> str:
        return seal(self.settings.secret, purpose, seconds, key_id=key.key_id, job_id=job_id)

    def get(self, job_id: str) -> Answer:
        return self.service.call("GET", self.link(job_id))

    def page(self, job_id: str) -> Page:
        answer = self.get(job_id)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), answer.body
        return Page(answer.body.decode())

    def part(self, job_id: str, name: str) -> Page:
        answer = self.service.call("GET", self.link(job_id).replace(job_id, f"{job_id}/parts/{name}"))
        assert answer.status == 200, answer.body
        return Page(answer.body.decode())

    def begin(self, job_id: str, number: int = 1, start: int = 0, *, done: int, **changes: Any) -> None:
        """Write down that an attempt runs, as its supervisor does."""
        status = records.status(start_iteration=start, done=done, total=play.ITERATIONS)
        self.store.put_json(JobKeys(job_id).attempt(number).status, status | changes)

    def put(self, job_id: str, name: str, text: str, number: int = 1) -> None:
        self.store.put_bytes(JobKeys(job_id).attempt(number).file(name), text.encode())


@pytest.fixture(scope="module")
def service(deployments: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has nothing to start jobs with: pages need no more."""
    home = tmp_path_factory.mktemp("service")
    told = [
        records.task("Isaac-Ant", former_ids=[]),
        records.task("Isaac-Red", title=HOSTILE, why_not=[HOSTILE], success=HOSTILE, runnable=True),
        records.task(
            "Isaac-Velocity", asset_root=str(home), assets=[{"path": f"{'a-long-name' * 9}.usd", "here": True}]
        ),
    ]
    asks = {"SCENARIO_TASKS": json.dumps(told), "SCENARIO_ASKED": str(home / "asked")}
    made = site(home, deployments, **play.ENVIRONMENT, **asks)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def yard(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """The few jobs that are really run share one process: each would cost an import of torch."""
    home = Path(service.env["SIMYARD_HOME"])
    own = MachineSettings(
        home=tmp_path_factory.mktemp("yard"), store=service.env["SIMYARD_STORE"], python=str(play.PYTHON)
    )
    settings = Settings(machine=own, store=service.store.url(), secret=(home / "secret").read_bytes())
    with pytest.MonkeyPatch.context() as patch, Sessions(own, Bounds()) as sessions:
        patch.setenv("SCENARIO_PYTHON", play.ENVIRONMENT["SCENARIO_PYTHON"])
        yield Yard(service, settings, play.Player(own, None), sessions)


@pytest.fixture(scope="module")
def trained(yard: Yard) -> str:
    left = yard.player.play("", sessions=yard.sessions)
    assert left.result["status"] == "succeeded", left.error
    return str(left.result["job_id"])


@pytest.fixture(scope="module")
def evaluated(yard: Yard, trained: str) -> str:
    """An evaluation of it, which left a video."""
    config = {"fromJob": {"jobId": "latest"}, "numEpisodes": 12}
    request = check_config({"name": "measured", "trainingConfig": config}, EvaluateRequest)
    resolved = resolve(request, yard.store, keys.new_job_id())
    assert resolved.spec.from_job == trained
    stage(resolved, yard.store)
    assert yard.player.attempt(resolved.spec, sessions=yard.sessions) is None
    yard.put(resolved.spec.job_id, "videos/episode-0001.mp4", "a film")
    return str(yard.player.end(resolved.spec).result["job_id"])


# Tasks


def test_tasks_are_listed_shown_and_looked_at_in_a_browser(yard: Yard, service: Service) -> None:
    key = service.key("default", "jobs")
    listed = service.call("GET", "/v1/tasks", key=key)
    assert (listed.status, [row["task"] for row in listed.json["tasks"]]) == (
        200, ["Isaac-Ant", "Isaac-Red", "Isaac-Velocity"],
    )  # fmt: skip
    assert [row["runnable"] for row in listed.json["tasks"]] == [True, False, False]
    runnable = service.call("GET", "/v1/tasks?runnable=true&physics=newton&text=ant", key=key)
    assert [row["task"] for row in runnable.json["tasks"]] == ["Isaac-Ant"]
    assert service.call("GET", "/v1/tasks?library=none", key=key).status == 400

    shown = service.call("GET", "/v1/tasks/Isaac-Ant-v0", key=key)
    assert (shown.status, shown.json["task"], shown.json["observations"][0]["size"]) == (200, "Isaac-Ant", 4)
    unknown = service.call("GET", "/v1/tasks/Isaac-Amt", key=key)
    assert (unknown.status, unknown.json["code"]) == (404, "unknown_task")
    assert "Did you mean 'Isaac-Ant'?" in unknown.json["detail"]
    assert len((service.home / "asked").read_text().splitlines()) == 1, "the simulator's Python was asked once"

    # Pages: by the signed link, by a key, and by nothing else; a job's link opens no tasks, nor the other way round.
    page = Page(service.call("GET", listed.json["page_url"]).body.decode())
    assert "1 of 3 can be trained" in page.words
    (ant,) = [str(a["href"]) for a in page.all("a") if "/tasks/Isaac-Ant?" in str(a["href"])]
    one = Page(service.call("GET", ant).body.decode())
    assert "runs here" in one.words
    config = re.findall(r"<pre [^>]*>(.*?)</pre>", one.text, re.DOTALL)[0]
    assert json.loads(html.unescape(config))["trainingConfig"] == {"task": "Isaac-Ant", "rlLibrary": "rsl_rl"}
    red = Page(service.call("GET", "/tasks/Isaac-Red", key=key).body.decode())
    assert not red.all("script")
    assert not red.all("img")
    assert HOSTILE in red.words
    token, job = urlsplit(str(listed.json["page_url"])).query, yard.player.stage("").job_id
    assert service.call("GET", "/tasks").status == 401
    assert service.call("GET", f"/jobs/{job}?{token}").status == 404
    assert service.call("GET", f"/tasks?{urlsplit(yard.link(job)).query}").status == 404
    assert service.call("GET", f"/tasks/Isaac-Amt?{token}").status == 404


@pytest.mark.long  # a service of its own; the refusal itself is in test_catalog.py
def test_a_service_without_a_simulator_says_where_to_name_one(yard: Yard, deployments: Server, tmp_path: Path) -> None:
    bare = site(tmp_path, deployments, **play.ENVIRONMENT)
    bare.start()
    try:
        answer = bare.call("GET", "/v1/tasks", key=bare.key())
        assert (answer.status, answer.json["code"]) == (503, "no_simulator")
        assert "SIMYARD_PYTHON" in answer.json["detail"]
        page = bare.call("GET", "/tasks", key=bare.key())
        assert (page.status, "SIMYARD_PYTHON" in page.body.decode()) == (503, True)
    finally:
        bare.stop()


# What is shown


def test_a_training_that_is_over(yard: Yard, trained: str) -> None:
    page = yard.page(trained)
    assert page.all("title") and "played: succeeded" in page.words
    assert "12 of 12 iterations" in page.words
    assert ("progress", {"value": "12", "max": "12", "aria-label": "work done"}) in page.tags
    curves = {str(svg["aria-label"]).partition(":")[0]: str(svg["aria-label"]) for svg in page.all("svg")}
    assert curves["Train/mean_reward"].endswith("0 to 110, last 110")
    assert "Loss/value" in curves
    assert not page.is_live

    assert "Attempts" not in page.words, "one attempt needs no table"

    entries = yard.service.call("GET", f"/v0/jobs/{trained}", key=yard.service.key()).json["artifacts"]
    links = {text: str(a["href"]) for a, text in zip(page.all("a"), _link_texts(page), strict=True)}
    links = {text: href for text, href in links.items() if "/parts/" not in href}
    assert set(links) == {entry["name"] for entry in entries}
    kept = yard.store.get_bytes(JobKeys(trained).artifact("metrics.csv"))
    assert yard.service.call("GET", links["metrics.csv"]).body == kept
    sent = next(text for text in page.said if '"maxIterations": 12' in text)
    assert json.loads(sent)["name"] == "played"


def _link_texts(page: Page) -> list[str]:
    return re.findall(r"<a [^>]*>([^<]*)</a>", page.text)


def test_an_evaluation(yard: Yard, evaluated: str) -> None:
    page = yard.page(evaluated)
    summary = yard.store.get_json(JobKeys(evaluated).result)["summary"]
    mean, (low, high) = summary["return"]["mean"], summary["return"]["interval_95"]
    assert f"{mean:.4g} [{low:.4g}, {high:.4g}]" in page.words
    rate = f"{100 * summary['success']['rate']:.1f} %"
    assert rate in page.words
    assert "12 episodes" in page.words
    (video,) = page.all("video")
    answer = yard.service.call("GET", str(video["src"]), headers={"Range": "bytes=2-3"})
    assert (answer.status, answer.body, answer.headers["content-type"]) == (206, b"fi", "video/mp4")


def test_a_job_that_waits(yard: Yard) -> None:
    spec = yard.player.stage("")
    page = yard.page(spec.job_id)
    assert page.is_live
    assert "queued" in page.words
    assert "Not begun yet." in page.words
    assert "None" not in page.words


def test_a_job_that_runs_shows_its_curves_and_log(yard: Yard) -> None:
    spec = yard.player.stage("")
    job_id = spec.job_id
    yard.begin(job_id, done=4)
    assert "4 of 12 iterations" in yard.page(job_id).words
    yard.put(job_id, "metrics.csv", "step,wall_time,Train/mean_reward\n0,1.0,1.5\n1,2.0,\n2,3.0,2.5\n")
    yard.put(job_id, "command.stdout.log", "".join(f"\x1b[1mline {n}\x1b[0m <b>\n" for n in range(100)))
    page = yard.page(job_id)
    assert page.is_live
    assert "running working" in page.words
    (svg,) = page.all("svg")
    assert svg["aria-label"] == "Train/mean_reward: 1.5 to 2.5, last 2.5"
    log = yard.part(job_id, "command.stdout.log")
    assert "line 60 <b>\nline 61 <b>" in "".join(log.said)
    assert "line 59" not in log.words
    assert "\x1b" not in log.text

    yard.begin(job_id, 2, 1, done=1)
    yard.put(job_id, "metrics.csv", "step,wall_time,Train/mean_reward\n1,5.0,7\n2,6.0,8\n", 2)
    page = yard.page(job_id)
    (svg,) = page.all("svg")
    assert svg["aria-label"] == "Train/mean_reward: 1.5 to 8, last 8", "what a later attempt made again counts"
    words = yard.part(job_id, "attempts").words
    assert "how it ended 1 0 4 – ended without reporting an outcome 2 1 1 – not ended yet" in words  # noqa: RUF001
    failure = Failure(code="killed", category=Category.INFRA, message="It was killed.", advice="Wait.")
    outcome = records.outcome(failure, done=4, timings={"total_s": 75.2})
    yard.store.put_json(JobKeys(job_id).attempt(1).outcome, outcome)
    assert "1 0 4 1 min 15 s It was killed. 2 1 1" in yard.part(job_id, "attempts").words
    assert "Wait." not in yard.page(job_id).words, "the next attempt makes it good"


def test_a_failure_is_told_with_its_advice(yard: Yard) -> None:
    left = yard.player.play("crash at 4", retries=0, sessions=yard.sessions)
    page = yard.page(left.result["job_id"])
    assert "failed" in page.words
    assert left.error["message"] in page.words
    assert left.error["advice"] in page.words
    assert "The request, the task or the package is at fault" in page.words
    assert page.all("svg"), "what it had measured by then"
    assert not page.is_live


def test_a_canceled_job_of_which_nothing_is_known(yard: Yard) -> None:
    spec = yard.player.stage("")
    persist(spec, collect(spec, yard.store, CANCELED), yard.store)
    page = yard.page(spec.job_id)
    assert "canceled" in page.words
    assert "final reward –" in page.words  # noqa: RUF001
    assert not re.search(r"\b(None|nan|null)\b", page.words), page.words


def test_what_users_write_is_text(yard: Yard) -> None:
    spec = yard.player.stage(HOSTILE, name=HOSTILE)
    yard.begin(spec.job_id, done=1, stage=HOSTILE)
    metrics = f'step,wall_time,"Loss/{HOSTILE.replace(chr(34), chr(34) * 2)}"\n0,1.0,1\n'
    yard.put(spec.job_id, "metrics.csv", metrics)
    yard.put(spec.job_id, "command.stdout.log", f"{HOSTILE}\n")
    page, log = yard.page(spec.job_id), yard.part(spec.job_id, "command.stdout.log")
    assert "".join(page.said).count(HOSTILE) >= 3
    assert HOSTILE in "".join(log.said)
    assert not page.all("img") + log.all("img")
    assert (len(page.all("script")), len(log.all("script"))) == (2, 0), "its own: one follows, one opens parts"
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on") or key == "style"]


def test_two_thousand_iterations_take_no_time(yard: Yard) -> None:
    spec = yard.player.stage("", iterations=2000)
    yard.begin(spec.job_id, done=2000, total=2000)
    tags = ["Train/mean_reward", "Train/mean_episode_length", *(f"Loss/{n}" for n in range(8)), "Perf/fps", "a", "b"]
    rows = [f"{step},{step}.0," + ",".join(f"{step * 1.2345:.6f}" for _ in tags) for step in range(2000)]
    yard.put(spec.job_id, "metrics.csv", "\n".join([",".join(["step", "wall_time", *tags]), *rows, ""]))
    yard.put(spec.job_id, "command.stdout.log", "a line of a log that is rather long\n" * 60_000)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        page = yard.page(spec.job_id)
        times.append(time.perf_counter() - began)
    assert len(page.all("svg")) == 9
    assert len(page.text) < 200_000
    assert min(times) < 0.3, times  # 0.1 s where nothing else runs


@pytest.mark.parametrize(
    ("name", "table", "is_damaged"),
    [
        ("metrics.csv", "step,wall_time,Loss/a\n0,1.0,1\nx,2.0,2\n2,3.0,three\n", True),
        ("metrics.csv", "step,wall_time,Loss/a\n0,1.0,1\n3,4.0\n4,5.0,5,6,7\n", True),
        ("metrics.csv", "wall_time,Loss/a\n1.0,1\n", False),
        ("metrics.csv", "step,step,Loss/a,Loss/a\n1,1,1,1\n", False),
        ("metrics.csv", "step,wall_time,Loss/a\n0,1,nan\nnan,2,2\ninf,1,1\n-1.7e308,0,1.7e308\n1,1,-inf\n2,2,2", False),
        ("metrics.csv", 'step,wall_time,"Loss/a\n0,1.0,1\n', False),
        ("metrics.csv", 'step,wall_time,Loss/a\n0,1.0,"1\n1,1.0,1\n', True),
        ("metrics.csv", f"step,wall_time,Loss/a\n0,1.0,{'1' * 200_000}\n", True),
        ("metrics.csv", "\x00,\x00\n\x00\n", True),
        ("metrics.csv", "\n\n\n", False),
        ("metrics.csv", "", False),
        ("telemetry.csv", "time_s,cpu_percent\none,two\n1,2\n", True),
        ("telemetry.csv", "<html>", False),
    ],
)
def test_a_table_that_is_none_breaks_no_page(yard: Yard, name: str, table: str, is_damaged: bool) -> None:
    job_id = yard.player.stage("").job_id
    yard.begin(job_id, done=1)
    yard.put(job_id, name, table)
    words = yard.page(job_id).words
    assert "1 of 12 iterations" in words
    if name == "telemetry.csv":
        words = yard.part(job_id, "machine").words
    assert (f"no table of numbers: {name}" in words) == is_damaged


@pytest.mark.parametrize(
    "table",
    [
        "",
        "a,b\n1,2\n",
        "episode,return\n1,2,3\nx,y\n1\n",
        "episode,return,checkpoint\r\n0,1.5,a\r\n1,2,b\r\n",
        "\xff\xfe",
    ],
    ids=ascii,
)
def test_episodes_that_are_none_are_shown_as_far_as_they_are(yard: Yard, tmp_path: Path, table: str) -> None:
    store = Store.open(str(tmp_path))
    spec = yard.player.stage("")
    store.put_bytes(JobKeys(spec.job_id).artifact("episodes.csv"), table.encode("latin-1"))
    drawing = Tables(store, spec, {"episodes.csv"}, [], Drawings()).episodes()
    assert len(drawing.rows) == drawing.row_count == max(0, table.count("\n") - 1)
    assert all(set(row) >= {"episode", "return", "checkpoint"} for row in drawing.rows)


def test_a_table_is_read_once_a_version(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    drawings, made = Drawings(), []

    def make() -> Drawing:
        made.append(store.get_bytes("table"))
        return Drawing()

    for content in (b"one", b"one", b"another", b"another"):
        if content not in made:
            store.put_bytes("table", content)
        drawings.of(store, ["table"], make)
    assert made == [b"one", b"another"]
    for number in range(3 * MOST_KEPT):
        drawings.of(store, [f"table-{number}"], Drawing)
    drawings.of(store, ["table"], make)
    assert len(made) == 3, "no more is kept than so many"


def test_a_table_without_end_makes_no_page_without_end(yard: Yard) -> None:
    """Of many rows some are read; a line with a gap at every other step is no line of its own each."""
    job_id = yard.player.stage("", iterations=10).job_id
    yard.begin(job_id, done=1)
    tags = [f"Loss/{number}" for number in range(9)]
    cells = [",".join(f"{step % 7}" for _ in tags) for step in range(100_000)]
    rows = [f"{step * (1 if step % 2 else 1000)},1.0,{row}" for step, row in enumerate(cells)]
    yard.put(job_id, "metrics.csv", "\n".join([",".join(["step", "wall_time", *tags]), *rows, ""]))
    page = yard.page(job_id)
    assert len(page.all("svg")) == 9
    assert len(page.text) < 300_000


# All jobs, labels, and jobs side by side


def _site(yard: Yard, path: str, **query: str) -> Answer:
    token = pages.site_token(yard.settings, yard.api_key)
    return yard.service.call("GET", f"{path}?{urlencode({'token': token, **query}, doseq=True)}")


def test_jobs_are_listed_labeled_found_and_compared(yard: Yard, trained: str, evaluated: str) -> None:
    waiting = yard.player.stage("", name=HOSTILE).job_id
    to = f"/v0/jobs/{waiting}/labels"
    token = pages.site_token(yard.settings, yard.api_key)
    labels = {"tags": ["try:1", "worse"], "note": HOSTILE}
    assert yard.service.call("PUT", f"{to}?{urlencode({'token': token})}", labels).json["tags"] == ["try:1", "worse"]
    key = yard.service.key("default", "jobs")
    assert yard.service.call("PUT", to, {"tags": ["try:1"]}, key=key).json["note"] == HOSTILE, "the note stays"
    shown = yard.service.call("GET", f"/v0/jobs/{waiting}", key=key).json
    assert (shown["tags"], shown["note"]) == (["try:1"], HOSTILE)
    (listed,) = [job for job in yard.service.call("GET", "/v0/jobs", key=key).json["jobs"] if job["job_id"] == waiting]
    assert listed["tags"] == ["try:1"]

    # Who may not, and what is none.
    job_link = urlsplit(yard.link(waiting)).query
    assert yard.service.call("PUT", to, labels).status == 401
    assert yard.service.call("PUT", f"{to}?{job_link}", labels).status == 404, "a link to one page shows it alone"
    assert yard.service.call("PUT", to, labels, key=yard.service.key("default", "assets")).status == 403
    assert yard.service.call("PUT", to, labels, key=yard.service.key("another", "jobs")).status == 404
    refused = yard.service.call("PUT", to, {"tags": ["<b>"]}, key=key)
    assert (refused.status, refused.json["code"]) == (400, "bad_label")
    assert yard.service.call("PUT", to, {"tags": ["a"] * 21}, key=key).status == 422

    # The list: found by a tag, sorted, and what users wrote is text.
    found = Page(_site(yard, "/jobs", tag="try:1").body.decode())
    assert [box["value"] for box in found.all("input") if box["name"] == "job"] == [waiting]
    assert "".join(found.said).count(HOSTILE) == 2
    assert not found.all("img")
    assert not found.all("script")
    by_name = Page(_site(yard, "/jobs", sort="name", kind="evaluate").body.decode())
    assert evaluated in [box.get("value") for box in by_name.all("input")]
    assert _site(yard, "/jobs", sort="nothing").status == 422
    own = Page(_site(yard, f"/jobs/{waiting}").body.decode())
    assert "try:1" in own.words
    assert HOSTILE in "".join(own.said)
    sent = yard.service.call("PUT", str(own.all("form")[0]["data-to"]), {"note": "by the page"})
    assert (sent.status, sent.json["note"]) == (200, "by the page")
    assert not Page(yard.get(waiting).body.decode()).all("form"), "a link to one page labels nothing"
    assert yard.service.call("GET", f"/jobs?{job_link}").status == 404

    both = _site(yard, "/compare", job=[trained, evaluated])
    page = Page(both.body.decode())
    assert f"media-src 'self' {yard.service.url};" in both.headers["content-security-policy"]
    assert "2 jobs side by side" in page.words
    (video,) = page.all("video")
    assert yard.service.call("GET", str(video["src"])).body == b"a film"
    alone = _site(yard, "/compare", job=[trained])
    assert (alone.status, "These are 1 jobs" in Page(alone.body.decode()).words) == (400, True)
    assert yard.service.call("GET", f"/compare?job={trained}&job={evaluated}").status == 401


def test_the_first_page_tells_what_goes_on_and_what_failed(yard: Yard, trained: str) -> None:
    running = yard.player.stage("", name="goes on").job_id
    yard.begin(running, done=5, stage="compiling kernels")
    left = yard.player.stage("", name=HOSTILE)
    failure = Failure(code="nan", category=Category.USER, message=f"Not finite. {HOSTILE}", advice="Clip them.")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    yard.store.put_json(JobKeys(left.job_id).attempt(1).outcome, records.outcome(failure))
    yard.store.put_json(JobKeys(left.job_id).result, records.result(left.job_id, failure, updated_at=now))
    link = yard.service.call("GET", "/v1/home", key=yard.service.key("default", "jobs")).json["page_url"]
    page = Page(yard.service.call("GET", link).body.decode())
    assert "goes on running compiling kernels" in page.words
    assert "Clip them. nan" in page.words
    assert "".join(page.said).count(HOSTILE) >= 2
    assert not page.all("img")
    (_, pools, schedules) = page.words.partition("Pools")[2].partition("Schedules")
    assert "simyard process" in page.words, (pools, schedules)
    assert "0 3 * * *" in schedules
    assert " free of " in page.words
    assert problems(page.text) == []
    assert page.is_live
    assert _site(yard, "/").status == 200
    assert yard.service.call("GET", f"/?{urlsplit(yard.link(trained)).query}").status == 404, "a link to one page"
    assert yard.service.call("GET", "/").status == 401


# Charts


def test_a_line_does_not_lead_over_what_was_not_measured() -> None:
    points = [(float(x), 1.0) for x in (0, 1, 2, 3, 10, 11, 12)]
    assert [len(piece) for piece in unbroken(points)] == [4, 3]
    sparse = [(float(x), 1.0) for x in range(0, 100, 10)]
    assert len(unbroken(sparse)) == 1, "logged every tenth step"


def test_no_peak_is_lost_among_many_points() -> None:
    points = [(float(x), 100.0 if x == 7777 else x % 3) for x in range(20_000)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS
    assert (7777.0, 100.0) in kept
    assert kept == sorted(kept)


@pytest.mark.parametrize(
    "values",
    [[0.0], [5.0, 5.0], [0.0, 0.0, 0.0], [-1e-9, 1e-9], [1e12, -1e12], [1e300, 2e300], [0.1, 0.2, 0.3], [1e-320, 1.0]],
    ids=str,
)
def test_any_numbers_are_drawn(values: list[float]) -> None:
    parts = plot(Curve(title="t", axis="step", points=[(0, 1), (10, 2)], borders=[(5, "calm"), (11, "beyond")]))
    assert [name for _, name in parts.borders] == ["calm"]
    assert parts.left < parts.borders[0][0] < parts.right
    laid_out = plot(Curve(title="t", unit="s", axis="step", points=list(enumerate(values))))
    drawn = Page(str(TEMPLATES.environment.get_template("charts.html.j2").module.chart(laid_out)))
    numbers = [value for _, attributes in drawn.tags for key, value in attributes.items() if key in ("y1", "cy", "x1")]
    assert numbers
    assert all(0 <= float(str(number)) <= 400 for number in numbers)
    assert len(drawn.all("text")) >= 3, "axes have ticks"


# Who may look, and what the page may do


def test_the_policy_of_a_page_allows_nothing_but_itself(yard: Yard, evaluated: str) -> None:
    answers = [yard.get(evaluated) for _ in range(2)]
    policies = [answer.headers["content-security-policy"] for answer in answers]
    given = dict(part.strip().split(" ", 1) for part in policies[0].split(";"))
    (nonce,) = re.findall(r"'nonce-([\w-]+)'", given["style-src"])
    assert given == {
        "default-src": "'none'", "style-src": f"'nonce-{nonce}'", "script-src": f"'nonce-{nonce}'",
        "img-src": "'self' data:", "media-src": f"'self' {yard.service.url}", "connect-src": "'self'",
        "frame-ancestors": "'none'", "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    assert policies[0] != policies[1], "a nonce is used once"
    page = Page(answers[0].body.decode())
    assert [style["nonce"] for style in page.all("style")] == [nonce]
    assert answers[0].headers["referrer-policy"] == "no-referrer"
    assert answers[0].headers["cache-control"] == "no-store"
    assert answers[0].headers["x-content-type-options"] == "nosniff"


def test_a_bucket_may_show_its_videos(
    deployments: Server, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in make_bucket(s3_server, "pages").items():
        monkeypatch.setenv(name, value)
    service = site(tmp_path, deployments, SIMYARD_STORE="s3://pages/lab")
    player = play.Player(MachineSettings(home=tmp_path / "yard", store="s3://pages/lab", python=str(play.PYTHON)), None)
    spec = player.stage("")
    job_id, attempt = spec.job_id, JobKeys(spec.job_id).attempt(1)
    player.store.put_json(attempt.status, records.status(done=1))
    player.store.put_bytes(attempt.file("videos/a.mp4"), b"a film")
    player.store.put_bytes(attempt.file("command.stdout.log"), b"a line\n")
    persist(spec, collect(spec, player.store, CANCELED), player.store)
    service.start()
    try:
        answer = service.call("GET", f"/jobs/{job_id}", key=service.key())
    finally:
        service.stop()
    page = Page(answer.body.decode())
    (video,) = page.all("video")
    assert f"media-src 'self' {s3_server};" in answer.headers["content-security-policy"]
    with urllib.request.urlopen(str(video["src"])) as film:
        assert film.read() == b"a film"
    assert "command.stdout.log" in page.words


def test_a_key_opens_a_page_too(yard: Yard, trained: str) -> None:
    path = f"/jobs/{trained}"
    assert yard.service.call("GET", path, key=yard.service.key("default", "jobs")).status == 200
    refused = yard.service.call("GET", path, key=yard.service.key("default", "assets"))
    assert refused.status == 403
    assert "needs jobs" in Page(refused.body.decode()).words
    assert yard.service.call("GET", path, key=yard.service.key("another", "jobs")).status == 404


Forge = Callable[[Yard, str], str]


@pytest.mark.parametrize(
    ("forge", "status", "says"),
    [
        (lambda y, j: y.forged(keys.new_job_id(), key=y.api_key), 404, "for another page"),
        (lambda y, j: y.forged(j, key=y.api_key, seconds=-1), 404, "expired"),
        (lambda y, j: y.forged(j, key=y.api_key, purpose="download"), 404, "something else"),
        (lambda y, j: seal(b"x" * 32, "page", 60, key_id=y.api_key.key_id, job_id=j), 404, "none of this service"),
        (lambda y, j: y.forged(j, key=y.of_another), 404, "There is no job"),
        (lambda y, j: y.forged(j, key=y.revoked), 404, "is not valid any more"),
        (lambda y, j: seal(y.settings.secret, "page", 60, project="default", job_id=j), 404, "is not valid any more"),
        (lambda y, j: "", 404, "none of this service"),
        (lambda y, j: "%3Cscript%3E", 404, "none of this service"),
        (lambda y, j: "%F0%9F%98%80", 404, "none of this service"),
        (None, 401, "has no API key"),
    ],
    ids=[
        "another job",
        "expired",
        "download",
        "another secret",
        "another project",
        "revoked",
        "no key",
        "empty",
        "script",
        "emoji",
        "none",
    ],
)
def test_without_a_good_link_there_is_a_page_that_says_so(
    yard: Yard, trained: str, forge: Forge | None, status: int, says: str
) -> None:
    query = f"?token={forge(yard, trained)}" if forge else ""
    answer = yard.service.call("GET", f"/jobs/{trained}{query}")
    assert (answer.status, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = Page(answer.body.decode())
    assert says in page.words
    assert len(page.all("p")) == 1, "and what to do"
    assert not page.all("script")


@pytest.mark.parametrize("job_id", ["nonsense", "..%2F..%2Fetc", "%3Cscript%3E", "job-01k00000000000000000000000"])
def test_no_such_job(yard: Yard, job_id: str) -> None:
    answer = yard.service.call("GET", f"/jobs/{job_id}", key=yard.service.key())
    assert answer.status == 404
    if "%2F" not in job_id:  # that is no path of the service
        assert "text/html" in answer.headers["content-type"]


@pytest.mark.parametrize("host", ["[", "a b", "x;script-src *", "\xff"])
def test_a_host_that_is_none_breaks_no_page(yard: Yard, trained: str, host: str) -> None:
    answer = yard.service.call("GET", yard.link(trained), headers={"Host": host})
    assert answer.status in (200, 400)
    assert "script-src *" not in answer.headers.get("content-security-policy", "")


# In a browser


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_browser_follows_a_job_to_its_end(yard: Yard, trained: str, evaluated: str, tmp_path: Path) -> None:
    spec = yard.player.stage(HOSTILE, name=HOSTILE)
    yard.begin(spec.job_id, done=3)
    yard.put(spec.job_id, "metrics.csv", "step,wall_time,Train/mean_reward\n0,1.0,1\n1,2.0,2\n")
    yard.put(spec.job_id, "command.stdout.log", f"{'a long line ' * 50}{HOSTILE}\n")
    with browsing(tmp_path) as tab:
        tasks = yard.service.call("GET", "/v1/tasks", key=yard.service.key()).json["page_url"]
        for width in (360, 1440):
            for address in (tasks, tasks.replace("/tasks?", "/tasks/Isaac-Velocity?")):
                tab.open(address, width)
                assert tab.js("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        tab.open(yard.link(spec.job_id), 390, dark=True)
        status = "document.querySelector('.status').textContent"
        assert tab.js(status) == "running"
        assert tab.js("document.documentElement.scrollWidth") == 390, "nothing sticks out on a phone"
        light = "getComputedStyle(document.body).backgroundColor"
        assert tab.js(light) == "rgb(18, 22, 27)", "its own style, the dark one"
        wait_until(lambda: "a long line" in tab.js("document.querySelector('.tail').textContent"), HANG_S, "its log")
        tab.js("document.getElementById('settings').open = true; window.still = true")

        persist(spec, collect(spec, yard.store, CANCELED), yard.store)
        wait_until(lambda: tab.js(status) == "canceled", HANG_S, "the page renews itself")
        assert tab.js("document.getElementById('settings').open"), "what was open stays open"
        assert tab.js("window.still"), "the page was not loaded again"
        wait_until(lambda: tab.js("document.title").endswith(": canceled"), HANG_S, "the title too")

        for width in (360, 1440):
            for path in ("/?", "/jobs?", f"/compare?job={trained}&job={evaluated}&"):
                token = urlencode({"token": pages.site_token(yard.settings, yard.api_key)})
                tab.open(f"{yard.service.url}{path}{token}", width)
                assert tab.js("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert tab.js("typeof pwned") == "undefined"
        assert tab.js("performance.getEntriesByType('resource').map(r => new URL(r.name).host)") == [
            urlsplit(yard.service.url).netloc
        ] * tab.js("performance.getEntriesByType('resource').length")
        assert tab.complaints == []


@pytest.mark.long  # a service that is started twice, and a browser of its own
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_an_open_page_goes_on_where_it_was_when_the_service_is_there_again(
    yard: Yard, deployments: Server, tmp_path: Path
) -> None:
    own = site(tmp_path, deployments, **play.ENVIRONMENT)
    port = urlsplit(own.start()).port
    spec = yard.player.stage("")
    attempt = JobKeys(spec.job_id).attempt(1)

    def run(done: int) -> None:
        own.store.put_json(attempt.status, records.status(done=done, total=12))
        own.store.put_bytes(attempt.file("command.stdout.log"), "".join(f"line {n}\n" for n in range(done)).encode())

    own.store.put_record(JobKeys(spec.job_id).job, spec)
    run(3)
    link = own.call("GET", f"/v0/jobs/{spec.job_id}", key=own.key()).json["page_url"]
    progress = "document.querySelector('progress').value"
    (tmp_path / "browser").mkdir()
    try:
        with browsing(tmp_path / "browser") as tab:
            tab.open(link, 1440)
            wait_until(lambda: "line 2" in tab.js("document.querySelector('.tail').textContent"), HANG_S, "its log")
            own.stop()
            run(5)
            own.start(port)
            wait_until(lambda: tab.js(progress) == 5, HANG_S, "news after the restart")
            run(7)
            wait_until(lambda: tab.js(progress) == 7, HANG_S, "more news")
            wait_until(lambda: "line 6" in tab.js("document.querySelector('.tail').textContent"), HANG_S, "its log")
            lines = tab.js("document.querySelector('.tail').textContent").split("\n")
            assert lines == [f"line {n}" for n in range(7)], "each once"
    finally:
        own.stop()


@pytest.mark.long  # a browser and a job of its own; what the API makes of labels is tested above
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_tags_are_kept_by_the_form_and_a_phone_shows_every_column(yard: Yard, tmp_path: Path) -> None:
    job_id = yard.player.stage("", name="to be labelled").job_id
    query = urlencode({"token": pages.site_token(yard.settings, yard.api_key)})
    with browsing(tmp_path) as tab:
        tab.open(f"{yard.service.url}/jobs/{job_id}?{query}", 360)
        said = "document.querySelector('form.labels output').textContent"
        for tags, answer in (("best, <b>", "<b>"), ("best, lr:3e-4", "Kept.")):
            tab.js("document.getElementById('labels').open = true")
            tab.js(f"document.querySelector('form.labels input').value = {json.dumps(tags)}")
            tab.js(f"document.querySelector('form.labels textarea').value = {json.dumps(HOSTILE)}")
            tab.js("document.querySelector('form.labels button').click()")
            wait_until(lambda answer=answer: answer in tab.js(said), HANG_S, "an answer")
        kept = yard.service.call("GET", f"/v0/jobs/{job_id}", key=yard.service.key()).json
        assert (kept["tags"], kept["note"]) == (["best", "lr:3e-4"], HOSTILE)
        assert tab.js("document.getElementById('tags').textContent") == "best, lr:3e-4"

        tab.open(f"{yard.service.url}/jobs?{query}", 360)
        cells = "[...document.querySelectorAll('.cards td')]"
        assert tab.js(f"{cells}.length") > 10
        assert tab.js(f"{cells}.every(one => one.getBoundingClientRect().right <= 360)")
        assert "lr:3e-4" in tab.js("document.querySelector('.cards').innerText")
        assert tab.js("typeof pwned") == "undefined"
        assert [told for told in tab.complaints if "400" not in told] == [], "the tag that is none is refused"


def _rolled_out(yard: Yard, folder: Path) -> str:
    """Write down a rollout of two environments and two episodes each."""
    recorded.rollout(folder / "rollout.zarr", folder)
    files = {"rollout.zarr": (folder / "rollout.zarr").read_bytes()}
    summary = {"episodes": 4, "recorded_steps": 1000, "success": {"rate": None, "interval_95": None}, "return": None}
    made = left_jobs.spec("rollout", name=HOSTILE)
    return left_jobs.leave(yard.store, made, files, summary=summary | {"keys": {}}, done=500, total=500, unit="step")


@pytest.mark.long  # a browser of its own; what an episode is made of is in test_playback.py
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_an_episode_is_played_in_the_browser(yard: Yard, trained: str, tmp_path: Path) -> None:
    job_id = _rolled_out(yard, tmp_path)
    page = yard.page(job_id)
    (link,) = [str(one["href"]) for one in page.all("a") if "/playback?" in str(one["href"])]
    (tmp_path / "browser").mkdir()
    with browsing(tmp_path / "browser") as tab:
        tab.open(f"{yard.service.url}/jobs/{link}", 360)
        said, frame = (
            "document.querySelector('.said').textContent",
            "Number(document.querySelector('[type=range]').value)",
        )
        wait_until(lambda: "Episode 1 of 4: environment 0, 250 steps" in tab.js(said), HANG_S, "the episode")
        assert "Not recorded, so not drawn: box." in tab.js(said)
        assert tab.js("document.querySelectorAll('.curves figure').length") == 6
        assert tab.js("document.documentElement.scrollWidth") <= 360
        picture = "document.querySelector('canvas').toDataURL()"
        first = tab.js(picture)
        tab.js("document.querySelector('[name=speed]').value = '5'; document.querySelector('[data-play]').click()")
        wait_until(lambda: tab.js(frame) == 249, HANG_S, "its end")
        assert tab.js("document.querySelector('[data-play]').textContent") == "Play"
        assert tab.js("document.querySelector('.time').textContent") == "4.98 s, step 249"
        assert tab.js(picture) != first
        tab.js("const at = document.querySelector('[type=range]'); at.value = 0; at.dispatchEvent(new Event('input'))")
        assert tab.js(picture) == first, "the same moment is the same picture"
        tab.js("document.querySelector('[data-by=\"1\"]').click()")
        wait_until(lambda: "Episode 2 of 4: environment 1" in tab.js(said), HANG_S, "the next one")
        assert tab.js("typeof pwned") == "undefined"
        assert tab.complaints == []

    # Nobody else may fetch it, and errors are told.
    data = f"/jobs/{job_id}/playback/1"
    assert yard.service.call("GET", data).status == 401
    assert yard.service.call("GET", data, key=yard.service.key("another", "jobs")).status == 404
    assert yard.service.call("GET", f"{data}?{urlsplit(yard.link(trained)).query}").status == 404
    none = yard.service.call("GET", f"/jobs/{trained}/playback/1", key=yard.service.key())
    assert (none.status, none.json["code"]) == (404, "no_rollout")
    beyond = yard.service.call("GET", f"/jobs/{job_id}/playback/5", key=yard.service.key())
    assert (beyond.status, beyond.json["code"]) == (404, "no_such_episode")


@pytest.mark.long  # axe-core takes a second a page, and npm brings it
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_axe_finds_nothing_serious_on_any_page(yard: Yard, trained: str, evaluated: str, tmp_path: Path) -> None:
    source = axe(tmp_path)
    running = yard.player.stage("", name="goes on").job_id
    yard.begin(running, done=4)
    yard.put(running, "metrics.csv", "step,wall_time,Train/mean_reward\n0,1.0,1.5\n2,3.0,2.5\n")
    yard.put(running, "command.stdout.log", "a long line of a log " * 20 + "\n")
    crashed = yard.player.play("crash at 4", retries=0, sessions=yard.sessions).result["job_id"]
    yard.service.call("PUT", f"/v0/jobs/{trained}/labels", {"tags": ["best"], "note": "a note"}, key=yard.service.key())
    sweeps = [put_sweep(yard.store, tmp_path), put_sweep(yard.store, tmp_path, trainings=7)]
    tasks = yard.service.call("GET", "/v1/tasks", key=yard.service.key()).json["page_url"]
    token = urlencode({"token": pages.site_token(yard.settings, yard.api_key)})
    paths = {
        "home": "/", "jobs": "/jobs", "compare": f"/compare?job={trained}&job={evaluated}", "nothing": "/jobs/none",
        **{f"a job: {job_id}": f"/jobs/{job_id}" for job_id in (trained, evaluated, running, crashed)},
        "playback": f"/jobs/{_rolled_out(yard, tmp_path)}/playback",
        "sweeps": "/sweeps", **{f"a sweep: {sweep_id}": f"/sweeps/{sweep_id}" for sweep_id in sweeps},
    }  # fmt: skip
    addresses = {name: f"{yard.service.url}{path}{'&' if '?' in path else '?'}{token}" for name, path in paths.items()}
    addresses |= {"tasks": tasks, "a task": tasks.replace("/tasks?", "/tasks/Isaac-Velocity?")}
    found = {}
    (tmp_path / "browser").mkdir()
    with browsing(tmp_path / "browser") as tab:
        for name, address in addresses.items():
            for width, dark in ((360, True), (1440, False)):
                tab.open(address, width, dark=dark)
                tab.js("document.querySelectorAll('details').forEach(one => { one.open = true })")
                if told := serious(tab, source):
                    found[f"{name}, {width}"] = told
        tab.js("document.body.innerHTML = '<main><img src=x><button></button></main>'")
        assert {one[0] for one in serious(tab, source)} >= {"image-alt", "button-name"}, "it would be seen"
    assert found == {}
