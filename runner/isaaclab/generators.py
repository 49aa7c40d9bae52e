"""Random generators: those of the process, and those that an object has for itself; their state as JSON has it."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping
from typing import Any

from simyard.runner.isaaclab.state_file import StateError


def random_state() -> dict[str, Any]:
    """Return the state of all generators of the process; Warp has none: its kernels take seeds."""
    import numpy
    import torch

    version, words, spare = random.getstate()
    name, keys, position, has_spare, spare_normal = numpy.random.get_state()
    return {
        "python": [version, list(words), spare],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_spare), float(spare_normal)],
        "torch": _text(torch.get_rng_state()),
        "cuda": [_text(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_initialized() else [],
    }


def set_random(state: Mapping[str, Any], *, cuda: bool = True) -> None:
    """Put the state of the process's generators back, those of GPUs where there are as many.

    Raises:
        StateError: If it is none.
    """
    import numpy
    import torch

    try:
        version, words, spare = state["python"]
        random.setstate((version, tuple(words), spare))
        name, keys, position, has_spare, spare_normal = state["numpy"]
        if not (0 <= position <= 624 and len(keys) == 624):
            raise ValueError("numpy's position")
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), position, has_spare, spare_normal))
        torch.set_rng_state(_tensor(state["torch"]))
        if cuda and len(state["cuda"]) == torch.cuda.device_count() and torch.cuda.is_initialized():
            torch.cuda.set_rng_state_all([_tensor(text) for text in state["cuda"]])
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise StateError(f"has no state of random generators ({error!r:.200})") from error


def generator_state(generator: Any) -> Any:
    """Return the state of one generator."""
    import torch

    if isinstance(generator, torch.Generator):
        return _text(generator.get_state())
    if isinstance(generator, random.Random):
        version, words, spare = generator.getstate()
        return [version, list(words), spare]
    return generator.bit_generator.state


def set_generator(generator: Any, state: Any) -> None:
    """Put the state of one generator back.

    Raises:
        StateError: If it is none.
    """
    import torch

    try:
        if isinstance(generator, torch.Generator):
            generator.set_state(_tensor(state))
        elif isinstance(generator, random.Random):
            version, words, spare = state
            generator.setstate((version, tuple(words), spare))
        else:
            generator.bit_generator.state = state
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise StateError(f"has no state of a random generator ({error!r:.200})") from error


def _text(state: Any) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _tensor(text: str) -> Any:
    import torch

    return torch.frombuffer(bytearray(base64.b64decode(text, validate=True)), dtype=torch.uint8)
