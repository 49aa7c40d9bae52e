"""What a task package must be: its module is found without running it, its class takes what the job gives."""

import abc
import sys
import zipfile
from pathlib import Path

import pytest

from simyard.core.errors import RequestError
from simyard.runner.rollout.user_class import check_class, class_names, find_class, import_module
from simyard.tasks.packages.source import require_module

ISAAC_TEMPLATE = {"pyproject.toml": "[tool.ruff]", "source/ext/setup.py": "", "source/ext/ext/tasks/lift.py": ""}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package's files where Python finds them, and forget its modules afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def refusal(action, *arguments):
    """The failure of a refusal; its advice says what to do."""
    with pytest.raises(RequestError) as refused:
        action(*arguments)
    assert refused.value.failure.advice
    return refused.value.failure


def make_archive(folder: Path, files, name="task.zip"):
    path = folder / name
    texts = files if isinstance(files, dict) else dict.fromkeys(files, "")
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in texts.items():
            archive.writestr(file, text)
    return path


# The module in the archive


INFO = "tasks-1.0.dist-info"
FOUND = {
    "package at the top": (["my_tasks/__init__.py", "my_tasks/lift.py"], "my_tasks.lift"),
    "the package itself": (["my_tasks/__init__.py"], "my_tasks"),
    "single module": (["lift.py"], "lift"),
    "namespace": (["my_tasks/lift.py"], "my_tasks.lift"),
    "below a folder": (["project-1.0/my_tasks/lift.py", "project-1.0/README.md"], "my_tasks.lift"),
    "below src": (["src/my_tasks/lift.py", "README.md"], "my_tasks.lift"),
    "below a folder's src": (["project/src/my_tasks/lift/__init__.py"], "my_tasks.lift"),
    "compiled": (["my_tasks/fast.cpython-312-x86_64-linux-gnu.so", "my_tasks/__init__.py"], "my_tasks.fast"),
    "packed on a Mac": (["__MACOSX/x", "project/lift.py"], "lift"),
    "deep in a project": (ISAAC_TEMPLATE, "ext.tasks.lift"),
    "in an extension": (["a-main/source/ext/setup.py", "a-main/source/ext/ext/lift.py", "a-main/x.md"], "ext.lift"),
    "in a wheel": (["my_tasks/lift.py", f"{INFO}/WHEEL", f"{INFO}/METADATA", f"{INFO}/RECORD"], "my_tasks.lift"),
}
MISSING = {
    "a typo": (
        ["my_tasks/__init__.py", "my_tasks/lift.py", "README.md"],
        "my_tasks.lft",
        ["my_tasks", "my_tasks.lift"],
    ),
    "a folder is no module": (["my_tasks/lift.py"], "my_tasks", ["my_tasks.lift"]),
    "inside a package": (["my_tasks/__init__.py", "my_tasks/lift.py"], "lift", ["my_tasks", "my_tasks.lift"]),
    "too deep": (["a/b/c/my_tasks/lift.py"], "my_tasks.lift", ["a.b.c.my_tasks.lift"]),
    "in a project": (["project/setup.py", "project/my_tasks/lift.py"], "my_tasks.lifts", ["my_tasks.lift"]),
    "in a wheel": (FOUND["in a wheel"][0], "my_tasks.lifts", ["my_tasks.lift"]),
}


def name_of(files) -> str:
    return "tasks-1.0-py3-none-any.whl" if f"{INFO}/WHEEL" in files else "task.zip"


@pytest.mark.parametrize(("files", "module"), FOUND.values(), ids=FOUND)
def test_a_module_is_found_where_it_will_be_importable(files, module, tmp_path):
    require_module(make_archive(tmp_path, files, name_of(files)), module)


@pytest.mark.parametrize(("files", "module", "has"), MISSING.values(), ids=MISSING)
def test_an_archive_without_the_module_is_refused_with_those_it_has(files, module, has, tmp_path):
    failure = refusal(require_module, make_archive(tmp_path, files, name_of(files)), module)
    assert failure.code == "task_module_missing"
    assert f"Unknown module in '{name_of(files)}': {module!r}." in failure.message
    assert all(repr(name) in failure.advice for name in has)
    assert "'lift'" not in failure.advice or "__init__" not in str(files), "what is in a package is not outside of it"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (["my_tasks/pick_and_lift.py", "my_tasks/push.py"], "Did you mean 'my_tasks.pick_and_lift'?"),
        (["robot.urdf"], "no Python module in it"),
    ],
)
def test_the_nearest_module_is_named_where_there_is_one(files, says, tmp_path):
    failure = refusal(require_module, make_archive(tmp_path, files), "my_tasks.pick_lift")
    assert failure.code == "task_module_missing"
    assert says in failure.message


def test_looking_for_a_module_runs_nothing(tmp_path):
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w')"
    require_module(make_archive(tmp_path, {"my_tasks/__init__.py": code, "my_tasks/lift.py": code}), "my_tasks.lift")
    assert not marker.exists()
    exec(code)
    assert marker.exists()  # it would have


# Importing it


def test_a_module_that_is_not_there(package):
    package(real__lift="")
    assert refusal(import_module, "unreal.lift").code == "task_module_missing"
    assert refusal(import_module, "real.push").code == "task_module_missing"


