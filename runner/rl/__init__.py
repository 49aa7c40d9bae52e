"""The reinforcement-learning libraries simyard knows. To add one: write its file, name it here."""

from simyard.core.errors import unknown
from simyard.runner.rl.base import Library, Progress, Scale
from simyard.runner.rl.rl_games import RlGames
from simyard.runner.rl.rsl_rl import RslRl
from simyard.runner.rl.sb3 import Sb3
from simyard.runner.rl.skrl import Skrl

LIBRARIES: dict[str, Library] = {library.name: library for library in (RslRl(), Skrl(), RlGames(), Sb3())}


def get_library(name: str) -> Library:
    """Return a library by name, or raise `RequestError` with the names there are."""
    if name not in LIBRARIES:
        raise unknown("rlLibrary", name, LIBRARIES, code="unknown_library")
    return LIBRARIES[name]


__all__ = ["LIBRARIES", "Library", "Progress", "Scale", "get_library"]
