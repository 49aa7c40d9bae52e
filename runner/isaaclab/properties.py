"""Properties of robots and their world that an arm has once and for all: masses, surfaces, joints, motors, gravity."""

from __future__ import annotations

from collections.abc import Callable

from simyard.core.errors import unknown
from simyard.runner.evaluation import factors
from simyard.runner.isaaclab.factor_site import Site


def set_material(site: Site) -> None:
    """Scale friction, or add to restitution, of every shape of the robot."""
    import warp

    robot, is_friction = site.robot, factors.split(site.name)[0] == "friction"
    site.refuse_repeated("randomize_rigid_body_material")
    view = robot.root_view if hasattr(robot, "root_view") else robot._root_view
    if hasattr(site.base.sim.cfg.physics, "solver_cfg"):
        from newton import ModelFlags

        manager = site.base.sim.physics_manager
        binding = view.get_attribute("shape_material_mu", manager.get_model())[:, 0]
        values = warp.to_torch(binding)
        for ids, level in site.each():
            values[ids] *= level
        manager.add_model_change(ModelFlags.SHAPE_PROPERTIES)
        return
    from isaaclab_ov import tensor_types

    kind = tensor_types.SHAPE_FRICTION_AND_RESTITUTION
    materials = warp.to_torch(view.get_attribute(kind))
    for ids, level in site.each():
        if is_friction:
            materials[ids.to(materials.device), :, :2] *= level
        else:
            bounces = materials[ids.to(materials.device), :, 2]  # below 0 it is the stiffness of a soft contact
            materials[ids.to(materials.device), :, 2] = bounces.where(bounces < 0, bounces + level)
    view.set_attribute(kind, warp.from_torch(materials.contiguous(), dtype=warp.float32))


def set_mass(site: Site) -> None:
    """Scale the mass and inertia of every body."""
    for ids, level in site.each():
        wanted = {"mass_distribution_params": (level, level), "operation": "scale"}
        site.apply("randomize_rigid_body_mass", ids, wanted)


def _body(site: Site, name: str) -> str:
    """Return the body that carries a load: the named one, or where a load would be put."""
    bodies = list(site.robot.body_names)
    if name and name not in bodies:
        raise unknown("body", name, bodies, code="unknown_factor")
    return name or (bodies[-1] if site.robot.is_fixed_base else bodies[0])


def set_payload(site: Site) -> None:
    """Add mass to the body that carries a load."""
    for ids, level in site.each():
        wanted = {"mass_distribution_params": (level, level), "operation": "add"}
        site.apply("randomize_rigid_body_mass", ids, wanted, [_body(site, site.part)])


def set_center_of_mass(site: Site) -> None:
    """Shift the centre of mass of that body."""
    for ids, level in site.each():
        shift = {site.part or "x": (level, level)}
        site.apply("randomize_rigid_body_com", ids, {"com_range": shift}, [_body(site, "")])


def set_gains(*which: str) -> Callable[[Site], None]:
    """Return what scales gains of the actuators: `stiffness`, `damping`."""

    def scale(site: Site) -> None:
        for ids, level in site.each():
            numbers = {f"{gain}_distribution_params": (level, level) for gain in which}
            site.apply("randomize_actuator_gains", ids, {"operation": "scale", **numbers})

    return scale


def set_joints(what: str) -> Callable[[Site], None]:
    """Return what adds to `friction` or `armature` of every joint."""

    def add(site: Site) -> None:
        for ids, level in site.each():
            numbers = {f"{what}_distribution_params": (level, level)}
            site.apply("randomize_joint_parameters", ids, {"operation": "add", **numbers})

    return add


def set_gravity(site: Site) -> None:
    """Scale gravity."""
    for ids, level in site.each():
        wanted = {"gravity_distribution_params": ([level] * 3, [level] * 3), "operation": "scale"}
        site.apply("randomize_physics_scene_gravity", ids, wanted)


def set_motor_strength(site: Site) -> None:
    """Scale what motors give: gains and limits of those that the engine drives, the efforts of all others."""
    robot, collection = site.robot, site.robot.actuators
    if getattr(collection, "_native_group_names", None):
        raise site.refused("Newton itself drives its actuators")
    implicit = [group for group in collection.values() if getattr(group, "is_implicit_model", False)]
    for ids, level in site.each():
        # The terms take gains of explicit actuators too, whose efforts are scaled below: theirs are put back.
        explicit = [group for group in collection.values() if group not in implicit]
        kept = [(group, group.stiffness.clone(), group.damping.clone()) for group in explicit]
        if implicit:
            set_gains("stiffness", "damping")(_only(site, level))
            limits = robot.data.joint_effort_limits.torch[ids] * level
            robot.write_joint_effort_limit_to_sim_index(limits=limits, env_ids=ids)
        for group, stiffness, damping in kept:
            group.stiffness[:], group.damping[:] = stiffness, damping
    submit, levels = collection.submit_commands, site.levels[:, None]

    def weaker() -> None:
        efforts = collection._joint_effort_target_sim_ta.torch  # written anew before every step of physics
        efforts.mul_(levels)
        submit()

    collection.submit_commands = weaker


def _only(site: Site, level: float) -> Site:
    """Return a site whose arms have one level or the neutral one."""
    levels = [one if one == level else 1.0 for one in site.by_arm]
    return Site(site.base, site.arms, site.name, levels, site.seed)
