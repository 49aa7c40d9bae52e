"""Jobs side by side: what differs, with its noise, and in how few bytes; and the labels that find them."""

import re
from pathlib import Path

import click.testing
import left_jobs
import pytest
import records

from simyard.cli.main import main
from simyard.core.errors import RequestError
from simyard.core.specs import Facts
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.pages.compare_page import comparison_page
from simyard.tasks.pages.comparison import Comparison, Row, compare
from simyard.tasks.shared import labels

HOSTILE = "<script>pwned = 1</script>\"'><img src=x onerror=pwned=1>&amp;</textarea>"
FILM = b"\x00\x00\x00\x18ftypmp42 no real film"


@pytest.fixture
def jobs(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def page_of(found: Comparison) -> str:
    return comparison_page(found, lambda place, name: f"film-{place}", "a-nonce", [None] * len(found.sides))


def row(rows: list[Row], name: str) -> list[object]:
    return next(one.cells for one in rows if one.name == name)


def test_two_jobs_of_ten_thousand_iterations_fit_a_page_with_their_peaks(jobs: Store) -> None:
    both = [left_jobs.training(jobs, 10_000, slope, losses=9, seed=int(slope)) for slope in (1.0, 2.0)]
    found = compare(jobs, both)
    page = page_of(found)
    assert len(page) < 1_000_000
    assert [one.title for one in found.curves][:2] == ["mean reward", "mean episode length"]
    assert [one.title for one in found.terms] == list(left_jobs.TERMS)
    reward = found.curves[0]
    assert row(found.figures, "best mean reward")[1] == pytest.approx(10.5, abs=0.3)
    # The peak is one iteration of ten thousand: it is in the band, and the line is its mean with its neighbours.
    highest = {float(y) for band in reward.traces[0].bands for y in re.findall(r",([\d.]+)", band)}
    lines = {float(y) for line in reward.traces[0].lines for y in re.findall(r",([\d.]+)", line)}
    assert min(highest) < 30 < 100 < min(lines)


def test_a_difference_is_that_of_pairs_where_the_seeds_match(jobs: Store) -> None:
    before, after = left_jobs.evaluation(jobs), left_jobs.evaluation(jobs, 0.4)
    other = left_jobs.evaluation(jobs, 0.4, seed=8)
    found = compare(jobs, [before, after, other])
    none, paired, independent = row(found.differences, "return")
    assert none is None
    assert paired.pairs == 24
    assert paired.interval_95 == pytest.approx((0.4, 0.4), abs=0.02)
    assert paired.is_beyond_noise
    assert independent.pairs is None
    assert independent.interval_95[1] - independent.interval_95[0] > 0.5
    assert row(found.differences, "success")[1].pairs == 24
    assert row(found.differences, "reward term alive")[1].mean == pytest.approx(0.2, abs=0.01)

    # Side by side stand the episodes of one seed and environment, in whatever order they ended.
    together = compare(jobs, [before, after])
    assert together.episode_count == 24
    gaps = [float(two["return"]) - float(one["return"]) for one, two in (line.cells for line in together.episodes)]
    assert gaps == pytest.approx([0.4] * 24, abs=0.05)


def test_only_what_differs_is_shown_of_settings_and_environments(jobs: Store) -> None:
    def leave(overrides: tuple[str, ...], **versions: str) -> str:
        facts = Facts.from_json(records.facts() | {"versions": {"torch": "2.10", **versions}})
        made = left_jobs.spec(overrides=overrides, gpus=1)
        return left_jobs.leave(jobs, made, {"metrics.csv": left_jobs.metrics(3)}, facts=facts)

    one = leave(("agent.lr=1", "env.same=2"), newton="1.0")
    two = leave(("agent.lr=2", "env.same=2", "env.more=[1,2]"), newton="1.1")
    found = compare(jobs, [one, two])
    assert {line.name: line.cells for line in found.settings} == {
        "override.agent.lr": ["1", "2"], "override.env.more": [None, "[1,2]"],
    }  # fmt: skip
    assert {line.name: line.cells for line in found.environment} == {"newton": ["1.0", "1.1"]}
    assert row(found.cost, "USD") == [0, 0], "on the CPU after all"


def test_a_checkpoint_stands_for_its_job_until_then(jobs: Store) -> None:
    job_id = left_jobs.training(jobs, 50)
    key = JobKeys(job_id).result
    saved = {"kind": "checkpoint", "size_bytes": 1, "sha256": "0" * 64, "parent": None}
    entries = [{**saved, "name": f"checkpoints/model_{n}.pt", "iteration": n} for n in (10, 30)]
    jobs.put_json(key, jobs.get_json(key) | {"artifacts": entries})
    found = compare(jobs, [f"{job_id}@model_10.pt", f"{job_id}@model_30.pt", job_id])
    assert [len(side.curves["mean reward"]) for side in found.sides] == [10, 30, 50]
    with pytest.raises(RequestError, match=r"no checkpoint 'model_9.pt'.*There are: model_10.pt, model_30.pt"):
        compare(jobs, [job_id, f"{job_id}@model_9.pt"])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("one", "These are 1 jobs; 2 to 8 different ones"),
        ("nine", "These are 9 jobs"),
        ("twice", "is named twice"),
        ("none", "There is no job"),
        ("nonsense", "'../../etc' is not a job id"),
    ],
)
def test_what_cannot_be_compared_is_refused(jobs: Store, name: str, says: str) -> None:
    job_id = left_jobs.training(jobs, 3)
    others = {"one": [], "nine": [keys.new_job_id() for _ in range(8)], "twice": [job_id], "none": [keys.new_job_id()]}
    with pytest.raises(RequestError, match=re.escape(says)):
        compare(jobs, [job_id, *others.get(name, ["../../etc"])])


