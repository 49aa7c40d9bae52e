"""HTTP answers to errors: `{"detail": …}`, never a traceback."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass

import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prefect.exceptions import PrefectException
from starlette.requests import ClientDisconnect

from simyard.core.errors import RequestError, SimyardError

_CODES = {
    401: ("no_api_key", "bad_api_key", "bad_signature", "stale_signature"),
    402: ("over_budget",),
    403: ("missing_scope",),
    404: (
        "unknown_job", "unknown_run", "unknown_asset", "unknown_checkpoint", "unknown_hook", "no_artifact",
        "bad_job_id", "bad_run_id", "bad_asset_id", "bad_url", "url_expired",
    ),
    408: ("too_slow",),
    409: ("idempotency_conflict", "run_ended"),
    413: ("too_large",),
    429: ("too_many_requests", "too_many_jobs", "too_many_downloads"),
}  # fmt: skip
_STATUSES = {code: status for status, codes in _CODES.items() for code in codes}
"""The status of each error code; that of any other bad request is 400."""
RETRY_AFTER_S = {"too_many_requests": 5, "too_many_jobs": 30, "too_many_downloads": 10}
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


def status_of(error: SimyardError) -> int:
    """Return the status of an answer that tells of an error."""
    return _STATUSES.get(error.failure.code, 400) if isinstance(error, RequestError) else 503


def answer_errors(app: FastAPI) -> None:
    """Have the application answer every error in one form."""

    @app.exception_handler(FieldErrors)
    async def fields(request: Request, error: FieldErrors) -> JSONResponse:
        return JSONResponse({"detail": [asdict(problem) for problem in error.problems]}, 422)

    @app.exception_handler(SimyardError)
    async def ours(request: Request, error: SimyardError) -> JSONResponse:
        failure = error.failure
        body = {"detail": str(error), "code": failure.code}
        status = status_of(error)
        if not isinstance(error, RequestError):
            logger.error("%s %s: %s", request.method, request.url.path, error)
            return JSONResponse(body, status, {"Retry-After": str(_AWAY_RETRY_S)})
        headers = {"Retry-After": str(RETRY_AFTER_S[failure.code])} if failure.code in RETRY_AFTER_S else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(body, status, headers)

    @app.exception_handler(httpx.HTTPError)
    @app.exception_handler(PrefectException)
    async def away(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s: Prefect: %r", request.method, request.url.path, error)
        body = {"detail": "The Prefect server does not answer. Send the request again.", "code": "no_prefect_server"}
        return JSONResponse(body, 503, {"Retry-After": str(_AWAY_RETRY_S)})

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)  # to nobody

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        logger.exception("%s %s", request.method, request.url.path, exc_info=error)
        return JSONResponse({"detail": "An unexpected error; the service's log has it.", "code": "bug"}, 500)
