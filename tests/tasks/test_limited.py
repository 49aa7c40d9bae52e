"""Files of users are looked into in a child, whose end is an error in words."""

import ctypes
import json
import operator
import os
import time

import pytest

from simyard.core.errors import Category, RequestError
from simyard.runner.assets import archives
from simyard.tasks.shared import limited as module
from simyard.tasks.shared.limited import limited


def refused(function, *arguments):
    with pytest.raises(RequestError) as caught:
        limited(function, *arguments)
    assert caught.value.failure.category is Category.USER
    return caught.value.failure


@pytest.mark.parametrize(
    ("limit", "value", "work", "said"),
    [
        ("MEMORY_BYTES", 1 << 28, (bytes, 1 << 29), "'536870912' takes more than 0.25 GiB of memory"),
        ("CPU_S", 1, (pow, 7, 10**9), "'7' takes more than 1 s of a processor"),
        ("WALL_S", 1, (time.sleep, 3600), "'3600' takes more than 1 s"),
    ],
)
def test_a_limit_that_is_passed_is_named(limit, value, work, said, monkeypatch):
    monkeypatch.setattr(module, limit, value)
    failure = refused(*work)
    assert failure.code == "file_too_costly"
    assert said in failure.message
    assert "Allowed for one file: " in failure.advice


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ((ctypes.string_at, 0), "'0' cannot be read: the process that read it ended with signal 11"),
        ((os._exit, 3), "'3' cannot be read: the process that read it ended with exit code 3"),
        ((int, "a file.zip"), "'a file.zip' cannot be read: ValueError: invalid literal"),
        ((json.loads, "[" * 100_000), "cannot be read: RecursionError"),
        ((operator.mul, "x", 40_000_000), "takes 40,000,016 bytes to list; allowed are 33,554,432"),
    ],
    ids=["crash", "exit", "unforeseen", "recursion", "endless answer"],
)
def test_a_file_that_breaks_its_reader_is_refused(work, said):
    failure = refused(*work)
    assert failure.code == "file_unreadable"
    assert said in failure.message
    assert "Traceback" not in failure.message


def test_answers_and_errors_of_the_function_come_through(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.zip"):
        limited(archives.inspect, tmp_path / "none.zip")
    (tmp_path / "a.zip").write_bytes(b"text")
    with pytest.raises(RequestError) as here:
        archives.inspect(tmp_path / "a.zip")
    assert refused(archives.inspect, tmp_path / "a.zip") == here.value.failure
    assert limited(archives.extension, "a.zip") == ".zip"


def test_the_child_inherits_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("LANG", "C.UTF-8")
    assert limited(os.getenv, "LANG") == "C.UTF-8"
    assert limited(os.getenv, "AWS_SECRET_ACCESS_KEY") is None
