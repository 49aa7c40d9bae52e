"""Hundreds of clients at once, bounded: every submission is one job, nothing is lost, and the figures are printed."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable

import httpx
import pytest
from helpers import Server
from serving import Service
from test_jobs_api import TRAINING

pytestmark = pytest.mark.long

CLIENTS = 200
JOBS = 25
POLLS = 2
PATIENCE_S = 300.0
"""Of a client, for one answer: two processors may have other tests to run."""


async def _timed(call: Callable[[], Awaitable[httpx.Response]], times: list[float]) -> httpx.Response:
    """Send a request as every client does: again where the connection breaks, or Prefect is away for a moment."""
    began = time.monotonic()
    while True:
        try:
            answer = await call()
        except httpx.TransportError:
            assert time.monotonic() - began < PATIENCE_S
            await asyncio.sleep(1.0)
            continue
        if answer.status_code != 503 or time.monotonic() - began > PATIENCE_S:
            times.append(time.monotonic() - began)
            return answer
        await asyncio.sleep(float(answer.headers["retry-after"]))


def test_hundreds_of_clients_poll_and_submit(service: Service, deployments: Server) -> None:
    headers = {"Authorization": f"Bearer {service.key(f'load-{uuid.uuid4().hex[:8]}')}"}
    submitting: list[float] = []
    polling: list[float] = []

    async def submit(client: httpx.AsyncClient, number: int) -> str:
        """Submit as a client does that hears nothing: twice at once, with one key."""
        own = {"Idempotency-Key": f"load {number}"}
        answers = await asyncio.gather(
            *(_timed(lambda: client.post("/v0/jobs", json=TRAINING, headers=own), submitting) for _ in range(2))
        )
        assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        return str(job_id)

    async def poll(client: httpx.AsyncClient, job_id: str) -> None:
        for _ in range(POLLS):
            answer = await _timed(lambda: client.get(f"/v0/jobs/{job_id}"), polling)
            assert (answer.status_code, answer.json()["status"]) == (200, "queued"), answer.text

    async def all_clients() -> list[str]:
        limits = httpx.Limits(max_connections=CLIENTS)
        async with httpx.AsyncClient(
            base_url=service.url, headers=headers, timeout=PATIENCE_S, limits=limits
        ) as client:
            jobs = await asyncio.gather(*(submit(client, number) for number in range(JOBS)))
            await asyncio.gather(*(poll(client, jobs[number % JOBS]) for number in range(CLIENTS)))
            listed = await client.get("/v0/jobs", params={"limit": 1000})
            found = {job["job_id"] for job in listed.json()["jobs"]}
            assert found == set(jobs), "none is lost, and none is there twice"
            return jobs

    jobs = asyncio.run(all_clients())
    assert len(set(jobs)) == JOBS
    assert all(len(deployments.flow_runs(job_id)) == 1 for job_id in jobs)
    for name, times in (("submit", submitting), ("poll", polling)):
        cut = statistics.quantiles(times, n=100)
        print(f"{name}: {len(times)} requests, p50 {cut[49] * 1000:.0f} ms, p99 {cut[98] * 1000:.0f} ms")
