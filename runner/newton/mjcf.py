"""A robot's MJCF as MuJoCo compiles it: its masses, limits, gains, names and first pose.

MuJoCo itself reads the file (includes, defaults, frames, attached models), and Newton gets a copy with all of that
written out. What the copy cannot hold, such as a total mass that is set, is taken from the compiled model.

- **Motors.** Where the file has actuators, the joints that one moves, by itself or through a tendon, have a motor; of
  two that an equality couples the leading one has both motors. All other joints are passive. A servo gives its gains,
  and every actuator its largest force.
- **First pose.** The keyframe `home`, else the first one, else zero.
- **Options** of a simulation (solver, time step, flags) are left out; those of the surrounding medium, the friction
  cone and `impratio` stay.
- **Names** are the file's. Newton writes `_` for `-`, so the copy has other names where that would make two the same.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simyard.core.errors import RequestError
from simyard.runner.newton.reading import LEAST_KG, LEAST_KG_M2, Reading, listed, set_inertia, set_limits, unreadable

_OPTIONS = ("impratio", "cone", "density", "viscosity", "wind")
"""Attributes of `option` that say something of the robot or its surroundings."""
_NOT_OURS = ("actuator", "sensor", "keyframe", "custom", "visual", "statistic", "size", "extension")
"""Sections that the copy goes without: motors are set here, and nothing reads the others."""
_TO_NAMES = re.compile(r"(name|target|joint(1|2|inparent)?|(body|geom|site|tendon)[12]?|mesh|material|texture|hfield)")
"""Attributes whose value is a name."""
_FREE, _BALL, _SLIDE, _HINGE = range(4)
"""MuJoCo's types of joints."""
_OF_JOINTS = (0, 1, 2, 3)
"""MuJoCo's transmissions to a joint, to one in its parent's frame, by slider and crank, and by a tendon."""
_NO_MOMENT = 1e-6
_HOME = "home"
_SAME_POINT_M = 1e-9
_LEAST_INERTIA = f"{LEAST_KG_M2} {LEAST_KG_M2} {LEAST_KG_M2}"
_SAME_PLACE_M = 1e-3
"""Distance below which two places are the same: the copy's numbers have six digits."""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """An MJCF as MuJoCo compiled it."""

    model: Any
    """The `mujoco.MjModel`, of which every body and joint has a name."""
    copy: Path
    """The file that Newton reads, beside the original."""
    layout: tuple[tuple[int | None, list[int]], ...]
    """Of each body of the copy: the model's body, None for one that only carries a joint, and the model's joints."""
    notes: tuple[str, ...]
    """Sentences on what was left out."""


def compile_mjcf(path: Path, *, fix_base: bool | None) -> Compiled:
    """Compile a file, and write the copy for Newton.

    Args:
        path: The file.
        fix_base: Whether its base is fixed; None leaves it to the file.

    Raises:
        RequestError: If MuJoCo does not take it, with its own words for the element.
    """
    import mujoco

    notes: list[str] = []
    try:
        spec = mujoco.MjSpec.from_file(str(path))
        _name_all(spec)
        for sensor in list(spec.sensors):
            spec.delete(sensor)
        spec.compiler.saveinertial = True
        try:
            model = spec.compile()
        except ValueError as error:
            if not re.search(r"textur|png|ktx", str(error), re.IGNORECASE):
                raise
            # Looks refuse no robot.
            notes.append(f"no textures: {' '.join(str(error).split())[:200]}")
            for texture in list(spec.textures):
                spec.delete(texture)
            for material in spec.materials:
                material.textures = [""] * len(material.textures)
            model = spec.compile()
        if _untie_tendons(spec, model):
            model = spec.compile()
        root = ET.fromstring(spec.to_xml())
    except (ValueError, RuntimeError, UnicodeError) as error:
        raise unreadable(path, error) from error

    # The copy: without what is not the robot's.
    options = dict[str, str]()
    for option in root.findall("option"):
        options |= {key: value for key, value in option.attrib.items() if key not in _OPTIONS}
        options |= {f"flag {key}": value for flag in option for key, value in flag.attrib.items()}
        for key in [key for key in option.attrib if key not in _OPTIONS]:
            del option.attrib[key]
        for child in list(option):
            option.remove(child)
    if options:
        notes.append(
            "simulation options of the file are not used: " + listed(f"{key} = {text}" for key, text in options.items())
        )
    for section in [child for child in root if child.tag in _NOT_OURS]:
        root.remove(section)
    notes += _take_out_references(root, model)
    layout = _lay_out(root, model, fix_base)
    _rename(root)
    copy = path.with_name(f".{path.stem}.compiled.xml")
    ET.ElementTree(root).write(copy, encoding="utf-8", xml_declaration=True)
    return Compiled(model=model, copy=copy, layout=tuple(layout), notes=tuple(notes))


