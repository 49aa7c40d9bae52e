"""A job that runs, as its open page is told of it: what a view costs, and that no line is lost or told twice."""

import json
import re
from pathlib import Path
from typing import Any, cast

import left_jobs
import pytest
import records
from accessible import problems

from simyard.core.artifacts import shown_as
from simyard.core.errors import RequestError
from simyard.service.job_list import Wanted, job_list
from simyard.service.job_look import TAIL_BYTES, JobLook, JobLooks
from simyard.service.job_page import PARTS, Viewer, job_page, job_part, job_sections
from simyard.service.job_rows import JobRow
from simyard.service.live import Follower, Streams
from simyard.service.tables import Drawings
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.pages.compare_page import Around, comparison_page
from simyard.tasks.pages.comparison import compare
from simyard.tasks.shared import labels

NO_PREFECT = cast(Any, None)
"""Prefect knows nothing of a job that runs or has ended, and is not asked."""
LOG = "command.stdout.log"
VIEWER = Viewer(link=lambda key, name: f"link-{name}", nonce="n", until="later", token="t")


class CountingStore(Store):
    """A real store that counts what it is asked."""

    reads = 0

    def _call(self, action: str, key: str, call: Any) -> Any:
        self.reads += action in ("read", "list")
        return super()._call(action, key, call)


class Watched:
    """One job, its store, and the pages that look at it."""

    def __init__(self, folder: Path) -> None:
        self.store = cast(CountingStore, CountingStore.open(str(folder)))
        self.looks, self.drawings = JobLooks(), Drawings()
        self.made = left_jobs.spec(max_iterations=100)
        self.store.put_record(JobKeys(self.made.job_id).job, self.made)
        self.attempt = JobKeys(self.made.job_id).attempt(1)

    def run(self, done: int, *, log: str = "a line\n") -> None:
        """Write down that an attempt runs, and what it has sent so far."""
        self.store.put_json(self.attempt.status, records.status(done=done, total=100))
        self.store.put_bytes(self.attempt.file("metrics.csv"), left_jobs.metrics(done))
        self.store.put_bytes(self.attempt.file("telemetry.csv"), f"time_s,cpu_percent\n1,{done}\n2,{done}\n".encode())
        self.store.put_bytes(self.attempt.file(LOG), log.encode())

    def view(self, job_id: str | None = None) -> str:
        look = self.looks.of(self.store, job_id or self.made.job_id)
        given = labels.read(self.store, look.job_id)
        return job_page(look, NO_PREFECT, self.drawings, given, VIEWER)[0]

    def follower(self, place: str | None = None) -> Follower:
        """Another page that is open; it looks anew each time."""
        job_id = self.made.job_id
        return Follower(
            lambda shared_s: self.looks.of(self.store, job_id),
            lambda look: job_sections(look, NO_PREFECT, self.drawings, VIEWER),
            place,
        )


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def news(follower: Follower) -> tuple[str, dict[str, str], list[str]]:
    """Return the id of the next event, the elements in it, and the lines of the log."""
    event, _ = follower.news()
    if not event:
        return "", {}, []
    (place,) = re.findall(r"^id: (.+)$", event, re.MULTILINE)
    data = json.loads(event.partition("data: ")[2])
    return place, data["elements"], data["lines"].get(LOG, [])


def test_a_view_of_a_page_costs_at_most_five_reads(watched: Watched) -> None:
    watched.run(3)
    trained = left_jobs.training(watched.store)
    measured = left_jobs.evaluation(watched.store)

    def cost(job_id: str | None = None) -> int:
        before = watched.store.reads
        assert "<main" in watched.view(job_id)
        return watched.store.reads - before

    first = [cost(), cost(trained), cost(measured)]
    again = [cost(), cost(trained), cost(measured)]
    watched.run(50, log="a line\nanother\n")
    assert max(*first, *again, cost()) <= 5, (first, again)
    assert max(again) <= 2, "nothing is read twice in the same version"

    # However many pages are open, a job is looked at once: its listing, and what is new.
    followers = [watched.follower() for _ in range(5)]
    [follower.news() for follower in followers]
    watched.run(60, log="a line\nanother\nand one\n")
    watched.looks.of(watched.store, watched.made.job_id)
    before = watched.store.reads
    for follower in followers:
        follower._look = lambda shared_s: watched.looks.of(watched.store, watched.made.job_id, 60.0)
        assert news(follower)[2] == ["and one"]
    assert watched.store.reads - before <= 5, "heartbeat, two tables, and the log with its length"


