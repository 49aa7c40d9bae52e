"""Bodies of requests: read once, checked against a model, every wrong field named."""

from __future__ import annotations

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from simyard.config import MAX_CONFIG_BYTES, check_library, explain, model_of, parse_config
from simyard.requests import Body, EvaluateRequest, ExportRequest, JobRequest, TrainRequest
from simyard.runner.errors import RequestError
from simyard.service.errors import FieldErrors
from simyard.submission import SubmitRequest
from simyard.training_runs import TrainingRunRequest

Model = TypeVar("Model", bound=Body)

JOBS: tuple[type[JobRequest], ...] = (SubmitRequest, TrainRequest, EvaluateRequest, ExportRequest)
"""What `POST /v0/jobs` takes."""


async def json_body(request: Request) -> dict[str, Any]:
    """Return the body, an object.

    Raises:
        RequestError: It is none, or larger than a config may be.
    """
    return parse_config(await read(request), "The body")


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


def check(body: dict[str, Any], model: type[Model]) -> Model:
    """Return the request that a body is.

    Raises:
        FieldErrors: Fields are wrong.
        RequestError: It names a library that there is not.
    """
    try:
        request = model.model_validate(body)
    except ValidationError as error:
        problems: list[dict[str, Any]] = [dict(problem) for problem in error.errors()]
        raise FieldErrors(
            [
                {"loc": ["body", *map(str, problem["loc"])], "msg": explain(problem, model), "type": problem["type"]}
                for problem in problems
            ]
        ) from None
    check_library(request)
    return request


def job_model(body: dict[str, Any]) -> type[JobRequest]:
    """Return what kind of job a body is; one without a sign of another kind is a rollout."""
    others = ("trainingConfig", "training_config", "exportConfig", "export_config")
    return model_of(body) if any(name in body for name in others) else SubmitRequest


def schemas() -> dict[str, Any]:
    """Return the models of the bodies, as components of an OpenAPI document."""
    models: list[type[BaseModel]] = [*JOBS, TrainingRunRequest]
    found: dict[str, Any] = {}
    for model in models:
        by_alias = model not in (SubmitRequest, TrainingRunRequest)
        schema = model.model_json_schema(by_alias=by_alias, ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[model.__name__] = schema
    return found


def described(*models: type[BaseModel]) -> dict[str, Any]:
    """Return how OpenAPI describes a body that is one of these."""
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
