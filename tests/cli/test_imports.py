"""What a command imports before it does anything: that is most of its time."""

import json
import subprocess
import sys

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

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        code, *modules = done.stderr.splitlines()[-1].split()
        return int(code), sorted(set(HEAVY) & set(modules))

    return run


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["jobs", "list", "--help"]])
def test_what_tells_about_the_command_line_imports_nothing(imported, arguments):
    assert imported(*arguments) == (0, [])


def test_a_list_imports_the_store_alone(imported, store):
    opened = Store.open(str(store))
    stage(resolve(train_request(CONFIG), opened, keys.new_job_id()), opened)
    assert imported("jobs", "list", "--store", store) == (0, ["obstore"])


@pytest.mark.parametrize(
    ("command", "config"),
    [
        ("train", {"trainingConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": -1}}),
        ("evaluate", {"trainingConfig": {"mode": "evaluate", "task": "Isaac-Cartpole-Direct", "numEpisodes": 0}}),
        ("export-policy", {"exportConfig": {"task": "Isaac-Cartpole-Direct", "numEnvs": 0}}),
        ("submit", {"execution": {}, "nope": 1}),
        ("managed-train", {"nope": 1}),
        ("retrain", {"nope": 1}),
    ],
)
def test_a_bad_field_is_refused_before_anything_else_is_imported(imported, tmp_path, command, config):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert imported(command, path) == (2, ["pydantic"])


def test_the_command_line_offers_every_format():
    (option,) = (param for param in main.commands["convert"].params if param.name == "to")
    assert tuple(option.type.choices) == FORMATS
