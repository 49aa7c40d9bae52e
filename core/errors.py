"""Failures and their errors, with advice for the caller.

    SimyardError
    ├── RequestError     the request is bad: nothing was started (exit 2, HTTP 4xx)
    ├── StoreError       the store cannot be read or written
    └── WorkloadError    the workload ended, and not with a success

Every error carries a `Failure`: what the user is shown, stored and billed by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

EXIT_SUCCEEDED = 0
EXIT_JOB_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_CANCELED = 130


class Category(StrEnum):
    """Category of a failure, by the one who can mend it; it decides whether an attempt is repeated."""

    USER = "user"
    """The request, the task or the package is wrong: never retried."""
    RESOURCE = "resource"
    """The job did not fit the machine: never retried as it is."""
    INFRA = "infra"
    """The machine, the driver or the network: retried."""
    CANCELED = "canceled"
    """Somebody stopped the job: never retried."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failure, in the words a user needs."""

    code: str
    """Stable machine-readable name, such as `cuda_out_of_memory`."""
    category: Category
    """Category, by the one who can mend it."""
    message: str
    """Message; the original line if there is one."""
    advice: str = ""
    """Next step."""

    def to_json(self) -> dict[str, Any]:
        """Return the failure as plain JSON types."""
        return asdict(self) | {"category": str(self.category)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Failure:
        """Read the JSON of `to_json`."""
        return cls(
            code=data["code"],
            category=Category(data["category"]),
            message=data["message"],
            advice=data.get("advice", ""),
        )


class SimyardError(Exception):
    """Base of every error simyard raises on purpose."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __str__(self) -> str:
        advice = f" {self.failure.advice}" if self.failure.advice else ""
        return f"{self.failure.message}{advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Prefect stores exceptions by pickling them; the default would call cls(message).
        return _rebuild, (type(self), self.failure.to_json())


def _rebuild(cls: type[SimyardError], data: dict[str, Any]) -> SimyardError:
    error = cls.__new__(cls)
    SimyardError.__init__(error, Failure.from_json(data))
    return error


class RequestError(SimyardError):
    """A request is bad; nothing was started."""

    def __init__(self, message: str, *, code: str = "bad_request", advice: str = "") -> None:
        super().__init__(Failure(code=code, category=Category.USER, message=message, advice=advice))


class StoreError(SimyardError):
    """The store cannot be read or written."""

    def __init__(self, message: str, *, code: str = "store", advice: str = "") -> None:
        super().__init__(Failure(code=code, category=Category.INFRA, message=message, advice=advice))


class WorkloadError(SimyardError):
    """A workload ended, and not with a success."""


class Stopped(BaseException):
    """Raised in the middle of a simulation when the supervisor asks for its end; no `except Exception` of a task's."""


def unknown(
    what: str, given: object, allowed: Iterable[str], *, code: str = "unknown_name", most: int = 12
) -> RequestError:
    """Return the error for a name that is not one of those allowed, with the nearest match.

    Args:
        what: The kind of name, such as `task`.
        given: What the user wrote.
        allowed: Every name that would have been accepted.
        code: The failure's code.
        most: How many allowed names to print.
    """
    import difflib  # most processes never need it

    names = sorted(set(allowed))
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    ranked = (
        sorted(names, key=lambda n: -difflib.SequenceMatcher(None, n, str(given)).ratio())
        if len(names) > most
        else names
    )
    shown = ", ".join(repr(name) for name in ranked[:most]) + (
        f", … ({len(names)} in all)" if len(names) > most else ""
    )
    return RequestError(f"Unknown {what} {given!r}.{guess}", code=code, advice=f"Allowed: {shown}.")
