"""A new artifact is one row of `core/artifacts.py` and the file that an attempt leaves."""

import io
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from simyard.cli.live import LiveLine
from simyard.cli.run import say_ending
from simyard.core import artifacts
from simyard.core.records import JobResult
from simyard.service.auth import Guard
from simyard.service.endpoints.files import download_url, router
from simyard.store.keys import JobKeys
from simyard.tasks.shared import api_keys

TOY = artifacts.ArtifactType("toy.gif", "toy", "image/gif", ("train",), label="toy")


@pytest.fixture
def toy():
    """The row among those of the product."""
    artifacts.ARTIFACTS.append(TOY)
    yield
    artifacts.ARTIFACTS.remove(TOY)


def test_a_row_and_a_file_are_all_it_takes(player, toy):
    spec = player.stage("", iterations=3)
    assert player.attempt(spec) is None
    store, job = player.store, JobKeys(spec.job_id)
    left = player.end(spec)
    assert "no toy.gif" in left.error["message"], "it is promised"

    store.put_bytes(job.attempt(1).file(TOY.name), b"a picture")
    left = player.end(spec)
    assert left.result["status"] == "succeeded", left.error
    kinds = {entry["name"]: entry["kind"] for entry in left.result["artifacts"]}
    assert kinds[TOY.name] == "toy"

    printed = io.StringIO()
    say_ending(JobResult.from_json(left.result), store, LiveLine(printed))
    assert f"toy:         {store.url(job.artifact(TOY.name))}\n" in printed.getvalue()

    app = FastAPI()
    app.include_router(router)
    app.state.settings = SimpleNamespace(secret=b"0" * 32, url_seconds=60, open=lambda project="default": store)
    app.state.guard = Guard(app.state.settings)
    key = api_keys.create(store, "default", ("jobs",), "of a test")[1]
    answer = TestClient(app).get(download_url(app.state.settings, "", key, job.artifact(TOY.name), TOY.name))
    assert (answer.content, answer.headers["content-type"]) == (b"a picture", "image/gif")
