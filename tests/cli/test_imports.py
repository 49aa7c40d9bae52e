"""What a command imports before it does anything: that is most of its time."""

import json
import re
import subprocess
import sys

import click.testing
import pytest
from helpers import CONFIG, train_request

from simyard.cli.main import main
from simyard.convert import FORMATS
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve
from simyard.tasks.stage import stage

HEAVY = ("prefect", "pydantic", "obstore", "httpx", "botocore", "torch", "numpy", "matplotlib", "docker")
RUN = """
import sys
from simyard.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""


@pytest.fixture
def imported(tmp_path, store):
    """Run a command in a process of its own; return its exit code and which heavy packages it imported."""

    def run(*arguments, said=None):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        *err, last = done.stderr.splitlines()
        assert said is None or (done.stdout, len(err), err[0].startswith(said)) == ("", 1, True), done
        code, *modules = last.split()
        return int(code), sorted(set(HEAVY) & set(modules))

    return run


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["jobs", "list", "--help"], ["managed", "--help"]])
def test_what_tells_about_the_command_line_imports_nothing(imported, arguments):
    assert imported(*arguments) == (0, [])


def test_a_list_imports_the_store_alone(imported, store):
    opened = Store.open(str(store))
    stage(resolve(train_request(CONFIG), opened, keys.new_job_id()), opened)
    assert imported("jobs", "list", "--store", store) == (0, ["obstore"])


@pytest.mark.parametrize(
    ("command", "config", "said"),
    [
        ("train", {"trainingConfig": {"task": "T", "numEnvs": -1}}, "trainingConfig.numEnvs: "),
        ("evaluate", {"trainingConfig": {"mode": "evaluate", "task": "T", "seed": -1}}, "trainingConfig.seed: "),
        ("export-policy", {"exportConfig": {"task": "T", "numEnvs": 0}}, "exportConfig.numEnvs: "),
        ("rollout", {"execution": {}, "nope": 1}, ""),
        ("managed start", {"nope": 1}, ""),
        ("retrain", {"nope": 1}, ""),
    ],
)
def test_a_bad_field_is_refused_before_anything_else_is_imported(imported, tmp_path, store, command, config, said):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    arguments = (*command.split(), path, "--store", store)
    assert imported(*arguments, said=f"Bad request: {said}") == (2, ["pydantic"])
    assert list(store.iterdir()) == []


def test_the_command_line_offers_every_format():
    (option,) = (param for param in main.commands["convert"].params if param.name == "to")
    assert tuple(option.type.choices) == FORMATS


def test_the_help_shows_every_command_below_a_heading_and_no_name_of_before():
    said = click.testing.CliRunner().invoke(main, ["--help"]).stdout
    headings = {}
    for line in said.partition("\n\nOptions:")[2].splitlines():
        if found := re.match(r"(\w+):$", line):
            headings[found[1]] = []
        elif (found := re.match(r"  ([a-z-]+) +[A-Z]", line)) and headings:
            headings[[*headings][-1]].append(found[1])
    assert [*headings] == ["Jobs", "Policies", "Data", "Site"]
    shown = sorted(name for names in headings.values() for name in names)
    assert shown == sorted(name for name, command in main.commands.items() if not command.hidden)
    assert not {"submit", "managed-train", "runs"} & {*shown}


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("submit", "rollout"),
        ("managed-train", "managed start"),
        ("runs list", "managed list"),
        ("runs verify run-1", "managed verify run-1"),
        ("jobs retry job-1", "jobs resume job-1"),
    ],
)
def test_a_name_of_before_does_the_same_and_says_its_new_one(tmp_path, monkeypatch, former, now):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    old, new = (click.testing.CliRunner().invoke(main, words.split()) for words in (former, now))
    note, _, rest = old.stderr.partition("\n")
    renamed = now.split(" list")[0].split(" verify")[0].removesuffix(" job-1")
    assert f"It is `simyard {renamed}` now" in note
    assert (old.exit_code, old.stdout, rest) == (new.exit_code, new.stdout, new.stderr)
