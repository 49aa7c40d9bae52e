"""The application is put together from its endpoints."""

import asyncio
import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from lazy import lazy

from simyard.requests.settings import MachineSettings
from simyard.service.settings import Settings

app = lazy("simyard.service.app")
endpoints = lazy("simyard.service.endpoints")

ENDPOINT = """
from fastapi import APIRouter

router = APIRouter()


@router.get("/v0/toy")
def toy() -> dict[str, bool]:
    return {"toy": True}
"""


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    machine = MachineSettings(home=tmp_path / "home", store="", python="")
    return Settings(machine=machine, store=(tmp_path / "store").as_uri(), secret=bytes(32))


def test_an_endpoint_is_a_file(tmp_path: Path, site: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(ENDPOINT)
    folders = [*endpoints.__path__, str(tmp_path)]
    monkeypatch.setattr("simyard.service.endpoints.__path__", folders)
    made = app.create_app(site)
    sys.modules.pop("simyard.service.endpoints.toy")

    async def answers() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://service") as client:
            return [(await client.get(path)).json() for path in ("/v0/toy", "/healthz")]

    assert asyncio.run(answers()) == [{"toy": True}, {"status": "ok"}], "it is there beside the others"


async def _answer(made: Any, method: str, path: str, receive: Any, *headers: tuple[bytes, bytes]) -> tuple[int, Any]:
    """Return the status and JSON of a request whose body `receive` gives."""
    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": [(b"host", b"x"), *headers], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    await made(scope, receive, send)
    return said[0]["status"], json.loads(b"".join(message.get("body", b"") for message in said[1:]))


def test_no_byte_of_a_body_is_read_before_its_sender_is_known(
    tmp_path: Path, site: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By no route: FastAPI reads no body by itself, and no dependency reads one before the key is looked at."""
    from fastapi.routing import iter_route_contexts

    monkeypatch.setenv("SIMYARD_HOOK", "whsec_" + "A" * 40)
    mapped = {"deployment": "a/b", "secret_env": "SIMYARD_HOOK"}
    (tmp_path / "hooks.json").write_text(json.dumps({"it": mapped, "of-github": mapped | {"signature": "github"}}))
    made = app.create_app(replace(site, hooks=tmp_path / "hooks.json"))
    routes = [(found.original_route, found.path_format) for found in iter_route_contexts(made.routes)]
    assert not [path for route, path in routes if getattr(route, "body_field", None) is not None]

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def refusals() -> dict[str, int]:
        found = {}
        for route, path in routes:
            for method in (getattr(route, "methods", None) or {"POST"}) - {"GET", "HEAD"}:  # a mount has none
                for name in ("it", "of-github", "none"):
                    given = re.sub(r"\{[^}]*\}", name, path)
                    found[f"{method} {given}"] = (await _answer(made, method, given, receive))[0]
        return found

    found = asyncio.run(refusals())
    assert {path: status for path, status in found.items() if status not in (401, 404, 405)} == {}
    assert found["POST /v0/jobs"] == found["POST /v0/assets/register"] == found["POST /hooks/of-github"] == 401


def test_the_event_loop_parses_no_body(site: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from simyard.service import bodies
    from simyard.tasks.shared import api_keys

    made = app.create_app(site)
    made.state.launches = made.state.limits = None  # what Prefect is asked comes later
    key = api_keys.create(site.open(), "p", ["admin"], "of a test")[0]
    parsers, parse = [], bodies.parse_config

    def noted(data: bytes, what: str) -> Any:
        parsers.append(threading.get_ident())
        return parse(data, what)

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"a": 1, "a": 2}'}

    monkeypatch.setattr(bodies, "parse_config", noted)
    authorization = (b"authorization", f"Bearer {key}".encode())
    for path in ("/v0/jobs", "/v1/training-runs", "/v0/inputs/presign-upload", "/v0/assets/register"):
        status, said = asyncio.run(_answer(made, "POST", path, receive, authorization))
        assert (status, said["code"]) == (400, "bad_config"), path
    assert len(parsers) == 4
    assert threading.get_ident() not in parsers
