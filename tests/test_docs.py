"""The documents say what is there: commands, options, fields, links, entrypoints."""

import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from generate_pages import pages
from helpers import HANG_S
from lazy import lazy
from pydantic import BaseModel

from simyard.cli.main import main
from simyard.cli.shared import JSON_KEYS
from simyard.core.errors import SIGNATURES, RequestError
from simyard.requests.config import check_config, model_of, read_config
from simyard.requests.control import ControlModel
from simyard.requests.jobs import EvaluationConfig, ExportConfig, PolicyConfig, RetrainRequest, TrainRequest
from simyard.requests.managed import RolloutTemplate, TrainingRunRequest
from simyard.requests.rollout import RolloutRequest
from simyard.requests.stages import TrainingStage
from simyard.requests.sweeps import SweepRequest
from simyard.tasks.managed.record import EVENT_TYPES

prefect = lazy("prefect")
deployments = lazy("simyard.deployments")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
VARIABLES = (ROOT / "docs" / "reference" / "variables.md").read_text(encoding="utf-8")
MANAGED = (ROOT / "docs" / "managed-training.md").read_text(encoding="utf-8")
OF_EVERY_JOB = ("compute_config", "timeouts", "retries")
OF_A_ROLLOUT = ("robot", "scene", "physics", "isaac_lab", "outputs", "compute_config", "timeouts")
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "changes/*.md", "examples/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands(program: str, text: str) -> list[str]:
    """Return a page's command lines of a program."""
    lines = [
        line for language in ("console", "bash") for block in blocks(language, text) for line in block.splitlines()
    ]
    shown = [line.removeprefix("$ ") for line in lines]
    return [line for line in shown if line.split(" ")[0] == program]


def all_commands(command: click.Command, path: str = "simyard") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.commands[name]
            if child.hidden:  # a name of before
                continue
            yield from all_commands(child, f"{path} {name}")


def test_the_first_command_comes_early_and_the_whole_is_short() -> None:
    lines = README.splitlines()
    assert next(index for index, line in enumerate(lines, 1) if line.startswith("$ ")) < 30
    assert len(lines) < 80


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.stem
)
def test_a_page_shows_real_options(path: Path) -> None:
    wrong = []
    for line in commands("simyard", path.read_text(encoding="utf-8")):
        command: click.Command = main
        name, *words = shlex.split(line.rstrip("\\"), comments=True)
        try:
            while isinstance(command, click.Group) and words:
                name = words.pop(0)
                if name not in command.commands and (default := getattr(command, "DEFAULT", None)):
                    words, name = [name, *words], default
                command = command.commands[name]
            if not isinstance(command, click.Group):
                command.make_context(name, words)  # raises on an option or an argument that does not exist
        except (KeyError, IndexError, click.ClickException) as error:
            wrong.append(f"{line}: {error}")
    assert not wrong


def test_pages_name_real_make_targets() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for text in (README, TOUR) for line in commands("make", text)}
    assert named
    assert named <= targets


def test_every_command_and_option_has_help() -> None:
    silent = [path for path, command in all_commands(main) if not command.help]
    for path, command in all_commands(main):
        options = [option for option in command.params if isinstance(option, click.Option)]
        silent += [f"{path} {option.name}" for option in options if not option.help]
    assert not silent


def test_the_tours_configs_are_valid() -> None:
    assert blocks("json", TOUR)
    for block in blocks("json", TOUR):
        check_config(json.loads(block), model_of(json.loads(block)))


@pytest.mark.parametrize(
    ("pattern", "model"),
    [
        ("cartpole-*.json", None),
        ("stages/*.json", TrainRequest),
        ("rollouts/**/*.json", RolloutRequest),
        ("managed_training/*.json", TrainingRunRequest),
        ("retraining/*.json", RetrainRequest),
        ("sweeps/*.json", SweepRequest),
    ],
)
def test_the_examples_are_valid(pattern: str, model: type[BaseModel] | None) -> None:
    paths = sorted((ROOT / "examples").glob(pattern))
    assert paths
    wrong = []
    for path in paths:
        try:
            config = read_config(path, model or TrainRequest)
            check_config(config, model or model_of(config))
        except RequestError as error:
            wrong.append(f"{path.name}: {error}")
    assert not wrong


def test_the_tour_shows_the_keys_of_the_result() -> None:
    (line,) = [line for line in TOUR.splitlines() if line.startswith('{"job_id"')]
    keys = re.findall(r'"(\w+)": ', re.sub(r"\[.*\]|(?<!^)\{.*?\}", "", line))
    assert tuple(keys) == JSON_KEYS


