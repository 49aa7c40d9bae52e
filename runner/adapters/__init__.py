"""The simulators simyard knows. To add one: write its adapter file, name it here."""

from simyard.runner.adapters.base import Adapter
from simyard.runner.adapters.isaaclab import IsaacLab
from simyard.runner.adapters.newton import Newton
from simyard.runner.errors import unknown

ADAPTERS: dict[str, type[Adapter]] = {"isaaclab": IsaacLab, "newton": Newton}


def get_adapter(name: str) -> Adapter:
    """Return a simulator's adapter, or raise `RequestError` with the names there are."""
    if name not in ADAPTERS:
        raise unknown("simulator", name, ADAPTERS, code="unknown_simulator")
    return ADAPTERS[name]()


__all__ = ["ADAPTERS", "Adapter", "get_adapter"]
