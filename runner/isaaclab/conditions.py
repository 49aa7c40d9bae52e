"""Conditions of an environment's arms, as `factors.py` names them, by Isaac Lab's own event terms where it has one.

A condition stands in the environment's step, in its observations or in its resets, or is set once. Under the neutral
level it leaves every bit as it is.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simyard.core.errors import RequestError, unknown
from simyard.core.specs import Arm, Level
from simyard.runner.evaluation import factors
from simyard.runner.isaaclab.arms import CONTROL, Arms
from simyard.runner.rl.inference import keeping_random_numbers

PUSH_EVERY_S = 2.0
"""Simulated seconds from one push to the next, from the start of an episode."""
_POLICY = "policy"
"""The group of observations that is varied."""
_OWN_TERMS = {
    "friction": "randomize_rigid_body_material", "restitution": "randomize_rigid_body_material",
    "mass": "randomize_rigid_body_mass", "payload": "randomize_rigid_body_mass",
    "center_of_mass": "randomize_rigid_body_com", "stiffness": "randomize_actuator_gains",
    "damping": "randomize_actuator_gains", "motor_strength": "randomize_actuator_gains",
    "joint_friction": "randomize_joint_parameters", "armature": "randomize_joint_parameters",
    "gravity": "randomize_physics_scene_gravity",
}  # fmt: skip
"""Isaac Lab's term for what a factor varies: a task that calls it again and again would undo the level."""


class Site:
    """An environment with its arms, and the level of one factor in each of its environments."""

    def __init__(self, base: Any, arms: Arms, name: str, levels: Sequence[Level | None], seed: int) -> None:
        import torch

        self.base, self.arms, self.seed = base, arms, seed
        self.name, self.part = name, factors.split(name)[1]
        self.by_arm = levels
        """Level of each arm; None for an event's own parameters."""
        numbers = [level if isinstance(level, int | float) else 0.0 for level in levels]
        self.levels = torch.tensor(numbers, device=base.device).repeat_interleave(arms.pairs)
        """Level of each environment, `(num_envs,)`."""

    @property
    def robot(self) -> Any:
        """The task's robot."""
        robots = self.base.scene.articulations
        if len(robots) != 1 and "robot" not in robots:
            raise self.refused(f"it has {len(robots)} robots" if robots else "it has no robot")
        return robots["robot"] if "robot" in robots else next(iter(robots.values()))

    def refused(self, why: str) -> RequestError:
        """Return the error for a factor that this task cannot have."""
        return RequestError(
            f"variations: {self.name!r} cannot be varied in this task: {why}.",
            code="factor_not_of_task",
            advice="Leave it out; docs/robustness.md says what each factor needs.",
        )

    def each(self) -> list[tuple[Any, float]]:
        """Return the environments that have a level other than the neutral one, `(ids, level)`."""
        import torch

        found: dict[float, list[int]] = {}
        for arm, level in enumerate(self.by_arm):
            if isinstance(level, int | float) and level != factors.neutral(self.name):
                found.setdefault(float(level), []).extend(range(arm * self.arms.pairs, (arm + 1) * self.arms.pairs))
        return [(torch.tensor(ids, device=self.base.device), level) for level, ids in found.items()]

    def selected(self, env_ids: Any) -> Any:
        """Return those of some environments whose level is not the neutral one; None and slices are all of them."""
        import torch

        everywhere = torch.arange(self.arms.total, device=self.base.device)
        ids = everywhere if env_ids is None else everywhere[env_ids] if isinstance(env_ids, slice) else env_ids.long()
        return ids[self.levels[ids] != factors.neutral(self.name)]

    def apply(self, term: str, ids: Any, wanted: Mapping[str, Any], bodies: Sequence[str] = ()) -> None:
        """Call an event term of Isaac Lab's for some environments, with the same numbers for all of them."""
        from isaaclab.envs import mdp
        from isaaclab.managers import EventTermCfg, SceneEntityCfg

        self._refuse_repeated(term)
        robot = next(name for name, thing in self.base.scene.articulations.items() if thing is self.robot)
        asset = SceneEntityCfg(robot, body_names=list(bodies) or None)
        asset.resolve(self.base.scene)
        made = getattr(mdp, term)
        signature = inspect.signature(made.__call__).parameters
        defaults = {key: item.default for key, item in signature.items() if item.default is not inspect.Parameter.empty}
        parameters = {**defaults, **wanted, **({"asset_cfg": asset} if "asset_cfg" in signature else {})}
        with keeping_random_numbers(self.base.device):
            event = made(EventTermCfg(func=made, mode="reset", params=parameters), self.base)
            asset.finalize(self.base.device)
            event(self.base, ids, **parameters)

    def _refuse_repeated(self, term: str) -> None:
        manager = getattr(self.base, "event_manager", None)
        for mode in ("reset", "interval"):
            terms = manager._mode_term_cfgs.get(mode, []) if manager is not None else []
            names = manager._mode_term_names.get(mode, []) if manager is not None else []
            for name, cfg in zip(names, terms, strict=True):
                function = cfg.func if inspect.isroutine(cfg.func) or inspect.isclass(cfg.func) else type(cfg.func)
                if function.__name__ == term:
                    raise self.refused(f"its event {name!r} sets the same in every {mode}; vary 'event.{name}'")


