"""The bodies of submissions, made of what the clients' methods take."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from simyard.client.errors import ConfigurationError

ROBOT_TYPES = ("urdf", "usd", "mjcf")
_BUNDLES = (".zip", ".tar.gz", ".tgz")
_SUFFIXES = {"urdf": (".urdf",), "usd": (".usd", ".usda", ".usdc", ".usdz"), "mjcf": (".mjcf", ".xml")}
_REMOTE = ("s3", "http", "https")

Json = Mapping[str, Any]


def rollout(
    *,
    robot: Json | None,
    scene: Json,
    num_envs: int,
    steps: int,
    physics_dt: float,
    substeps: int,
    seed: int,
    outputs: Json,
    control: Json | None,
    **more: Any,
) -> dict[str, Any]:
    """Return a rollout's body; of `more` whatever is not None, under its own name."""
    body: dict[str, Any] = {
        "job_type": "rollout",
        "robot": robot,
        "scene": scene or None,
        "physics": {"dt": physics_dt, "substeps": substeps},
        "execution": {"num_envs": num_envs, "steps": steps, "seed": seed},
        "outputs": dict(outputs),
        "control": dict(control) if control else None,
        **{key: dict(value) if isinstance(value, Mapping) else value for key, value in more.items()},
    }
    return {key: value for key, value in body.items() if value is not None}


def outputs_of(outputs: Json | None, video: bool | None, log_format: str, profile: str | None) -> dict[str, Any]:
    """Return the outputs that the rollout is to leave.

    Args:
        outputs: As in the body.
        video: The same for the video, in short.
        log_format: How arrays are written, unless `outputs` says it.
        profile: The runtime profile; with neither of the two, all but task packages make a video: those are asked.

    Raises:
        ConfigurationError: If the two say different things.
    """
    made = {"log_format": log_format, **(outputs or {})}
    if video is not None:
        if made.setdefault("video", video) != video:
            raise ConfigurationError(f"outputs says video {made['video']!r}, video is {video!r}: give one of the two.")
    elif outputs is None and profile != "isaac_lab_rollout":
        made["video"] = True
    return made


def robot_by_id(asset_id: str, robot_type: str) -> dict[str, str]:
    """Return a reference to an uploaded robot.

    Raises:
        ConfigurationError: If the type is not said: an id does not tell it.
    """
    if robot_type == "auto":
        raise ConfigurationError(
            f"robot_asset_type is 'auto', and an asset's id does not tell its type: give one of {ROBOT_TYPES}."
        )
    return {f"{robot_type}_asset_id": asset_id}


def checked_robot_type(robot_type: str) -> str:
    """Return a robot type in lower case.

    Raises:
        ConfigurationError: If there is no such type.
    """
    name = robot_type.strip().lower() if isinstance(robot_type, str) else ""
    if name not in ("auto", *ROBOT_TYPES):
        raise ConfigurationError(f"robot_asset_type is {robot_type!r}: allowed are 'auto' and {ROBOT_TYPES}.")
    return name


def type_of_robot(reference: str, robot_type: str) -> str:
    """Return the type that a robot's file has, told by its name; a bundle is taken for a URDF's unless it is said.

    Raises:
        ConfigurationError: If the name tells nothing, or another type than was said.
    """
    name = urlsplit(reference).path.lower()
    found = next((kind for kind, suffixes in _SUFFIXES.items() if name.endswith(suffixes)), None)
    if found is None and name.endswith(_BUNDLES):
        return "urdf" if robot_type == "auto" else robot_type
    if found is None or robot_type not in ("auto", found):
        allowed = (*(_SUFFIXES.get(robot_type) or [end for ends in _SUFFIXES.values() for end in ends]), *_BUNDLES)
        raise ConfigurationError(f"Robot {reference!r} is no file of type {robot_type!r}: allowed are {allowed}.")
    return found


