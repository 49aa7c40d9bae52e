"""HTTP answers to errors: `{"detail": …}`, never a traceback."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prefect.exceptions import PrefectException
from starlette.requests import ClientDisconnect

from simyard.core.errors import RequestError, SimyardError

_CODES = {
    401: ("no_api_key", "bad_api_key", "bad_signature", "stale_signature"),
    402: ("over_budget", "no_price"),
    403: ("missing_scope",),
    404: (
        "unknown_job", "unknown_run", "unknown_sweep", "unknown_asset", "unknown_checkpoint", "unknown_hook",
        "no_artifact", "bad_job_id", "bad_run_id", "bad_sweep_id", "bad_asset_id", "bad_url", "url_expired",
        "unknown_task", "no_rollout", "no_such_episode",
    ),
    408: ("too_slow",),
    409: ("idempotency_conflict", "run_ended", "sweep_ended", "nothing_measured"),
    413: ("too_large",),
    429: ("too_many_requests", "too_many_jobs", "too_many_downloads"),
    503: ("no_simulator", "tasks_being_read", "no_zarr"),
}  # fmt: skip
_STATUSES = {code: status for status, codes in _CODES.items() for code in codes}
"""The status of each error code; that of any other bad request is 400."""
RETRY_AFTER_S = {"too_many_requests": 5, "too_many_jobs": 30, "too_many_downloads": 10, "tasks_being_read": 5}
"""Seconds until another try, by error code, where waiting helps."""
_AWAY_RETRY_S = 5

logger = logging.getLogger("simyard.service")


@dataclass(frozen=True)
class FieldProblem:
    """A field of a body that is wrong."""

    loc: list[str]
    """Path of the field, from `body` or `payload`."""
    msg: str
    type: str
    """Kind of problem, as pydantic names it."""


class FieldErrors(Exception):  # noqa: N818 - it names what it carries
    """A body whose fields are wrong: all of them at once."""

    def __init__(self, *problems: FieldProblem) -> None:
        super().__init__("; ".join(problem.msg for problem in problems))
        self.problems = problems


class _Answer(JSONResponse):
    """JSON in ASCII: an error may quote what no encoding has, such as half of a surrogate pair."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False).encode()


def status_of(error: SimyardError) -> int:
    """Return the status of an answer that tells of an error."""
    return _STATUSES.get(error.failure.code, 400) if isinstance(error, RequestError) else 503


def answer_errors(app: FastAPI) -> None:
    """Have the application answer every error in one form."""

    @app.exception_handler(FieldErrors)
    async def fields(request: Request, error: FieldErrors) -> _Answer:
        return _Answer({"detail": [asdict(problem) for problem in error.problems]}, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> _Answer:
        # What was sent is not repeated: it may be a number that JSON has not.
        found = [FieldProblem([str(part) for part in one["loc"]], one["msg"], one["type"]) for one in error.errors()]
        return await fields(request, FieldErrors(*found))

    @app.exception_handler(SimyardError)
    async def ours(request: Request, error: SimyardError) -> _Answer:
        failure = error.failure
        body = {"detail": str(error), "code": failure.code}
        status = status_of(error)
        if not isinstance(error, RequestError):
            logger.error("%s %s: %s", request.method, request.url.path, error)
            return _Answer(body, status, {"Retry-After": str(_AWAY_RETRY_S)})
        headers = {"Retry-After": str(RETRY_AFTER_S[failure.code])} if failure.code in RETRY_AFTER_S else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return _Answer(body, status, headers)

    @app.exception_handler(httpx.HTTPError)
    @app.exception_handler(PrefectException)
    async def away(request: Request, error: Exception) -> _Answer:
        logger.error("%s %s: Prefect: %r", request.method, request.url.path, error)
        body = {"detail": "The Prefect server does not answer. Send the request again.", "code": "no_prefect_server"}
        return _Answer(body, 503, {"Retry-After": str(_AWAY_RETRY_S)})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # to nobody

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> _Answer:
        logger.exception("%s %s", request.method, request.url.path, exc_info=error)
        return _Answer({"detail": "An unexpected error; the service's log has it.", "code": "bug"}, 500)
