import csv
import json
import math
import random
import struct
import threading
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from simyard.tasks.metrics.events import Series
from simyard.tasks.metrics.table import LiveMetrics, MetricsTable, draw_curves

event_accumulator = lazy("tensorboard.backend.event_processing.event_accumulator")
tensorboard = lazy("torch.utils.tensorboard")


def series(points: dict[int, float], wall: float = 1.7e9, *, wide: bool = False) -> Series:
    walls = array("d", [wall + number for number in range(len(points))])
    return Series(array("q", points), walls, array("d", points.values()), wide)


def table(tags: dict[str, dict[int, float]], folder: str = ".") -> MetricsTable:
    filled = MetricsTable()
    filled.add(folder, {tag: series(points) for tag, points in tags.items()})
    return filled


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def without_walls(path: Path) -> list[list[str]]:
    return [[row[0], *row[2:]] for row in cells(path)]


def float32(value: float) -> bytes:
    return struct.pack("<f", value)


def live(root: Path, **options: int) -> LiveMetrics:
    metrics = LiveMetrics(root, **options)
    metrics.update()
    return metrics


def test_the_table_holds_what_tensorboard_reads(tmp_path):
    rng = random.Random(0)
    with tensorboard.SummaryWriter(str(tmp_path / "log")) as writer:
        for step in range(300):
            writer.add_scalar("Loss/value", rng.gauss(0, 1) * 10 ** rng.randint(-8, 8), step)
            if step % 7 == 0:
                writer.add_scalar("Train/mean_reward", rng.random(), step)
    live(tmp_path).table.write_csv(tmp_path / "metrics.csv")
    theirs = event_accumulator.EventAccumulator(str(tmp_path / "log"), size_guidance={"scalars": 0}).Reload()

    header, *rows = cells(tmp_path / "metrics.csv")

    assert header == ["step", "wall_time", "Loss/value", "Train/mean_reward"]
    for column, tag in enumerate(header[2:], start=2):
        ours = [(int(row[0]), float32(float(row[column]))) for row in rows if row[column]]
        assert ours == [(event.step, float32(event.value)) for event in theirs.Scalars(tag)]
    walls = {event.step: event.wall_time for event in theirs.Scalars("Loss/value")}
    walls |= {event.step: event.wall_time for event in theirs.Scalars("Train/mean_reward")}
    assert {int(row[0]): float(row[1]) for row in rows} == walls


def test_absent_and_not_finite_values_are_told_apart(tmp_path):
    filled = table({"a": {1: math.nan, 2: math.inf, 3: -math.inf}, "b": {2: 0.1, 4: 300.0}})
    filled.write_csv(tmp_path / "metrics.csv")
    assert without_walls(tmp_path / "metrics.csv") == [
        ["step", "a", "b"],
        ["1", "nan", ""],
        ["2", "inf", "0.1"],
        ["3", "-inf", ""],
        ["4", "", "300"],
    ]


