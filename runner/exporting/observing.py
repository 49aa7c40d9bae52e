"""Judgements of what the policy sees: whether the robot can measure it, as noisily, as late, and in which history."""

from __future__ import annotations

import math
from collections.abc import Iterator

from simyard.core.errors import unknown
from simyard.core.specs import Robot
from simyard.runner.exporting.contract import Contract, ObservationTerm
from simyard.runner.exporting.evidence import Evidence, Thresholds
from simyard.runner.exporting.verdict import Status, Verdict, few, quoted

POLICY_GROUP = "policy"
"""Isaac Lab's name for the observations that a policy may see."""
CRITIC_GROUP = "critic"
"""Its name for those that only the critic may."""
SENSORS: dict[str, tuple[str, ...]] = {
    "joint_encoders": ("joint_pos", "joint_pos_rel", "joint_pos_limit_normalized", "joint_vel", "joint_vel_rel"),
    "joint_torques": ("joint_effort",),
    "imu": (
        "base_ang_vel", "projected_gravity", "body_projected_gravity_b", "imu_ang_vel", "imu_lin_acc",
        "pva_orientation", "pva_projected_gravity",
    ),
    "camera": ("image_rgb", "image_features", "stacked_image"),
    "depth_camera": ("image_depth",),
    "force_torque": ("body_incoming_wrench",),
    "height_scanner": ("height_scan",),
    "base_velocity": ("base_lin_vel", "root_lin_vel_w"),
    "base_pose": ("base_pos_z", "root_pos_w", "root_quat_w", "root_ang_vel_w", "body_pose_w"),
    "image_labels": ("image_normals", "image_segmentation"),
}  # fmt: skip
"""Sensors a robot may have, with Isaac Lab's observation functions that each of them can stand for."""
GROUND_TRUTH = ("force_torque", "height_scanner", "base_velocity", "base_pose", "image_labels")
"""Those that the simulator knows exactly and a robot has only by an estimator of its own: privileged, unless the robot
is said to have them."""
_INNER = ("last_action", "generated_commands", "current_time_s", "remaining_time_s")
"""Functions that need no sensor: the controller knows its commands, its actions and the time."""
_SENSOR_OF = {function: sensor for sensor, functions in SENSORS.items() for function in functions}


def check_robot(robot: Robot, contract: Contract) -> None:
    """Refuse a description of the robot that names something which neither sensors nor the policy have.

    Raises:
        RequestError: With the nearest name.
    """
    if not all(group.names_known for group in contract.seen_groups):
        return
    names = {term.name for term in _seen(contract) if term.name}
    for sensor in robot.sensors or ():
        if sensor not in SENSORS and sensor not in names:
            raise unknown("sensor in robot.sensors", sensor, {*SENSORS, *names}, code="unknown_sensor")
    for name in robot.noise:
        if name not in names:
            raise unknown("observation in robot.noise", name, names, code="unknown_sensor")


