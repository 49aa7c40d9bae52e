"""Code that a request has run on the worker, as the worker's user: the service asks for a key with the scope `code`.

That is a task package and a module or callback of one, a trainer that is a child process, and an override, or a sweep's
value for one, that the simulator or a library may evaluate or import. A trainer in a container is none: it runs there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from pydantic import BaseModel

from simyard.requests.base import parts_of
from simyard.requests.jobs import CODE
from simyard.requests.managed import LOCAL, TrainerSpec
from simyard.requests.sweeps import SweepConfig

# Isaac Lab and rsl_rl import names, skrl evaluates texts. Whatever the key is; paths and numbers are none of these.
_MAY_BE_CODE = re.compile(
    r"""\(                                  # a call
    | \blambda\b | \$\{                     # a function; an interpolation
    | : [\s"'\\]* [^\W\d]                   # `module:name`, and any text in an object
    | (?:^|[\s"'\[{,]) [^\W\d]\w* (?:\s*\.\s*[^\W\d]\w*)+ (?=$|[\s"'\]},])  # `package.name`
    """,
    re.VERBOSE,
)


def _texts_of(sweep: SweepConfig) -> Iterator[str]:
    """Yield every value that a sweep gives to an override, as the override has it."""
    values = [value for parameter in sweep.parameters.values() for value in parameter.values or ()]
    values += [value for together in sweep.paired for value in together.values()]
    yield from (value if isinstance(value, str) else json.dumps(value) for value in values)


def named_code(model: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield everything in a request that names code of its sender: the field, and what it says."""
    if isinstance(model, TrainerSpec) and model.image_uri == LOCAL:
        yield "image_uri", model.image_uri
    for at, field, value in parts_of(model):
        if isinstance(value, TrainerSpec) and value.image_uri == LOCAL:
            yield f"{at}.image_uri", value.image_uri
        elif isinstance(value, SweepConfig):
            yield from ((at, text) for text in _texts_of(value) if _MAY_BE_CODE.search(text))
        elif isinstance(value, str) and CODE in field.metadata:
            yield at, value
        elif at.rpartition(".")[2] == "overrides":
            yield from ((at, text) for text in value if _MAY_BE_CODE.search(text.partition("=")[2]))
