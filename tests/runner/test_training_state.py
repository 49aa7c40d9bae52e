"""The state of a training: found on plain objects, written, read as a stranger's file, and put back where it was."""

import collections
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warp

from simyard.runner.isaaclab.generators import generator_state, random_state, set_random
from simyard.runner.isaaclab.state_file import Kept, StateError, read, write
from simyard.runner.isaaclab.state_places import bytes_of, differing, entries_of, put_back
from simyard.runner.isaaclab.state_walk import walk


class Robot:
    """Holds memory of a simulation, as an asset does."""

    def __init__(self) -> None:
        self.joints = warp.zeros((3, 2), dtype=warp.float32, device="cpu")
        self.velocities = warp.to_torch(self.joints)[:, 1]
        self.name = "robot"


class World:
    """What a small environment holds."""

    def __init__(self) -> None:
        self.robot = Robot()
        self.pole = self.robot.velocities
        self.sums = {"alive": torch.zeros(3), "tilt/rate": torch.zeros(3)}
        self.lengths = torch.zeros(3, dtype=torch.long)
        self.done = torch.zeros(3, dtype=torch.bool)
        self.history = collections.deque([1.5], maxlen=4)
        self.levels = (0, 0)
        self.changes = {1}
        self.counter = 0
        self.generator = np.random.default_rng(1)
        self.cfg = WorldCfg()
        self.loop = self

    def step(self) -> None:
        """Change everything, as a step does."""
        self.robot.velocities += 0.25
        self.sums["alive"] += 1.0
        self.lengths += 1
        self.done = self.lengths > 0  # a new tensor in each step
        self.reward = torch.full((3,), 0.1 * self.counter)
        self.history.append(float(self.counter))
        self.levels = (self.counter, 1)
        self.changes.add(self.counter)
        self.counter += 1
        self.cfg.weight = 0.5
        self.generator.normal()


class WorldCfg:
    """What a request says; a curriculum changes it."""

    def __init__(self) -> None:
        self.weight = 1.0


def fresh_numbers(world: World) -> dict[str, Any]:
    return {path: number.value for path, number in walk([("env", world)]).numbers.items()}


def kept_of(world: World, fresh: dict[str, Any]) -> Kept:
    found = walk([("env", world)])
    numbers = {
        path: [fresh.get(path), number.value]
        for path, number in found.numbers.items()
        if fresh.get(path) != number.value
    }
    generators = {path: generator_state(one) for path, one in found.generators.items()}
    head = {"identity": {}, "numbers": numbers, "unchanged": {}, "generators": generators, "random": random_state()}
    return Kept(head, [(bytes_of(region), entries_of(region)) for region in found.regions()])


@pytest.fixture
def stepped(tmp_path: Path) -> tuple[World, Kept, Path]:
    """A world after some steps, its state, and the file of it."""
    world = World()
    fresh = fresh_numbers(world)
    for _ in range(3):
        world.step()
    kept = kept_of(world, fresh)
    file = tmp_path / "model_3.pt.state"
    write(file, kept)
    return world, kept, file


def test_another_world_goes_on_as_the_first(stepped: tuple[World, Kept, Path]):
    world, _, file = stepped
    other = World()
    fresh, velocities = fresh_numbers(other), other.robot.velocities
    kept = read(file)
    assert put_back(walk([("env", other)]), kept, fresh, None) == []
    assert differing(walk([("env", other)]), kept) == []
    assert other.robot.velocities is velocities, "what others have the address of stays where it is"
    for one in (world, other):
        one.step()
    assert torch.equal(other.pole, world.pole)
    assert other.pole.data_ptr() == other.robot.joints.ptr + 4, "views still see the memory"
    assert torch.equal(other.reward, world.reward)
    assert (other.history, other.levels, other.changes) == (world.history, world.levels, world.changes)
    assert other.history.maxlen == 4
    assert other.generator.normal() == world.generator.normal()
    assert other.cfg.weight == 0.5


def test_a_number_of_the_configuration_is_the_requests_where_it_says_another(stepped: tuple[World, Kept, Path]):
    other = World()
    other.cfg.weight = 2.0
    assert put_back(walk([("env", other)]), stepped[1], fresh_numbers(other), None) == ["env.cfg.weight"]
    assert other.cfg.weight == 2.0
    assert other.counter == 3


def test_the_processs_generators_go_on():
    state = json.loads(json.dumps(random_state()))
    first = random.random(), float(np.random.rand()), torch.rand(2).tolist()
    set_random(state)
    assert (random.random(), float(np.random.rand()), torch.rand(2).tolist()) == first


def test_what_cannot_be_read_is_named():
    world = World()
    world.robot.steps = iter(range(3))  # type: ignore[attr-defined]
    assert walk([("env", world)]).out_of_reach == ["env.robot.steps"]


def test_addresses_of_this_process_are_no_state():
    holder = {"mesh": warp.zeros(2, dtype=warp.uint64, device="cpu"), "wide": np.zeros(2, dtype=np.uint64)}
    assert walk([("env", holder)]).arrays == {}