def test_what_users_write_is_text_in_a_comparison(jobs: Store) -> None:
    one = left_jobs.evaluation(jobs, name=HOSTILE, overrides=(f"env.x={HOSTILE}",))
    two = left_jobs.evaluation(jobs, 1.0, film=FILM, task=HOSTILE)
    table = JobKeys(one).artifact("episodes.csv")
    doubled = HOSTILE.replace('"', '""')
    jobs.put_bytes(table, jobs.get_bytes(table).replace(b"reward.alive", f'"reward.{doubled}"'.encode()))
    labels.change(jobs, one, by=HOSTILE, tags=["a"], note=HOSTILE)
    page = page_of(compare(jobs, [one, two]))
    assert page.count("<script") == 1, "its own, for the films"
    assert "<img" not in page
    assert page.count("&lt;script&gt;pwned = 1&lt;/script&gt;") >= 4
    assert not re.search(r"<[^>]* on\w+=", page)


def test_a_comparison_is_told_on_the_terminal_and_in_one_file(jobs: Store, tmp_path: Path) -> None:
    made = [left_jobs.evaluation(jobs, shift, film=FILM) for shift in (0.0, 0.4)]
    file = tmp_path / "new" / "both.html"
    run = click.testing.CliRunner(env={"SIMYARD_HOME": str(tmp_path)})
    done = run.invoke(main, ["compare", *made, "--store", jobs.url(), "--html", str(file)])
    assert done.exit_code == 0, done.output
    assert re.search(r"^return +– +\+0\.4\S* \[0\.3\S*, 0\.4\S*\]\*$", done.output, re.MULTILINE)  # noqa: RUF001
    page = file.read_text()
    assert page.count('src="data:video/mp4;base64,') == 2
    assert not re.search(r"(src|href)=\"(?!data:)", page), "it loads nothing, and leads nowhere"
    refused = run.invoke(main, ["compare", made[0], "--store", jobs.url()])
    assert (refused.exit_code, "These are 1 jobs" in refused.output) == (2, True)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"add": ["<b>"]}, "'<b>' is no tag"),
        ({"add": ["x" * 41]}, "is no tag"),
        ({"add": [""]}, "'' is no tag"),
        ({"add": ["a,b"]}, "'a,b' is no tag"),
        ({"add": [f"t{n}" for n in range(21)]}, "These are 23 tags; a job has 20"),
        ({"note": "x" * 4001}, "The note has 4,001 characters"),
        ({"note": "a\x1b[31m"}, r"The note has the character '\x1b'"),
    ],
)
def test_labels_are_bounded(jobs: Store, given: dict, says: str) -> None:
    job_id = left_jobs.training(jobs, 3)
    kept = labels.change(jobs, job_id, by="me", add=["best", "größe:1"], note=" two\r\nlines ")
    assert (kept.tags, kept.note) == (("best", "größe:1"), "two\nlines")
    with pytest.raises(RequestError, match=re.escape(says)):
        labels.change(jobs, job_id, by="me", **given)
    assert labels.read(jobs, job_id) == kept, "what was refused changed nothing"
    assert labels.change(jobs, job_id, by="me", remove=["best"]).tags == ("größe:1",)
    with pytest.raises(RequestError, match="There is no job"):
        labels.change(jobs, keys.new_job_id(), by="me", add=["a"])
