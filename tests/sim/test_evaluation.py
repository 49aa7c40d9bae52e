"""Policies measured on the real simulator: what is counted, what is said, what is refused."""

import ctypes.util
import json
import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import LIBRARIES
from simulated import (
    CARTPOLE,
    EPISODES,
    ITERATIONS,
    LONGEST,
    NO_EGL,
    SHORT,
    SIDE_BY_SIDE,
    Hostile,
    Job,
    Killed,
    Yard,
    assert_same_weights,
)

from simyard.core.errors import RequestError
from simyard.core.files import sha256_of
from simyard.core.specs import Facts
from simyard.requests.config import check_config
from simyard.requests.jobs import EvaluateRequest
from simyard.runner.evaluation.episode_statistics import quotas
from simyard.runner.evaluation.summary import wilson
from simyard.runner.rl import LIBRARIES as RL_LIBRARIES

pytestmark = pytest.mark.sim

SHARES = [2, 2, 2, 1]
"""Of seven episodes in four environments, by seed 1."""
MORE = 12
"""Environments of an evaluation with fewer episodes than that."""
TERMS = ["alive", "terminating", "pole_pos", "cart_vel", "pole_vel", "success_rate"]
PROMISED = {
    "episodes.csv": "episodes", "summary.json": "summary", "metrics.csv": "metrics", "returns.png": "plot",
    "params/env.yaml": "provenance", "params/agent.yaml": "provenance", "versions.json": "provenance",
    "evaluation-config.json": "provenance", "job.json": "provenance", "report.md": "report",
    "telemetry.csv": "telemetry", "runner.log": "log", "command.stdout.log": "log", "command.stderr.log": "log",
}  # fmt: skip
REWARD_TAGS = {library.reward_tag for library in RL_LIBRARIES.values()}
draws = pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")


@pytest.fixture(scope="module")
def sweep(yard: Yard, trained: Callable[[str], Job]) -> Job:
    """Every checkpoint of a training, filmed."""
    films = ("recordVideo=true", 'videoEpisodes=["first","worst",5]')
    return yard.evaluate(trained("rsl_rl"), *films, which="all")


@pytest.fixture(scope="module")
def foreign(yard: Yard, bare: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The checkpoint of a training that simyard knows nothing of, with another seed; it is filmed by default."""
    config = tmp_path_factory.mktemp("foreign") / "config.json"
    section = {"task": f"{CARTPOLE}-v0", "checkpointPath": str(bare("rsl_rl"))}
    config.write_text(json.dumps({"trainingConfig": section}))
    return yard.evaluate(None, "seed=2", config=config)


@pytest.fixture(scope="module")
def managed(yard: Yard, trained_managed: Job) -> Job:
    """A task that names its terms."""
    return yard.evaluate(trained_managed, f"numEnvs={MORE}", overrides=SHORT[:1])


def assert_adds_up(summary: dict[str, Any], rows: list[dict[str, str]], metrics: dict[str, str]) -> None:
    """Compare one checkpoint's figures with those of its episodes, computed here."""
    returns = [float(row["return"]) for row in rows]
    lengths = [int(row["length"]) for row in rows]
    assert summary["episodes"] == len(rows) == int(metrics["episodes"])
    for found, values in ((summary["return"], returns), (summary["length"], lengths)):
        assert found["mean"] == pytest.approx(statistics.fmean(values), rel=1e-12)
        assert found["std"] == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-12)
        assert found["median"] == statistics.median(values)
        assert (found["min"], found["max"]) == (min(values), max(values))
    low, high = summary["return"]["interval_95"]
    assert min(returns) < low < summary["return"]["mean"] < high < max(returns)
    known = [int(row["success"]) for row in rows if row["success"]]
    success = summary["success"]
    assert (success["known"], success["successes"]) == (len(known), sum(known))
    assert success["rate"] == sum(known) / len(known)
    assert success["interval_95"] == pytest.approx(wilson(sum(known), len(known)), abs=1e-12)
    ended = summary["ended"]
    for way in ("terminated", "truncated"):
        assert ended[way] == sum(row["ended"] == way for row in rows)
    assert ended["terms"] == {t: sum(row["term"] == t for row in rows) for t in {row["term"] for row in rows} - {""}}
    assert float(metrics["return_mean"]) == summary["return"]["mean"]
    assert [float(metrics["return_low_95"]), float(metrics["return_high_95"])] == [low, high]
    assert float(metrics["success_rate"]) == float(metrics["Metrics/success_rate"]) == success["rate"]
    assert {float(metrics[tag]) for tag in metrics if tag in REWARD_TAGS} == {summary["return"]["mean"]}
    for term, times in ended["terms"].items():
        assert float(metrics[f"Episode_Termination/{term}"]) == times / len(rows)
    assert metrics["checkpoint"] == summary["checkpoint"]["name"]


