"""Cameras of a rollout's request: each field is checked here, before any simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from simyard.core.specs import CameraSpec
from simyard.requests.base import _Model

MOST_CAMERAS = 8
MOST_STEP_BYTES = 256 * 1024**2
"""Bytes of all pictures of a step: the recorder holds a few steps in memory."""
MOST_PICTURES = 200_000
"""Pictures of a job: without a GPU a small one takes some 10 ms."""
_FPS = 30.0

CameraName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
_Side = Annotated[int, Field(strict=True, ge=16, le=1920, multiple_of=2)]
_Metres = Annotated[float, Field(strict=True, ge=-1000, le=1000, allow_inf_nan=False)]
_Point = Annotated[list[_Metres], Field(min_length=3, max_length=3)]


class CameraPose(_Model):
    """Pose of a camera. The top of its picture is z of the frame; where it looks along z, x."""

    position: _Point
    """x, y and z of the lens, in metres."""
    look_at: _Point
    """The point in the middle of the picture."""

    @model_validator(mode="after")
    def _looks_somewhere(self) -> Self:
        if self.position == self.look_at:
            raise ValueError(f"position and look_at are both {self.position}: look_at must be another point")
        return self


class CameraConfig(_Model):
    """A camera: its pictures are recorded as `images/<name>`."""

    name: CameraName
    """Its name."""
    width: _Side = 320
    """Pixels, an even number."""
    height: _Side = 240
    """Pixels, an even number."""
    fps: float | None = Field(None, strict=True, gt=0, le=1000, allow_inf_nan=False)
    """Pictures a second, at most one a control step; left out 30, or as many as there are control steps."""
    fov: float = Field(60.0, strict=True, ge=1, le=170, allow_inf_nan=False)
    """Vertical field of view, in degrees."""
    body: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    """The body that the camera is fixed to; left out it stands in the world."""
    pose: CameraPose | None = None
    """Pose in the frame of the body, or of the world; left out at the body's origin, looking along its z."""

    @model_validator(mode="after")
    def _stands_somewhere(self) -> Self:
        if self.body is None and self.pose is None:
            raise ValueError("give pose, body or both: nothing says where the camera is")
        return self

    def to_spec(self) -> CameraSpec:
        """Return the camera as the job has it."""
        pose = self.pose or CameraPose(position=[0.0, 0.0, 0.0], look_at=[0.0, 0.0, 1.0])
        x, y, z = pose.position
        to_x, to_y, to_z = pose.look_at
        return CameraSpec(
            name=self.name,
            width=self.width,
            height=self.height,
            fps=self.fps or _FPS,
            fov=self.fov,
            body=self.body,
            position=(x, y, z),
            look_at=(to_x, to_y, to_z),
        )


def check_cameras(cameras: Sequence[CameraConfig], num_envs: int, steps: int, step_s: float | None) -> None:
    """Refuse cameras that are too many, too large or too fast together.

    Args:
        cameras: All of a request.
        num_envs: Environments, each of which has all cameras.
        steps: Control steps of each.
        step_s: Seconds of a step; None where the task has its own.

    Raises:
        ValueError: With what is allowed.
    """
    names = [camera.name for camera in cameras]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two cameras are named {twice[0]!r}; give each a name of its own")
    for camera in cameras:
        if step_s is not None and camera.fps is not None and camera.fps * step_s > 1 + 1e-9:
            raise ValueError(
                f"camera {camera.name!r} takes {camera.fps:g} pictures a second, and physics.dt {step_s:g} makes "
                f"{1 / step_s:g} control steps a second; allowed: one picture a step, so fps up to {1 / step_s:g}"
            )
    step_bytes = num_envs * sum(3 * camera.width * camera.height for camera in cameras)
    if step_bytes > MOST_STEP_BYTES:
        raise ValueError(
            f"the pictures of {num_envs} environments make {step_bytes / 1e6:,.0f} MB a step; allowed: "
            f"{MOST_STEP_BYTES / 1e6:,.0f} MB; take fewer environments, fewer cameras or smaller pictures"
        )
    if step_s is None:
        return
    pictures = num_envs * sum(-(-steps // camera.to_spec().every(step_s)) for camera in cameras)
    if pictures > MOST_PICTURES:
        raise ValueError(
            f"the cameras of {num_envs} environments would take {pictures:,} pictures; allowed: {MOST_PICTURES:,}; "
            "take fewer environments or steps, or a lower fps"
        )
