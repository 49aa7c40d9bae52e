"""A robot's URDF as its format means it, where Newton takes it otherwise or says nothing.

- A joint that is `continuous` has no limits, whatever its `limit` says.
- A link without an inertial element has no mass, unless a joint would then move none (`reading.py`).
- One tree: every link but one is the child of one joint.
- `velocity` is recorded; no solver of Newton's holds it.
- **Names** are the file's. Newton and its labels have trouble with dashes, slashes and quotes, so that the copy which
  it reads has `_` for them, once more where that would make two the same.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.runner.assets.safe_xml import bad_xml
from simyard.runner.newton.reading import UNLIMITED, Reading, listed, set_limits

_TYPES = ("revolute", "continuous", "prismatic", "fixed", "floating", "planar")
_WITH_AXIS = ("revolute", "continuous", "prismatic", "planar")
_HELD = 1e-5
"""Radians or metres that a joint has whose limits are the same."""
_NUMBERS = {
    ("origin", "xyz"): 3,
    ("origin", "rpy"): 3,
    ("axis", "xyz"): 3,
    ("mass", "value"): 1,
    **{("inertia", name): 1 for name in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz")},
    **{("limit", name): 1 for name in ("lower", "upper", "effort", "velocity")},
    **{("dynamics", name): 1 for name in ("damping", "friction")},
    **{("mimic", name): 1 for name in ("multiplier", "offset")},
    ("box", "size"): 3,
    ("mesh", "scale"): 3,
    ("sphere", "radius"): 1,
    **{(shape, size): 1 for shape in ("cylinder", "capsule") for size in ("radius", "length")},
}
"""How many numbers each attribute of a link or a joint has."""


@dataclass(frozen=True, kw_only=True)
class Tidied:
    """A URDF that was looked through."""

    copy: Path
    """The file that Newton reads, beside the original."""
    links: Mapping[str, str]
    """The file's name of each link, by its name in the copy."""
    joints: Mapping[str, str]
    """The file's name of each joint, by its name in the copy."""
    unlimited: frozenset[str]
    """Joints of the copy without limits."""
    speeds: Mapping[str, float]
    """The largest velocity of joints of the copy, where the file has one."""
    massless: frozenset[str]
    """Links of the copy of which the file says no mass."""
    notes: tuple[str, ...]
    """Sentences on what was read otherwise than it is written."""