def assert_promised(job: Job) -> None:
    """Everything that an evaluation promises is there and whole."""
    job.assert_whole()
    assert {entry["name"] for entry in job.result["artifacts"]} == set(job.manifest)
    kinds = {name: entry["kind"] for name, entry in job.manifest.items()}
    assert {name: kinds.get(name) for name in PROMISED} == PROMISED


def lines(job: Job) -> list[str]:
    """The episodes as they were written."""
    return (job.artifacts / "episodes.csv").read_text().splitlines()


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What a summary says of a policy: how fast it was and what was filmed are something else."""
    other = ("first_steps_seconds", "environment_steps_per_second", "videos", "video_problem", "sweep")
    return {name: value for name, value in summary.items() if name not in other}


# Each library


@pytest.mark.parametrize("library", LIBRARIES)
def test_exactly_the_episodes_that_were_asked_for(library: str, evaluated: Callable[[str], Job]):
    job = evaluated(library)
    assert_promised(job)
    rows = job.rows("episodes.csv")
    assert [int(row["episode"]) for row in rows] == list(range(1, EPISODES + 1))
    assert [sum(int(row["env"]) == env for row in rows) for env in range(SIDE_BY_SIDE)] == SHARES
    assert {row["seed"] for row in rows} == {"1"}
    for row in rows:
        if row["ended"] == "truncated":
            assert (int(row["length"]), row["term"], row["success"]) == (LONGEST, "time_out", "1")
        else:
            assert (row["ended"], row["term"]) == ("terminated", "")
            assert 1 <= int(row["length"]) <= LONGEST
            # The task's own metric counts who was there at the time-out, also those that fell in that very step.
            assert row["success"] == str(int(int(row["length"]) == LONGEST))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_summary_is_that_of_the_episodes(library: str, evaluated: Callable[[str], Job]):
    job = evaluated(library)
    summary = job.json("summary.json")
    (metrics,) = job.rows("metrics.csv")
    assert_adds_up(summary, job.rows("episodes.csv"), metrics)
    assert job.result["summary"] == summary
    assert (summary["task"], summary["library"], summary["seed"]) == (CARTPOLE, library, 1)
    assert summary["success"]["source"] == "metric Metrics/success_rate"
    assert (summary["sweep"], summary["videos"], summary["video_problem"]) == (None, None, None)
    assert summary["environment_steps_per_second"] > 1
    assert summary["first_steps_seconds"] > 0


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_is_the_last_checkpoint_of_the_training(
    library: str, evaluated: Callable[[str], Job], trained: Callable[[str], Job]
):
    job, last = evaluated(library), trained(library).checkpoints[-1]
    checkpoint = job.json("summary.json")["checkpoint"]
    assert checkpoint == {
        "name": last["name"].removeprefix("checkpoints/"), "sha256": last["sha256"], "iteration": ITERATIONS
    }  # fmt: skip
    assert {row["checkpoint"] for row in job.rows("episodes.csv")} == {checkpoint["name"]}
    report = (job.artifacts / "report.md").read_text()
    assert report.startswith("# evaluation: succeeded\n")
    assert f"sha256 `{last['sha256']}`" in report
    assert f"| episodes | {EPISODES} of {EPISODES} |" in report
    env = (job.artifacts / "params/env.yaml").read_text()
    assert f"num_envs: {SIDE_BY_SIDE}\n" in env
    assert "seed: 1\n" in env
    assert "episode_length_s: 0.5\n" in env


# The same again


def test_the_same_seed_gives_the_same_episodes_filmed_or_not(sweep: Job, undrawn: Job, evaluated: Callable[[str], Job]):
    """Byte for byte, in three processes: each checkpoint alone, and both one after the other with films of each."""
    first, last = lines(undrawn), lines(evaluated("rsl_rl"))
    assert lines(sweep) == [*first, *last[1:]]
    assert first[1].startswith("model_0.pt,1,1,")
    assert last[1].startswith("model_3.pt,4,1,")


def test_another_seed_gives_other_episodes(foreign: Job, evaluated: Callable[[str], Job], trained, bare):
    assert_same_weights(bare("rsl_rl"), trained("rsl_rl").final)
    one, other = (job.rows("episodes.csv") for job in (evaluated("rsl_rl"), foreign))
    assert not {row["return"] for row in one} & {row["return"] for row in other}
    assert {row["seed"] for row in other} == {"2"}


# Several checkpoints


def test_a_sweep_has_a_row_a_checkpoint_and_the_best_ones_figures(sweep: Job):
    assert_promised(sweep)
    summary, metrics, rows = sweep.json("summary.json"), sweep.rows("metrics.csv"), sweep.rows("episodes.csv")
    names = ["model_0.pt", "model_3.pt"]
    assert [row["checkpoint"] for row in metrics] == names
    assert [int(row["step"]) for row in metrics] == [1, ITERATIONS]
    assert [part["checkpoint"]["name"] for part in summary["sweep"]] == names
    for name, part, row in zip(names, summary["sweep"], metrics, strict=True):
        assert_adds_up(part, [row for row in rows if row["checkpoint"] == name], row)
    best = max(summary["sweep"], key=lambda part: part["return"]["mean"])
    assert figures(summary) == figures(best)
    report = (sweep.artifacts / "report.md").read_text()
    assert all(f"| {name} | {EPISODES} |" in report for name in names)
    assert f"| episodes | {2 * EPISODES} of {2 * EPISODES} |" in report


def test_each_checkpoints_figures_are_those_of_evaluating_it_alone(
    sweep: Job, undrawn: Job, evaluated: Callable[[str], Job]
):
    alone = [figures(job.json("summary.json")) for job in (undrawn, evaluated("rsl_rl"))]
    assert [figures(part) for part in sweep.json("summary.json")["sweep"]] == alone


def test_a_sweep_is_one_process_with_a_fresh_environment_for_each(sweep: Job):
    assert sweep.result["attempts"] == 1
    assert (sweep.artifacts / "runner.log").read_text().count("stage=launching") == 1
    stdout = (sweep.artifacts / "command.stdout.log").read_text()
    assert stdout.count("Completed setting up the environment") == 2
    assert stdout.count("Evaluation time:") == 1
    assert f"episodes {2 * EPISODES} of {2 * EPISODES}, step " in stdout


def test_the_plot_of_a_sweep_has_a_second_half(sweep: Job, evaluated: Callable[[str], Job]):
    from matplotlib.image import imread

    both, one = (imread(job.artifacts / "returns.png").shape for job in (sweep, evaluated("rsl_rl")))
    assert both[0] == one[0] > 200
    assert both[1] > 1.5 * one[1] > 600


# Films


@draws
def test_films_are_those_asked_for_and_play(sweep: Job, foreign: Job):
    import imageio.v3

    parts = [*sweep.json("summary.json")["sweep"], foreign.json("summary.json")]
    listed = 0
    for job, part, folder, asked in (
        (sweep, parts[0], "videos/model_0", ("first", "worst", "5")),
        (sweep, parts[1], "videos/model_3", ("first", "worst", "5")),
        (foreign, parts[2], "videos", ("first", "best", "worst")),
    ):
        name = part["checkpoint"]["name"]
        rows = [row for row in job.rows("episodes.csv") if row["checkpoint"] == name]
        numbers = dict(wanted(rows, asked))
        assert part["video_problem"] is None
        assert sorted(role for video in part["videos"] for role in video["why"]) == sorted(asked)
        for video in part["videos"]:
            row = rows[video["episode"] - 1]
            assert {numbers[role] for role in video["why"]} == {video["episode"]}
            assert video["file"] == f"{folder}/episode-{video['episode']:04d}.mp4"
            assert (video["return"], video["length"]) == (float(row["return"]), int(row["length"]))
            assert video["env"] == int(row["env"])
            assert job.manifest[video["file"]]["kind"] == "video"
            pictures = imageio.v3.imread(job.artifacts / video["file"])
            assert len(pictures) == video["frames"] == math.ceil(video["length"] / 2), "every second of 60 a second"
            assert pictures.shape[1:] == (360, 480, 3)
            assert pictures.std() > 10
            assert video["duration_s"] == pytest.approx(video["frames"] / 30, abs=0.02)
            listed += 1
    made = [name for job in (sweep, foreign) for name in job.manifest if name.endswith(".mp4")]
    assert len(made) == listed
    report = (foreign.artifacts / "report.md").read_text()
    assert all(f"[{video['file']}]({video['file']})" in report for video in parts[2]["videos"])


def wanted(rows: list[dict[str, str]], asked: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yield which episode each role means."""
    returns = [float(row["return"]) for row in rows]
    for role in asked:
        match role:
            case "first":
                yield role, 1
            case "best":
                yield role, returns.index(max(returns)) + 1
            case "worst":
                yield role, returns.index(min(returns)) + 1
            case _:
                yield role, int(role)


