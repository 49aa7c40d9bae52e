"""`simyard keys`: what a new key may do, and that it is said where the key is made."""

import json

import click.testing
import pytest

from simyard.cli.main import main

DATA = ["jobs", "training", "assets"]


@pytest.fixture
def keys(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMYARD_STORE", str(tmp_path / "store"))

    def run(*arguments):
        result = click.testing.CliRunner().invoke(main, ["keys", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def made(keys, *arguments):
    return json.loads(keys("create", *arguments, "--json").splitlines()[-1])


def test_a_new_key_may_run_code_where_no_other_project_has_a_key(keys, monkeypatch):
    first = made(keys)
    assert first["scopes"] == [*DATA, "code"]
    assert made(keys)["scopes"] == [*DATA, "code"], "another one of the same project"
    lab = made(keys, "--project", "lab")
    assert lab["scopes"] == DATA
    assert made(keys)["scopes"] == DATA, "the first project is not alone any more"
    monkeypatch.setenv("SIMYARD_WORKERS_CONTAINED", "on")
    assert made(keys, "--project", "arm")["scopes"] == [*DATA, "code"]
    monkeypatch.setenv("SIMYARD_WORKERS_CONTAINED", "off")
    for row in json.loads(keys("list", "--json").splitlines()[-1]):
        if row["project"] != "lab":
            keys("revoke", row["key_id"])
    assert made(keys, "--project", "lab")["scopes"] == [*DATA, "code"], "the others' keys are good for nothing"


def test_scopes_that_are_named_count(keys):
    made(keys)
    for scopes in (["jobs"], ["jobs", "code"], ["admin"]):
        named = [argument for scope in scopes for argument in ("--scope", scope)]
        assert made(keys, "--project", "lab", *named)["scopes"] == scopes


def test_it_is_said_whether_a_key_may_run_code(keys):
    assert "may run programs of their sender" in keys("create")
    assert "needs --scope code" in keys("create", "--project", "lab")
    assert "SIMYARD_WORKERS_CONTAINED" in keys("create", "--help")
    assert "jobs,training,assets,code" in keys("list")