def test_an_array_of_another_shape_has_no_place(stepped: tuple[World, Kept, Path]):
    other = World()
    other.robot.joints = warp.zeros((4, 2), dtype=warp.float32, device="cpu")
    other.robot.velocities = other.pole = warp.to_torch(other.robot.joints)[:, 1]
    assert "env.robot.joints" in put_back(walk([("env", other)]), stepped[1], fresh_numbers(other), None)


# --- a hostile file ---------------------------------------------------------------------------------------------------


def rewritten(file: Path, *, head: Any = None, data: bytes | None = None, more: dict[str, bytes] | None = None) -> None:
    """Write the archive again with another header, other bytes or further members."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if head is not None:
        members["state.json"] = head if isinstance(head, bytes) else json.dumps(head).encode()
    if data is not None:
        members["arrays.bin"] = data
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, **(more or {})}.items():
            archive.writestr(name, content)


def head_of(file: Path) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        return dict(json.loads(archive.read("state.json")))


HOSTILE = {
    "truncated": (lambda file: file.write_bytes(file.read_bytes()[:-100]), "is no whole zip archive"),
    "empty": (lambda file: file.write_bytes(b""), "is no whole zip archive"),
    "another member": (lambda file: rewritten(file, more={"../../x": b""}), "has the members"),
    "no JSON": (lambda file: rewritten(file, head=b"\x80\x04."), "has a header that is no JSON"),
    "deep JSON": (lambda file: rewritten(file, head=b"[" * 10_000), "has a header that is no JSON"),
    "huge header": (lambda file: rewritten(file, head=b" " * ((32 << 20) + 1)), "allowed are 33,554,432"),
    "version": (lambda file: rewritten(file, head=head_of(file) | {"version": 9}), "is of version 9; this simyard"),
    "no generators": (lambda file: rewritten(file, head=head_of(file) | {"random": 1}), "has no 'random'"),
    "fewer bytes": (lambda file: rewritten(file, data=b"x"), "where its header lists"),
    "more bytes": (lambda file: rewritten(file, data=bytes(10_000)), "has more in 'arrays.bin'"),
    "negative size": (lambda file: rewritten(file, head=head_of(file) | {"regions": [[-1, []]]}), "lists more than"),
    "other form": (lambda file: rewritten(file, head=head_of(file) | {"regions": [[1]]}), "in another form"),
}


@pytest.mark.parametrize("case", list(HOSTILE))
def test_a_damaged_or_hostile_file_is_refused(stepped: tuple[World, Kept, Path], case: str):
    damage, said = HOSTILE[case]
    damage(stepped[2])
    with pytest.raises(StateError, match=said):
        read(stepped[2])


def poisoned(kept: Kept, path: str, value: bytes) -> Kept:
    """Return a state with other bytes at the beginning of an array."""
    regions = []
    for data, entries in kept.regions:
        for entry in entries:
            if entry.path == path:
                data = data[: entry.offset] + value + data[entry.offset + len(value) :]
        regions.append((data, entries))
    return Kept(kept.head, regions)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda kept: poisoned(kept, "env.sums.alive", np.float32("nan").tobytes()), "has NaN in 'env.sums.alive'"),
        (lambda kept: poisoned(kept, "env.done", b"\x07"), "other values than true and false in 'env.done'"),
        (lambda kept: kept.head["numbers"].update({"env.counter": [0, "os.system"]}), "has no number in 'env.counter'"),
        (lambda kept: kept.head["numbers"].update({"env.counter": [0, float("nan")]}), "has no number"),
        (lambda kept: kept.head["numbers"].update({"env.counter": 3}), "has no number"),
        (
            lambda kept: kept.head["generators"].update({"env.generator": {"bit_generator": "x"}}),
            "no state of a random",
        ),
        (
            lambda kept: Kept(kept.head, [(data[:-1], entries) for data, entries in kept.regions]),
            "lists 'env[^ ]*' beyond its memory|in another form",  # by where the memory of its arrays lies
        ),
    ],
    ids=["NaN", "truth", "text", "NaN number", "no pair", "generator", "beyond"],
)
def test_values_that_no_training_saves_are_refused(stepped: tuple[World, Kept, Path], change: Any, said: str):
    kept = change(stepped[1]) or stepped[1]
    other = World()
    with pytest.raises(StateError, match=said):
        put_back(walk([("env", other)]), kept, fresh_numbers(other), None)


@pytest.mark.parametrize("path", ["env.__class__", "env.robot.__dict__", "os.environ", "env.nobody.x", "env.cfg"])
def test_a_name_that_is_not_the_environments_leads_nowhere(stepped: tuple[World, Kept, Path], path: str):
    other = World()
    before = type(other), other.cfg
    stepped[1].head["numbers"][path] = [0, 1]
    assert path in put_back(walk([("env", other)]), stepped[1], fresh_numbers(other), None)
    assert (type(other), other.cfg) == before