def _name_all(spec: Any) -> None:
    """Name bodies and joints that have no name, as Newton would."""
    bodies, joints = ({each.name for each in kind if each.name} for kind in (spec.bodies, spec.joints))

    def unused(name: str, taken: set[str]) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    for index, body in enumerate(spec.bodies):
        if not body.name:
            body.name = unused(f"body_{index - 1}", bodies)
        for number, joint in enumerate(body.joints):
            if not joint.name:
                free = joint.type == _FREE
                joint.name = unused(f"{body.name}_freejoint" if free else f"{body.name}_joint_{number}", joints)


def _untie_tendons(spec: Any, model: Any) -> bool:
    """Write equalities of tendons of two joints as such of the joints, which Newton has; tell if there were any."""
    import mujoco

    ties = list(spec.equalities)
    found = False
    for row in range(model.neq):
        if model.eq_type[row] != int(mujoco.mjtEq.mjEQ_TENDON) or model.eq_obj2id[row] >= 0:
            continue
        tendon = int(model.eq_obj1id[row])
        wraps = [int(model.tendon_adr[tendon]) + index for index in range(int(model.tendon_num[tendon]))]
        if len(wraps) != 2 or any(model.wrap_type[wrap] != int(mujoco.mjtWrap.mjWRAP_JOINT) for wrap in wraps):
            continue
        first, second = (float(model.wrap_prm[wrap]) for wrap in wraps)
        if not first:
            continue
        names = [model.joint(int(model.wrap_objid[wrap])).name for wrap in wraps]
        spec.add_equality(
            type=mujoco.mjtEq.mjEQ_JOINT,
            objtype=mujoco.mjtObj.mjOBJ_JOINT,
            name1=names[0],
            name2=names[1],
            data=[float(model.eq_data[row][0]) / first, -second / first, *[0.0] * 9],
            solref=ties[row].solref,
            solimp=ties[row].solimp,
            active=ties[row].active,
        )
        spec.delete(ties[row])
        found = True
    return found


def _take_out_references(root: ET.Element, model: Any) -> list[str]:
    """Turn and move bodies so that coordinates count from 0: Newton's would count from a joint's `ref`.

    Returns:
        A note on the joints where that cannot be done.
    """
    import mujoco
    import numpy as np

    kept: list[str] = []
    loops = np.isin(
        model.eq_type, (int(mujoco.mjtEq.mjEQ_CONNECT), int(mujoco.mjtEq.mjEQ_WELD))
    ).any()  # they begin at `ref`
    bodies = (element for world in root.findall("worldbody") for element in world.iter("body"))
    for body, element in enumerate(bodies, start=1):
        place, turn = model.body_pos[body].copy(), model.body_quat[body].copy()
        kinds: list[int] = []
        for index, joint in enumerate(child for child in element if child.tag in ("joint", "freejoint")):
            each = int(model.body_jntadr[body]) + index
            kinds.append(int(model.jnt_type[each]))
            reference = float(model.qpos0[model.jnt_qposadr[each]]) if kinds[-1] in (_SLIDE, _HINGE) else 0.0
            if not reference:
                continue
            back, axis, moved = np.zeros(4), model.jnt_axis[each], np.zeros(3)
            if not loops and set(kinds) == {_SLIDE}:
                mujoco.mju_rotVecQuat(moved, -reference * axis, turn)
            elif not loops and kinds == [_HINGE]:
                mujoco.mju_axisAngle2Quat(back, axis, -reference)
                mujoco.mju_rotVecQuat(moved, model.jnt_pos[each], back)
                mujoco.mju_rotVecQuat(moved, model.jnt_pos[each] - moved, turn)
                mujoco.mju_mulQuat(turn, turn.copy(), back)
            else:
                kept.append(f"{model.joint(each).name!r} {reference:.4g}")
                continue
            place += moved
            joint.set("ref", "0")
            element.set("pos", " ".join(map(repr, place.tolist())))
            element.set("quat", " ".join(map(repr, turn.tolist())))
    return [f"positions are counted from the file's pose, not from ref: {listed(kept)}"] if kept else []


