"""Options and arguments that commands share, and the request that they make."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from simyard.core.errors import RequestError

if TYPE_CHECKING:
    from simyard.requests.jobs import Body

Request = TypeVar("Request", bound="Body")


def _as_setting(ctx: click.Context, param: click.Parameter, session: str | None) -> tuple[str, ...]:
    return () if session is None else (f"computeConfig.session={session}",)


ARGUMENTS = click.argument("arguments", nargs=-1, metavar="CONFIG [KEY=VALUE]...")
ARGUMENTS_OR_NONE = click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY=VALUE]...")
STORE = click.option("--store", metavar="URL", help="Store: a folder, file://, s3://bucket/prefix or job-store/NAME.")
POOL = click.option("--pool", metavar="NAME", help="Run through this Prefect work pool; without it, in this process.")
SESSION = click.option(
    "--session", type=click.Choice(("auto", "off")), callback=_as_setting,
    help="off: start a simulator for this job alone, warm or not.",
)  # fmt: skip
SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a field, or add a Hydra override."
)
LIMIT = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many, newest first."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line of stdout.")


class Finite(click.FloatRange):
    """A range that has no place for `nan`, which no comparison shuts out."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


def config_and_settings(arguments: tuple[str, ...]) -> tuple[Path | None, list[str]]:
    """Tell the config from the settings that may follow one `--set`."""
    more = [text for text in arguments if "=" in text and not os.path.exists(text)]
    files = [text for text in arguments if text not in more]
    if len(files) > 1:
        raise RequestError(
            f"Unexpected argument {files[1]!r} after {files[0]!r}.",
            code="bad_command",
            advice="Name one CONFIG; a setting looks like numEnvs=64.",
        )
    return (Path(files[0]) if files else None), more


def check_request(model: type[Request], config: Path | None, settings: tuple[str, ...]) -> tuple[Request, Path]:
    """Return the request that a config makes, and the folder that its relative paths start from.

    It is refused before what runs it is imported.
    """
    from simyard.requests.config import check_config, read_config

    request = check_config(read_config(config, model, settings), model)
    return request, config.resolve().parent if config else Path.cwd()


def read_request(
    model: type[Request], arguments: tuple[str, ...], settings: tuple[str, ...], session: tuple[str, ...] = ()
) -> tuple[Request, Path]:
    """Check the request of a command that needs a config, as `check_request` does."""
    config, more = config_and_settings(arguments)
    if config is None:
        raise RequestError("Missing CONFIG.", code="bad_command", advice="Name a JSON file.")
    return check_request(model, config, (*settings, *more, *session))
