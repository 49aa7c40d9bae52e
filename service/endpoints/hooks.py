"""Incoming webhooks: a signed payload becomes the parameters of a deployment.

The file that maps them is checked as a whole when the service starts, and filled in for each delivery.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from simyard.core.errors import RequestError, unknown
from simyard.requests.config import MAX_CONFIG_BYTES, parse_config
from simyard.requests.jobs import Body, EvaluateRequest, ExportRequest, RetrainRequest, TrainRequest
from simyard.requests.managed import TrainingRunRequest
from simyard.requests.rollout import RolloutRequest
from simyard.requests.sweeps import SweepRequest
from simyard.service import bodies, signatures
from simyard.service.configs import request_of
from simyard.service.errors import FieldErrors, FieldProblem
from simyard.service.prefect_api import DEPLOYMENTS, Launches
from simyard.service.references import check_readable, named_files
from simyard.service.settings import DEFAULT_PROJECT, Settings
from simyard.tasks.shared.api_keys import check_project

router = APIRouter(tags=["hooks"])

MODELS: dict[str, type[Body]] = {
    DEPLOYMENTS["train"]: TrainRequest,
    DEPLOYMENTS["evaluate"]: EvaluateRequest,
    DEPLOYMENTS["export"]: ExportRequest,
    DEPLOYMENTS["rollout"]: RolloutRequest,
    DEPLOYMENTS["training-run"]: TrainingRunRequest,
    DEPLOYMENTS["sweep"]: SweepRequest,
    "retrain/retrain": RetrainRequest,
}
"""Model of each deployment's parameter `request`."""
TAG = "simyard-hook"
SET_BY_SERVICE = ("store", "pool", "base")
"""Parameters that no mapping may set: where jobs are kept, who runs them, and where relative paths begin."""
MAX_PARAMETERS_BYTES = 256 * 1024
"""Of filled parameters, as JSON; Prefect takes twice as much."""
MAX_DEPTH = 20
"""Of a value that a payload gives."""
MIN_SECRET_CHARACTERS = 16

_PATH = r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*"
_PLACEHOLDER = re.compile(rf"\{{payload\.({_PATH})\}}")
_LIKE_ONE = re.compile(r"\{\s*payload\b[^{}]*\}?")


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    if taken := [name for name in SET_BY_SERVICE if name in value]:
        raise ValueError(f"{taken[0]} is set by the service; leave it out")
    for key, text in _texts(value):
        if _LIKE_ONE.search(key):
            raise ValueError(f"{key!r} is a key; placeholders stand in values alone")
        if wrong := next((m[0] for m in _LIKE_ONE.finditer(text) if not _PLACEHOLDER.fullmatch(m[0])), None):
            raise ValueError(
                f"{wrong!r} is no placeholder; write {{payload.dotted.path}}, with list indices as numbers"
            )
    return value


def _config(value: str | None) -> str | None:
    if value is not None:
        _parameters({"config": value})
    return value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every text with the key that it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield name, ""
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _project(value: str) -> str:
    try:
        return check_project(value)
    except RequestError as error:
        raise ValueError(str(error)) from error


HookName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
PayloadPath = Annotated[str, StringConstraints(pattern=rf"^{_PATH}$")]


class Hook(BaseModel):
    """Mapping of one incoming webhook to the flow run that it starts."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    deployment: str | None = Field(None, max_length=300, pattern=r"^[^/]+/[^/]+$")
    """Deployment to start, as Prefect names it: `retrain/retrain`."""
    config: Annotated[str | None, AfterValidator(_config)] = Field(None, max_length=2000)
    """In place of it the config of a job, which says itself what it starts: its URI or asset id."""
    secret_env: str = Field(max_length=200, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds the secret; never the secret itself."""
    signature: Literal["standard", "github"] = "standard"
    """Scheme of its signature: id, time and body, as Standard Webhooks do; or the body alone, as GitHub does."""
    when: dict[PayloadPath, str | int | float | bool | None] = {}
    """Values that the payload must have, by dotted path; otherwise nothing is started."""
    parameters: Annotated[dict[str, Any], AfterValidator(_parameters)] = {}
    """The flow's parameters; texts may have `{payload.dotted.path}` in them."""
    project: Annotated[str, AfterValidator(_project)] = DEFAULT_PROJECT
    """Project of the jobs that it starts."""

    @model_validator(mode="after")
    def _starts_one_thing(self) -> Self:
        if (self.deployment is None) == (self.config is None):
            raise ValueError("give deployment or config, one of them")
        if self.config is not None and self.parameters:
            raise ValueError("parameters are for a deployment; a config has everything itself")
        return self

    @property
    def secret(self) -> str:
        """The secret that it is signed with."""
        return os.environ[self.secret_env]

    def unmet(self, payload: dict[str, JsonValue]) -> str | None:
        """Return the condition that a payload does not meet; None if it meets all."""
        for path, wanted in self.when.items():
            try:
                found = value_at(payload, path)
            except LookupError:
                return f"the payload has no {path}"
            if type(found) is not type(wanted) or found != wanted:  # in Python, True is 1
                return f"{path} is not {json.dumps(wanted)}"
        return None


