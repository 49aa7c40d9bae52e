"""The application is put together from its endpoints."""

import asyncio
import sys
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


def test_an_endpoint_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(ENDPOINT)
    folders = [*endpoints.__path__, str(tmp_path)]
    monkeypatch.setattr("simyard.service.endpoints.__path__", folders)
    site = MachineSettings(home=tmp_path / "home", store="", python="")
    made = app.create_app(Settings(machine=site, store=(tmp_path / "store").as_uri(), secret=bytes(32)))
    sys.modules.pop("simyard.service.endpoints.toy")

    async def answers() -> list[Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(made), base_url="http://service") as client:
            return [(await client.get(path)).json() for path in ("/v0/toy", "/healthz")]

    assert asyncio.run(answers()) == [{"toy": True}, {"status": "ok"}], "it is there beside the others"
