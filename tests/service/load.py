"""Hundreds of clients at once, for one service: they submit and poll, and measure how long each answer takes."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
from test_jobs_api import TRAINING

PATIENCE_S = 300.0
"""Of a client, for one answer: two processors may have other tests to run."""


@dataclass
class Load:
    """Clients of one key."""

    url: str
    key: str
    clients: int = 200
    jobs: int = 25
    polls: int = 2
    submitting: list[float] = field(default_factory=list)
    """Seconds of each submission."""
    polling: list[float] = field(default_factory=list)

    def run(self, name: str = "load") -> list[str]:
        """Have all clients do their work; return the ids of the jobs. A name begins the idempotency keys."""
        return asyncio.run(self._all(name))

    def figures(self) -> dict[str, tuple[float, float]]:
        """Return median and 99th percentile of each kind of request, in seconds."""
        kinds = {"submit": self.submitting, "poll": self.polling}
        cuts = {kind: statistics.quantiles(times, n=100) for kind, times in kinds.items()}
        return {kind: (cut[49], cut[98]) for kind, cut in cuts.items()}

    async def _all(self, name: str) -> list[str]:
        async with httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=PATIENCE_S,
            limits=httpx.Limits(max_connections=self.clients),
        ) as client:  # fmt: skip
            jobs = await asyncio.gather(*(self._submit(client, f"{name} {number}") for number in range(self.jobs)))
            await asyncio.gather(*(self._poll(client, jobs[number % self.jobs]) for number in range(self.clients)))
            return jobs

    async def _submit(self, client: httpx.AsyncClient, key: str) -> str:
        """Submit as a client does that hears nothing: twice at once, with one key."""
        own = {"Idempotency-Key": key}
        answers = await asyncio.gather(
            *(_timed(lambda: client.post("/v0/jobs", json=TRAINING, headers=own), self.submitting) for _ in range(2))
        )
        assert {answer.status_code for answer in answers} <= {200, 201}, [answer.text for answer in answers]
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        return str(job_id)

    async def _poll(self, client: httpx.AsyncClient, job_id: str) -> None:
        for _ in range(self.polls):
            answer = await _timed(lambda: client.get(f"/v0/jobs/{job_id}"), self.polling)
            assert (answer.status_code, answer.json()["status"]) == (200, "queued"), answer.text


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