@pytest.mark.parametrize(
    ("page", "begin", "fields"),
    [
        # The tour has the fields that every job has, and rollouts and trainings have tables of their own.
        ("training", "## The config", lambda: _fields(TrainRequest, skip=("stages",))),
        ("stages", "| field |", lambda: _fields(TrainingStage)),
        ("evaluation", "| default |", lambda: _fields(EvaluationConfig)),
        ("export", "| field of `exportConfig` |", lambda: _fields(ExportConfig, skip=PolicyConfig.model_fields)),
        ("rollouts", "| default |", lambda: _fields(RolloutRequest, skip=OF_EVERY_JOB, snake_case=True)),
        ("managed-training", "| default |", lambda: _fields_of_a_run()),
        ("retraining", "| default |", lambda: [("training", True, None), *_fields(RetrainRequest, skip=("training",))]),
    ],
    ids=["train", "stages", "evaluate", "export", "rollout", "managed run", "retraining"],
)
def test_a_table_has_every_field_and_its_default(
    page: str, begin: str, fields: Callable[[], Iterator[tuple[str, bool, Any]]]
) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").partition(begin)[2]
    wanted = {name: "required" if required else json.dumps(default) for name, required, default in fields()}
    assert _table(text.partition("\n## ")[0]) == wanted


RECOMMENDED = """kernels that saturate, torque, style apart, bonus, time limits that grow, physics randomised,
system identification, noise, delayed actions, standing still, history, terminations, long enough, privileged, student,
logged one by one, second simulator, action scale, by reward, normaliser, headless, safety monitor, target computer,
difficulty, clipped"""
"""What the tutorial recommends, in its order: a reader of it counts these."""


def test_every_recommendation_of_the_tutorial_has_its_item() -> None:
    from simyard.runner.exporting.checks import CHECKS
    from simyard.runner.exporting.observing import SENSORS

    text = (ROOT / "docs/export.md").read_text(encoding="utf-8")
    rows = [row.strip("| ").split(" | ") for row in text.partition("| recommendation |")[2].splitlines()[2:]]
    rows = rows[: rows.index([""])]
    for words, (recommendation, item, evidence) in zip(RECOMMENDED.replace("\n", " ").split(", "), rows, strict=True):
        assert words in recommendation
        assert item.strip("(`)") in CHECKS
        assert evidence
    assert {item.strip("(`)") for _, item, _ in rows} == set(CHECKS), "no item that nobody recommends"
    table = text.partition("| item | passes where |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE) == list(CHECKS)
    table = text.partition("| sensor |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == {*SENSORS, *(name for names in SENSORS.values() for name in names)}


def _fields_of_a_run() -> list[tuple[str, bool, Any]]:
    section = MANAGED.partition("| default |")[2].partition("\n## ")[0]
    assert not [name for name in OF_A_ROLLOUT if f"`{name}`" not in section]
    return [
        *_fields(TrainingRunRequest, skip=("rollout_template",), snake_case=True),
        *_fields(RolloutTemplate, "rollout_template.", skip=OF_A_ROLLOUT, snake_case=True),
    ]


def _table(section: str) -> dict[str, str]:
    """Return the default of each field in a Markdown table."""
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    table: dict[str, Any] = {}
    for names, defaults, *_ in rows:
        fields = re.findall(r"`(.+?)`", names)
        values = re.findall(r"`(.+?)`", defaults) or ["required"]
        table |= dict(zip(fields, values if len(values) == len(fields) else values * len(fields), strict=True))
    return table


def test_the_event_table_has_every_type() -> None:
    rows = MANAGED.partition("| event |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"`(\w+\.\w+)`", rows)) == sorted(EVENT_TYPES)


def test_the_training_run_page_shows_a_valid_request() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", MANAGED, re.DOTALL | re.MULTILINE)
    check_config(json.loads(block), TrainingRunRequest)


def test_the_table_of_variables_has_every_one() -> None:
    named = set(re.findall(r"^\| `(\w+)`", VARIABLES, re.MULTILINE))
    owners = ("sdk/requests/settings", "core/specs", "tasks/cluster/rendezvous", "tasks/cluster/lent_credentials")
    sources = [ROOT / f"{name}.py" for name in owners]
    text = "".join(path.read_text() for path in sources)
    read = set(re.findall(r'"((?:SIMYARD|ISAACSIM|OMP)_[A-Z_]*[A-Z])"', text))
    assert named == read


def test_what_is_made_from_code_and_data_is_as_they_are() -> None:
    old = [
        str(path.relative_to(ROOT)) for path, text in pages().items() if not path.exists() or path.read_text() != text
    ]
    assert not old, f"{old} differ from what the code says: run 'make pages'"


def test_the_page_of_errors_has_the_causes_that_logs_name_and_those_of_every_part() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE))
    assert {known.code for known in SIGNATURES} <= set(rows)
    assert "has modules that exist already" in rows["package_shadows"]
    assert "Give each package files of its own." in rows["package_shadows"]
    infra = text.partition("Category `infra`")[2]
    assert "`workload_silent`" in infra
    assert "`bad_override`" not in infra


@pytest.mark.long  # it builds the whole site
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "reference" / "commands.html").exists()