class Condition:
    """One factor at work; by itself it does nothing."""

    def act(self, action: Any) -> Any:
        """Return an action as it reaches the environment, `(num_envs, actions)`."""
        return action

    def see(self, observation: Any, *, is_new: bool) -> Any:
        """Return what the policy sees, `(num_envs, values)`; `is_new` once a step."""
        return observation

    def begin(self, env_ids: Any) -> None:
        """Begin an episode of some environments, after their reset; None and slices are all of them."""


# --- set once ---------------------------------------------------------------------------------------------------------


def _material(site: Site) -> None:
    """Scale friction, or add to restitution, of every shape of the robot."""
    import warp

    robot, is_friction = site.robot, factors.split(site.name)[0] == "friction"
    site._refuse_repeated(_OWN_TERMS["friction"])
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


def _mass(site: Site) -> None:
    for ids, level in site.each():
        wanted = {"mass_distribution_params": (level, level), "operation": "scale"}
        site.apply("randomize_rigid_body_mass", ids, wanted)


def _body(site: Site, name: str) -> str:
    """Return the body that carries a load: the named one, or where a load would be put."""
    bodies = list(site.robot.body_names)
    if name and name not in bodies:
        raise unknown("body", name, bodies, code="unknown_factor")
    return name or (bodies[-1] if site.robot.is_fixed_base else bodies[0])


def _payload(site: Site) -> None:
    for ids, level in site.each():
        wanted = {"mass_distribution_params": (level, level), "operation": "add"}
        site.apply("randomize_rigid_body_mass", ids, wanted, [_body(site, site.part)])


def _center_of_mass(site: Site) -> None:
    for ids, level in site.each():
        shift = {site.part or "x": (level, level)}
        site.apply("randomize_rigid_body_com", ids, {"com_range": shift}, [_body(site, "")])


def _gains(*which: str) -> Callable[[Site], None]:
    def scale(site: Site) -> None:
        for ids, level in site.each():
            numbers = {f"{gain}_distribution_params": (level, level) for gain in which}
            site.apply("randomize_actuator_gains", ids, {"operation": "scale", **numbers})

    return scale


def _joints(what: str) -> Callable[[Site], None]:
    def add(site: Site) -> None:
        for ids, level in site.each():
            numbers = {f"{what}_distribution_params": (level, level)}
            site.apply("randomize_joint_parameters", ids, {"operation": "add", **numbers})

    return add


def _gravity(site: Site) -> None:
    for ids, level in site.each():
        wanted = {"gravity_distribution_params": ([level] * 3, [level] * 3), "operation": "scale"}
        site.apply("randomize_physics_scene_gravity", ids, wanted)


def _motor_strength(site: Site) -> None:
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
            _gains("stiffness", "damping")(_only(site, level))
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


# --- in every step ----------------------------------------------------------------------------------------------------