_HOOKS = TypeAdapter(dict[HookName, Hook])


def read_hooks(path: Path | None) -> dict[str, Hook]:
    """Read the file that maps hooks to deployments.

    Args:
        path: The file; None for no hooks.

    Raises:
        RequestError: It cannot be read or is wrong, or a secret is not there.
    """
    if path is None:
        return {}

    def bad(problem: str) -> RequestError:
        advice = "docs/webhooks.md has the format."
        return RequestError(f"SIMYARD_HOOKS {str(path)!r}: {problem}.", code="bad_hooks", advice=advice)

    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise bad(f"cannot be read: {error.strerror}") from error
    content = parse_config(data, f"SIMYARD_HOOKS {str(path)!r}")
    try:
        hooks = _HOOKS.validate_python(content)
    except ValidationError as error:
        raise bad("; ".join(_explain(problem) for problem in error.errors())) from None
    for name, hook in hooks.items():
        secret, lacks = os.environ.get(hook.secret_env, ""), f"{name}.secret_env: the environment has no"
        if hook.signature == "standard" and not signatures.is_secret(secret):
            raise bad(
                f"{lacks} {hook.secret_env} that is whsec_ and the base64 of 24 to 64 bytes; set it: "
                "echo whsec_$(openssl rand -base64 32)"
            )
        if len(secret) < MIN_SECRET_CHARACTERS:
            least = f"{MIN_SECRET_CHARACTERS} characters or more"
            raise bad(f"{lacks} {hook.secret_env} of {least}; set it: openssl rand -hex 32")
    return hooks