def test_links_lead_somewhere() -> None:
    wrong = []
    for path in DOCUMENTS:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
        lost = [target for target in targets if not (path.parent / target.partition("#")[0]).exists()]
        wrong += [f"{path.relative_to(ROOT)}: {target}" for target in lost]
    assert not wrong


def test_entrypoints_of_the_gpu_side_are_there() -> None:
    for name, (module, _) in deployments.GPU_SIDE.items():
        found = getattr(importlib.import_module(f"simyard.flows.{module}"), module)
        assert found.name == name


def test_the_tree_and_the_glossary_are_those_of_the_house() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = re.findall(
        r"[\w/]+(?=/)", "\n".join(re.findall(r"^    (\s*(?:\w+/ ?)+)", text.partition("## The path")[0], re.M))
    )
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    top = {name.split(".")[1] for name in packages if "." in name} | {"sdk"}
    assert top <= set(tree), sorted(top - set(tree))
    assert {folder for folder in tree if not [*ROOT.glob(folder), *ROOT.glob(f"*/{folder}")]} == set()
    terms = re.findall(r"^\| (.+?) \| .+ \|$", text.partition("## Glossary")[2], re.M)[1:]
    assert len(terms) <= 30
    assert terms == sorted(terms)


def test_each_defence_has_the_test_that_it_names() -> None:
    rows = [row for row in (ROOT / "docs/security.md").read_text(encoding="utf-8").splitlines() if "test_" in row]
    named = [
        (name, test)
        for row in rows
        for name, tests in re.findall(r"`(tests/[\w/]+\.py)`((?:[:,] `[^`]+`)*)", row)
        for test in re.findall(r"`([^`]+)`", tests) or [""]
    ]
    assert len(named) > 60
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name, _ in named}
    ends = [(name, f"def test_{test}(".replace("…(", "")) for name, test in named if test]
    assert not [(name, end) for name, end in ends if end not in texts[name]]


def test_files_that_are_named_exist() -> None:
    ours = r"`((?:docs|core|cli|flows|tasks|runner|store|service|blocks|sdk|tests|examples|changes)/[\w./-]*)`"
    named = [(path, name) for path in DOCUMENTS for name in re.findall(ours, path.read_text(encoding="utf-8"))]
    assert not [f"{path.relative_to(ROOT)}: {name}" for path, name in named if not (ROOT / name).exists()]


def test_the_deployments_name_real_flows() -> None:
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    names = []
    for deployment in deployments:
        module, _, function = deployment["entrypoint"].rpartition(".")
        flow = getattr(importlib.import_module(module), function)
        assert isinstance(flow, prefect.Flow)
        assert deployment["description"]
        # What starts by itself is deployed paused.
        assert not [schedule for schedule in deployment.get("schedules", []) if schedule["active"]]
        names.append(f"{flow.name}/{deployment['name']}")
    assert names == [
        "train/train", "evaluate/evaluate", "export_policy/export_policy", "rollout/rollout",
        "managed-training/managed_training", "resume-training-run/resume_training_run", "sweep/sweep",
        "resume-sweep/resume_sweep", "resume-job/resume_job", "retrain/retrain", "gc/gc", "run-job/simyard",
    ]  # fmt: skip


def _fields(
    model: type[BaseModel], path: str = "", skip: Collection[str] = (), *, snake_case: bool = False
) -> Iterator[tuple[str, bool, Any]]:
    """Yield (dotted name, required, default) of every field that is not a model itself."""
    for key, field in model.model_fields.items():
        if key in skip:
            continue
        name = f"{path}{key if snake_case else field.alias}"
        arms = getattr(field.annotation, "__args__", (field.annotation,))
        nested = [arm for arm in arms if isinstance(arm, type) and issubclass(arm, BaseModel)]
        nested = [arm for arm in nested if arm is not ControlModel]  # its modes have tables of their own
        if nested and typing.get_origin(field.annotation) is not dict:
            yield from _fields(nested[0], f"{name}.", snake_case=snake_case)
        else:
            default = field.default
            yield name, field.is_required(), list(default) if isinstance(default, tuple) else default
