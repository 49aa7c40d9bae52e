"""The one wait for a flow run, on a real Prefect server: by its record, and given up when nobody can write it."""

import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from helpers import Server
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Completed, Running, Scheduled

from simyard.core.errors import StoreError
from simyard.core.records import Heartbeat, this_process
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch, withdraw
from simyard.tasks.shared.heartbeat import Patience

LONG = Patience(60.0, starting_s=60.0)
BEAT = Heartbeat(**this_process())


@pytest.fixture
def client(prefect_server: Server) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: prefect_server.url}), get_client(sync_client=True) as found:
        yield found


def watch(client, state, patience=LONG, **more):
    run = client.create_flow_run(flow(lambda: None, name="watched"), state=state)
    given = {"record": lambda: None, "poll_s": lambda waited_s: 0.01} | more
    return FlowRunWatch(client=client, run=run, patience=patience, **given)


def state_of(client, watched):
    return client.read_flow_run(watched.run.id).state


def test_the_record_counts_whatever_the_flow_run_says(client):
    records = iter([None, None, {"status": "succeeded"}])
    looks = []
    watched = watch(client, Running(), record=lambda: next(records), on_look=lambda *seen: looks.append(seen))
    ending = watched.wait()
    assert (ending.reason, ending.record) == ("recorded", {"status": "succeeded"})
    assert [(state.type.value, beat) for state, beat in looks] == [("RUNNING", None)] * 3


def test_a_flow_run_that_ends_without_a_record_is_final(client):
    ending = watch(client, Completed(message="so")).wait()
    assert (ending.reason, ending.record, ending.state.message) == ("final", None, "so")


@pytest.mark.parametrize(("beat", "patience"), [(None, Patience(60.0, 0.1)), (BEAT, Patience(0.1))])
def test_one_without_a_new_heartbeat_is_lost_and_crashed(client, beat, patience):
    watched = watch(client, Running(), patience, heartbeat=lambda: beat)
    assert watched.wait().reason == "lost"
    assert state_of(client, watched).is_crashed()


def test_new_heartbeats_keep_it_alive(client):
    began = time.monotonic()
    watched = watch(
        client,
        Running(),
        Patience(0.5),
        heartbeat=lambda: replace(BEAT, updated_at=str(time.monotonic())),
        record=lambda: "done" if time.monotonic() - began > 1.5 else None,
    )
    assert watched.wait().record == "done"


def test_one_that_waits_for_a_worker_is_waited_for_and_withdrawn_by_a_cancel(client):
    asked = []
    began = time.monotonic()
    watched = watch(
        client,
        Scheduled(),
        Patience(0.1, 0.1),
        is_canceled=lambda: time.monotonic() - began > 1.0,
        cancel=lambda: asked.append("once"),
    )
    assert watched.wait().reason == "withdrawn"
    assert asked == ["once"]
    assert state_of(client, watched).is_cancelled()


def test_one_that_runs_is_asked_once_to_end_and_waited_for(client):
    asked = []
    watched = watch(
        client,
        Running(),
        record=lambda: "canceled" if len(looks) > 3 else None,
        is_canceled=lambda: True,
        cancel=lambda: asked.append("once"),
        on_look=lambda state, beat: looks.append(state),
    )
    looks = []
    assert (watched.wait().record, asked) == ("canceled", ["once"])
    assert not withdraw(client, watched.run)


def test_it_takes_no_longer_than_it_may(client):
    watched = watch(client, Scheduled(), timeout_s=0.2)
    assert watched.wait().reason == "timeout"
    assert withdraw(client, watched.run)


@pytest.mark.parametrize("error", [StoreError("away"), httpx.ConnectError("away")], ids=["store", "server"])
def test_an_outage_is_waited_out_as_long_as_patience_lasts(client, error):
    answers = iter([error, error, "done"])

    def record():
        answer = next(answers, error)
        if answer is error:
            raise error
        return answer

    assert watch(client, Running(), record=record).wait().record == "done"
    with pytest.raises(type(error)):
        watch(client, Running(), Patience(0.2), record=record).wait()
