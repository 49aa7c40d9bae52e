"""Incoming webhooks: a signed payload becomes the parameters of a deployment."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from simyard.core.errors import RequestError
from simyard.requests.config import parse_config
from simyard.requests.jobs import Body, EvaluateRequest, ExportRequest, RetrainRequest, TrainRequest
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.rollout import SubmitRequest
from simyard.service import bodies
from simyard.service.errors import FieldErrors
from simyard.service.prefect_api import DEPLOYMENTS, Launches
from simyard.service.references import check_readable, named_files
from simyard.service.settings import Settings
from simyard.service.webhooks import signatures
from simyard.service.webhooks.mapping import Filling, Hook

router = APIRouter(tags=["hooks"])

MODELS: dict[str, type[Body]] = {
    DEPLOYMENTS["train"]: TrainRequest,
    DEPLOYMENTS["evaluate"]: EvaluateRequest,
    DEPLOYMENTS["export"]: ExportRequest,
    DEPLOYMENTS["rollout"]: SubmitRequest,
    DEPLOYMENTS["training-run"]: TrainingRunRequest,
    "retrain/retrain": RetrainRequest,
}
"""Model of each deployment's parameter `request`."""
TAG = "simyard-hook"


@dataclass(frozen=True)
class Delivery:
    """A webhook whose signature was right."""

    name: str
    """The hook's."""
    hook: Hook
    id: str
    """Its own; the same when it is sent again."""
    body: bytes


async def received(name: str, request: Request) -> Delivery:
    """Read a webhook, and find out whether who sent it has the secret.

    Raises:
        RequestError: There is no such hook, or the delivery is refused.
    """
    hooks: dict[str, Hook] = request.app.state.hooks
    if name not in hooks:
        raise RequestError("There is no such hook.", code="unknown_hook", advice="Check the URL.")
    hook = hooks[name]
    body = await bodies.read(request)
    verify = signatures.verify_github if hook.signature == "github" else signatures.verify
    return Delivery(name, hook, verify(hook.secret, request.headers, body), body)


@router.post("/hooks/{name}", status_code=202, summary="Receive a signed webhook")
def receive(delivery: Annotated[Delivery, Depends(received)], request: Request) -> dict[str, Any]:
    """Start the deployment of the hook's mapping. The same delivery again is the same flow run."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches
    hook = delivery.hook
    payload = parse_config(delivery.body, "The payload")
    if (why := hook.unmet(payload)) is not None:
        return {"started": False, "why": why}
    parameters = _parameters(hook, payload, settings)
    run_name = f"{delivery.name}-{secrets.token_hex(4)}"
    run = launches.start_deployment(
        hook.deployment,
        parameters | {"store": settings.reference(hook.project), "pool": settings.pool},
        idempotency_key=f"hook:{delivery.name}:{delivery.id}",
        name=run_name,
        tags=[TAG, f"hook:{delivery.name}", f"project:{hook.project}"],
    )
    return {"started": True, "flow_run_id": str(run.id), "duplicate": run.name != run_name}


def _parameters(hook: Hook, payload: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the flow's parameters, checked as far as it is known what they must be."""
    filling = Filling(hook, payload)
    model = MODELS.get(hook.deployment)
    if model is None:
        return filling.parameters
    asked = bodies.check(filling.parameters.get("request", {}), model)
    for where, uri in named_files(asked):
        if uri in filling.taken:
            check_readable(uri, settings.open(hook.project), hook.project, settings, where)
    if isinstance(asked, TrainingRunRequest):
        program = (asked.trainer_spec.image_uri, asked.trainer_spec.entrypoint)
        if not filling.taken.isdisjoint(text for text in program if text):
            problem = "trainer_spec: no payload may say which program runs; write image_uri and entrypoint in full"
            raise FieldErrors([{"loc": ["body", "trainer_spec"], "msg": problem, "type": "refused"}])
    sent = asked.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return filling.parameters | {"request": sent}