def _lay_out(root: ET.Element, model: Any, fix_base: bool | None) -> list[tuple[int | None, list[int]]]:
    """Give a joint a body of its own where Newton's one joint of a body's joints would not do what they do.

    That one joint slides before it turns, about one point, and nothing can be coupled with one of its axes.

    Returns:
        The layout of the copy.
    """
    import mujoco
    import numpy as np

    joint_wraps = model.wrap_type == int(mujoco.mjtWrap.mjWRAP_JOINT)
    joint_ties = model.eq_type == int(mujoco.mjtEq.mjEQ_JOINT)
    coupled = {*model.wrap_objid[joint_wraps], *model.eq_obj1id[joint_ties], *model.eq_obj2id[joint_ties]}
    layout: list[tuple[int | None, list[int]]] = []
    bodies = iter(range(1, model.nbody))

    def visit(holder: ET.Element, keep: bool) -> None:
        for element in [child for child in holder if child.tag == "body"]:
            body = next(bodies)
            joints = [child for child in element if child.tag in ("joint", "freejoint")]
            own = [int(model.body_jntadr[body]) + index for index in range(len(joints))]
            kinds, places = [int(model.jnt_type[joint]) for joint in own], model.jnt_pos[own]
            apart = any(
                np.abs(places[at] - places[0]).max() > _SAME_POINT_M for at, kind in enumerate(kinds) if kind == _HINGE
            )
            if keep or len(own) < 2 or not (apart or kinds != sorted(kinds) or _BALL in kinds or coupled & set(own)):
                layout.append((body, own))
                visit(element, keep=False)
                continue
            at, inside = list(holder).index(element), holder
            holder.remove(element)
            for number, joint in enumerate(joints[:-1]):
                element.remove(joint)
                shell = ET.Element("body", {"name": f"{element.get('name')}@{number}"})
                for key in ("pos", "quat", "childclass") if inside is holder else ():
                    if key in element.attrib:
                        shell.set(key, element.attrib[key] if key == "childclass" else element.attrib.pop(key))
                ET.SubElement(shell, "inertial", {"pos": "0 0 0", "mass": f"{LEAST_KG}", "diaginertia": _LEAST_INERTIA})
                shell.append(joint)
                inside.insert(at if inside is holder else len(inside), shell)
                inside = shell
                layout.append((None, [own[number]]))
            inside.append(element)
            layout.append((body, own[-1:]))
            visit(element, keep=False)

    for world in root.findall("worldbody"):
        visit(world, keep=fix_base is not None)
    return layout


def _rename(root: ET.Element) -> None:
    """Take the dashes out of names, and out of what refers to them."""
    named = {element.get("name", "") for element in root.iter()}
    new: dict[str, str] = {}
    for name in sorted(name for name in named if "-" in name):
        new[name] = name.replace("-", "_")
        while new[name] in named:
            new[name] += "_"
        named.add(new[name])
    for element in root.iter():
        for key, text in element.attrib.items():
            if text in new and _TO_NAMES.fullmatch(key):
                element.set(key, new[text])