@settings(max_examples=200, deadline=None)
@given(values=st.lists(st.floats(width=32, allow_nan=False), max_size=50))
def test_a_cell_gives_its_float32_back(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "metrics.csv"
    table({"x": dict(enumerate(values))}).write_csv(path)
    assert [float32(float(row[2])) for row in cells(path)[1:]] == [float32(value) for value in values]


@pytest.mark.parametrize(
    "text", ["0.001", "1e-05", "0.1", "16777216", "3.40282347e+38", "1.40129846e-45", "-0", "1e+10"]
)
def test_a_round_number_is_written_as_one(tmp_path, text):
    value = struct.unpack("<f", float32(float(text)))[0]
    table({"x": {0: value}}).write_csv(tmp_path / "metrics.csv")
    written = cells(tmp_path / "metrics.csv")[1][2]
    assert float32(float(written)) == float32(float(text))
    assert len(written) <= len(text) + 1


def test_a_float64_keeps_its_digits(tmp_path):
    filled = MetricsTable()
    filled.add(".", {"x": series({0: 0.1 + 0.2}, wide=True)})
    filled.write_csv(tmp_path / "metrics.csv")
    assert cells(tmp_path / "metrics.csv")[1][2] == "0.30000000000000004"
    assert filled.summary()["x"]["max"]["value"] == 0.1 + 0.2


def test_whatever_was_logged_is_drawn(tmp_path):
    """A name is no formula, and no value, number of values or step makes a job fail that was done."""
    nan, far = math.nan, 1.7e308
    columns = {
        "Train/mean_reward": series({0: 1.0, 10: -2.0, 20: 0.5}),
        "Loss/one point": series({5: 2.5}),
        "Loss/never a number": series({0: nan, 1: math.inf, 2: -math.inf}),
        "Loss/all the same": series({0: 1e16, 1: 1e16}),
        "Loss/far apart": series({-(2**63): -far, 2**63 - 1: far}, wide=True),
        "Loss/next to nothing": series({0: 5e-324, 1: 1e-323}, wide=True),
        "Loss/$\\frac$": series({0: 1000.25, 1: 1000.5}),
        "Loss/empty": series({}),
        "no loss": series({0: 1.0}),
    }
    assert draw_curves(columns, "Train/mean_reward", "What is $\\frac$? ünïcode", tmp_path / "curves.png")
    width, height = struct.unpack(">II", (tmp_path / "curves.png").read_bytes()[16:24])
    assert (width, height) == (1518, 1034), "eight charts, three side by side"
    assert not draw_curves({"x": series({0: 1.0})}, "reward", "nothing that is shown", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_one_tag_in_two_folders_makes_two_columns(tmp_path):
    for folder, value in (("b", 2.0), ("a", 1.0), ("a/deep", 3.0)):
        with tensorboard.SummaryWriter(str(tmp_path / folder)) as writer:
            writer.add_scalar("reward", value, 5)
            writer.add_scalar(f"only/{folder}", value, 6)
    live(tmp_path).table.write_csv(tmp_path / "metrics.csv")
    assert without_walls(tmp_path / "metrics.csv") == [
        ["step", "only/a", "only/a/deep", "only/b", "reward", "reward [a/deep]", "reward [b]"],
        ["5", "", "", "", "1", "3", "2"],
        ["6", "1", "3", "2", "", "", ""],
    ]


def test_a_tag_cannot_take_the_name_of_an_axis(tmp_path):
    table({"step": {1: 1.0}, "wall_time": {1: 2.0}}, "run").write_csv(tmp_path / "metrics.csv")
    assert cells(tmp_path / "metrics.csv")[0] == ["step", "wall_time", "step [run]", "wall_time [run]"]


@pytest.mark.parametrize("turn", [1, -1], ids=["as written", "newest first"])
def test_the_later_of_two_values_at_a_step_counts(tmp_path, turn):
    filled = MetricsTable()
    parts = (series({1: 1.0, 2: 2.0, 3: 3.0}), series({2: 20.0, 4: 40.0}, wall=1.8e9))
    for part in parts[::turn]:
        filled.add(".", {"x": part})
    filled.write_csv(tmp_path / "metrics.csv")
    rows = [["step", "wall_time", "x"]]
    rows += [["1", "1700000000.0", "1"], ["2", "1800000000.0", "20"]]
    rows += [["3", "1700000002.0", "3"], ["4", "1800000001.0", "40"]]
    assert cells(tmp_path / "metrics.csv") == rows


def test_time_tags_have_a_table_of_their_own(tmp_path):
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        for iteration in range(3):
            writer.add_scalar("Train/mean_reward", iteration, iteration)
            writer.add_scalar("Train/mean_reward/time", iteration, 1000 + 60 * iteration)
    metrics = live(tmp_path, step_offset=100)

    metrics.table.write_csv(tmp_path / "metrics.csv")

    assert metrics.table.write_time_csv(tmp_path / "metrics_time.csv")
    rows = [["step", "Train/mean_reward"], ["100", "0"], ["101", "1"], ["102", "2"]]
    assert without_walls(tmp_path / "metrics.csv") == rows
    rows = [["step", "Train/mean_reward/time"], ["1000", "0"], ["1060", "1"], ["1120", "2"]]
    assert without_walls(tmp_path / "metrics_time.csv") == rows
    assert list(metrics.table.summary()) == ["Train/mean_reward"]


def test_without_time_tags_there_is_no_time_table(tmp_path):
    assert not table({"x": {1: 1.0}}).write_time_csv(tmp_path / "metrics_time.csv")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table_is_a_header(tmp_path):
    MetricsTable().write_csv(tmp_path / "metrics.csv")
    assert (tmp_path / "metrics.csv").read_text() == "step,wall_time\n"
    assert MetricsTable().summary() == {}


@pytest.mark.parametrize("tag", ['a,"b"', "two\nlines", "carriage\rreturn", " spaces ", ""])
def test_any_tag_survives_as_a_column_name(tmp_path, tag):
    table({tag: {1: 1.0}}).write_csv(tmp_path / "metrics.csv")
    assert without_walls(tmp_path / "metrics.csv") == [["step", tag], ["1", "1"]]


def test_an_offset_step_stays_within_64_bits(tmp_path):
    filled = MetricsTable()
    filled.add(".", {"x": series({2**63 - 1: 1.0})}, step_offset=10)
    assert list(filled.columns()["x"].steps) == [2**63 - 1]


def test_the_summary_names_final_lowest_highest_and_best():
    facts = table(
        {"Train/mean_reward": {1: -1.0, 2: 5.0, 3: 5.0, 4: 0.5}, "Loss/value": {1: 3.0, 9: 0.25, 10: 0.5}}
    ).summary()
    assert facts["Train/mean_reward"] == {
        "count": 4,
        "final": {"step": 4, "value": 0.5},
        "min": {"step": 1, "value": -1.0},
        "max": {"step": 2, "value": 5.0},
        "best": {"step": 2, "value": 5.0, "mode": "max"},
    }
    assert facts["Loss/value"]["best"] == {"step": 9, "value": 0.25, "mode": "min"}


@pytest.mark.parametrize(
    ("tag", "mode"),
    [
        *((tag, "min") for tag in ("Loss/surrogate", "loss", "losses/c_loss", "Loss / Policy loss", "train/loss")),
        ("train/policy_gradient_loss", "min"),
        ("Train/mean_reward", "max"),
        ("Metrics/success_rate", "max"),
    ],
)
def test_low_is_best_for_losses_alone(tag, mode):
    assert table({tag: {1: 1.0}}).summary()[tag]["best"]["mode"] == mode


def test_values_that_are_not_finite_never_win_and_leave_the_json_valid():
    facts = table(
        {"reward": {1: math.inf, 2: 1.0, 3: math.nan}, "loss": {1: -math.inf, 2: 2.0}, "lost": {1: math.nan}}
    ).summary()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["reward"]["best"] == {"step": 2, "value": 1.0, "mode": "max"}
    assert facts["reward"]["final"] == {"step": 3, "value": None}
    assert facts["loss"]["best"] == {"step": 2, "value": 2.0, "mode": "min"}
    assert facts["lost"]["max"] == {"step": None, "value": None}
    assert facts["lost"]["count"] == 1


def test_live_metrics_follow_a_run_and_its_new_folders(tmp_path):
    metrics = LiveMetrics(tmp_path / "logs")
    assert not metrics.update()
    with tensorboard.SummaryWriter(str(tmp_path / "logs" / "first")) as writer:
        writer.add_scalar("reward", 1.0, 1)
        writer.flush()
        assert metrics.update()
        assert not metrics.update()
        assert metrics.latest("reward") == 1.0
        writer.add_scalar("reward", 2.0, 2)
        writer.flush()
        assert metrics.update()
    with tensorboard.SummaryWriter(str(tmp_path / "logs" / "also")) as writer:
        writer.add_scalar("reward", 3.0, 1)
    assert metrics.update()
    assert metrics.latest("reward") == 3.0
    assert metrics.latest("absent") is None
    assert [list(column.values) for column in metrics.table.columns().values()] == [[3.0], [1.0, 2.0]]


def test_live_metrics_name_the_files_that_are_broken(tmp_path):
    broken = tmp_path / "events.out.tfevents.1.host"
    broken.write_bytes(b"nothing of the kind, really")
    metrics = live(tmp_path)
    assert list(metrics.errors) == [broken]
    assert "at byte 0" in metrics.errors[broken]


def test_a_series_is_cut_at_a_step():
    series = Series(array("q", [3, 1, 2]), array("d", [3.0, 1.0, 2.0]), array("d", [30.0, 10.0, 20.0]))
    kept = series.before(3)
    assert (list(kept.steps), list(kept.walls), list(kept.values)) == ([1, 2], [1.0, 2.0], [10.0, 20.0])


def test_a_reader_never_sees_half_a_table(tmp_path):
    filled = table({f"tag{number}": dict.fromkeys(range(2000), 0.123) for number in range(5)})
    path = tmp_path / "metrics.csv"
    filled.write_csv(path)
    whole = path.read_bytes()
    writer = threading.Thread(target=lambda: [filled.write_csv(path) for _ in range(20)])
    writer.start()
    while writer.is_alive():
        assert path.read_bytes() == whole
    writer.join()
    assert list(tmp_path.iterdir()) == [path]