def tidy_urdf(path: Path) -> Tidied:
    """Look through a file, and write the copy for Newton.

    Raises:
        RequestError: If it is no robot's tree, or a number in it cannot be.
    """
    try:
        tree = ET.parse(path)
    except ET.ParseError as error:  # it minds namespaces
        raise bad_xml(path, f"is not well-formed XML: {error}") from error
    root = tree.getroot()
    links, joints = root.findall("link"), root.findall("joint")
    for part, found in (("link", links), ("joint", joints)):
        for written, count in Counter(element.get("name") for element in found).items():
            if not written:
                raise _wrong(path, f"has a {part} without a name", f"Name every {part}.")
            if count > 1:
                advice = f"Give each {part} a name of its own."
                raise _wrong(path, f"has {count} {part}s of the name {written!r}", advice)
    _check_numbers(path, links, joints)
    _check_tree(path, links, joints)

    # Each joint.
    names = {joint.get("name") for joint in joints if joint.get("type") != "fixed"}
    unlimited, speeds, notes, endless = set[str](), dict[str, float](), list[str](), list[str]()
    for joint in joints:
        label, kind, limit = joint.get("name", ""), joint.get("type"), joint.find("limit")
        low, high = ((limit.get(side) if limit is not None else None) for side in ("lower", "upper"))
        if kind in ("revolute", "prismatic") and low is None and high is None:
            endless.append(label)
            unlimited.add(label)
        elif kind in ("revolute", "prismatic") and limit is not None:
            for side in ("lower", "upper"):
                limit.set(side, limit.get(side, "0"))  # the format's default
            if float(limit.get("lower", "0")) == (only := float(limit.get("upper", "0"))):  # the engine needs a range
                limit.set("upper", repr(only + _HELD))
                notes.append(f"joint {label!r} is held where it is: both its limits are {only:g}")
        if kind == "continuous":
            unlimited.add(label)
            if low is not None or high is not None:
                notes.append(f"joint {label!r} is continuous, so that its limits {low} to {high} mean nothing")
        mimic = joint.find("mimic")
        if mimic is not None and mimic.get("joint") not in names:
            leader = mimic.get("joint")
            notes.append(f"joint {label!r} mimics {leader!r}, which is none that moves, so that it moves by itself")
            joint.remove(mimic)
        if limit is not None and kind != "fixed" and 0 < float(limit.get("velocity") or 0) < UNLIMITED:
            speeds[label] = float(limit.get("velocity") or 0)
    if endless:
        notes.append(f"joints that turn or slide without limits, since the file has none: {listed(map(repr, endless))}")
    if speeds:
        texts = (f"{name!r} {speed:g}" for name, speed in speeds.items())
        notes.append(f"limits of velocity are not enforced, in rad/s or m/s: {listed(texts)}")
    massless = {
        link.get("name", "") for link in links if (own := link.find("inertial")) is None or own.find("mass") is None
    }

    # The copy, with names that Newton keeps.
    new_links, new_joints = (_plain(element.get("name", "") for element in found) for found in (links, joints))
    for link in links:
        link.set("name", new_links[link.get("name", "")])
    for joint in joints:
        joint.set("name", new_joints[joint.get("name", "")])
        for end in ("parent", "child"):
            if (holder := joint.find(end)) is not None:
                holder.set("link", new_links[holder.get("link", "")])
        if (mimic := joint.find("mimic")) is not None:
            mimic.set("joint", new_joints[mimic.get("joint", "")])
    copy = path.with_name(f".{path.stem}.tidied.urdf")
    tree.write(copy, encoding="utf-8", xml_declaration=True)
    return Tidied(
        copy=copy,
        links={new: old for old, new in new_links.items()},
        joints={new: old for old, new in new_joints.items()},
        unlimited=frozenset(new_joints[name] for name in unlimited),
        speeds={new_joints[name]: speed for name, speed in speeds.items()},
        massless=frozenset(new_links[name] for name in massless),
        notes=tuple(notes),
    )


def _plain(names: Iterable[str]) -> dict[str, str]:
    """Return a name that Newton keeps for each name, the same one where it can be."""
    new: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(names, key=lambda name: bool(re.search(r"[-/'\"\[\]]", name))):  # those that stay come first
        plain = re.sub(r"[-/'\"\[\]]", "_", name)
        while plain in taken:
            plain += "_"
        taken.add(plain)
        new[name] = plain
    return new


def _check_numbers(path: Path, links: Iterable[ET.Element], joints: Iterable[ET.Element]) -> None:
    """Refuse numbers that are none, an axis without a direction, and limits in the wrong order."""
    for part in (*links, *joints):
        where = f"{part.tag} {part.get('name')!r}"
        for element in part.iter():
            for key, text in element.attrib.items():
                count = _NUMBERS.get((element.tag, key))
                if count is None:
                    continue
                try:
                    numbers = [float(word) for word in text.split()]
                except ValueError:
                    numbers = []
                if len(numbers) != count or not all(map(math.isfinite, numbers)):
                    wanted = "one number" if count == 1 else f"{count} numbers with spaces between them"
                    raise _wrong(path, f"has {key}={text!r} in <{element.tag}> of {where}", f"Allowed: {wanted}.")
    for joint in joints:
        name, kind = joint.get("name"), joint.get("type")
        if kind not in _TYPES:
            raise unknown(f"type of joint {name!r} in {path.name!r}:", str(kind), _TYPES, code="asset_unreadable")
        axis = joint.find("axis")
        if kind in _WITH_AXIS and axis is not None and not any(map(float, axis.get("xyz", "1 0 0").split())):
            raise _wrong(
                path, f"has the axis {axis.get('xyz')!r} in joint {name!r}", "Allowed: any but zero: 0 0 1, say."
            )
        limit = joint.find("limit")
        if kind in ("revolute", "prismatic") and limit is not None:
            low, high = (float(limit.get(side) or 0) for side in ("lower", "upper"))
            if low > high:
                raise _wrong(
                    path,
                    f"has lower={low:g} and upper={high:g} in the limits of joint {name!r}",
                    "Allowed: lower up to upper. Exchange them; a joint without limits is of the type continuous.",
                )