def _explain(problem: ErrorDetails) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    if problem["type"] == "extra_forbidden":
        failure = unknown("key", problem["loc"][-1], Hook.model_fields).failure
        return f"{where}: {failure.message} {failure.advice}".rstrip(".")
    if problem["type"] == "missing":
        return f"{where} is missing"
    given = repr(problem["input"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}, not {given if len(given) < 80 else given[:77] + '…'}"


def value_at(payload: Any, path: str) -> Any:
    """Return the value at a dotted path: keys of objects and indices of lists, never attributes.

    Raises:
        LookupError: Nothing does.
    """
    for part in path.split("."):
        if isinstance(payload, dict):
            payload = payload[part]
        elif isinstance(payload, list) and re.fullmatch(r"[0-9]{1,6}", part):
            payload = payload[int(part)]
        else:
            raise LookupError(part)
    return payload


class Filling:
    """A mapping's parameters, filled in from one payload. What a payload says is never read as a placeholder itself."""

    def __init__(self, parameters: dict[str, Any], payload: dict[str, JsonValue]) -> None:
        """Fill in.

        Args:
            parameters: Of the mapping.
            payload: As it came.

        Raises:
            FieldErrors: The payload lacks something, or has what cannot stand there.
        """
        self._payload = payload
        self.taken: set[str] = set()
        """Every text that came from the payload, in whole or in part."""
        self.parameters: dict[str, JsonValue] = self._fill(parameters)
        if len(json.dumps(self.parameters)) > MAX_PARAMETERS_BYTES:
            raise _refused("payload", f"the filled parameters are larger than {MAX_PARAMETERS_BYTES:,} bytes of JSON")

    def _fill(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._fill(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._fill(item) for item in value]
        if not isinstance(value, str):
            return value
        if whole := _PLACEHOLDER.fullmatch(value):
            if (found := self._find(whole[1])) is None:
                # A parameter without a value has its default, which is something else than the mapping says.
                raise _refused(whole[1], "it is null, where the mapping needs a value")
            return found
        if not _PLACEHOLDER.search(value):
            return value
        filled = _PLACEHOLDER.sub(lambda match: self._text(match[1]), value)
        self.taken.add(filled)
        return filled

    def _find(self, path: str) -> Any:
        try:
            value = value_at(self._payload, path)
        except LookupError:
            problem = FieldProblem(["payload", *path.split(".")], f"payload.{path} is missing", "missing")
            raise FieldErrors(problem) from None
        self._take(value, path, 0)
        return value

    def _text(self, path: str) -> str:
        value = self._find(path)
        if isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        raise _refused(path, "it stands within a text, and is neither text nor number nor true or false")

    def _take(self, value: Any, path: str, depth: int) -> None:
        """Remember every text of a value; refuse what no flow's parameter may be."""
        if depth > MAX_DEPTH:
            raise _refused(path, f"it is nested more than {MAX_DEPTH} deep")
        if isinstance(value, dict):
            for key, item in value.items():
                if key.startswith(bodies.PREFECTS_OWN):
                    raise _refused(path, f"it has the key {key!r}, which has Prefect fill in something else")
                self._take(key, path, depth + 1)
                self._take(item, path, depth + 1)
        elif isinstance(value, list):
            for item in value:
                self._take(item, path, depth + 1)
        elif isinstance(value, str):
            if re.search("[\x00\ud800-\udfff]", value):
                raise _refused(path, "it has a character that is no text: NUL, or half of a surrogate pair")
            self.taken.add(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _refused(path, "it is a number too large for this machine")


def _refused(path: str, problem: str) -> FieldErrors:
    return FieldErrors(FieldProblem(["payload", *path.split(".")], f"payload.{path}: {problem}", "refused"))


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
    if hook.signature == "github":
        announced, verify = signatures.announced_by_github, signatures.verify_github
    else:
        announced, verify = signatures.announced, signatures.verify
    delivery = announced(request.headers)  # a body is read only where a signature of this moment came before it
    body = await request.body()
    verify(hook.secret, request.headers, body)
    return Delivery(name, hook, delivery, body)


@router.post("/hooks/{name}", status_code=202, summary="Receive a signed webhook")
def receive(delivery: Annotated[Delivery, Depends(received)], request: Request) -> dict[str, bool | str]:
    """Start the deployment of the hook's mapping. The same delivery again is the same flow run."""
    settings: Settings = request.app.state.settings
    launches: Launches = request.app.state.launches
    hook = delivery.hook
    payload = parse_config(delivery.body, "The payload")
    if (why := hook.unmet(payload)) is not None:
        return {"started": False, "why": why}

    # A config says itself what it starts, and was checked where it was read.
    deployment = hook.deployment
    if deployment is None:
        found = request_of(str(Filling({"config": hook.config}, payload).parameters["config"]), hook.project, settings)
        deployment = next(name for name, model in MODELS.items() if isinstance(found, model))
        parameters: dict[str, Any] = {"request": found.model_dump(mode="json", by_alias=True, exclude_unset=True)}
    else:
        parameters = _checked(hook, deployment, payload, settings)

    run_name = f"{delivery.name}-{secrets.token_hex(4)}"
    run = launches.start_deployment(
        deployment,
        parameters | {"store": settings.reference(hook.project), "pool": settings.pool},
        idempotency_key=f"hook:{delivery.name}:{delivery.id}",
        name=run_name,
        tags=[TAG, f"hook:{delivery.name}", f"project:{hook.project}"],
    )
    return {"started": True, "flow_run_id": str(run.id), "duplicate": run.name != run_name}


def _checked(hook: Hook, deployment: str, payload: dict[str, JsonValue], settings: Settings) -> dict[str, Any]:
    """Return a deployment's parameters, checked as far as it is known what they must be."""
    filling = Filling(hook.parameters, payload)
    parameters = filling.parameters
    if (model := MODELS.get(deployment)) is not None:
        asked = bodies.check(parameters.get("request", {}), model)
        for where, uri in named_files(asked):
            if uri in filling.taken:
                check_readable(uri, hook.project, settings, where)
        if isinstance(asked, TrainingRunRequest):
            program = (asked.trainer_spec.image_uri, asked.trainer_spec.entrypoint)
            if not filling.taken.isdisjoint(text for text in program if text):
                problem = "trainer_spec: no payload may say which program runs; write image_uri and entrypoint in full"
                raise FieldErrors(FieldProblem(["body", "trainer_spec"], problem, "refused"))
        parameters |= {"request": asked.model_dump(mode="json", by_alias=True, exclude_unset=True)}
    return parameters