def test_an_open_page_is_told_what_is_new_and_of_the_end(watched: Watched) -> None:
    follower = watched.follower()
    watched.run(3, log="one\ntwo\nhalf")
    place, elements, lines = news(follower)
    assert set(elements) >= {"title", "top", "curve_charts", "machine_load", "files"}
    assert "3 of 100" in elements["top"]
    assert lines == ["one", "two"]
    assert place.startswith("1:8:")
    assert news(follower) == ("", {}, [])

    watched.run(9, log="one\ntwo\nhalf a line\n")
    place, elements, lines = news(follower)
    assert "9 of 100" in elements["top"]
    assert "title" not in elements, "only what has changed"
    assert lines == ["half a line"]

    # Another copy of the service, which knows nothing of what this page was told, is told by the page itself.
    watched.run(9, log="one\ntwo\nhalf a line\nlast\n")
    later = Follower(
        lambda shared_s: JobLook(watched.store, watched.made.job_id).refresh(),
        lambda look: job_sections(look, NO_PREFECT, Drawings(), VIEWER),
        place,
    )
    _, elements, lines = news(later)
    assert lines == ["last"]
    assert "9 of 100" in elements["top"]

    left_jobs.leave(watched.store, watched.made, {"metrics.csv": left_jobs.metrics(100)}, done=100, total=100)
    event, is_last = follower.news()
    assert is_last
    assert "succeeded" in event
    assert "link-metrics.csv" in event, "its files can be fetched now"


def test_an_attempt_begins_its_own_log(watched: Watched) -> None:
    follower = watched.follower()
    watched.run(3, log="one\n")
    assert news(follower)[2] == ["one"]
    watched.attempt = JobKeys(watched.made.job_id).attempt(2)
    watched.run(3, log="two\n")
    _, elements, lines = news(follower)
    assert lines == ["two"]
    assert "not ended yet" in elements["attempt_table"]


@pytest.mark.parametrize("place", ["", "x", "1:-5", "9" * 99, "1:999999999", "2:0", "1:3", "<script>"])
def test_a_place_that_is_none_begins_with_the_last_lines(watched: Watched, place: str) -> None:
    watched.run(3, log="one\ntwo\n")
    assert news(watched.follower(place))[2] in (["one", "two"], ["two"], [])


def test_of_a_long_log_the_end_is_told(watched: Watched) -> None:
    """A page that was away for long gets the last lines, whatever it had."""
    line = "x" * 99
    watched.run(3, log=f"{line}\n" * 10)
    follower = watched.follower()
    news(follower)
    watched.run(3, log=f"{line}\n" * 10 + "".join(f"{n:099}\n" for n in range(3 * TAIL_BYTES // 100)))
    lines = news(follower)[2]
    assert len(lines) == 40
    assert int(lines[-1]) == 3 * TAIL_BYTES // 100 - 1
    watched.run(3, log="its middle was dropped\n")
    assert news(follower)[2] == ["its middle was dropped"]


def test_parts_are_there_by_themselves(watched: Watched) -> None:
    watched.run(3, log="<b>one</b>\n")
    look = watched.looks.of(watched.store, watched.made.job_id)
    found = {name: job_part(look, name, NO_PREFECT, watched.drawings, VIEWER) for name in (*PARTS, LOG)}
    assert "CPU: 3 to 3" in found["machine"]
    assert "newton 1" not in found["machine"], "the simulator has reported nothing yet"
    assert "not ended yet" in found["attempts"]
    assert "&lt;b&gt;one" in found[LOG]
    for row in shown_as("log"):
        job_part(look, row.name, NO_PREFECT, watched.drawings, VIEWER)
    with pytest.raises(RequestError, match="There is no job"):
        watched.looks.of(watched.store, keys.new_job_id())


def test_no_more_pages_follow_than_there_is_room_for() -> None:
    streams = Streams()
    streams.require_room()
    streams.open = 500
    with pytest.raises(RequestError, match="500 pages follow"):
        streams.require_room()


def test_pages_say_everything_in_words_and_take_the_keyboard(watched: Watched) -> None:
    """Every control and chart has a label, every link says something, headings begin at the first."""
    watched.run(3)
    both = [left_jobs.evaluation(watched.store, shift, film=b"a film") for shift in (0.0, 0.4)]
    around = Around(home="home", jobs="jobs", sweeps="sweeps")
    compared = comparison_page(compare(watched.store, both), lambda place, name: "film", "n", both, around)
    row = JobRow(
        job_id=both[0], kind="train", name="name", task="task", library="rsl_rl", status="running", stage="working",
        done=1, total=2, unit="iteration", reward=1.0, success=None, steps_per_s=None, seconds=None, gpus=1,
        gpu_seconds=3.0, usd=None, attempts=1, created_at="2026-01-01T00:00:00+00:00", updated_at=None, failure=None,
        tags=("best",),
    )  # fmt: skip
    listed = job_list([row], 1, Wanted(), lambda job_id: "link", "token", "n", "home")
    pages = {"running": watched.view(), "ended": watched.view(both[0]), "compared": compared, "listed": listed}
    assert {name: found for name, page in pages.items() if (found := problems(page))} == {}
    assert problems("<html><h2>a</h2><input><a href=x></a><svg></svg></html>"), "it would be seen"