def test_where_nothing_can_be_drawn_the_figures_stand(undrawn: Job):
    assert_promised(undrawn)
    summary = undrawn.json("summary.json")
    assert summary["videos"] is None
    assert summary["video_problem"].startswith("EGL has no device that gives OpenGL 3.3")
    assert not [name for name in undrawn.manifest if name.endswith(".mp4")]
    assert f"No video: {summary['video_problem']}" in (undrawn.artifacts / "report.md").read_text()
    (metrics,) = undrawn.rows("metrics.csv")
    assert_adds_up(summary, undrawn.rows("episodes.csv"), metrics)


@pytest.mark.long  # test_rollout_endings.py has a film that was promised
def test_a_required_film_that_cannot_be_made_fails_the_job(
    yard: Yard, undrawn: Job, killed: Killed, trained: Callable[[str], Job]
):
    """It comes after the other jobs without OpenGL: one that fails takes its simulator with it."""
    job = yard.evaluate(trained("rsl_rl"), "requireVideo=true", which="iteration:1", **NO_EGL)
    assert (job.exit_code, job.result["status"]) == (1, "failed"), job.log
    error = job.result["error"]
    assert (error["code"], error["category"]) == ("video_impossible", "user")
    assert "EGL has no device that gives OpenGL 3.3" in error["message"]
    assert job.result["attempts"] == 1, "another attempt would end the same"
    assert not (job.folder / "artifact_manifest.json").exists()
    assert lines(job) == lines(undrawn), "the advice says where the episodes are"


