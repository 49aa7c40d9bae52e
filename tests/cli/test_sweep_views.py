"""What the commands that read a sweep show of one that runs, one that has ended, and none."""

import json
import re

import pytest
from click.testing import CliRunner, Result
from swept import CONFIG, ENTROPY, OF_TWO, RATE, put_sweep

from simyard.blocks.reference import open_store
from simyard.cli.sweep import sweep
from simyard.cli.sweep_views import standing
from simyard.core.errors import RequestError
from simyard.requests.config import check_config
from simyard.requests.jobs import Resume, RetrainRequest, TrainRequest
from simyard.store.keys import JobKeys, SweepKeys, new_job_id
from simyard.tasks.promotion.retrain import find_start, with_values
from simyard.tasks.resolve import resolve
from simyard.tasks.sweeps import record


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("views")


@pytest.fixture(scope="module")
def ended(home):
    """A sweep that has ended."""
    return put_sweep(open_store(str(home / "store")), home)


@pytest.fixture(scope="module")
def begun(home):
    """One whose process died after seven trainings: the heartbeat is this process's, so it still runs."""
    return put_sweep(open_store(str(home / "store")), home, trainings=7)


def said(home, *arguments: str) -> Result:
    answer = CliRunner().invoke(sweep, [*arguments, "--store", str(home / "store")])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.exception
    return answer


