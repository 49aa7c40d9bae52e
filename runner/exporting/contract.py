"""Contract of an exported policy with the robot that runs it: `policy_contract.json`, and its strict reader.

Standard library only: the robot reads the contract with this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from simyard.core.artifacts import CONTRACT, POLICY_ONNX, POLICY_TORCHSCRIPT
from simyard.core.files import write_json
from simyard.core.foreign import parse_json
from simyard.core.wire import ABSENT, Wire, check_version, decode

SCHEMA_VERSION = 3
"""Of contracts that say how the policy was simulated."""
MEMORY_VERSION = 2
"""Of contracts with images or states and without a simulation; those with none of these are as version 1 has them."""
SCHEMA_VERSIONS = (1, MEMORY_VERSION, SCHEMA_VERSION)
CONTRACT_FILE = CONTRACT.name
ONNX = "onnx"
TORCHSCRIPT = "torchscript"
FILES = {ONNX: POLICY_ONNX.name, TORCHSCRIPT: POLICY_TORCHSCRIPT.name}
"""The name of each format's file."""

Interval = tuple[float | None, float | None]
"""(lowest, highest); None where there is no bound."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Wire):
    """Checkpoint that was exported."""

    sha256: str
    iteration: int | None
    """Policy updates behind it; None where nobody counted."""


@dataclass(frozen=True, kw_only=True)
class Port(Wire):
    """The network's input or output."""

    name: str
    shape: tuple[int | None, ...]
    """None is the batch: any number of rows."""
    dtype: str


