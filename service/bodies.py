"""Bodies of requests: read once, checked against a model, every wrong field named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, JsonValue, ValidationError

from simyard.core.errors import RequestError
from simyard.requests.config import (
    MAX_CONFIG_BYTES,
    check_library,
    explain,
    first_problems,
    model_of,
    parse_config,
    place_of,
)
from simyard.requests.jobs import Body, EvaluateRequest, ExportRequest, JobRequest, TrainRequest
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.rollout import RolloutRequest
from simyard.service.errors import FieldErrors, FieldProblem

Model = TypeVar("Model", bound=Body)

JOBS: tuple[type[JobRequest], ...] = (RolloutRequest, TrainRequest, EvaluateRequest, ExportRequest)
"""Models of the bodies that `POST /v0/jobs` takes."""
PREFECTS_OWN = "__prefect_"
"""Prefix of the keys that have Prefect read variables and render templates."""


async def json_body(request: Request) -> dict[str, JsonValue]:
    """Return the body, an object.

    Raises:
        RequestError: It is none, larger than a config may be, or has what Prefect would not take as it is.
    """
    body = parse_config(await read(request), "The body")
    waiting: list[JsonValue] = [body]  # at any depth, such a key would end up in the parameters of a flow run
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if own := next((key for key in value if key.startswith(PREFECTS_OWN)), None):
                raise RequestError(
                    f"The body has the key {own!r}.",
                    code="bad_config",
                    advice=f"Keys that begin with {PREFECTS_OWN!r} are Prefect's own.",
                )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return body


async def read(request: Request) -> bytes:
    """Return the body as it was sent.

    Raises:
        RequestError: It is larger than a config may be.
    """
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > MAX_CONFIG_BYTES:
            raise RequestError(
                "The body is too large.", code="too_large", advice=f"Allowed: {MAX_CONFIG_BYTES:,} bytes."
            )
    return bytes(data)


def check(body: JsonValue, model: type[Model]) -> Model:
    """Return the request that a body is.

    Raises:
        FieldErrors: Fields are wrong.
        RequestError: It names a library that there is not.
    """
    try:
        request = model.model_validate(body)
    except ValidationError as error:
        first, others = first_problems(error)
        problems = []
        for problem in first:
            where = place_of(problem)
            message = explain(problem, model).removeprefix(f"{'.'.join(where)}: ")  # `loc` has the field's name
            problems.append(FieldProblem(["body", *where], message, problem["type"]))
        raise FieldErrors(*problems, *(FieldProblem(["body"], text, "more") for text in others)) from None
    check_library(request)
    return request


def job_model(body: Mapping[str, JsonValue]) -> type[JobRequest]:
    """Return the model of a body's kind of job; one without a sign of another kind is a rollout."""
    others = ("trainingConfig", "training_config", "exportConfig", "export_config")
    return model_of(body) if any(name in body for name in others) else RolloutRequest


def schemas() -> dict[str, Any]:
    """Return the models of the bodies, as components of an OpenAPI document."""
    models: list[type[BaseModel]] = [*JOBS, TrainingRunRequest]
    found: dict[str, Any] = {}
    for model in models:
        by_alias = model not in (RolloutRequest, TrainingRunRequest)
        schema = model.model_json_schema(by_alias=by_alias, ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def described(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is one of these models."""
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
