"""Encodes and checks videos: H.264 that every browser plays, by ffmpeg, without a renderer."""

from __future__ import annotations

import contextlib
import importlib
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NotRequired, TypedDict

from simyard.core.files import replacing
from simyard.runner.video.trajectories import VideoError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_BLACK, _UNIFORM = 8.0, 3.0
"""A picture's mean and standard deviation, of 255, below which nothing can be seen in it."""


class Look(TypedDict):
    """Look of a picture, of 255."""

    mean: float
    std: float
    """Standard deviation."""


class VideoFacts(TypedDict):
    """Facts of a video, as it was decoded."""

    frames: int
    width: int
    height: int
    duration_s: float
    first: Look
    middle: NotRequired[Look]
    """Missing, as `last` is, of a video that somebody else made."""
    last: NotRequired[Look]


def write(frames: Iterable[Any], path: Path, *, fps: float, size: tuple[int, int]) -> VideoFacts:
    """Encode pictures as they come; the file appears when it is whole and every picture in it was decoded again.

    Raises:
        VideoError: If it cannot be encoded, or cannot be watched; nothing is left on disk then.
    """
    try:
        with replacing(path) as beside:
            count = encode(frames, beside, fps=fps, size=size)
            return verify(beside, count)
    except OSError as error:
        raise VideoError(f"{path}: {error.strerror}") from error


def encode(frames: Iterable[Any], path: Path, *, fps: float, size: tuple[int, int], every: int | None = None) -> int:
    """Write H.264 in MP4 that every browser plays, straight into a file.

    Args:
        frames: Each a buffer of `height * width * 3` bytes, RGB.
        path: The file.
        fps: Pictures a second.
        size: Width and height; even numbers.
        every: Pictures from one to the next that can be read by itself; None leaves it to ffmpeg.

    Returns:
        How many pictures there were.

    Raises:
        VideoError: With ffmpeg's own words.
    """
    rate = str(Fraction(fps).limit_denominator(1001))
    keyframes = [] if every is None else ["-g", str(every)]
    count = 0
    arguments = [
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", rate, "-i", "-",
        "-c:v", "libx264", "-preset", "fast", "-crf", "20", "-pix_fmt", "yuv420p", *keyframes,
        "-movflags", "+faststart", "-f", "mp4", "-y", f"file:{path}",
    ]  # fmt: skip
    with ffmpeg(*arguments) as run, contextlib.suppress(BrokenPipeError), run.stdin as pipe:
        for frame in frames:
            pipe.write(frame)
            count += 1
    return count


def verify(path: Path, frames: int | None = None) -> VideoFacts:
    """Decode every picture of a video and look at the first, the middle and the last.

    Args:
        path: The video.
        frames: How many pictures it must have; None for one that somebody else made, of which the first is looked at.

    Raises:
        VideoError: If it does not decode, is not H.264 for browsers, has not as many frames, or shows nothing.
    """
    # Decode all of it; a damaged file makes ffmpeg fail.
    count, shape = 0, (0, 0)
    looks: dict[str, Look] = {}
    at = {"first": 0} if frames is None else {"first": 0, "middle": frames // 2, "last": frames - 1}
    with ffmpeg(*_to_pictures(path), level="info") as run:
        for picture in _pictures(run.stdout):
            if count in at.values():
                look: Look = {"mean": round(float(picture.mean()), 2), "std": round(float(picture.std()), 2)}
                looks |= {name: look for name, number in at.items() if number == count}
            shape = picture.shape[:2]
            count += 1

    # It must be as long as it should be, play in a browser, and show something.
    if not count or count != (frames or count):
        raise VideoError(f"{path.name} has {count} frames, not {frames or 'one or more'}")
    duration = re.search(r"Duration: (\d+):(\d+):([\d.]+)", run.said)
    if not duration or not re.search(r"Video: h264 .*yuv420p\W", run.said):
        raise VideoError(f"{path.name} is not H.264 in yuv420p")
    for name, look in looks.items():
        if look["mean"] < _BLACK:
            raise VideoError(f"the {name} frame of {path.name} is black: its mean is {look['mean']} of 255")
        if look["std"] < _UNIFORM:
            raise VideoError(
                f"the {name} frame of {path.name} is uniform: its standard deviation is {look['std']} of 255"
            )
    hours, minutes, seconds = map(float, duration.groups())
    lasts = round(3600 * hours + 60 * minutes + seconds, 2)
    facts: VideoFacts = {
        "frames": count, "width": shape[1], "height": shape[0], "duration_s": lasts, "first": looks["first"]
    }  # fmt: skip
    if frames is not None:
        facts["middle"], facts["last"] = looks["middle"], looks["last"]
    return facts


def decode(path: Path) -> Iterator[Array]:
    """Yield the pictures of a video, `(height, width, 3)` bytes.

    Raises:
        VideoError: If it does not decode.
    """
    with ffmpeg(*_to_pictures(path)) as run:
        yield from _pictures(run.stdout)


def _to_pictures(path: Path) -> list[str]:
    """Return ffmpeg's arguments for a stream of PPM files."""
    return [
        "-xerror", "-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough",
        "-c:v", "ppm", "-f", "image2pipe", "-",
    ]  # fmt: skip


def _pictures(stream: IO[bytes]) -> Iterator[Array]:
    """Yield the whole pictures of a stream of PPM files."""
    import numpy as np

    while stream.readline():
        width, height = map(int, stream.readline().split())
        stream.readline()
        data = stream.read(width * height * 3)
        if len(data) == width * height * 3:
            yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


@dataclass
class _Run:
    """A running ffmpeg."""

    stdin: IO[bytes]
    stdout: IO[bytes]
    said: str = ""
    """Its log, after it ended."""


@contextlib.contextmanager
def ffmpeg(*arguments: str, level: str = "error") -> Iterator[_Run]:
    """Run ffmpeg around a block that feeds or drains it.

    imageio_ffmpeg's own writer and reader are as fast, but do not look at ffmpeg's exit code, nor, when writing, at its
    log: a full disk and a damaged file would go unseen.
    """
    with tempfile.TemporaryFile() as log:
        try:
            program = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
            process = subprocess.Popen(
                [program, "-v", level, "-nostats", "-hide_banner", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        except (ImportError, OSError, RuntimeError) as error:
            raise VideoError(f"ffmpeg does not start: {error}") from error
        assert process.stdin and process.stdout
        run = _Run(process.stdin, process.stdout)
        with process:
            try:
                yield run
            except BaseException:
                process.kill()
                raise
        log.seek(0)
        run.said = log.read().decode(errors="replace").strip()
    if process.returncode:
        last = run.said.splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise VideoError(f"ffmpeg: {last[0]}")
