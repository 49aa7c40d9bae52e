"""Bodies of requests: bounded in size and time, read once the sender is known, every wrong field named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
from simyard.service.auth import Caller, need
from simyard.service.errors import FieldErrors, FieldProblem

Model = TypeVar("Model", bound=Body)

JOBS: tuple[type[JobRequest], ...] = (RolloutRequest, TrainRequest, EvaluateRequest, ExportRequest)
"""Models of the bodies that `POST /v0/jobs` takes."""
_MODELS: tuple[type[BaseModel], ...] = (*JOBS, TrainingRunRequest)
_DESCRIBED = {model.__name__: model for model in _MODELS}
"""Models of bodies, by name; an endpoint adds its own by describing them."""
PREFECTS_OWN = "__prefect_"
"""Prefix of the keys that have Prefect read variables and render templates."""


_ALLOWED = "simyard.allowed_body_bytes"
LARGE_BYTES = 64_000
"""A body with more is parsed when no other such is: parsers take the interpreter from the event loop in turns."""
_LARGE = anyio.CapacityLimiter(1)
STRETCH_S, STRETCH_BYTES = 10.0, 10_000
"""Of a body at least so many bytes come while it is waited for so long."""


class BoundedBodies:
    """ASGI middleware: the one limit of every route's bodies, which holds for whatever reads them.

    Nothing is read here: a route that refuses its sender has not waited for a body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose body is bounded."""
        await self._app(scope, _Body(scope, receive).receive if scope["type"] == "http" else receive, send)


class _Body:
    """The body of one request, as it comes."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._announced = next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)
        self._size = 0
        self._ended = False
        self._waited_s = 0.0
        self._of_stretch = 0

    async def receive(self) -> Message:
        """Return the next piece.

        Raises:
            RequestError: The body is larger than its route allows, or comes too slowly.
        """
        if self._ended:  # from here on nothing but the end of the connection is waited for
            return await self._receive()
        self._refuse_above(self._announced)

        # Time counts while the body is waited for: what its reader needs is not the sender's fault.
        began = time.monotonic()
        try:
            async with asyncio.timeout(STRETCH_S - self._waited_s):
                message = await self._receive()
        except TimeoutError:
            raise RequestError(
                f"The body comes too slowly: {self._of_stretch:,} bytes in {STRETCH_S:.0f} s.",
                code="too_slow",
                advice=f"Send {STRETCH_BYTES / STRETCH_S:,.0f} bytes a second or more.",
            ) from None
        received = len(message.get("body", b""))
        self._waited_s += time.monotonic() - began
        self._of_stretch += received
        if self._of_stretch >= STRETCH_BYTES:
            self._waited_s, self._of_stretch = 0.0, 0

        self._size += received
        self._ended = not message.get("more_body", False)
        self._refuse_above(self._size)
        return message

    def _refuse_above(self, size: int) -> None:
        allowed = self._scope.get(_ALLOWED, MAX_CONFIG_BYTES)
        if size > allowed:
            raise RequestError(
                f"The body has {size:,} bytes{'' if size == self._announced else ' or more'}; allowed are {allowed:,}.",
                code="too_large",
                advice="Send less. Files go to an upload URL, which takes the size that it was asked for.",
            )


def allow(request: Request, size: int) -> None:
    """Let a request's body have another size than bodies have elsewhere, in bytes."""
    request.scope[_ALLOWED] = size


def json_from(scope: str) -> Callable[..., Awaitable[dict[str, JsonValue]]]:
    """Return the dependency of an endpoint that takes a JSON object from a caller with a scope.

    No byte is read before the key was looked at, and threads parse it: the event loop serves others meanwhile.
    """
    key = Depends(need(scope))

    async def sent(request: Request, caller: Caller = key) -> dict[str, JsonValue]:
        data = await request.body()
        turns = _LARGE if len(data) > LARGE_BYTES else None
        return await anyio.to_thread.run_sync(parse_json, data, limiter=turns)

    return sent


def model_from(scope: str, model: type[Model]) -> Callable[..., Model]:
    """Return the dependency of an endpoint that takes what a model describes from a caller with a scope."""
    json = Depends(json_from(scope))

    def checked(body: dict[str, JsonValue] = json) -> Model:
        return check(body, model)

    return checked


def parse_json(data: bytes, what: str = "The body") -> dict[str, JsonValue]:
    """Return the object that a body is.

    Raises:
        RequestError: It is none, or has what Prefect would not take as it is.
    """
    body = parse_config(data, what)
    waiting: list[JsonValue] = [body]  # at any depth, such a key would end up in the parameters of a flow run
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if own := next((key for key in value if key.startswith(PREFECTS_OWN)), None):
                raise RequestError(
                    f"{what} has the key {own!r}.",
                    code="bad_config",
                    advice=f"Keys that begin with {PREFECTS_OWN!r} are Prefect's own.",
                )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return body


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
    found: dict[str, Any] = {}
    for name, model in _DESCRIBED.items():
        by_alias = model not in (RolloutRequest, TrainingRunRequest)
        schema = model.model_json_schema(by_alias=by_alias, ref_template="#/components/schemas/{model}")
        found |= schema.pop("$defs", {})
        found[name] = schema
    return found


def described(*models: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is one of these models."""
    _DESCRIBED.update({model.__name__: model for model in models})
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    schema = refs[0] if len(refs) == 1 else {"anyOf": refs}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