def apply(builder: Any, path: Path, compiled: Compiled, bodies: range, joints: range, pose: Any) -> Reading:
    """Give Newton's world what MuJoCo found.

    Args:
        builder: The world's `newton.ModelBuilder`, which has read the copy.
        path: The robot's file, for messages.
        compiled: The file as compiled.
        bodies: The bodies that came of it.
        joints: The joints that came of it.
        pose: Where the robot's frame is, a warp transform.

    Raises:
        RequestError: If Newton made other bodies of it.
    """
    import mujoco
    import numpy as np
    from newton import JointType

    model = compiled.model
    if len(bodies) != len(compiled.layout):
        raise RequestError(
            f"{path.name!r} has {len(compiled.layout)} bodies, of which Newton reads {len(bodies)}.",
            code="asset_unreadable",
            advice="Leave out bodies that are no rigid ones: composites, flexes and plugins are not simulated.",
        )
    named = {index: body for index, (body, _) in zip(bodies, compiled.layout, strict=True) if body is not None}
    for index, body in named.items():
        axes = np.zeros(9)
        mujoco.mju_quat2Mat(axes, model.body_iquat[body])
        turned = axes.reshape(3, 3)
        inertia = turned @ np.diag(model.body_inertia[body]) @ turned.T
        set_inertia(builder, index, float(model.body_mass[body]), model.body_ipos[body], inertia)

    # Newton has one joint a body, with the axes that slide before those that turn.
    names: dict[int, list[str]] = {}
    places: dict[int, tuple[int, int]] = {}
    for joint in joints:
        kind, own = builder.joint_type[joint], [*compiled.layout[builder.joint_child[joint] - bodies.start][1]]
        if builder.joint_articulation[joint] < 0 or kind == JointType.FIXED or not own:
            continue  # a loop's, or a base that is fixed or freed by the request
        own.sort(key=lambda each: model.jnt_type[each] != _SLIDE)
        q, dof = builder.joint_q_start[joint], builder.joint_qd_start[joint]
        whole = model.jnt_type[own[0]] in (_FREE, _BALL)
        if (kind in (JointType.FREE, JointType.BALL)) != whole:
            continue
        names[joint] = [model.joint(each).name for each in own]
        places |= {each: (q + axis, dof + axis) for axis, each in enumerate(own)}

    for each, (_, dof) in places.items():
        if model.jnt_type[each] in (_HINGE, _SLIDE):
            low, high = (float(bound) for bound in model.jnt_range[each])
            set_limits(builder, dof, (low, high) if model.jnt_limited[each] else None)
            builder.joint_armature[dof] = float(model.dof_armature[model.jnt_dofadr[each]])
    qpos, home = _first_pose(model)
    motors, motor_notes = _set_motors(builder, model, {each: dof for each, (_, dof) in places.items()}, qpos)
    _take_pose(builder, model, {each: q for each, (q, _) in places.items()}, qpos, pose)
    return Reading(
        bodies={index: model.body(body).name for index, body in named.items()},
        joints=names,
        motors=motors,
        compare=partial(differences, compiled, named, {each: q for each, (q, _) in places.items()}),
        notes=(*compiled.notes, *motor_notes, home),
    )


