"""A machine of a pool, for `simyard doctor`: the image it starts from, and the report that it makes when asked."""

from __future__ import annotations

import math
import secrets
import shlex
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx

from simyard.blocks.reference import absolute
from simyard.cli.doctor.pool import Pool, deploy_line
from simyard.cli.doctor.server import ASK_S, one_line
from simyard.core.errors import SimyardError
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.cluster.flow_run_watch import FlowRunWatch, withdraw
from simyard.tasks.shared.heartbeat import Patience
from simyard.tasks.shared.machine_checks import Check

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

MACHINE_S = 120.0
"""Seconds for a machine of the pool to report."""
POLL_S = 0.5
_NAME = "machine"
_FLOW = "check-machine"


def check_image(pool: Pool) -> Check:
    """Say whether the image of the pool's containers is there, or how to see whether it is."""
    name, kind = "image", pool.work_pool.type
    image = pool.default("image")
    if kind == "process" or not image:
        return Check(name, "skipped", f"pool {pool.work_pool.name!r} has none")
    quoted = shlex.quote(str(image))
    if kind == "docker":
        return _image_of_engine(name, str(image), f"On the worker's machine: docker image inspect {quoted}")
    if kind == "kubernetes":
        space = shlex.quote(str(pool.default("namespace") or "default"))
        run = f"kubectl --namespace {space} run image-check --rm --stdin --restart=Never --image {quoted}"
        command = f"{run} -- simyard --version"
    else:
        command = f"docker manifest inspect {quoted}"
    return Check(name, "skipped", f"{image}: only {kind} can check that", f"See with: {command}")


def ask_machine(
    pool: Pool, queue: str | None, reference: str, store: Store | None, *, has_worker: bool
) -> Iterator[Check]:
    """Have a machine of the pool make its own checks; their report comes through the store.

    Args:
        pool: Whose machine.
        queue: The work queue to ask in; None for the pool's own.
        reference: The store, as this machine names it.
        store: The same, opened; None where it does not keep what is written.
        has_worker: Whether a worker of the pool has sent a heartbeat lately.
    """
    from prefect.exceptions import ObjectNotFound

    if pool.work_pool.is_paused or not has_worker or store is None:
        why = "a pool that is not paused" if pool.work_pool.is_paused else "the store" if has_worker else "a worker"
        yield Check(_NAME, "skipped", f"needs {why}")
        return
    client, name = pool.server.client, f"{_FLOW}/{pool.work_pool.name}"
    try:
        deployment = client.read_deployment_by_name(name)
        check_id = secrets.token_hex(8)
        run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"check_id": check_id, "store": absolute(reference)},
            name=f"{_FLOW}-{check_id}",
            work_queue_name=queue,
        )
        yield from _await_report(pool, run, store, keys.doctor(check_id))
    except ObjectNotFound:
        yield Check(_NAME, "skipped", f"needs the deployment {name}", deploy_line(pool))
    except (httpx.HTTPError, SimyardError) as error:
        yield Check(_NAME, "failed", f"the report was not read: {one_line(error)}", "Mend server or store; try again.")


def _await_report(pool: Pool, run: FlowRun, store: Store, key: str) -> Iterator[Check]:
    client, began = pool.server.client, time.monotonic()
    log = f"prefect flow-run logs {run.id}"
    # The report is read when the flow run is over; a server that does not answer is what is looked for, so no patience.
    watch: FlowRunWatch[None] = FlowRunWatch(
        client=client,
        run=run,
        record=lambda: None,
        patience=Patience(0.0, starting_s=math.inf),
        timeout_s=MACHINE_S,
        poll_s=lambda waited_s: POLL_S,
    )
    try:
        ending = watch.wait()
        if ending.reason == "timeout":
            yield _late(pool, run, log)
            return
    finally:
        with suppress(httpx.HTTPError):  # nobody waits for it any more
            withdraw(client, run)
    state, took_s = ending.state, time.monotonic() - began
    assert state is not None
    if not state.is_completed():
        said = one_line(f"{state.name}: {state.message}")
        yield Check(_NAME, "failed", f"flow run {run.name!r} ended as {said}", f"See its log: {log}")
        return
    try:
        report = store.get_json(key)
    except KeyNotFound:
        fix = "Its worker sees another folder of that name: mount the same one, or take a bucket (docs/stores.md)."
        yield Check(_NAME, "failed", f"its report is not in {store.url()}, where this machine looks", fix)
        return
    store.delete(key)
    host = report["host"]
    yield Check(_NAME, "ok", f"{host} took a flow run and reported through the store, in {took_s:.0f} s")
    for found in report["checks"]:
        check = Check(**found)
        yield Check(check.name, check.state, f"{host}: {check.text}", check.fix)


def _late(pool: Pool, run: FlowRun, log: str) -> Check:
    """Return the check for a report that is overdue: a machine at work is not to blame."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    state = pool.server.client.read_flow_run(run.id).state
    stands = f"flow run {run.name!r} is {state.name if state else 'unknown'!r} after {MACHINE_S:.0f} s"
    if state is not None and state.is_scheduled():
        running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
        busy = pool.server.client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=running),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool.work_pool.name])),
        )
        if busy:
            return Check(_NAME, "skipped", f"{stands}: the workers are busy with {len(busy)} others")
    fix = f"An image may still be pulled: try again. Otherwise see the worker's log, and {log}"
    return Check(_NAME, "failed", stands, fix)


def _image_of_engine(name: str, image: str, how: str) -> Check:
    import docker

    from simyard.tasks.managed.engines.container import connect, words

    try:
        client = connect(timeout_s=ASK_S)
    except (docker.errors.DockerException, OSError):
        return Check(name, "skipped", f"{image}: no container engine answers here", how)
    try:
        size = client.images.get(image).attrs["Size"]
    except docker.errors.ImageNotFound:
        fix = f"docker pull {shlex.quote(image)}, or build it (docs/images.md), on the worker's machine."
        return Check(name, "warning", f"{image} is not on this machine: the first job pulls it", fix)
    except (docker.errors.DockerException, OSError) as error:
        return Check(name, "skipped", f"{image}: the container engine failed: {one_line(words(error))}", how)
    finally:
        client.close()
    return Check(name, "ok", f"{image} is on this machine, {size / 1e9:.1f} GB")
