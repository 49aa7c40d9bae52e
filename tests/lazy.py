"""Large libraries, imported by the tests that use them and not by finding the tests."""

from importlib import import_module
from typing import Any

_ASKED_BY_PYTEST = ("__bases__", "__test__", "__wrapped__", "_mock_name")
"""Of every name in a test module, while it looks for tests."""


class lazy:  # noqa: N801 - it stands where `import` would
    """A module that is imported when something of it is asked for: `torch = lazy("torch")`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute in _ASKED_BY_PYTEST:
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