# From elsewhere


def test_a_checkpoint_made_without_simyard_is_measured(foreign: Job, bare: Callable[[str], Path]):
    assert_promised(foreign)
    summary = foreign.json("summary.json")
    digest = sha256_of(bare("rsl_rl"))
    assert summary["checkpoint"] == {"name": "model_3.pt", "sha256": digest, "iteration": ITERATIONS}
    (metrics,) = foreign.rows("metrics.csv")
    assert_adds_up(summary, foreign.rows("episodes.csv"), metrics)
    spec = json.loads((foreign.folder / "job.json").read_text())
    assert [policy["trusted"] for policy in spec["policies"]] == [False]
    assert spec["evaluation"]["videos"] == ["first", "best", "worst"]


def test_an_id_of_2_x_is_frozen_as_that_of_3_0_and_told_once(foreign: Job, trained_managed: Job, managed: Job):
    """Of a training, of its evaluation, which takes it over, and of an evaluation that names it itself."""
    for job, task in ((trained_managed, "Isaac-Cartpole"), (managed, "Isaac-Cartpole"), (foreign, CARTPOLE)):
        spec = json.loads((job.folder / "job.json").read_text())
        assert (spec["task"], spec["renamed_from"]) == (task, f"{task}-v0")
        told = f"task '{task}-v0' of Isaac Lab 2.x is '{task}' in 3.0"
        assert (job.artifacts / "runner.log").read_text().count(told) == 1