class _Seen(Condition):
    """Noise or a bias on what the policy sees."""

    def __init__(self, site: Site) -> None:
        import torch

        self._site, self._is_noise = site, factors.split(site.name)[0] == "observation_noise"
        self._columns = _columns(site)
        self._is_varied = (site.levels != 0)[:, None]
        self._generator = torch.Generator(device=site.base.device).manual_seed(site.seed)

    def see(self, observation: Any, *, is_new: bool) -> Any:
        import torch

        part = observation[:, self._columns]
        change = self._site.levels[:, None]
        if self._is_noise:
            size = (self._site.arms.pairs, part.shape[1])
            drawn = torch.randn(size, generator=self._generator, device=part.device)
            change = change * self._site.arms.spread(drawn)
        seen = observation.clone()
        seen[:, self._columns] = torch.where(self._is_varied, part + change, part)
        return seen


def _columns(site: Site) -> slice:
    """Return the columns of the policy's input that a factor is about."""
    manager = getattr(site.base, "observation_manager", None)
    if not site.part:
        return slice(None)
    if manager is None:
        raise site.refused("a direct task's observations have no names")
    names, shapes = manager.active_terms[_POLICY], manager.group_obs_term_dim[_POLICY]
    sizes = [shape[0] for shape in shapes]
    place = names.index(site.part)
    return slice(sum(sizes[:place]), sum(sizes[: place + 1]))


class _Delayed(Condition):
    """Actions that come late, or observations that are old; before there is one as old, the first one holds."""

    def __init__(self, site: Site) -> None:
        from isaaclab.utils.buffers import DelayBuffer

        lags = site.levels.int()
        self._buffer = DelayBuffer(int(lags.max()), site.arms.total, site.base.device)
        self._buffer.set_time_lag(lags)
        self._is_of_actions = factors.split(site.name)[0] == "action_delay"

    def act(self, action: Any) -> Any:
        return self._buffer.compute(action) if self._is_of_actions else action

    def see(self, observation: Any, *, is_new: bool) -> Any:
        return observation if self._is_of_actions else self._buffer.compute(observation, update_history=is_new)

    def begin(self, env_ids: Any) -> None:
        self._buffer.reset(None if isinstance(env_ids, slice) else env_ids)


class _Pushed(Condition):
    """Pushes to a side, drawn for each pair, in every arm at the same steps of an episode."""

    def __init__(self, site: Site) -> None:
        import torch

        if site.robot.is_fixed_base:
            raise site.refused("its robot is fixed to the ground")
        self._site = site
        self._every = max(1, round(PUSH_EVERY_S / site.base.step_dt))
        self._generator = torch.Generator(device=site.base.device).manual_seed(site.seed)

    def act(self, action: Any) -> Any:
        import torch

        site, taken = self._site, self._site.base.episode_length_buf
        drawn = torch.rand(site.arms.pairs, generator=self._generator, device=action.device)
        ids = site.selected(None)
        if len(ids := ids[(taken[ids] > 0) & (taken[ids] % self._every == 0)]):
            angle = site.arms.spread(drawn)[ids] * 2 * torch.pi
            velocity = site.robot.data.root_vel_w.torch[ids].clone()
            velocity[:, 0] += site.levels[ids] * angle.cos()
            velocity[:, 1] += site.levels[ids] * angle.sin()
            site.robot.write_root_velocity_to_sim_index(root_velocity=velocity, env_ids=ids.int())
        return action


# --- in every reset ---------------------------------------------------------------------------------------------------