def _set_motors(builder: Any, model: Any, dofs: Mapping[int, int], qpos: Any) -> tuple[frozenset[int], list[str]]:
    """Set gains and largest forces, and return the degrees of freedom with a motor."""
    import mujoco

    # Of each joint: stiffness, damping and force, summed over the actuators that move it.
    single = [joint for joint in dofs if model.jnt_type[joint] in (_SLIDE, _HINGE)]
    stiffness, damping, force = (defaultdict[int, float](float) for _ in range(3))
    moments, idle, muscles = _moments(model, qpos), list[str](), list[str]()
    for actuator in range(model.nu):
        moved = {joint: float(moments[actuator][model.jnt_dofadr[joint]]) for joint in single}
        moved = {joint: moment for joint, moment in moved.items() if abs(moment) > _NO_MOMENT}
        name = model.actuator(actuator).name or f"number {actuator + 1}"
        if not moved or model.actuator_trntype[actuator] not in _OF_JOINTS:
            idle.append(name)
            continue
        if model.actuator_gaintype[actuator] == int(mujoco.mjtGain.mjGAIN_MUSCLE):
            muscles.append(name)
        # Joints of a tendon move together: each feels the whole of its length.
        together, bias = sum(map(abs, moved.values())), model.actuator_biasprm[actuator]
        servo = model.actuator_biastype[actuator] == int(mujoco.mjtBias.mjBIAS_AFFINE)
        for joint, moment in moved.items():
            stiffness[joint] += max(0.0, -float(bias[1])) * abs(moment) * together * servo
            damping[joint] += max(0.0, -float(bias[2])) * abs(moment) * together * servo
            force[joint] += _largest_force(model, actuator) * abs(moment)
    driven = set(force) if model.nu else set(single)

    # A joint that follows another one, by an equality, leaves its motor to it.
    led = set[int]()
    for row in range(model.neq):
        follower, leader = int(model.eq_obj1id[row]), int(model.eq_obj2id[row])
        if model.eq_type[row] != int(mujoco.mjtEq.mjEQ_JOINT) or not model.eq_active0[row]:
            continue
        if leader >= 0 and leader not in driven:
            continue
        led.add(follower)
        if follower in driven and leader >= 0:
            slope = abs(float(model.eq_data[row][1]))
            stiffness[leader] += stiffness[follower] * slope**2
            damping[leader] += damping[follower] * slope**2
            force[leader] += force[follower] * slope
    driven -= led

    for joint, dof in dofs.items():
        builder.joint_target_ke[dof], builder.joint_target_kd[dof] = stiffness[joint], damping[joint]
        limit = force[joint] if joint in driven and force[joint] > 0 else math.inf
        if model.jnt_actfrclimited[joint]:
            limit = min(limit, float(abs(model.jnt_actfrcrange[joint]).max()))
        builder.joint_effort_limit[dof] = min(limit, 1e6)
    notes = []
    if idle:
        notes.append(f"actuators that turn or move no joint by themselves are not simulated: {listed(map(repr, idle))}")
    if muscles:
        notes.append(f"muscles are not simulated, their joints go to targets: {listed(map(repr, muscles))}")
    if passive := [model.joint(joint).name for joint in single if joint not in driven | led]:
        notes.append(f"joints without an actuator are passive: {listed(map(repr, passive))}")
    return frozenset(dofs[joint] for joint in driven), notes


def _moments(model: Any, qpos: Any) -> Any:
    """Return by how much each actuator's length changes with each degree of freedom, in a pose."""
    import mujoco
    import numpy as np

    data, dense = mujoco.MjData(model), np.zeros((model.nu, model.nv))
    data.qpos[:] = qpos
    for stage in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_tendon, mujoco.mj_transmission):
        stage(model, data)
    mujoco.mju_sparse2dense(dense, data.actuator_moment, data.moment_rownnz, data.moment_rowadr, data.moment_colind)
    return dense


def _largest_force(model: Any, actuator: int) -> float:
    """Return the most that an actuator can pull, infinity where nothing limits it."""
    import mujoco

    most = math.inf
    if model.actuator_forcelimited[actuator]:
        most = float(abs(model.actuator_forcerange[actuator]).max())
    plain = model.actuator_gaintype[actuator] == int(mujoco.mjtGain.mjGAIN_FIXED) and model.actuator_biastype[
        actuator
    ] == int(mujoco.mjtBias.mjBIAS_NONE)
    if plain and model.actuator_ctrllimited[actuator]:
        gain = abs(float(model.actuator_gainprm[actuator][0]))
        most = min(most, gain * float(abs(model.actuator_ctrlrange[actuator]).max()))
    return most


def _first_pose(model: Any) -> tuple[Any, str]:
    """Return the coordinates of the first pose, and a note on which one that is."""
    keys = [model.key(key).name for key in range(model.nkey)]
    if not keys:
        return model.qpos0, "first pose: the zero of every joint, since the file has no keyframe"
    key = keys.index(_HOME) if _HOME in keys else 0
    named = repr(keys[key]) if keys[key] else "number 1"
    return model.key_qpos[key], f"first pose: keyframe {named}" + ("" if len(keys) == 1 else f" of {len(keys)}")


