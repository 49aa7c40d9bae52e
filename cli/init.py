"""`simyard init`: a project with a task of one's own."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from simyard.cli.shared import Command
from simyard.core.errors import RequestError

_TEMPLATE = Path(__file__).with_name("templates") / "my_robot_task"
"""The project that is made, each file with `.txt` behind its name; its name is that of the folder."""


@click.command(cls=Command)
@click.argument("folder", default=".", type=click.Path(path_type=Path))
def init(folder: Path) -> None:
    """Begin a task of your own. FOLDER is a new or an empty one; its name is the project's.

    The project trains as it is: a pole on a cart, in the layout of Isaac Lab's projects, with its tests.
    """
    name = _checked_name(folder)
    task = "".join(part.capitalize() for part in name.split("_"))
    for source in sorted(_TEMPLATE.rglob("*.txt")):
        inside, text = str(source.relative_to(_TEMPLATE)).removesuffix(".txt"), source.read_text(encoding="utf-8")
        target = folder / inside.replace("my_robot_task", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text.replace("my_robot_task", name).replace("MyRobotTask", task), encoding="utf-8")
    click.echo(f"The project {name}, with the task {task}: see {folder / 'README.md'}.")
    click.echo(f"Train it: simyard train {folder / 'train.json'}")


def _checked_name(folder: Path) -> str:
    """Return the name of the project in a folder.

    Raises:
        RequestError: If the folder cannot become one; nothing was written.
    """
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"{str(folder)!r} is a file.", code="bad_folder", advice="Name a new or an empty folder.")
    if folder.is_dir() and (there := sorted(entry.name for entry in folder.iterdir())):
        more = ", …" if len(there) > 5 else ""
        raise RequestError(
            f"The folder {str(folder)!r} is not empty: it has {', '.join(there[:5])}{more}.",
            code="folder_not_empty",
            advice="Name a new or an empty folder: simyard init my_robot_task.",
        )
    called = folder.resolve().name
    name = re.sub(r"[ .-]+", "_", called).lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name) or keyword.iskeyword(name):
        raise RequestError(
            f"{called!r} cannot be the name of a Python package.",
            code="bad_name",
            advice="Name a folder with letters, digits and _, a letter first: simyard init my_robot_task.",
        )
    if name in sys.stdlib_module_names or ((spec := find_spec(name)) and spec.origin):
        raise RequestError(
            f"{name!r} is a module that exists already, which the project's package would hide.",
            code="bad_name",
            advice="Name another folder: simyard init my_robot_task.",
        )
    return name
