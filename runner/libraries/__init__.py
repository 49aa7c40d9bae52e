"""The reinforcement-learning libraries simyard knows. To add one: write its file, name it here."""

from simyard.runner.errors import unknown
from simyard.runner.libraries.base import Library, Progress, Scale
from simyard.runner.libraries.rl_games import RlGames
from simyard.runner.libraries.rsl_rl import RslRl
from simyard.runner.libraries.sb3 import Sb3
from simyard.runner.libraries.skrl import Skrl

LIBRARIES: dict[str, Library] = {library.name: library for library in (RslRl(), Skrl(), RlGames(), Sb3())}


def get_library(name: str) -> Library:
    """Return a library by name, or raise `RequestError` with the names there are."""
    if name not in LIBRARIES:
        raise unknown("rlLibrary", name, LIBRARIES, code="unknown_library")
    return LIBRARIES[name]


__all__ = ["LIBRARIES", "Library", "Progress", "Scale", "get_library"]
