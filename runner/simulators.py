"""The simulators simyard knows. To add one: write its adapter file, name it here."""

from simyard.core.errors import unknown
from simyard.runner.adapter import Adapter
from simyard.runner.isaaclab.adapter import IsaacLab
from simyard.runner.newton.adapter import Newton

ADAPTERS: dict[str, type[Adapter]] = {"isaaclab": IsaacLab, "newton": Newton}


def get_adapter(name: str) -> Adapter:
    """Return a simulator's adapter, or raise `RequestError` with the names there are."""
    if name not in ADAPTERS:
        raise unknown("simulator", name, ADAPTERS, code="unknown_simulator")
    return ADAPTERS[name]()
