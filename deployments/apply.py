"""Deployments, work pools, limits and the store's block, sent to a Prefect server; done twice it changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from prefect import Flow
from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import ConcurrencyOptions, WorkPool
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema

from simyard.core.errors import RequestError, unknown
from simyard.deployments import GPU_SIDE, HOME, POOL, POOL_TYPES, PREFECT_FILE, QUEUES, limit_of_pool, pool_template

OnChange = Callable[[str, str], None]
"""Callback that takes the name of a part, and `created`, `updated` or `unchanged`."""

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
    """Values of the base job template's variables, instead of their defaults."""
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


def apply_prefect_file(
    client: SyncPrefectClient,
    on_sending: Callable[[str], None] = lambda name: None,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Send the work pool and every deployment of prefect.yaml: `prefect deploy --all`, in a tenth of its time.

    Args:
        client: The server.
        on_sending: Called with the name of each deployment before it is sent.
        variables: Job variables of every deployment, unless it has its own.
    """
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    for entry in yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"]:
        on_sending(entry["name"])
        module, _, name = entry["entrypoint"].rpartition(".")
        flow: Flow[..., Any] = getattr(import_module(module), name)
        limit = entry.get("concurrency_limit")
        client.create_deployment(
            client.create_flow_from_name(flow.name),
            entry["name"],
            entrypoint=entry["entrypoint"],
            description=entry["description"],
            tags=entry["tags"],
            parameters=entry.get("parameters", {}),
            parameter_openapi_schema=parameter_schema(flow).model_dump_for_openapi(),
            enforce_parameter_schema=entry.get("enforce_parameter_schema", True),
            work_pool_name=entry["work_pool"]["name"],
            job_variables={**variables, **entry["work_pool"].get("job_variables", {})},
            schedules=[
                DeploymentScheduleCreate(
                    schedule=CronSchedule(cron=given["cron"], timezone=given["timezone"]),
                    active=given["active"],
                    slug=given["slug"],
                )
                for given in entry.get("schedules", [])
            ],
            concurrency_limit=limit["limit"] if limit else None,
            concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]) if limit else None,
            pull_steps=[],  # the code is part of the worker's installation
        )


def apply_pool(client: SyncPrefectClient, plan: PoolPlan, on_change: OnChange) -> None:
    """Send a work pool: its template, queues, deployments and limit.

    Raises:
        RequestError: The plan is bad, or the pool exists with another type.
    """
    template = plan.template()
    on_change(f"work pool {plan.name}", _send_pool(client, plan, template))
    for priority, queue in enumerate(QUEUES.values(), start=1):
        on_change(f"work queue {plan.name}/{queue}", _send_queue(client, plan.name, queue, priority))
    for flow in GPU_SIDE:
        on_change(f"deployment {flow}/{plan.name}", apply_pool_flow(client, plan.name, flow))
    if plan.gpus is not None:
        apply_limit(client, limit_of_pool(plan.name), plan.gpus, on_change)


def ensure_pool_flow(client: SyncPrefectClient, pool: str, flow: str) -> None:
    """Make sure the pool has its deployment of a flow; one that an operator made stays as it is."""
    with suppress(ObjectNotFound):
        if client.read_deployment_by_name(f"{flow}/{pool}").work_pool_name == pool:
            return
    apply_pool_flow(client, pool, flow)


def own_home(pool: WorkPool, project: str) -> dict[str, Any]:
    """Return the job variables that give a project's containers a home of their own: compiled code is kept there.

    Docker gets a volume for each project, beside that of the project `default`, and Kubernetes a folder of the claim. A
    home that is a folder of the machine, and that of a process or of ECS, is shared: `simyard doctor` says so.
    """
    if pool.type == "kubernetes":
        return {"home_folder": project}
    if pool.type != "docker" or project == "default" or not _default(pool, "volumes"):
        return {}
    mounted = [volume.split(":", 1) for volume in _default(pool, "volumes")]
    own = [
        f"{source}-{project}:{to}" if "/" not in source and to.split(":")[0] == HOME else f"{source}:{to}"
        for source, to in mounted
    ]
    return {"volumes": own} if own != _default(pool, "volumes") else {}


def shares_home(pool: WorkPool) -> bool:
    """Return whether attempts of all projects have the same home in a pool."""
    return not own_home(pool, "of-its-own") or (pool.type == "kubernetes" and _default(pool, "home_folder") is None)


def _default(pool: WorkPool, variable: str) -> Any:
    return pool.base_job_template.get("variables", {}).get("properties", {}).get(variable, {}).get("default")


def apply_pool_flow(client: SyncPrefectClient, pool: str, flow: str) -> str:
    """Send the pool's deployment of a flow.

    Args:
        client: The server.
        pool: The work pool; the deployment has its name.
        flow: One of `GPU_SIDE`.

    Returns:
        `created`, `updated` or `unchanged`.
    """
    module, description = GPU_SIDE[flow]
    # The code is part of the worker's installation, so nothing is pulled. Prefect still copies the folder that a run
    # starts in: a process worker has an empty one for it, and the templates of containers name another.
    entrypoint = f"simyard.flows.{module}.{module}"
    change = "created"
    with suppress(ObjectNotFound):
        known = client.read_deployment_by_name(f"{flow}/{pool}")
        if (known.work_pool_name, known.entrypoint, known.description) == (pool, entrypoint, description):
            return "unchanged"
        change = "updated"
    client.create_deployment(
        flow_id=client.create_flow_from_name(flow),
        name=pool,
        work_pool_name=pool,
        entrypoint=entrypoint,
        description=description,
        enforce_parameter_schema=False,
    )
    return change


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


def apply_limit(client: SyncPrefectClient, name: str, slots: int, on_change: OnChange) -> None:
    """Send a limit, in GPUs."""
    try:
        known = client.read_global_concurrency_limit_by_name(name)
        change = "unchanged" if known.limit == slots else "updated"
    except ObjectNotFound:
        change = "created"
    if change != "unchanged":
        client.upsert_global_concurrency_limit_by_name(name, slots)
    on_change(f"limit {name}", change)


def apply_store(name: str, block: Block, on_change: OnChange) -> None:
    """Save the block that holds the store's address and credentials."""
    try:
        known = type(block).load(name, _sync=True)  # type: ignore[call-arg]
        change = "unchanged" if _fields(known) == _fields(block) else "updated"
    except ValueError:
        change = "created"
    if change != "unchanged":
        block.save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]
    on_change(f"block job-store/{name}", change)


def _fields(block: Any) -> dict[str, object]:
    return {name: getattr(block, name) for name in type(block).model_fields}