# A task that names its terms


def test_reward_terms_of_a_manager_based_task_add_up_to_the_return(managed: Job):
    assert_promised(managed)
    summary, rows = managed.json("summary.json"), managed.rows("episodes.csv")
    assert [name.removeprefix("reward.") for name in rows[0] if name.startswith("reward.")] == TERMS
    for row in rows:
        parts = {name: float(row[f"reward.{name}"]) for name in TERMS}
        assert sum(parts.values()) == pytest.approx(float(row["return"]), abs=1e-5)
        steps_alive = int(row["length"]) - (row["ended"] == "terminated")
        assert parts["alive"] == pytest.approx(steps_alive / 60, abs=1e-5)
        assert parts["terminating"] == pytest.approx(-2 / 60 * (row["ended"] == "terminated"), abs=1e-6)
        assert parts["pole_vel"] < 0
    means = {name: statistics.fmean(float(row[f"reward.{name}"]) for row in rows) for name in TERMS}
    assert summary["reward_terms"] == pytest.approx(means)
    assert sum(means.values()) == pytest.approx(summary["return"]["mean"], abs=1e-5)
    (metrics,) = managed.rows("metrics.csv")
    assert {name: float(metrics[f"reward.{name}"]) for name in TERMS} == summary["reward_terms"]
    # As training logs it: a term's sum is divided by the seconds of the longest episode.
    seconds = 0.5
    assert {name: float(metrics[f"Episode_Reward/{name}"]) for name in TERMS} == pytest.approx(
        {name: value / seconds for name, value in summary["reward_terms"].items()}
    )
    assert_adds_up(summary, rows, metrics)


def test_terminations_of_a_manager_based_task_have_names_and_its_metric_says_who_succeeded(managed: Job):
    rows = managed.rows("episodes.csv")
    seen = {(row["ended"], row["term"], row["success"]) for row in rows}
    assert seen
    assert seen <= {("truncated", "time_out", "1"), ("terminated", "cart_out_of_bounds", "0")}
    assert managed.json("summary.json")["success"]["source"] == "metric Metrics/success_rate"


def test_of_more_environments_than_episodes_the_drawn_ones_count_once(managed: Job):
    assert managed.json("summary.json")["num_envs"] == MORE
    played = sorted(int(row["env"]) for row in managed.rows("episodes.csv"))
    assert played == [env for env, share in enumerate(quotas(EPISODES, MORE, seed=1)) if share]


# What is refused


@pytest.fixture(scope="module")
def check(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Facts]:
    """Have the simulator look at a request for an evaluation."""
    folder = tmp_path_factory.mktemp("refused policies")

    def ask(path: Path, overrides: tuple[str, ...] = (), **section: Any) -> Facts:
        config = {"task": CARTPOLE, "checkpointPath": str(path), "numEpisodes": 1, **section}
        request = check_config(
            {"trainingConfig": config, "computeConfig": {"gpusPerNode": 0}, "overrides": list(overrides)},
            EvaluateRequest,
        )
        return yard.check(request, folder)

    return ask


