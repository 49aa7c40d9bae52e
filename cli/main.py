"""The command line: each command's module is imported when the command is named, for most of its time is imports."""

from __future__ import annotations

import atexit
import gc
from collections import UserDict
from importlib import import_module
from typing import Any, cast

import click

from simyard import __version__
from simyard.cli.prefect_server import find_auth
from simyard.cli.shared import renamed
from simyard.core.process import keep_private, reach_loopback_directly

_HEADINGS = {
    "Jobs": {
        "init": "init", "train": "train", "evaluate": "train", "export-policy": "train", "rollout": "rollout",
        "run": "train", "sweep": "sweep", "jobs": "jobs", "compare": "compare", "tasks": "tasks",
    },
    "Policies": {"managed": "managed", "retrain": "promotions", "promotions": "promotions", "policy": "policies"},
    "Data": {
        "tensorboard": "tensorboard", "mirror": "mirror", "upload": "assets", "assets": "assets", "convert": "rollout",
    },
    "Site": {
        "up": "up", "deploy": "deploy", "doctor": "doctor", "sessions": "sessions", "cache": "cache",
        "keys": "keys", "gc": "gc",
        "completion": "completion",
    },
}  # fmt: skip
"""The module of each command, below the heading it has in `--help`."""
_RENAMED = {"submit": "rollout", "managed-train": "managed start", "runs": "managed"}
"""Names of before, for one release."""


class _Commands(UserDict[str, Any]):
    """Commands by name, imported when they are asked for."""

    def __init__(self) -> None:
        super().__init__(item for commands in _HEADINGS.values() for item in commands.items())
        self.data |= dict.fromkeys(_RENAMED, "")

    def __getitem__(self, name: str) -> click.Command:
        if new := _RENAMED.get(name):
            group, *rest = new.split()
            command = self[group]
            for word in rest:
                command = cast("click.Group", command).commands[word]
            return renamed(command, name, new)
        module = import_module(f"simyard.cli.{self.data[name]}")
        return cast("click.Command", getattr(module, name.replace("-", "_")))


class _Main(click.Group):
    """The commands below their headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        for heading, names in _HEADINGS.items():
            with formatter.section(heading):
                limit = formatter.width - 6 - max(map(len, names))
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit)) for name in names])


@click.group(
    cls=_Main, commands=_Commands(), invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
@click.version_option(__version__, prog_name="simyard")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Self-hosted robot-learning jobs on NVIDIA Isaac Lab, run by Prefect.

    Without a command it says where you stand, and what to do next.
    """
    atexit.register(gc.freeze)  # or Python, as it ends, collects what the system takes back anyway: up to a second
    keep_private()
    reach_loopback_directly()
    find_auth()
    if ctx.invoked_subcommand is None:
        from simyard.cli.standing import show_standing

        show_standing()