def observations(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether the robot can measure all that the network sees."""
    groups = {group.name: group for group in evidence.contract.observation_groups}
    seen = evidence.contract.seen_groups
    names = [group.name for group in seen]
    # Of groups that both see none is the critic's alone, but for the one that is named so.
    alone = {name for name in evidence.critic_groups if name not in names or name == CRITIC_GROUP}
    critic = [group for name, group in groups.items() if name in alone]
    numbers: dict[str, object] = {"exported_groups": names}
    if not all(group.names_known for group in (*seen, *critic)):
        return Verdict(
            Status.HUMAN,
            f"The environment does not name its observations: whether the robot can measure all of {quoted(names)} "
            "is in the task's own code.",
            "Read the environment's code, and say whether the robot can measure all of them.",
            numbers,
        )
    allowed = {term.name for term in groups[POLICY_GROUP].terms} if POLICY_GROUP in groups else set()
    terms = _seen(evidence.contract)
    exported = [str(term.name) for term in terms]
    privileged = {term.name for group in critic for term in group.terms} - allowed
    sensors = {str(term.name): _sensor(term) for term in terms}
    numbers |= {"exported": exported, "privileged": sorted(map(str, privileged)), "sensors": sensors}
    if found := [name for name in exported if name in privileged]:
        advice = "Train with a policy group that has what the robot can measure, or distil the policy."
        return Verdict(
            Status.FAIL, f"The network sees {quoted(found)}, which only the critic may see.", advice, numbers
        )
    named = evidence.robot.sensors
    if named is not None:
        numbers["robot"] = list(named)
        if found := [name for name, sensor in sensors.items() if sensor not in ("", *named) and name not in named]:
            return Verdict(
                Status.FAIL,
                f"The network sees {quoted(found)}, which the robot's sensors ({', '.join(named)}) do not measure.",
                "Train or distil a policy without these; or name the sensor, or the observation itself, in "
                "robot.sensors if the robot has it.",
                numbers,
            )
        text = f"The network sees {quoted(exported)}: the robot's sensors ({', '.join(named)}) measure all of it."
        return Verdict(Status.PASS, text, numbers=numbers)
    if found := [name for name, sensor in sensors.items() if sensor in GROUND_TRUTH]:
        kinds = ", ".join(sorted({str(sensors[name]) for name in found}))
        return Verdict(
            Status.FAIL,
            f"The network sees {quoted(found)}: the simulator's own truth, which no robot measures.",
            f"Train or distil a policy without these. A robot that estimates it has {kinds} in robot.sensors.",
            numbers,
        )
    if found := [name for name in exported if name not in allowed]:
        text = f"The network sees {quoted(found)}, which the group {POLICY_GROUP!r} has not."
        return Verdict(Status.HUMAN, text, "Say whether the robot can measure these, or name robot.sensors.", numbers)
    if found := [name for name, sensor in sensors.items() if sensor is None]:
        text = f"The network sees {quoted(found)}, of functions that are not Isaac Lab's."
        return Verdict(Status.HUMAN, text, "Name robot.sensors, these among them if the robot measures them.", numbers)
    needed = sorted({sensor for sensor in sensors.values() if sensor})
    if not needed:
        return Verdict(Status.PASS, f"The network sees {quoted(exported)}: none of it is measured.", numbers=numbers)
    text = f"The network sees {quoted(exported)}: nothing that only the critic has. It takes {', '.join(needed)}."
    return Verdict(Status.HUMAN, text, "Name the sensors that the robot has: robot.sensors.", numbers)


def observation_noise(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether training made every measurement as noisy as the robot's."""
    known = all(group.names_known for group in evidence.contract.seen_groups)
    trained = {str(term.name or "all"): _deviation(term) for term in _measured(evidence.contract)}
    numbers: dict[str, object] = {"trained": trained, "robot": evidence.robot.noise}
    if not trained:
        return Verdict(Status.PASS, "The network sees nothing that is measured.", numbers=numbers)
    if not known and not any(trained.values()):
        text = "The task adds no noise model to its observations, and may add noise in its own code."
        return Verdict(
            Status.HUMAN, text, "Read the environment's code, and compare with the robot's sensors.", numbers
        )
    exact = [name for name, deviation in trained.items() if deviation == 0.0]
    if not evidence.robot.noise:
        told = [f"{name!r} {value:.3g}" for name, value in trained.items() if value]
        unclear = [name for name, value in trained.items() if value is None]
        text = f"Training added no noise to {quoted(exact)}" if exact else "Training added noise to everything measured"
        text += f"; standard deviations: {', '.join(told)}" if told else ""
        text += f"; of {quoted(unclear)} the size is not known" if unclear else ""
        advice = "Give the standard deviations of the robot's sensors: robot.noise; train with as much."
        return Verdict(Status.HUMAN, f"{text}.", advice, numbers)
    short, open_ = [], []
    for name, deviation in trained.items():
        measured = evidence.robot.noise.get(name)
        if measured is None or deviation is None:
            why = "the robot's is not given" if measured is None else "training's is not known"
            open_.append(f"Of {name!r} the noise cannot be compared: {why}.")
        elif deviation < measured * (1 - 1e-6):
            short.append(
                f"{name!r} was trained with a standard deviation of {deviation:.3g}, the robot has {measured:.3g}."
            )
    if short:
        return Verdict(Status.FAIL, few(short), "Train with as much noise as the robot's sensors have.", numbers)
    if open_:
        return Verdict(Status.HUMAN, few(open_), "Give robot.noise for each observation that is measured.", numbers)
    return Verdict(
        Status.PASS, f"{quoted(list(trained))} were trained with the robot's noise or more.", numbers=numbers
    )


def delays(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether training delayed measurements and actions as the robot does."""
    contract = evidence.contract
    known = all(group.names_known for group in contract.seen_groups) and evidence.actuator_delays is not None
    period = contract.control_period_s
    # Least and most of every measurement, of every drive; from the one to the other both add up.
    seen = {str(term.name or "all"): term.delay_steps or (0, 0) for term in _measured(contract)}
    acted = evidence.actuator_delays or {}
    least, most = _spread([(low * period, high * period) for low, high in seen.values()])
    drive_least, drive_most = _spread(list(acted.values()))
    least, most = least + drive_least, most + drive_most
    robot = evidence.robot.delay_s
    numbers: dict[str, object] = {
        "observations_steps": {name: list(steps) for name, steps in seen.items()},
        "actuators_s": {name: list(given) for name, given in acted.items()},
        "trained_s": [least, most],
        "robot_s": None if robot is None else list(robot),
    }
    text = f"From measurement to motion training took {_ms(least)} to {_ms(most)} ms longer than the physics"
    if most == 0:
        text = "Training delayed neither observations nor actions"
    if not known:
        text += ", as far as its configuration says"
    if robot is None:
        advice = "Give the robot's own, measured: robot.delayS; one to three control steps are usual."
        return Verdict(Status.HUMAN, f"{text}.", advice, numbers)
    text += f"; the robot takes {_ms(robot[0])} to {_ms(robot[1])} ms"
    slack = 1e-9
    if least <= robot[0] + slack and robot[1] <= most + slack:
        return Verdict(Status.PASS, f"{text}.", numbers=numbers)
    if not known:
        return Verdict(Status.HUMAN, f"{text}.", "Say how the task's own code delays them.", numbers)
    advice = (
        "Train with the robot's delays: delay_min_lag and delay_max_lag of its observations, or a delayed actuator."
    )
    return Verdict(Status.FAIL, f"{text}.", advice, numbers)


def history(evidence: Evidence, limits: Thresholds) -> Verdict:
    """Judge whether every older sample of a history is the newest one of as many steps before."""
    if not all(group.names_known for group in evidence.contract.seen_groups):
        text = "The environment does not name its observations, and may keep a history in its own code."
        return Verdict(Status.HUMAN, text, "Read how it fills the history, and test its order.")
    found = {str(term.name): term.history_length for term in _seen(evidence.contract) if term.history_length > 1}
    if not found:
        return Verdict(Status.PASS, "The network sees the newest sample of every observation alone.")
    numbers: dict[str, object] = {"samples": found}
    sample = evidence.history
    if sample is None or not all(sample.rows.get(name) for name in found):
        return Verdict(
            Status.HUMAN, f"The history of {quoted(list(found))} was not seen.", "Compare two steps.", numbers
        )
    numbers |= {"rows": sample.rows, "wrong": sample.wrong}
    if wrong := [name for name in found if sample.wrong[name]]:
        text = f"The history of {quoted(wrong)} is not what was seen before, oldest first"
        rows = ", ".join(f"{sample.wrong[name]} of {sample.rows[name]} steps" for name in wrong)
        advice = "Mend the task's history before training: the policy sees what the robot will not have."
        return Verdict(Status.FAIL, f"{text} ({rows} differ).", advice, numbers)
    rows = ", ".join(f"{name!r} {sample.rows[name]}" for name in found)
    return Verdict(
        Status.PASS, f"Every older sample is the one of a step before, oldest first (steps: {rows}).", numbers=numbers
    )


def _seen(contract: Contract) -> list[ObservationTerm]:
    return [term for group in contract.seen_groups for term in group.terms]


def _measured(contract: Contract) -> Iterator[ObservationTerm]:
    """Yield the terms that the network sees and that come from a sensor, as far as is known."""
    return (term for term in _seen(contract) if _sensor(term) != "")


def _sensor(term: ObservationTerm) -> str | None:
    """Return the sensor of a term: empty where it needs none, None where it is not known."""
    module, _, name = (term.function or "").partition(":")
    if not module.partition(".")[0].startswith("isaaclab"):
        return None
    return "" if name in _INNER else _SENSOR_OF.get(name)


def _deviation(term: ObservationTerm) -> float | None:
    """Return the standard deviation of training's noise; None where it is not known."""
    if not term.noise:
        return 0.0
    match term.noise:
        case {"type": str(kind), "std": float(std) | int(std)} if "Gaussian" in kind:
            deviation = std
        case {"type": str(kind), "n_min": float(low) | int(low), "n_max": float(high) | int(high)} if "Uniform" in kind:
            deviation = (high - low) / math.sqrt(12)
        case {"type": str(kind)} if "Constant" in kind:
            return 0.0
        case _:
            return None
    return deviation


def _spread(ranges: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the range that every one of several covers."""
    return (max(low for low, _ in ranges), min(high for _, high in ranges)) if ranges else (0.0, 0.0)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g}"