class _FirstState(Condition):
    """First states nearer to the default one, or further away."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def begin(self, env_ids: Any) -> None:
        site, robot = self._site, self._site.robot
        if not len(ids := site.selected(env_ids)):
            return
        data, scale, few = robot.data, site.levels[ids][:, None], ids.int()

        def scaled(now: Any, default: Any) -> Any:
            return default + scale * (now - default)

        position = scaled(data.joint_pos.torch[ids], data.default_joint_pos.torch[ids])
        limits = data.soft_joint_pos_limits.torch[ids]
        position = position.clamp(limits[..., 0], limits[..., 1])
        velocity = scaled(data.joint_vel.torch[ids], data.default_joint_vel.torch[ids])
        robot.write_joint_position_to_sim_index(position=position, env_ids=few)
        robot.write_joint_velocity_to_sim_index(velocity=velocity, env_ids=few)
        if not robot.is_fixed_base:
            pose, default = data.root_pose_w.torch[ids].clone(), data.default_root_pose.torch[ids]
            pose[:, :3] = scaled(pose[:, :3], default[:, :3] + site.base.scene.env_origins[ids])
            motion = scaled(data.root_vel_w.torch[ids], data.default_root_vel.torch[ids])
            robot.write_root_pose_to_sim_index(root_pose=pose, env_ids=few)
            robot.write_root_velocity_to_sim_index(root_velocity=motion, env_ids=few)


def _command_range(site: Site) -> None:
    """Scale velocities right where they are drawn."""
    manager: Any = getattr(site.base, "command_manager", None)
    if manager is None:
        raise site.refused("it has no commands")
    names = [site.part] if site.part else list(manager.active_terms)
    terms = [(name, manager.get_term(name)) for name in names]
    if bad := [name for name, term in terms if not hasattr(term, "vel_command_b")]:
        raise site.refused(f"its command {bad[0]!r} is no velocity")

    def scale(term: Any) -> None:
        resample = term._resample_command

        def scaled(env_ids: Any) -> None:
            resample(env_ids)
            if len(ids := site.selected(env_ids)):
                term.vel_command_b[ids] *= site.levels[ids][:, None]

        term._resample_command = scaled

    for _, term in terms:
        scale(term)


def _terrain(site: Site) -> None:
    """Keep environments on one level of the terrain, whatever a curriculum does."""
    importer = site.base.scene.terrain
    if importer is None or importer.terrain_origins is None:
        raise site.refused("it has no generated terrain")
    rows = importer.terrain_origins.shape[0]
    if max(level for _, level in site.each()) >= rows:
        raise site.refused(f"its terrain has the levels 0 to {rows - 1}")
    ids, update = site.selected(None), importer.update_env_origins

    def stay(*arguments: Any, **options: Any) -> None:
        update(*arguments, **options)
        importer.terrain_levels[ids] = site.levels[ids].long()
        kinds = importer.terrain_types[ids]
        importer.env_origins[ids] = importer.terrain_origins[importer.terrain_levels[ids], kinds]

    importer.update_env_origins = stay
    nobody = ids[:0]
    stay(nobody, nobody.bool(), nobody.bool())


def _event(site: Site) -> None:
    """Have an event term of the task's called with other parameters for the environments of some arms."""
    manager: Any = getattr(site.base, "event_manager", None)
    places = manager._mode_term_names if manager is not None else {}
    mode = next((mode for mode, names in places.items() if site.part in names), None)
    if mode is None:
        raise unknown("event term", site.part, [name for names in places.values() for name in names])
    if mode == "prestartup":
        raise site.refused("it comes before the environments are made")
    cfg = manager._mode_term_cfgs[mode][places[mode].index(site.part)]
    original, own = cfg.func, cfg.params
    changed = [(arm, _with(original, cfg, level, site)) for arm, level in enumerate(site.by_arm) if level is not None]

    def varied(env: Any, env_ids: Any, **parameters: Any) -> None:
        import torch

        device = site.base.device
        everywhere = torch.arange(site.arms.total, device=device)
        ids = everywhere if env_ids is None else everywhere[env_ids] if isinstance(env_ids, slice) else env_ids
        control = ids[ids < site.arms.pairs]
        numbers = torch.random.get_rng_state() if str(device) == "cpu" else torch.cuda.get_rng_state(device)
        original(env, env_ids, **parameters)
        for arm, (function, others) in changed:
            mine = ids[(ids >= arm * site.arms.pairs) & (ids < (arm + 1) * site.arms.pairs)]
            if len(mine):
                # Its parameters are others, its numbers the same: those that the first call has drawn.
                with keeping_random_numbers(device), site.arms.serving(mine, device, control):
                    if len(control):
                        set_state = torch.random if str(device) == "cpu" else torch.cuda
                        set_state.set_rng_state(numbers)
                    function(env, mine, **{**parameters, **others})

    cfg.func = varied
    if mode == "startup":
        import torch

        with keeping_random_numbers(site.base.device):
            for arm, (function, others) in changed:
                mine = torch.arange(arm * site.arms.pairs, (arm + 1) * site.arms.pairs, device=site.base.device)
                function(site.base, mine, **{**own, **others})
        cfg.func = original


