"""The file of hooks: what is wrong with it is said when the service starts."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import HANG_S
from lazy import lazy

from simyard.core.errors import RequestError

hook_mapping = lazy("simyard.service.endpoints.hooks")

HOOK = {"deployment": "resume-job/resume_job", "secret_env": "SIMYARD_HOOK_OF_A_TEST"}
CONFIG_HOOK = {"config": "s3://b/{payload.key}", "secret_env": "SIMYARD_HOOK_OF_A_TEST"}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMYARD_HOOK_OF_A_TEST", f"whsec_{base64.b64encode(bytes(24)).decode()}")
    monkeypatch.setenv("SIMYARD_HOOK_OF_BYTES_TOO_FEW", f"whsec_{base64.b64encode(bytes(23)).decode()}")
    monkeypatch.setenv("SIMYARD_HOOK_OF_WORDS", "0123456789abcdef")
    monkeypatch.setenv("SIMYARD_HOOK_TOO_SHORT", "0123456789abcde")


def read(folder: Path, content: Any) -> dict[str, hook_mapping.Hook]:
    path = folder / "hooks.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return hook_mapping.read_hooks(path)


def test_a_file_is_read_once_and_whole(tmp_path: Path) -> None:
    hooks = read(tmp_path, {"a-hook": HOOK, "b_2": HOOK | {"when": {"a.0.b": None, "c": 1.5}}})
    assert list(hooks) == ["a-hook", "b_2"]
    assert (hooks["a-hook"].signature, hooks["a-hook"].project) == ("standard", "default")
    assert hook_mapping.read_hooks(None) == {}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "holds list"),
        (b'{"a": {}, "a": {}}', "stands twice"),
        ({"Übel": HOOK}, "Übel"),
        ({"../a": HOOK}, "../a"),
        ({"a": []}, "a: Input should be"),
        ({"a": {"secret_env": "X"}}, "a: give deployment or config, one of them"),
        ({"a": HOOK | {"config": "s3://b/{payload.key}"}}, "a: give deployment or config, one of them"),
        ({"a": CONFIG_HOOK | {"parameters": {"request": {}}}}, "a: parameters are for a deployment"),
        ({"a": CONFIG_HOOK | {"config": "s3://b/{payload}"}}, "a.config: '{payload}' is no placeholder"),
        ({"a": HOOK | {"deployment": "resume-job"}}, "a.deployment"),
        ({"a": HOOK | {"secret": "word"}}, "a.secret: Unknown key 'secret'"),
        ({"a": HOOK | {"secret_env": "not a name"}}, "a.secret_env"),
        ({"a": HOOK | {"secret_env": "SIMYARD_HOOK_THAT_IS_NOT_SET"}}, "has no SIMYARD_HOOK_THAT_IS_NOT_SET"),
        ({"a": HOOK | {"secret_env": "SIMYARD_HOOK_TOO_SHORT", "signature": "github"}}, "of 16 characters"),
        ({"a": HOOK | {"secret_env": "SIMYARD_HOOK_OF_WORDS"}}, "whsec_ and the base64 of 24 to 64 bytes"),
        ({"a": HOOK | {"secret_env": "SIMYARD_HOOK_OF_BYTES_TOO_FEW"}}, "whsec_ and the base64 of 24 to 64 bytes"),
        ({"a": HOOK | {"signature": "gitlab"}}, "'standard' or 'github'"),
        ({"a": HOOK | {"when": {"a..b": 1}}}, "a.when.a..b"),
        ({"a": HOOK | {"when": {"a": [1]}}}, "a.when.a"),
        ({"a": HOOK | {"parameters": {"store": "s3://b"}}}, "store is set by the service"),
        ({"a": HOOK | {"parameters": {"pool": "gpu"}}}, "pool is set by the service"),
        ({"a": HOOK | {"parameters": {"base": "/"}}}, "base is set by the service"),
        ({"a": HOOK | {"parameters": {"x": ["{payload}"]}}}, "'{payload}' is no placeholder"),
        ({"a": HOOK | {"parameters": {"x": "a {payload.} b"}}}, "'{payload.}' is no placeholder"),
        ({"a": HOOK | {"parameters": {"x": "{ payload.a }"}}}, "'{ payload.a }' is no placeholder"),
        ({"a": HOOK | {"parameters": {"x": "{payload.a"}}}, "'{payload.a' is no placeholder"),
        ({"a": HOOK | {"parameters": {"x": "{payload.a!r}"}}}, "'{payload.a!r}' is no placeholder"),
        ({"a": HOOK | {"parameters": {"x": "{payload.a[0]}"}}}, "'{payload.a[0]}' is no placeholder"),
        ({"a": HOOK | {"parameters": {"{payload.a}": 1}}}, "is a key"),
        ({"a": HOOK | {"project": "Lab"}}, "a.project"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(RequestError) as refused:
        read(tmp_path, content)
    assert told in str(refused.value)
    assert str(tmp_path / "hooks.json") in str(refused.value)


def test_a_secret_is_never_told(tmp_path: Path) -> None:
    for signature in ("standard", "github"):
        with pytest.raises(RequestError) as refused:
            read(tmp_path, {"a": HOOK | {"secret_env": "SIMYARD_HOOK_TOO_SHORT", "signature": signature}})
        assert "0123456789" not in str(refused.value)


@pytest.mark.parametrize("path", ["missing.json", "."], ids=["missing", "folder"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        hook_mapping.read_hooks(tmp_path / path)


def test_the_service_does_not_start_with_a_bad_file(tmp_path: Path) -> None:
    env = {**os.environ, "SIMYARD_HOME": str(tmp_path / "home"), "SIMYARD_HOOKS": str(tmp_path / "missing.json")}
    command = [sys.executable, "-m", "simyard.service", "--port", "1"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert ended.returncode == 2
    assert str(tmp_path) in ended.stderr
    assert "Traceback" not in ended.stderr
