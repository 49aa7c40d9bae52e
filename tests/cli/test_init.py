"""`simyard init`: what it makes, and what it refuses."""

import json
import re

import click.testing
import pytest

from simyard.cli.main import main
from simyard.requests.config import check_config
from simyard.requests.jobs import TrainRequest
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.resolve import resolve

TUTORIAL = {
    "{}/__init__.py", "{}/envs/__init__.py", "{}/envs/my_task_env.py", "{}/envs/my_task_env_cfg.py",
    "{}/tasks/__init__.py", "scripts/train.py", "configs/rsl_rl_ppo_cfg.py", "setup.py",
}  # fmt: skip
"""The files that the tutorial's project has."""
OURS = {"README.md", "train.json", "tests/conftest.py", "tests/test_my_task.py"}


def init(*arguments):
    return click.testing.CliRunner().invoke(main, ["init", *map(str, arguments)])


@pytest.mark.parametrize(
    ("called", "name", "task"), [("my_robot_task", "my_robot_task", "MyRobotTask"), ("Cart-2", "cart_2", "Cart2")]
)
def test_the_project_is_the_tutorials(tmp_path, called, name, task):
    folder = tmp_path / "new" / called
    done = init(folder)
    assert done.exit_code == 0, done.output
    assert f"simyard train {folder}/train.json" in done.output
    made = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert made == {file.format(name) for file in TUTORIAL} | OURS
    for path in folder.rglob("*.py"):
        text = path.read_text()
        compile(text, str(path), "exec")
        assert name == "my_robot_task" or not re.search("my_robot_task|MyRobotTask", text)

    # Its own job takes the folder as it is.
    config = json.loads((folder / "train.json").read_text())
    resolved = resolve(check_config(config, TrainRequest), Store.open(str(tmp_path)), keys.new_job_id(), folder)
    assert (resolved.spec.task, resolved.spec.packages[0].name) == (task, f"{called}.tar.gz")


@pytest.mark.parametrize(
    ("called", "there", "said"),
    [
        ("full", "full/notes.txt", "is not empty: it has notes.txt"),
        ("file", "file", "is a file"),
        ("2robots", "", "'2robots' cannot be the name of a Python package"),
        ("class", "", "'class' cannot be the name"),
        ("json", "", "'json' is a module that exists already"),
        ("Torch", "", "'torch' is a module that exists already"),
    ],
)
def test_what_cannot_become_one_is_refused(tmp_path, called, there, said):
    if there:
        (tmp_path / there).parent.mkdir(exist_ok=True)
        (tmp_path / there).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = init(tmp_path / called)
    assert done.exit_code == 2
    assert said in done.output
    assert "simyard init my_robot_task" in done.output or "Name a new or an empty folder" in done.output
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_taken_where_one_stands(tmp_path, monkeypatch):
    (tmp_path / "robot").mkdir()
    monkeypatch.chdir(tmp_path / "robot")
    assert init().exit_code == 0
    assert (tmp_path / "robot" / "robot" / "envs" / "my_task_env.py").is_file()
