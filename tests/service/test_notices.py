"""Notifications: a real Prefect server, its automations, and a receiver on loopback."""

import json
import os
import subprocess
import sys
from contextlib import closing

import pytest
from helpers import HANG_S, CommandLine, serving_prefect, wait_until
from scenario import play
from serving import ReceiverServer

from simyard.core.errors import RequestError
from simyard.deployments.notify import ABOUT, USUAL, Receiver

# What flows call, for each kind: a run and a sweep out of their budgets and a promotion take minutes by themselves.
TELLS = """
from simyard.core.records import Cost, JobResult
from simyard.core.run_records import BestCheckpoint, IterationCounts, PromotionDecision, RunResult
from simyard.core.sweep_records import SweepResult
from simyard.flows import notices
run = RunResult(run_id="run-1", name="loop", project_id="default", max_iterations=3, store="file:///s", created_at="",
                status="succeeded", stage="done", ended_by="max_credits", current_iteration=1,
                iterations=IterationCounts(succeeded=1, failed=0), best=None, credits=2.5, error=None, updated_at="")
notices.tell_run(run)
notices.tell_sweep(SweepResult(
    sweep_id="sweep-1", name="rates", project_id="default", status="succeeded", ended_by="max_gpu_hours", settings=2,
    jobs=2, best=0, verdict=None, cost=Cost(gpu_seconds=60.0, usd=None), error=None, store="file:///s", created_at="",
    updated_at=""))
notices.tell_decision("arm", PromotionDecision(decision="kept", why="no better", job_id="job-1"))
notices.tell_decision("arm", PromotionDecision(decision="promoted", why="better by 2", job_id="job-2"))
from prefect.events.worker import EventsWorker
EventsWorker.drain_all()
"""


@pytest.mark.parametrize(
    ("text", "about", "said"),
    [
        ("lab", "", "'lab' is no receiver"),
        ("Lab=https://x.example", "", "'Lab=…' is no receiver"),
        ("lab=hooks.slack.com/secret", "", "'lab=…' is no receiver"),
        ("lab=https://x.example", "failures", "notification 'failures'"),
    ],
)
def test_a_bad_receiver_is_refused_and_its_address_not_shown(text, about, said):
    with pytest.raises(RequestError) as refused:
        Receiver.checked(text, about)
    assert said in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_receiver_is_told_the_usual_by_the_block_that_fits():
    slack = Receiver.checked("lab=https://hooks.slack.com/services/T0/B0/X", "")
    assert slack.about == USUAL
    assert slack.block().get_block_type_slug() == "slack-webhook"
    assert Receiver.checked("hook=http://127.0.0.1:1/x", "end").block().get_block_type_slug() == "custom-webhook"
    mail = Receiver.checked("desk=mailto://a:b@mail.example.com?to=c@d.example", "end,stall,end")
    assert (mail.block().get_block_type_slug(), mail.about) == ("slack-webhook", ("end", "stall"))
    assert "simyard.job.failed" in ABOUT["failure"]


@pytest.mark.long  # a server's automations, and jobs that fail and stall in earnest
@pytest.mark.system
def test_a_receiver_hears_of_what_it_asked_for(tmp_path):
    received = ReceiverServer()
    home = tmp_path / "server"
    home.mkdir()
    with closing(received), serving_prefect(home) as server:
        own = {**play.ENVIRONMENT, "SIMYARD_HOME": str(tmp_path / "home")}
        shell = CommandLine({**os.environ, **server.env, **own})
        hook = received.receiver
        for name, about in (("hook", ""), ("ends", "end")):
            done = shell("deploy", "--notify", f"{name}={hook.url('/' + name)}", "--notify-on", about)
            assert done.returncode == 0, done.stderr
            assert f"created    notifications of {name}" in done.stdout
        # Sent again with other words it is one still.
        again = shell("deploy", "--notify", f"ends={hook.url('/ends')}", "--notify-on", "end,promotion")
        assert "updated    notifications of ends: end, promotion" in again.stdout

        def heard(path):
            return [json.loads(one.body)["subject"] for one in hook.got[path]]

        config = tmp_path / "config.json"
        store = tmp_path / "store"
        stalls = play.config("hang at 3 once", name="Stalls", timeouts={"iterationSeconds": 5})
        config.write_text(json.dumps(stalls))
        assert shell("train", config, "--store", store, timeout_s=HANG_S).returncode == 0
        config.write_text(json.dumps(play.config("crash at 3", name="Fails", retries=0)))
        assert shell("train", config, "--store", store, timeout_s=HANG_S).returncode == 1
        subprocess.run([sys.executable, "-c", TELLS], env=shell.env, check=True, timeout=HANG_S)

        wanted = {
            "Stalls: no progress",
            "Fails: train failed",
            "loop: out of budget",
            "rates: out of budget",
            "arm: a policy was promoted",
        }
        wait_until(lambda: wanted <= set(heard("/hook")), HANG_S, f"{wanted}, not {heard('/hook')}")
        ends = {
            "Stalls: train succeeded",
            "loop: managed run succeeded",
            "rates: sweep succeeded",
            "arm: a policy was promoted",
        }
        wait_until(lambda: ends <= set(heard("/ends")), HANG_S, f"{ends}, not {heard('/ends')}")
        assert set(heard("/hook")) == wanted
        assert set(heard("/ends")) == ends
        (failed,) = [json.loads(one.body)["body"] for one in hook.got["/hook"] if b"Fails" in one.body]
        assert "job-" in failed

        gone = shell("deploy", "--no-notify", "hook", "--json")
        assert gone.returncode == 0, gone.stderr
        names = [one["name"] for one in server.ask("/automations/filter", {})]
        assert names == ["simyard-ends"]
