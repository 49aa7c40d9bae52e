"""Hundreds of clients at once, bounded: every submission is one job, nothing is lost, and the figures are printed."""

import uuid

import pytest
from helpers import Server
from load import Load
from serving import Service

pytestmark = pytest.mark.long


def test_hundreds_of_clients_poll_and_submit(service: Service, deployments: Server) -> None:
    load = Load(service.url, service.key(f"load-{uuid.uuid4().hex[:8]}"))
    jobs = load.run()
    listed = service.call("GET", "/v0/jobs?limit=1000", key=load.key).json["jobs"]
    assert {job["job_id"] for job in listed} == set(jobs), "none is lost, and none is there twice"
    assert len(set(jobs)) == load.jobs
    assert all(len(deployments.flow_runs(job_id)) == 1 for job_id in jobs)
    for name, (median, p99) in load.figures().items():
        print(f"{name}: p50 {median * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")
