"""A module of somebody else is changed when it is imported, whoever imports it and however late."""

import importlib
import sys

import pytest

from simyard.runner.imported import when_imported


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules that can be imported until the test ends."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "someones").mkdir()
    (tmp_path / "someones" / "__init__.py").write_text("")

    def write(name, text):
        (tmp_path / "someones" / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_is_changed_once_it_is_whole_and_not_imported_for_it(write):
    write("late", "value = 1\nother = 2\n")
    seen = []
    when_imported("someones.late", lambda: seen.append(vars(sys.modules["someones.late"])["other"]))
    assert "someones" not in sys.modules
    from someones import late

    assert (late.value, seen) == (1, [2])
    importlib.reload(late)
    assert seen == [2]
    assert late.__spec__.origin.endswith("late.py")


def test_one_that_is_there_is_changed_at_once(write):
    write("early", "")
    importlib.import_module("someones.early")
    seen = []
    when_imported("someones.early", lambda: seen.append(1))
    assert seen == [1]


def test_one_that_is_wanted_twice_is_changed_once(write):
    write("twice", "")
    seen = []
    for number in (1, 2):
        when_imported("someones.twice", lambda number=number: seen.append(number))
    importlib.import_module("someones.twice")
    assert seen == [2]


def test_one_that_is_not_there_is_still_not_there():
    when_imported("someones_nowhere", lambda: pytest.fail("called"))
    with pytest.raises(ModuleNotFoundError, match="someones_nowhere"):
        importlib.import_module("someones_nowhere")