@pytest.fixture(scope="module")
def spoiled(trained: Callable[[str], Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints with which something is wrong; test_checkpoints.py has all that can be."""
    import torch

    folder = tmp_path_factory.mktemp("spoiled")
    state = torch.load(trained("rsl_rl").final, weights_only=True)
    wide = {**state["actor_state_dict"], "mlp.0.weight": torch.zeros(32, 5)}
    torch.save({**state, "actor_state_dict": wide}, folder / "wide.pt")
    torch.save({**state, "infos": Hostile(folder / "the-code-ran")}, folder / "hostile.pt")
    return folder


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("wide.pt", "checkpoint_wrong_shape", r"takes 5 observations, and the task gives 4"),
        ("hostile.pt", "unsafe_checkpoint", r"'hostile\.pt'"),
    ],
)
def test_a_checkpoint_that_is_none(check: Callable[..., Facts], spoiled: Path, name: str, code: str, says: str):
    with pytest.raises(RequestError, match=says) as refused:
        check(spoiled / name)
    assert refused.value.failure.code == code
    assert refused.value.failure.advice
    assert not (spoiled / "the-code-ran").exists()


@pytest.mark.parametrize(
    ("library", "section", "overrides", "code", "says"),
    [
        ("skrl", {"rlLibrary": "rsl_rl"}, (), "checkpoint_of_other_library", "written by skrl, and the job"),
        ("rl_games", {"rlLibrary": "skrl"}, (), "checkpoint_of_other_library", "written by rl_games"),
        (
            "rsl_rl",
            {},
            ("agent.actor.hidden_dims=[64,64]",),
            "checkpoint_wrong_shape",
            "of 32, 32.* says 64, 64",
        ),
        ("rsl_rl", {}, ("agent.actor.obs_normalization=true",), "checkpoint_wrong_normalizer", "normali"),
        ("rsl_rl", {"successTermination": "timeout"}, (), "unknown_termination", "Did you mean 'time_out'"),
        ("rsl_rl", {"task": "Isaac-Cartpole-Drict"}, (), "unknown_task", f"Did you mean '{CARTPOLE}'"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    check: Callable[..., Facts], trained: Callable[[str], Job], library: str, section: dict[str, str],
    overrides: tuple[str, ...], code: str, says: str,
):  # fmt: skip
    with pytest.raises(RequestError, match=says) as refused:
        check(trained(library).final, overrides, **section)
    assert refused.value.failure.code == code
    assert refused.value.failure.advice


def test_the_time_out_of_a_direct_task_may_mean_success(check: Callable[..., Facts], trained: Callable[[str], Job]):
    facts = check(trained("rsl_rl").final, successTermination="time_out")
    assert (facts.device, facts.overrides[0]) == ("cpu", "physics=newton_mjwarp")


def test_the_command_refuses_a_hostile_checkpoint_with_exit_code_2(yard: Yard, spoiled: Path, tmp_path: Path):
    marker = spoiled / "the-code-ran"
    before = sorted(yard.store.rglob("*"))
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"trainingConfig": {"task": CARTPOLE, "checkpointPath": str(spoiled / "hostile.pt")}}))
    of_cpu = ("--set", "computeConfig.gpusPerNode=0")
    refused = yard.read(yard.command("evaluate", config, *of_cpu, "--store", yard.store, "--json"))
    assert (refused.exit_code, refused.result["status"], refused.result["job_id"]) == (2, "failed", None)
    assert (refused.result["error"]["code"], refused.result["error"]["category"]) == ("unsafe_checkpoint", "user")
    assert "Bad request: " in refused.log
    assert "Traceback" not in refused.log
    assert sorted(yard.store.rglob("*")) == before
    assert not marker.exists()


def test_these_tests_have_seen_both_endings(evaluated: Callable[[str], Job]):
    seen = {row["ended"] for library in LIBRARIES for row in evaluated(library).rows("episodes.csv")}
    assert seen == {"truncated", "terminated"}