def _take_pose(builder: Any, model: Any, places: Mapping[int, int], qpos: Any, pose: Any) -> None:
    """Bring the robot into a pose of MuJoCo's."""
    import warp

    for joint, q in places.items():
        kind, at = model.jnt_type[joint], int(model.jnt_qposadr[joint])
        if kind == _FREE:
            x, y, z, w, i, j, k = (float(number) for number in qpos[at : at + 7])
            builder.joint_q[q : q + 7] = list(pose * warp.transform(warp.vec3(x, y, z), warp.quat(i, j, k, w)))
        elif kind == _BALL:
            w, i, j, k = (float(number) for number in qpos[at : at + 4])
            builder.joint_q[q : q + 4] = [i, j, k, w]
        else:
            builder.joint_q[q] = float(qpos[at])


def differences(
    compiled: Compiled, bodies: Mapping[int, int], places: Mapping[int, int], world: Any, engine: Any
) -> list[str]:
    """Compare the file with what is simulated of it, and return what differs.

    Args:
        compiled: The file as MuJoCo compiled it.
        bodies: Its body of each body in the world.
        places: Index of each of its joints' first coordinate in the world.
        world: Newton's model.
        engine: The model that Newton's solver compiled of it.
    """
    import mujoco

    model, notes = compiled.model, []
    if engine.ntendon < model.ntendon:
        names = (model.tendon(row).name or f"number {row + 1}" for row in range(model.ntendon))
        notes.append(
            f"{model.ntendon - engine.ntendon} of the file's tendons ({listed(map(repr, names))}) are not simulated: "
            "what they couple moves by itself"
        )
    coupled = [row for row in range(model.neq) if model.eq_type[row] == int(mujoco.mjtEq.mjEQ_TENDON)]
    if coupled:
        held = (repr(model.tendon(int(model.eq_obj1id[row])).name) for row in coupled)
        notes.append(f"equalities of tendons are not simulated: {listed(held)}; what they hold moves by itself")
    if model.nflex or model.nplugin:
        notes.append(f"not simulated: {model.nflex} flexes and {model.nplugin} plugins")
    body, distance = _farthest(model, bodies, places, world)
    if distance > _SAME_PLACE_M:
        notes.append(
            f"{model.body(body).name!r} is {distance:.2g} m from where MuJoCo has it in a random pose: the joints of "
            "a body turn about one point here, and slide before they turn; give each a body of its own"
        )
    return notes


def _farthest(model: Any, bodies: Mapping[int, int], places: Mapping[int, int], world: Any) -> tuple[int, float]:
    """Return the body that is farthest from where MuJoCo has it in a random pose, seen from its root, and how far."""
    import mujoco
    import newton
    import numpy as np
    import warp

    random, data = np.random.default_rng(0), mujoco.MjData(model)
    coordinates = world.joint_q.numpy()
    for joint, q in places.items():
        at = int(model.jnt_qposadr[joint])
        if model.jnt_type[joint] in (_SLIDE, _HINGE):
            low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-0.5, 0.5)
            data.qpos[at] = random.uniform(low, high)
            coordinates[q] = data.qpos[at]
        elif model.jnt_type[joint] == _BALL:
            data.qpos[at : at + 4] = coordinates[[q + 3, q, q + 1, q + 2]]
    mujoco.mj_kinematics(model, data)
    state = world.state()
    newton.eval_fk(world, warp.array(coordinates, dtype=warp.float32, device=world.device), world.joint_qd, state)
    poses = state.body_q.numpy()
    found = {body: warp.transform(*poses[index]) for index, body in bodies.items()}
    farthest = (0, 0.0)
    for body in range(1, model.nbody):
        root = int(model.body_rootid[body])
        turned, point = data.xmat[root].reshape(3, 3), data.xpos[body] + data.xmat[body].reshape(3, 3).sum(axis=1) / 10
        mine = warp.transform_inverse(found[root]) * found[body]
        seen = np.array(warp.transform_point(mine, warp.vec3(0.1, 0.1, 0.1)))
        distance = float(np.linalg.norm(turned.T @ (point - data.xpos[root]) - seen))
        farthest = max(farthest, (body, distance), key=lambda pair: pair[1])
    return farthest