def _check_tree(path: Path, links: Iterable[ET.Element], joints: Iterable[ET.Element]) -> None:
    """Refuse joints that lead nowhere, and links that are not one tree."""
    names = [link.get("name", "") for link in links]
    above: dict[str, str] = {}
    for joint in joints:
        ends = []
        for end in ("parent", "child"):
            found = joint.find(end)
            ends.append(found.get("link", "") if found is not None else "")
            if ends[-1] not in names:
                what = f"{end} link of joint {joint.get('name')!r} in {path.name!r}:"
                raise unknown(what, ends[-1], names, code="asset_unreadable")
        if ends[1] in above:
            raise _wrong(
                path,
                f"has two joints above link {ends[1]!r}: to {above[ends[1]]!r} and to {ends[0]!r}",
                "A URDF is one tree, without loops: leave one of them out, or send an MJCF, which has equalities.",
            )
        above[ends[1]] = ends[0]
    roots = [name for name in names if name not in above]
    if len(roots) > 1:
        raise _wrong(
            path,
            f"has {len(roots)} links that no joint holds: {listed(map(repr, roots))}",
            "A URDF is one tree: join them with joints of the type fixed, or leave all but one out.",
        )
    reached = set(roots)
    for _ in names:
        reached |= {child for child, parent in above.items() if parent in reached}
    if lost := [name for name in names if name not in reached]:
        advice = "A URDF is one tree: leave out the joint that leads back."
        raise _wrong(path, f"has joints in a circle, at link {lost[0]!r}", advice)


def _wrong(path: Path, what: str, advice: str) -> RequestError:
    return RequestError(f"{path.name!r} {what}.", code="asset_unreadable", advice=advice)


def apply(builder: Any, tidied: Tidied, bodies: range, joints: range) -> Reading:
    """Give Newton's world what the file says and Newton does not take from it.

    Args:
        builder: The world's `newton.ModelBuilder`, which has read the copy.
        tidied: The file as it was read here.
        bodies: The bodies that came of it.
        joints: The joints that came of it.
    """
    body_names = {body: builder.body_label[body].rpartition("/")[2] for body in bodies}
    names, speeds = dict[int, list[str]](), dict[int, float]()
    for joint in joints:
        copied = builder.joint_label[joint].rpartition("/")[2]
        first = builder.joint_qd_start[joint]
        linear, angular = builder.joint_dof_dim[joint]
        if copied not in tidied.joints:
            continue  # the base's
        name = tidied.joints[copied]
        names[joint] = [name] if linear + angular == 1 else [f"{name}:{axis}" for axis in range(linear + angular)]
        for dof in range(first, first + linear + angular):
            # A joint's own damping is no drive's, which no URDF has; an effort of 0 means that none was written.
            builder.joint_damping[dof], builder.joint_target_kd[dof] = builder.joint_target_kd[dof], 0.0
            if builder.joint_effort_limit[dof] <= 0:
                builder.joint_effort_limit[dof] = UNLIMITED
            if copied in tidied.unlimited:
                set_limits(builder, dof, None)
            if copied in tidied.speeds:
                speeds[dof] = tidied.speeds[copied]
    return Reading(
        bodies={body: tidied.links[name] for body, name in body_names.items()},
        joints=names,
        massless=frozenset(body for body, name in body_names.items() if name in tidied.massless),
        speeds=speeds,
        notes=tidied.notes,
    )
