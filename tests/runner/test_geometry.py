"""Poses of bodies from recorded joints, against those that Newton has."""

import numpy as np
import pytest

from simyard.runner.recording.geometry import body_poses, geometry_of

pytestmark = [pytest.mark.sim, pytest.mark.long]  # Newton compiles its kernels


def test_bodies_are_where_newton_has_them() -> None:
    """Frames are turned, joints are of every kind and of several axes, and the first world is not at the origin."""
    import newton
    import warp

    noise = np.random.default_rng(3)

    def frame() -> warp.transform:
        turn = noise.normal(size=4)
        return warp.transform(warp.vec3(*noise.normal(size=3)), warp.quat(*(turn / np.linalg.norm(turn))))

    def axes(*rows: int) -> list[newton.ModelBuilder.JointDofConfig]:
        return [newton.ModelBuilder.JointDofConfig(axis=warp.vec3(*np.eye(3)[row])) for row in rows]

    one = newton.ModelBuilder()
    links = [one.add_link(mass=1.0, label=f"robot/link_{number}") for number in range(7)]
    for link in links:
        one.add_shape_box(link, xform=frame(), hx=0.1, hy=0.2, hz=0.3)
    between = {"parent_xform": frame(), "child_xform": frame()}
    joints = [
        one.add_joint_fixed(-1, links[0], **between),
        one.add_joint_revolute(links[0], links[1], axis=warp.vec3(0.6, 0.0, 0.8), **between),
        one.add_joint_prismatic(links[1], links[2], axis=warp.vec3(0.0, 1.0, 0.0), **between),
        one.add_joint_ball(links[2], links[3], **between),
        one.add_joint_d6(links[3], links[4], linear_axes=axes(1), angular_axes=axes(0, 2, 1), **between),
        one.add_joint_d6(links[4], links[5], angular_axes=axes(2, 0), **between),
    ]
    one.add_articulation(joints)
    one.add_articulation([one.add_joint_free(links[6])])
    builder = newton.ModelBuilder()
    for origin in ((3.0, -2.0, 1.0), (0.0, 0.0, 0.0)):
        builder.add_world(one, xform=warp.transform(warp.vec3(*origin), warp.quat_identity()))
    model = builder.finalize(device="cpu")

    # Coordinates at random, of which quaternions have the length 1.
    count = model.joint_coord_count // 2
    row = noise.normal(size=count).astype(np.float32)
    for first in (2, count - 4):
        row[first : first + 4] /= np.linalg.norm(row[first : first + 4])
    whole = np.concatenate([row, row])
    state = model.state()
    newton.eval_fk(model, warp.array(whole, dtype=float, device="cpu"), model.joint_qd, state)
    true = state.body_q.numpy()[:7]

    columns = {index: ("joint_position", index) for index in range(count - 7)}
    geometry = geometry_of(model, columns, {6: ("root_pose", None)}, (3.0, -2.0, 1.0))
    assert (len(geometry["bodies"]), len(geometry["shapes"]), geometry["missing"]) == (7, 7, [])
    values = {"joint_position": row[None, : count - 7], "root_pose": true[None, 6]}
    found = body_poses(geometry, values.__getitem__, 1)[0]
    names = [body["name"] for body in geometry["bodies"]]
    for number in range(6):
        ours, theirs = found[names.index(f"link_{number}")], true[number]
        np.testing.assert_allclose(ours[:3], theirs[:3] - [3.0, -2.0, 1.0], atol=1e-4)
        assert abs(ours[3:] @ theirs[3:]) == pytest.approx(1.0, abs=1e-5), "the same rotation, whatever its sign"

    columns.pop(0)
    assert geometry_of(model, columns, {})["missing"] == [f"link_{number}" for number in range(1, 7)]