def test_what_is_not_installed_is_named_with_the_line_and_what_to_do(package):
    package(needy__lift="import math\nimport no_such_library.sub\n")
    failure = refusal(import_module, "needy.lift")
    assert failure.code == "missing_dependency"
    assert "'no_such_library'" in failure.message
    assert "(lift.py, line 2)" in failure.message
    assert "Put 'no_such_library' into the package, or install it" in failure.advice


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\nraise ValueError('of its own')", r"ValueError: of its own (lift.py, line 2)"),
        ("def broken(:", "(lift.py, line 1)"),
        ("import broken.other", "no module 'broken.other', which it imports (lift.py, line 1)"),
        ("from math import nothing", "ImportError: cannot import name 'nothing'"),
        ("raise SystemExit(3)", "SystemExit: 3 (lift.py, line 1)"),
    ],
    ids=["raises", "syntax", "its own file missing", "name missing", "exits"],
)
def test_a_package_that_does_not_import_says_where(text, says, package):
    package(broken__lift=text)
    failure = refusal(import_module, "broken.lift")
    assert failure.code == "task_package_import"
    assert says in failure.message


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("import omni.ext", "package_needs_kit", "it uses 'omni.ext' (older/lift.py, line 1)"),
        (
            "import math\nfrom omni.isaac.orbit_assets.anymal import ANYMAL_D_CFG",
            "package_for_older_isaaclab",
            "(older/lift.py, line 2), which 3.0.0 does not have. In 3.0.0: 'ANYMAL_D_CFG' of "
            "'omni.isaac.orbit_assets.anymal' is in 'isaaclab_assets.robots.anymal'.",
        ),
    ],
    ids=["Kit", "an older Isaac Lab"],
)
def test_a_package_that_was_written_for_another_simulator_is_told_so(text, code, says, package):
    package(older__lift=text)
    failure = refusal(import_module, "older.lift")
    assert failure.code == code
    assert says in f"{failure.message} {failure.advice}"


# The class


class Complete:
    def __init__(self, context, *, height_m=0.1, mass_kg):
        pass

    def run(self):
        pass


class Open(Complete):
    def __init__(self, context, **task_args):
        pass


class Inherits(Complete):
    """With a constructor of its base's."""


class NoRun:
    def __init__(self, context):
        pass


class RunWantsMore(NoRun):
    def run(self, steps):
        pass


class Awaited(NoRun):
    async def run(self):
        pass


class NoContext:
    def run(self):
        pass


class KeywordContext:
    def __init__(self, *, context):
        pass

    run = Complete.run


class Abstract(NoRun, abc.ABC):
    run = Complete.run

    @abc.abstractmethod
    def judge(self):
        pass


@pytest.mark.parametrize(
    ("task_class", "arguments"),
    [
        (Complete, {"mass_kg": 1}),
        (Complete, {"mass_kg": 1, "height_m": 2}),
        (Inherits, {"mass_kg": 1}),
        (Open, {}),
        (Open, {"anything": [1, {"at": "all"}]}),
    ],
)
def test_a_class_that_takes_what_it_is_given(task_class, arguments):
    check_class(task_class, arguments)
    task_class(None, **arguments).run()


@pytest.mark.parametrize(
    ("task_class", "arguments", "code", "says"),
    [
        (Complete, {"mass": 1}, "unknown_task_argument", "no argument 'mass'. Did you mean 'mass_kg'?"),
        (Complete, {}, "missing_task_argument", "Complete needs 'mass_kg' in task_args"),
        (Complete, {"context": 1, "mass_kg": 1}, "unknown_task_argument", "no argument 'context'"),
        (NoRun, {}, "bad_task_class", "NoRun has no method run"),
        (RunWantsMore, {}, "bad_task_class", "RunWantsMore.run cannot be called without arguments"),
        (Awaited, {}, "bad_task_class", "Awaited.run is a coroutine"),
        (NoContext, {}, "bad_task_class", "NoContext does not take a context"),
        (KeywordContext, {}, "bad_task_class", "KeywordContext does not take a context"),
        (Abstract, {}, "bad_task_class", "Abstract is abstract: it lacks judge"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(task_class, arguments, code, says):
    failure = refusal(check_class, task_class, arguments)
    assert failure.code == code
    assert says in failure.message
    if code in ("unknown_task_argument", "missing_task_argument"):
        assert failure.advice == "Allowed: 'height_m', 'mass_kg'."


def test_classes_are_those_of_the_package_and_no_others(package):
    base = "from pathlib import Path\nclass Base: pass\n"
    package(
        own__base=base, own__lift="from pathlib import Path\nfrom own.base import Base\nclass Lift: pass\nHEIGHT = 1\n"
    )
    module = import_module("own.lift")
    assert class_names(module) == ["Base", "Lift"]
    assert find_class(module, "Lift") is module.Lift
    assert find_class(module, "Isaac-Cartpole") is None
    failure = refusal(find_class, module, "HEIGHT")
    assert failure.code == "unknown_task_class"
    assert "own.lift.HEIGHT is a int, not a class" in failure.message
    assert "'Base', 'Lift'" in failure.advice