def test_show_ranks_the_settings_and_gives_the_verdict(home, ended):
    lines = said(home, "show", ended).output.splitlines()
    assert lines[0] == f"{ended}  succeeded"
    assert "settings    6: 1 complete, 4 pruned, 1 failed" in lines
    table = [
        line.split() for line in lines if line.startswith("   ") and line.endswith(("complete", "pruned", "failed"))
    ]
    assert [row[0] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert table[0][1:4] == ["2", "0.001", "0"], "the setting, its rate and its entropy"
    assert "not measured" in " ".join(table[-1])
    assert "leads setting 3" in lines[-1]
    known = json.loads(said(home, "show", ended, "--json").output)
    assert (known["status"], len(known["all_settings"]), known["verdict"]["table"][0]["number"]) == ("succeeded", 6, 2)


def test_watch_prints_what_happened_and_exits_as_the_sweep_does(home, ended):
    answer = said(home, "watch", ended)
    assert answer.exit_code == 0
    assert "Setting 2 goes on" in answer.output
    assert "succeeded: 6 settings (done): Setting 2" in answer.output


def test_a_running_sweep_stands_in_one_line(home, begun):
    store = open_store(str(home / "store"))
    known = record.sweep_status(store, begun)
    line = standing(known, record.settings(store, begun))
    assert line.startswith(f"{known.settings} of 6 settings, "), line
    for word in ("running", "pruned", "GPU s"):
        assert word in line


def test_best_writes_a_config_that_trains_it_again(home, ended, tmp_path):
    config = tmp_path / "best.json"
    answer = said(home, "best", ended, "--config", str(config))
    assert answer.exit_code == 0, answer.output
    assert answer.output.startswith("setting 2: 4.775 over 2 seeds, 95 % interval [")
    written = check_config(json.loads(config.read_text()), TrainRequest)
    assert (written.training_config.seed, written.training_config.max_iterations) == (43, 60), "of the best seed"
    assert written.overrides == ("agent.save_interval=20", f"{ENTROPY}=0.0", f"{RATE}=0.001")
    found = json.loads(said(home, "best", ended, "--json").output)
    last = next(one for one in record.settings(open_store(str(home / "store")), ended) if one.number == 2)
    assert found["job_id"] == last.runs[1].jobs[-1]
    assert said(home, "best", begun_id := put_sweep(open_store(str(home / "store")), home, trainings=0)).exit_code == 2
    assert "No setting of" in said(home, "best", begun_id).output


@pytest.mark.parametrize("command", ["show", "watch", "best"])
def test_a_sweep_that_is_not_there_is_named(home, command):
    answer = said(home, command, "sweep-" + "0" * 26)
    assert (answer.exit_code, "There is no sweep 'sweep-000" in answer.output) == (2, True)


def test_the_report_and_the_pictures_are_artifacts(home, ended, begun):
    store = open_store(str(home / "store"))
    names = [entry.key.rpartition("/")[2] for entry in store.list(SweepKeys(ended).artifacts)]
    assert names == ["curves.png", "importance.png", "parallel.png", "report.md"]
    report = store.get_bytes(SweepKeys(ended).artifact("report.md")).decode()
    assert "| 1 | 2 | learning_rate 0.001, entropy_coef 0 | 4.775 |" in report
    assert "The policy diverged." in report, "a failed seed says why"
    assert store.exists(SweepKeys(begun).artifact("curves.png")), "drawn while it runs"


def test_of_several_objectives_each_is_shown_and_the_front_marked(home, ended):
    store = open_store(str(home / "store"))
    several = put_sweep(store, home, OF_TWO)
    shown = said(home, "show", several).output.splitlines()
    heads, *table = [line for line in shown if line.startswith(("RANK", "   "))]
    assert re.split("  +", heads)[4:] == [
        "Train/mean_reward", "95 %", "Train/mean_episode_length", "95 %", "FRONT", "SEEDS", "ITERATIONS", "STATE",
    ]  # fmt: skip
    cells = [re.split("  +", line.strip()) for line in table]
    assert [(row[1], row[6], row[8]) for row in cells[:2]] == [("2", "200.5", "yes"), ("0", "130.5", "yes")]
    assert all("yes" not in row for row in cells[2:]) and "not measured" in cells[-1]
    assert "2 of 5 settings are on the Pareto front" in shown[-1]
    best = said(home, "best", several).output
    assert best.startswith("setting 2: Train/mean_reward 4.775 over 2 seeds, 95 % interval [")
    assert "\n  and Train/mean_episode_length 200.5 over 2 seeds, 95 % interval [" in best
    assert store.exists(SweepKeys(several).artifact("front.png"))
    assert not store.exists(SweepKeys(ended).artifact("front.png"))
    wide = [store.get_bytes(SweepKeys(one).artifact("parallel.png"))[16:20] for one in (ended, several)]
    assert wide[0] < wide[1], "an axis more"
    report = store.get_bytes(SweepKeys(several).artifact("report.md")).decode()
    assert re.search(r"\| 1 \| 2 \| .* \| 4\.775 \| \[.*\] \| 200\.5 \| \[.*\] \| yes \| 2 of 2 \|", report)
    assert re.search(r"\| 2 \| 43 \| 4\.\d+ \| 201 \| 60 \| succeeded", report), "both values of a seed"
    store.delete(SweepKeys(several).result)  # as before its end
    line = standing(record.sweep_status(store, several), record.settings(store, several))
    assert ", 2 on the Pareto front, " in line


def test_a_retraining_begins_from_the_best_of_a_sweep_with_its_values(home, ended, begun):
    store = open_store(str(home / "store"))
    best = json.loads(said(home, "best", ended, "--json").output)
    own = "agent.algorithm.entropy_coef=0.5"
    asked = {"promotion": "arm", "start": ended, "training": {**CONFIG, "overrides": [own]}}
    asked["training"].pop("sweep")
    request = with_values(check_config(asked, RetrainRequest), store)
    assert request.training.overrides == (f"{RATE}=0.001", own), "what the training says itself counts"
    assert with_values(request, store) == request, "said twice it is the same"
    store.put_json(JobKeys(best["job_id"]).job, resolve(request.training, store, best["job_id"], home).spec.to_json())
    start = find_start(request, None, store, new_job_id())
    assert start.resume == Resume(from_job=best["job_id"])
    assert start.described == f"the best training of {ended}: setting 2, seed 43, {best['job_id']}"
    other = request.model_copy(update={"start": begun})
    with pytest.raises(RequestError, match="has not ended, so its best may change"):
        with_values(other, store)
