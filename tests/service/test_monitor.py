"""Figures for monitors: what is exported, to whom, and that the dashboard and the page name nothing else."""

import json
import re
from datetime import UTC, datetime

import left_jobs
import records
from prometheus_client.parser import text_string_to_metric_families
from serving import ROOT, Service

from simyard.core.errors import Category, Failure
from simyard.store.keys import JobKeys
from simyard.store.store import Store

NAME = re.compile(r"\bsimyard_\w+")


def figures(service: Service, key: str) -> tuple[dict[tuple[str, ...], float], set[str]]:
    """Return every sample by its name and its labels, which are sorted by their names, and the names of all metrics."""
    answer = service.call("GET", "/metrics", key=key)
    assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, "text/plain"), answer.body
    text = answer.body.decode()
    families = list(text_string_to_metric_families(text))
    samples = {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value for f in families for s in f.samples}
    return samples, set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def test_monitors_are_told_and_the_dashboard_asks_for_nothing_else(service: Service) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    store = Store.open(f"{service.store.url()}/projects/watched")
    speed = {"environment_steps_per_second": 500}
    left_jobs.leave(store, left_jobs.spec("evaluate"), {}, updated_at=now, summary=speed)
    failure = Failure(code="nan", category=Category.USER, message="m", advice="a")
    left_jobs.leave(store, left_jobs.spec(), {}, failure=failure, updated_at=now)
    running = left_jobs.spec(gpus=2)
    store.put_record(JobKeys(running.job_id).job, running)
    attempt = JobKeys(running.job_id).attempt(1)
    store.put_json(attempt.status, records.status(began_at=now, updated_at=now))
    store.put_bytes(attempt.file("telemetry.csv"), b"time_s,cpu_percent,gpu_percent\n1,10,\n2,55.5,80\n")

    samples, names = figures(service, service.key("watched", "jobs"))
    assert samples["simyard_jobs", "train", "watched", "running"] == 1
    assert samples["simyard_jobs", "evaluate", "watched", "succeeded"] == 1
    assert samples["simyard_failures", "user", "nan", "watched"] == 1
    assert samples["simyard_jobs_ended_last_day", "watched", "failed"] == 1
    assert samples["simyard_attempts", "watched"] == 3
    assert samples["simyard_gpus_held", "watched"] == 2
    assert samples["simyard_environment_steps_per_second", "evaluate", "watched"] == 500
    assert samples["simyard_job_cpu_percent", running.job_id, "watched"] == 55.5
    assert samples["simyard_job_gpu_percent", running.job_id, "watched"] == 80
    assert samples["simyard_pool_workers", "simyard"] == 0
    assert samples["simyard_prefect_up",] == 1
    assert {labels[1] for labels in samples if labels[0] == "simyard_attempts"} == {"watched"}, "no other project's"
    everything, _ = figures(service, service.key("default", "admin"))
    assert everything["simyard_attempts", "watched"] == 3
    assert service.call("GET", "/metrics").status == 401
    assert service.call("GET", "/metrics", key=service.key("watched", "assets")).status == 403

    # Made once in ten seconds: until then what comes is not asked for.
    left_jobs.leave(store, left_jobs.spec(), {})
    again, _ = figures(service, service.key("watched", "jobs"))
    assert again["simyard_attempts", "watched"] in (3, 4), "where this machine was slow, it was made anew"
    assert again["simyard_scrape_seconds",] < 600

    # A dashboard and a page that name metrics that there are.
    dashboard = json.loads((ROOT / "deployments" / "grafana.json").read_text())
    asked = {query for panel in dashboard["panels"] for target in panel["targets"] for query in [target["expr"]]}
    asked = {name for query in asked for name in NAME.findall(query)}
    page = set(NAME.findall((ROOT / "docs" / "pages.md").read_text()))
    assert len(asked) > 20
    assert asked - names == set()
    assert page == names, "every one has its row"