def check_scene(reference: str) -> None:
    """Refuse a scene that is no USD.

    Raises:
        ConfigurationError: If it is none.
    """
    if not urlsplit(reference).path.lower().endswith((*_SUFFIXES["usd"], *_BUNDLES)):
        raise ConfigurationError(f"Scene {reference!r} is no USD: allowed are {(*_SUFFIXES['usd'], *_BUNDLES)}.")


def local_path(reference: str, what: str) -> Path | None:
    """Return the path that a reference names on this machine; None for a URI that the service fetches.

    Raises:
        ConfigurationError: If the reference is empty or of a scheme that nobody knows.
    """
    text = reference.strip()
    parts = urlsplit(text)
    if parts.scheme in _REMOTE:
        return None
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    # One letter is a drive of Windows.
    if not text or (len(parts.scheme) > 1 and "://" in text):
        raise ConfigurationError(f"{what} is {reference!r}: give a local file, or a URI of {_REMOTE}.")
    return Path(text)


def training(config: Json) -> dict[str, Any]:
    """Return a training's body.

    Raises:
        ConfigurationError: If the config is of another kind.
    """
    section = _section(config, "trainingConfig", "training_config")
    if section.get("mode", "train") != "train":
        raise ConfigurationError(f"trainingConfig.mode is {section['mode']!r}: that is no training; use evaluate().")
    return dict(config)


def evaluation(config: Json) -> dict[str, Any]:
    """Return an evaluation's body; its mode need not be said.

    Raises:
        ConfigurationError: If the config is of another kind.
    """
    section = _section(config, "trainingConfig", "training_config")
    if section.get("mode", "evaluate") != "evaluate":
        raise ConfigurationError(f"trainingConfig.mode is {section['mode']!r}: that is no evaluation; use train().")
    key = "trainingConfig" if "trainingConfig" in config else "training_config"
    return {**config, key: {**section, "mode": "evaluate"}}


def export(config: Json) -> dict[str, Any]:
    """Return an export's body.

    Raises:
        ConfigurationError: If the config is of another kind.
    """
    _section(config, "exportConfig", "export_config")
    return dict(config)


def training_run(**fields: Any) -> dict[str, Any]:
    """Return a managed run's body: every section, empty where it was left out, and what else was given."""
    sections = ("rollout_template", "trainer_spec", "loop_policy", "success_criteria", "budget_policy")
    return {
        key: dict(value or {}) if key in sections else value
        for key, value in fields.items()
        if key in sections or value is not None
    }


def with_notice(body: Json, notify_url: str | None) -> dict[str, Any]:
    """Return a body with the address that is told about the job's end."""
    return dict(body) if notify_url is None else {**body, "notify_url": notify_url}


def _section(config: Json, *names: str) -> Json:
    section = next((config[name] for name in names if name in config), None)
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"The config has no {names[0]!r}, it has {sorted(config)}: is it of another kind?")
    return section


def bucket_place(destination_uri: str | None, bucket: str | None, key_prefix: str | None, name: str) -> tuple[str, str]:
    """Return bucket and key of a file that goes straight into a bucket.

    Raises:
        ConfigurationError: If neither a bucket nor an `s3://` URI with a key is given.
    """
    if destination_uri is not None:
        parts = urlsplit(destination_uri.strip())
        if parts.scheme != "s3" or not parts.netloc or not parts.path.strip("/"):
            raise ConfigurationError(f"destination_uri is {destination_uri!r}: give s3://bucket/key.")
        return parts.netloc, parts.path.lstrip("/")
    if not bucket or not bucket.strip():
        raise ConfigurationError("prefer_presigned is off: give bucket or destination_uri, or leave it on.")
    prefix = (key_prefix or "simyard/inputs").strip().strip("/")
    # A part of its own, because uploads of the same name must not replace each other.
    return bucket.strip(), "/".join(part for part in (prefix, uuid.uuid4().hex, name) if part)
