"""A folder of one's own is packed as the package that a job takes."""

import tarfile

import pytest

from simyard.core.errors import RequestError
from simyard.tasks.packages import pack
from simyard.tasks.packages.pack import find_package


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "my project"
    for name in (
        "setup.py", "mine/__init__.py", "mine/robot.usda", ".git/config", ".hidden", "mine/__pycache__/x.pyc",
        "build/lib/mine.py", "logs/events", "mine.egg-info/PKG-INFO", "store/jobs/job-1/job.json",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "again").symlink_to(folder)
    return folder


def names(found):
    with tarfile.open(found.path) as archive:
        return archive.getnames()


def test_what_belongs_to_the_package_is_packed_and_nothing_else(project):
    found = find_package("my project", project.parent, "customEnvironment")
    assert names(found) == ["setup.py", "mine/__init__.py", "mine/robot.usda"]
    assert found.file.name == "my-project.tar.gz"


def test_the_same_files_are_the_same_bytes(project):
    first = find_package(".", project, "customEnvironment")
    (project / "setup.py").touch()
    second = find_package(str(project), project, "customEnvironment")
    assert first.file == second.file
    (project / "setup.py").write_text("another")
    assert find_package(".", project, "customEnvironment").file.sha256 != first.file.sha256


def test_a_package_without_a_project_keeps_its_name(project):
    assert names(find_package("mine", project, "task_package")) == ["mine/__init__.py", "mine/robot.usda"]


def test_a_folder_that_is_no_package_is_refused(project, monkeypatch):
    with pytest.raises(RequestError, match=r"customEnvironment: the folder 'logs' has no Python file\.") as none:
        find_package("logs", project, "customEnvironment")
    assert "Name the folder of a Python project" in none.value.failure.advice
    monkeypatch.setattr(pack, "MOST_BYTES", 30)
    with pytest.raises(RequestError, match=r"has 39 bytes, 16 of them in 'mine/__init__\.py'"):
        find_package(".", project, "customEnvironment")
    with pytest.raises(RequestError, match="there is no file 'gone'"):
        find_package("gone", project, "customEnvironment")
