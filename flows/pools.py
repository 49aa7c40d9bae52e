"""A work pool for GPU machines, as `simyard deploy` makes it: template, queues, deployments, limits, block."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from simyard.blocks.job_store import JobStore
from simyard.core.errors import RequestError, unknown
from simyard.deployments import POOL_TYPES, pool_template
from simyard.tasks.cluster.gpu_limits import limit_of_pool
from simyard.tasks.cluster.pool_launch import GPU_SIDE, QUEUES, send

Hear = Callable[[str, str], None]
"""Told what was looked at, and whether it was `created`, `updated` or `unchanged`."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,510}")


@dataclass(frozen=True, kw_only=True)
class PoolPlan:
    """A work pool, as an operator wants it."""

    name: str
    type: str
    """`process`, `docker`, `kubernetes` or `ecs`: who starts an attempt."""
    image: str | None = None
    """Of the containers; a process has none."""
    variables: Mapping[str, Any] = field(default_factory=dict)
    """What the base job template is to hold instead of its defaults."""
    gpus: int | None = None
    """GPUs that its jobs may hold together; None leaves that as it is."""
    accept_eula: bool = False
    """Whether the operator accepts NVIDIA's licence for all jobs of the pool."""

    def template(self) -> dict[str, Any]:
        """Return the base job template.

        Raises:
            RequestError: Something that was asked for is not there, or not of its kind.
        """
        if not _NAME.fullmatch(self.name):
            raise RequestError(
                f"{self.name!r} is not the name of a pool.",
                code="bad_pool",
                advice="Allowed: 1 to 63 of a-z, 0-9, '_' and '-', a letter or digit first.",
            )
        if self.type not in POOL_TYPES:
            raise unknown("pool type", self.type, POOL_TYPES, code="bad_pool")
        template = pool_template(self.type)
        properties = template["variables"]["properties"]
        for name, value in self._values(properties).items():
            if name not in properties:
                raise unknown(f"variable of a {self.type} pool:", name, properties, code="bad_variable")
            properties[name]["default"] = _checked(name, value, properties[name], template)
        return template

    def _values(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(self.variables)
        if "image" in properties:
            if self.image is None or not _IMAGE.fullmatch(self.image):
                raise RequestError(
                    f"The image of a {self.type} pool is {self.image!r}.",
                    code="bad_image",
                    advice="Name one with --image, such as registry.example.com/simyard-isaaclab:3.0; docs/images.md "
                    "says how to build it.",
                )
            values["image"] = self.image
        elif self.image is not None:
            raise RequestError(
                f"A {self.type} pool has no image; {self.image!r} was given.",
                code="bad_image",
                advice="Leave --image out, or choose --type docker, kubernetes or ecs.",
            )
        if self.accept_eula:
            env = values.get("env", {})
            values["env"] = {**(env if isinstance(env, dict) else {}), "SIMYARD_ACCEPT_NVIDIA_EULA": "on"}
        return values


def deploy_pool(client: SyncPrefectClient, plan: PoolPlan, hear: Hear) -> None:
    """Have the server know the pool as planned; done twice it changes nothing.

    Args:
        client: Of the server.
        plan: The pool.
        hear: Hears of each part.

    Raises:
        RequestError: The plan is bad, or the pool exists with another type.
    """
    template = plan.template()
    hear(f"work pool {plan.name}", _send_pool(client, plan, template))
    for priority, queue in enumerate(QUEUES.values(), start=1):
        hear(f"work queue {plan.name}/{queue}", _send_queue(client, plan.name, queue, priority))
    for flow in GPU_SIDE:
        hear(f"deployment {flow}/{plan.name}", send(client, plan.name, flow))
    if plan.gpus is not None:
        send_limit(client, limit_of_pool(plan.name), plan.gpus, hear)


def _checked(name: str, value: Any, schema: dict[str, Any], template: dict[str, Any]) -> Any:
    """Return a variable's value as its schema wants it: a number as text, where only text will do."""
    variables = template["variables"]
    whole = {**schema, "$defs": variables.get("$defs", {}), "definitions": variables.get("definitions", {})}
    validator = Draft202012Validator(whole)
    problem = next(iter(validator.iter_errors(value)), None)
    if problem is not None and isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
        if validator.is_valid(text):
            return text
    if problem is not None:
        raise RequestError(
            f"The pool's variable {name} is {value!r}: {problem.message}.",
            code="bad_variable",
            advice=schema.get("description", "See the pool's template."),
        )
    return value


def _send_pool(client: SyncPrefectClient, plan: PoolPlan, template: dict[str, Any]) -> str:
    try:
        known = client.read_work_pool(plan.name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=plan.name, type=plan.type, base_job_template=template))
        return "created"
    if known.type != plan.type:
        raise RequestError(
            f"The pool {plan.name!r} is of type {known.type!r}, and {plan.type!r} was asked for.",
            code="bad_pool",
            advice=f"Choose another name, or delete it first: prefect work-pool delete {plan.name}",
        )
    if known.base_job_template == template:
        return "unchanged"
    client.update_work_pool(plan.name, WorkPoolUpdate(base_job_template=template))
    return "updated"


def _send_queue(client: SyncPrefectClient, pool: str, name: str, priority: int) -> str:
    try:
        queue = client.read_work_queue_by_name(name, work_pool_name=pool)
    except ObjectNotFound:
        client.create_work_queue(name=name, work_pool_name=pool, priority=priority)
        return "created"
    if queue.priority == priority:
        return "unchanged"
    client.update_work_queue(queue.id, priority=priority)
    return "updated"


def send_limit(client: SyncPrefectClient, name: str, slots: int, hear: Hear) -> None:
    """Have the server know a limit, in GPUs."""
    try:
        known = client.read_global_concurrency_limit_by_name(name)
        change = "unchanged" if known.limit == slots else "updated"
    except ObjectNotFound:
        change = "created"
    if change != "unchanged":
        client.upsert_global_concurrency_limit_by_name(name, slots)
    hear(f"limit {name}", change)


def save_store(name: str, block: JobStore, hear: Hear) -> None:
    """Save the block that says where the jobs are and holds the credentials for it."""
    try:
        known = JobStore.load(name, _sync=True)  # type: ignore[call-arg]
        change = "unchanged" if _fields(known) == _fields(block) else "updated"
    except ValueError:
        change = "created"
    if change != "unchanged":
        block.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]
    hear(f"block job-store/{name}", change)


def _fields(block: Any) -> dict[str, Any]:
    return {name: getattr(block, name) for name in type(block).model_fields}