@dataclass(frozen=True, kw_only=True)
class Image(Wire):
    """Input of the network for one observation group of images."""

    name: str
    """Name of the input."""
    group: str
    shape: tuple[int | None, ...]
    """None is the batch; the other three in the order of `layout`."""
    dtype: str = "float32"
    layout: Literal["NCHW", "NHWC"] | None
    """`N` rows, `C` channels (of several frames one behind the other), `H` rows of pixels, `W` columns; None where it
    is not known."""
    lowest: float
    """Lowest number of the export's own rollouts; the robot's images are to be scaled as these."""
    highest: float
    """Highest of them."""

    @property
    def port(self) -> Port:
        """The input."""
        return Port(name=self.name, shape=self.shape, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class State(Wire):
    """Part of the network's memory: an output that is given back with the next observation."""

    input: str
    """Name of the input that takes it."""
    output: str
    """Name of the output that gives the next one."""
    shape: tuple[int | None, ...]
    """(layers, None, numbers): None is the batch."""
    dtype: str = "float32"
    initial: float = 0.0
    """Number that all of it is before the first observation."""
    reset: Literal["episode"] = "episode"
    """Event at which a row is `initial` again: `episode`, before the first observation of every episode."""

    @property
    def ports(self) -> tuple[Port, Port]:
        """Input and output."""
        taken, given = (Port(name=name, shape=self.shape, dtype=self.dtype) for name in (self.input, self.output))
        return taken, given


@dataclass(frozen=True, kw_only=True)
class ObservationTerm(Wire):
    """Observations that belong together. The environment's order of work: noise, clip, scale, delay, history."""

    name: str | None
    """Name; None if the environment gives none."""
    size: int
    """Numbers in it, history included."""
    slices: tuple[tuple[int, int], ...] | None
    """Columns, [start, stop); more than one if the group is laid out by time; None if it is not flat."""
    function: str | None
    """Function that computes it, `module:name`."""
    joints: tuple[str, ...] | None
    """One for each number of a sample; None where the term is not known to be of joints."""
    scale: tuple[float, ...] | None
    """Factor, one for all or one for each number of a sample; None for none."""
    clip: tuple[float, float] | None
    """Lowest and highest before the scale; None for no limit."""
    noise: dict[str, Any] | None
    """Noise added in training; None for none."""
    history_length: int
    """Samples in it, oldest first; 0 is the newest alone."""
    delay_steps: tuple[int, int] | None
    """Least and most control steps that training delayed it; None for no delay."""
    modifiers: tuple[str, ...]
    """Functions that training applied before the noise, `module:name`."""
    params: dict[str, Any] | None = field(default=None, metadata=ABSENT)
    """Parameters; `{"entity": …, "joints": …, "bodies": …}` are names in the scene, null for all."""


@dataclass(frozen=True, kw_only=True)
class ObservationGroup(Wire):
    """A group of the environment's observations."""

    name: str
    names_known: bool
    """False for a direct environment, whose observations are one unnamed block."""
    start: int | None
    """First column in the network's input; None for images, and if the network does not see it."""
    size: int
    terms: tuple[ObservationTerm, ...]
    """In order; slices count within the group."""


@dataclass(frozen=True, kw_only=True)
class ActionTerm(Wire):
    """Actions that belong together: `processed = clip(action * scale + offset)`."""

    name: str | None
    """Name; None if the environment gives none."""
    type: str | None
    """The class that applies them, `module:name`; None where there is none."""
    command: str | None
    """`position`, `velocity` or `effort` of joints, `relative position`; None where it is not known."""
    start: int
    stop: int
    """End of its columns in the network's output, [start, stop)."""
    joints: tuple[str, ...] | None
    """One for each action; None where it is not known."""
    scale: tuple[float, ...] | None
    """One for each action; None where it is not known."""
    offset: tuple[float, ...] | None
    """One for each action, in the command's unit; None where it is not known."""
    clip: tuple[Interval, ...] | None
    """Of the processed actions; None for none, and where scale or offset is not known."""
    limits: tuple[Interval, ...] | None
    """Limits on the network's output, before the scale; None for no limit."""

    @property
    def size(self) -> int:
        """Number of actions."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Statistics(Wire):
    """Statistics of the normaliser inside the network: `clip((clip_before(observation) - mean) / divisor)`."""

    mean: tuple[float, ...]
    """One for each observation."""
    divisor: tuple[float, ...]
    """One for each observation."""
    clip: float | None
    """Largest magnitude after it; None for no limit."""
    clip_before: float | None
    """Largest magnitude of an observation before it; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class Articulation(Wire):
    """A robot of the scene, as the simulator orders it."""

    name: str
    joints: tuple[str, ...]
    default_positions: tuple[float, ...] | None
    """Radians or metres, one for each joint; None where they differ between environments."""


@dataclass(frozen=True, kw_only=True)
class Drive(Wire):
    """Group of actuators: `effort = stiffness * (position - q) + damping * (velocity - qd) + effort`, limited."""

    name: str
    type: str | None
    """Class of its configuration, `module:name`."""
    joints: tuple[str, ...]
    stiffness: tuple[float, ...] | None
    """One for each joint; None where environments differ."""
    damping: tuple[float, ...] | None
    effort_limit: tuple[float | None, ...] | None
    """None within is no limit."""
    armature: tuple[float, ...] | None
    friction: tuple[float, ...] | None
    delay_steps: tuple[int, int] | None
    """Least and most steps of the simulator by which training delayed its commands; None for no delay."""


@dataclass(frozen=True, kw_only=True)
class Function(Wire):
    """Function of a manager: a reward, a termination or a reset."""

    name: str
    function: str | None
    """`module:name`."""
    params: dict[str, Any]
    """As those of an observation term."""
    weight: float | None = field(default=None, metadata=ABSENT)
    """Factor of a reward, which counts by the second."""
    time_out: bool | None = field(default=None, metadata=ABSENT)
    """Whether a termination is a time limit."""


@dataclass(frozen=True, kw_only=True)
class Simulation(Wire):
    """Simulation that the policy was trained in, as far as another simulator needs it."""

    robot: str
    """The articulation that the policy drives."""
    fixed_base: bool
    substeps: int
    """Steps of the solver in each of the simulator's."""
    episode_steps: int
    """Control steps until the time limit."""
    joint_limits: tuple[Interval, ...] | None
    """Soft limits, one for each joint of the robot; None where environments differ."""
    default_velocities: tuple[float, ...] | None
    """One for each joint of the robot."""
    drives: tuple[Drive, ...]
    rewards: tuple[Function, ...] | None
    """None where the task does not name them."""
    terminations: tuple[Function, ...] | None
    resets: tuple[Function, ...] | None
    """Events at the beginning of an episode, in order: its distribution."""


@dataclass(frozen=True, kw_only=True)
class ExportedFile(Wire):
    """One export, beside the contract."""

    format: str
    """`onnx` or `torchscript`."""
    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Contract(Wire):
    """Everything about an exported policy that its files do not say. What is not known is null, never guessed."""

    SCHEMA_VERSIONS: ClassVar[tuple[int, ...]] = SCHEMA_VERSIONS

    schema_version: int
    task: str
    """The task's registered id."""
    library: str
    """Library that trained it."""
    checkpoint: Checkpoint
    versions: dict[str, str]
    """Packages that made the export."""
    control_period_s: float
    """From one action to the next."""
    physics_dt_s: float
    """The simulator's step."""
    decimation: int
    """Simulator steps for each action."""
    input: Port | None
    """Input for vectors; None for a network that sees images alone."""
    output: Port
    observation_groups: tuple[ObservationGroup, ...]
    """Those that the network sees, in its order, and then the others."""
    actions: tuple[ActionTerm, ...]
    """In the order of the network's output."""
    normalizer: Statistics | None
    """None for a network that does not normalise."""
    articulations: tuple[Articulation, ...]
    files: tuple[ExportedFile, ...]
    images: tuple[Image, ...] | None = field(default=None, metadata=ABSENT)
    """Inputs behind `input`, in order; None for a network that sees no images."""
    states: tuple[State, ...] | None = field(default=None, metadata=ABSENT)
    """Memory, in order: inputs behind all others, outputs behind `output`; None for a network without one."""
    simulation: Simulation | None = field(default=None, metadata=ABSENT)
    """None for a scene with several robots, and for contracts before version 3."""

    @property
    def observations(self) -> int:
        """Size of the network's input for vectors."""
        return int(self.input.shape[-1] or 0) if self.input else 0

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Everything that goes in, in the order of the files."""
        vectors = (self.input,) if self.input else ()
        images = tuple(image.port for image in self.images or ())
        return (*vectors, *images, *(state.ports[0] for state in self.states or ()))

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Everything that comes out, in the order of the files."""
        return (self.output, *(state.ports[1] for state in self.states or ()))

    @property
    def seen_groups(self) -> tuple[ObservationGroup, ...]:
        """Observation groups that the network sees, in its order."""
        pictures = {image.group for image in self.images or ()}
        return tuple(each for each in self.observation_groups if each.start is not None or each.name in pictures)

    @property
    def input_terms(self) -> tuple[ObservationTerm, ...]:
        """The terms that the network sees, in order; slices count within its input."""
        return tuple(
            replace(term, slices=term.slices and tuple((a + group.start, b + group.start) for a, b in term.slices))
            for group in self.observation_groups
            if group.start is not None
            for term in group.terms
        )

    def file(self, format_: str) -> ExportedFile:
        """Return one export.

        Args:
            format_: `onnx` or `torchscript`.

        Raises:
            ValueError: If the contract has none.
        """
        for file in self.files:
            if file.format == format_:
                return file
        raise ValueError(f"The contract has no {format_!r} file; it has {[file.format for file in self.files]}.")


def write_contract(contract: Contract, folder: Path) -> None:
    """Write the contract beside its files.

    Raises:
        ValueError: If it contradicts itself.
    """
    parse_contract(contract.to_json())
    write_json(folder / CONTRACT_FILE, contract.to_json())


def read_contract(path: Path) -> Contract:
    """Read a contract.

    Raises:
        ValueError: If it is no contract, has something unknown or missing, or contradicts itself.
    """
    try:
        data = parse_json(path.read_bytes(), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ValueError(f"There is no {path.name} in {path.parent}.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        return parse_contract(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_contract(data: Any) -> Contract:
    """Return the contract in some JSON.

    Raises:
        ValueError: If it is no contract, has something unknown or missing, or contradicts itself.
    """
    check_version(data.get("schema_version") if isinstance(data, dict) else None, "contract", SCHEMA_VERSIONS)
    contract: Contract = decode(Contract, data, "contract")
    for problem in _contradictions(contract):
        raise ValueError(problem)
    return contract


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that a contract may have")


# --- sense ------------------------------------------------------------------------------------------------------------


def _contradictions(contract: Contract) -> Iterator[str]:
    """Yield contradictions, most telling first."""
    if not math.isclose(contract.control_period_s, contract.physics_dt_s * contract.decimation, rel_tol=1e-6):
        yield (
            f"control_period_s is {contract.control_period_s}, but {contract.decimation} steps of "
            f"{contract.physics_dt_s} s make {contract.physics_dt_s * contract.decimation}"
        )
    if contract.control_period_s <= 0:
        yield f"control_period_s is {contract.control_period_s}, expected more than 0"
    for port, where in ((contract.input, "input"), (contract.output, "output")):
        if port and (len(port.shape) != 2 or port.shape[0] is not None or not port.shape[1]):
            yield f"{where}.shape is {list(port.shape)}, expected [null, numbers]"
    yield from _port_contradictions(contract)
    yield from _group_contradictions(contract)
    yield from _action_contradictions(contract)
    if contract.normalizer is not None:
        for name in ("mean", "divisor"):
            yield from _length(f"normalizer.{name}", getattr(contract.normalizer, name), contract.observations)
        if not all(contract.normalizer.divisor):
            yield "normalizer.divisor has a 0"
    for file in contract.files:
        if file.name in ("", ".", "..") or re.search(r"[/\\]", file.name):
            yield f"files: {file.name!r} is not a file beside the contract"
    for digest in (contract.checkpoint.sha256, *(file.sha256 for file in contract.files)):
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            yield f"{digest!r} is not a SHA-256"


def _port_contradictions(contract: Contract) -> Iterator[str]:
    groups = {group.name: group for group in contract.observation_groups}
    for image in contract.images or ():
        where = f"image {image.name!r}"
        if len(image.shape) != 4 or image.shape[0] is not None or not all(image.shape[1:]):
            yield f"{where}: its shape is {list(image.shape)}, expected [null, three numbers]"
        elif image.group not in groups:
            yield f"{where} is of the group {image.group!r}, which is not among {list(groups)}"
        elif (size := math.prod(side or 0 for side in image.shape[1:])) != groups[image.group].size:
            yield f"{where} has {size} numbers, but its group has {groups[image.group].size}"
        if image.lowest > image.highest:
            yield f"{where}: its range [{image.lowest}, {image.highest}] is the wrong way round"
    for state in contract.states or ():
        if len(state.shape) != 3 or state.shape[1] is not None or not (state.shape[0] and state.shape[2]):
            yield f"state {state.input!r}: its shape is {list(state.shape)}, expected [layers, null, numbers]"
    for ports, where in ((contract.inputs, "inputs"), (contract.outputs, "outputs")):
        names = [port.name for port in ports]
        if not names or len(set(names)) < len(names):
            yield f"the {where} have the names {names}, expected one or more that differ"
        for port in ports:
            if port.dtype != "float32":
                yield f"{port.name!r} is of {port.dtype!r}, expected 'float32'"
    if contract.schema_version < MEMORY_VERSION and (contract.images or contract.states or not contract.input):
        yield f"schema_version is {contract.schema_version}, which has neither images nor states"
    if contract.simulation:
        yield from _simulation_contradictions(contract, contract.simulation)


def _group_contradictions(contract: Contract) -> Iterator[str]:
    start = 0
    for group in contract.observation_groups:
        where = f"observation group {group.name!r}"
        if group.start is not None:
            if group.start != start:
                yield f"{where} starts at {group.start}, but {start} numbers stand before it"
            start += group.size
        if sum(term.size for term in group.terms) != group.size:
            yield f"{where} has {group.size} numbers, but its terms have {[term.size for term in group.terms]}"
        yield from _slice_contradictions(group, where)
    if start != contract.observations:
        yield f"the network sees {contract.observations} numbers, but its observation groups have {start}"


def _slice_contradictions(group: ObservationGroup, where: str) -> Iterator[str]:
    taken: list[int] = []
    for term in group.terms:
        if term.slices is None:
            if group.start is not None:
                yield f"{where}, term {term.name!r}: the network sees it, so it needs slices"
            return
        places = [place for a, b in term.slices for place in range(a, b)]
        if len(places) != term.size:
            yield f"{where}, term {term.name!r}: slices of {len(places)} numbers, but its size is {term.size}"
        taken += places
    if sorted(taken) != list(range(group.size)):
        yield f"{where}: its slices do not cover [0, {group.size}) once"


def _action_contradictions(contract: Contract) -> Iterator[str]:
    start = 0
    for term in contract.actions:
        where = f"action term {term.name!r}"
        if term.start != start or term.stop <= term.start:
            yield f"{where} stands at [{term.start}, {term.stop}), but {start} actions stand before it"
        start = term.stop
        for name in ("joints", "scale", "offset", "clip", "limits"):
            yield from _length(f"{where}: {name}", getattr(term, name), term.size)
        for low, high in (*(term.clip or ()), *(term.limits or ())):
            if low is not None and high is not None and low > high:
                yield f"{where}: the bounds [{low}, {high}] are the wrong way round"
    if start != contract.output.shape[-1]:
        yield f"the network gives {contract.output.shape[-1]} actions, but its action terms have {start}"


def _simulation_contradictions(contract: Contract, told: Simulation) -> Iterator[str]:
    if contract.schema_version < SCHEMA_VERSION:
        yield f"schema_version is {contract.schema_version}, which has no simulation"
    robots = {robot.name: robot for robot in contract.articulations}
    if told.robot not in robots:
        yield f"simulation.robot is {told.robot!r}, which is not among {list(robots)}"
        return
    joints = robots[told.robot].joints
    for name in ("joint_limits", "default_velocities"):
        yield from _length(f"simulation.{name}", getattr(told, name), len(joints))
    for drive in told.drives:
        where = f"drive {drive.name!r}"
        if strange := [joint for joint in drive.joints if joint not in joints]:
            yield f"{where} has the joint {strange[0]!r}, which the robot has not"
        for name in ("stiffness", "damping", "effort_limit", "armature", "friction"):
            yield from _length(f"{where}: {name}", getattr(drive, name), len(drive.joints))
    if told.substeps < 1 or told.episode_steps < 1:
        yield f"simulation has {told.substeps} substeps and episodes of {told.episode_steps} steps, expected 1 or more"


def _length(where: str, values: tuple[Any, ...] | None, expected: int) -> Iterator[str]:
    if values is not None and len(values) != expected:
        yield f"{where} has {len(values)} values, expected {expected}"