def _with(original: Any, cfg: Any, level: Level | None, site: Site) -> tuple[Any, dict[str, Any]]:
    """Return a term with other parameters, which one that is a class may have looked at when it was made."""
    assert isinstance(level, Mapping)
    if strange := [key for key in level if key not in cfg.params]:
        raise unknown(f"parameter of event {site.part!r}", strange[0], cfg.params, code="unknown_factor")
    others = {key: _like(cfg.params[key], value) for key, value in level.items()}
    if inspect.isroutine(original):
        return original, others
    made = copy.copy(cfg)
    made.params = {**cfg.params, **others}
    with keeping_random_numbers(site.base.device):
        term = type(original)(made, site.base)
    vars(term).update({key: value for key, value in vars(original).items() if key.startswith("default_")})
    return term, others


def _like(own: Any, value: Any) -> Any:
    """Return a parameter as the term has its own: JSON has lists for tuples."""
    if isinstance(own, Mapping) and isinstance(value, Mapping):
        some = next(iter(own.values()), ())
        return {key: _like(own.get(key, some), item) for key, item in value.items()}
    return tuple(value) if isinstance(own, tuple) and isinstance(value, list) else value


_MADE: dict[str, Callable[[Site], Condition | None]] = {
    "friction": _material, "restitution": _material, "mass": _mass, "payload": _payload,
    "center_of_mass": _center_of_mass, "motor_strength": _motor_strength, "stiffness": _gains("stiffness"),
    "damping": _gains("damping"), "joint_friction": _joints("friction"), "armature": _joints("armature"),
    "gravity": _gravity, "observation_noise": _Seen, "observation_bias": _Seen, "action_delay": _Delayed,
    "observation_delay": _Delayed, "push": _Pushed, "command_range": _command_range, "initial_state": _FirstState,
    "terrain": _terrain, factors.EVENT: _event,
}  # fmt: skip
"""How each factor is put to work."""


def set_conditions(env: Any, arms: Arms, wanted: Sequence[Arm], seed: int) -> None:
    """Put the conditions of all arms to work, before the first episode.

    Args:
        env: The gymnasium environment, made while numbers were `matched`.
        arms: Its arms: the control arm, then those that are wanted.
        wanted: They.
        seed: Of noise and pushes.

    Raises:
        RequestError: The task cannot have one of them.
    """
    base = env.unwrapped
    arms.enter(base)
    at_work: list[Condition] = []
    for number, name in enumerate(dict.fromkeys(name for arm in wanted for name in arm.levels)):
        levels = [factors.neutral(name), *(arm.levels.get(name, factors.neutral(name)) for arm in wanted)]
        assert levels[CONTROL] == factors.neutral(name)
        site = Site(base, arms, name, levels, seed + number)
        if (made := _MADE[factors.split(name)[0]](site)) is not None:
            at_work.append(made)
    if at_work:
        _stand_in(base, at_work)


def _stand_in(base: Any, at_work: Sequence[Condition]) -> None:
    """Put conditions into an environment's steps, observations and resets."""
    step, reset = base.step, base._reset_idx

    def act(action: Any) -> Any:
        for condition in at_work:
            action = condition.act(action)
        return step(action)

    def begin(env_ids: Any) -> Any:
        answer = reset(env_ids)
        for condition in at_work:
            condition.begin(env_ids)
        return answer

    base.step, base._reset_idx = act, begin
    if not any(type(condition).see is not Condition.see for condition in at_work):
        return

    def see(groups: dict[str, Any], is_new: bool) -> dict[str, Any]:
        seen: Any = groups.get(_POLICY)
        if not hasattr(seen, "ndim") or seen.ndim != 2:
            raise RequestError(
                "variations: what this task's policy sees is not one vector, so it cannot be varied.",
                code="factor_not_of_task",
                advice="Leave the factors of observations out.",
            )
        for condition in at_work:
            seen = condition.see(seen, is_new=is_new)
        return {**groups, _POLICY: seen}

    manager = getattr(base, "observation_manager", None)
    if manager is None:
        observe = base._compute_observations
        base._compute_observations = lambda: see(observe(), True)
        return
    compute = manager.compute

    def computed(update_history: bool = False) -> dict[str, Any]:
        manager._obs_buffer = see(compute(update_history), update_history)
        return dict(manager._obs_buffer)

    manager.compute = computed
