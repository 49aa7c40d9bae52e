"""Rollouts as LeRobot datasets, in the layout of version 3.0.

    data/chunk-000/file-000.parquet           a row a step, a row group an episode
    videos/<feature>/chunk-000/file-000.mp4   the pictures of all episodes, one after another
    meta/info.json                            rate, features with their names, where everything is
    meta/stats.json                           of each feature; meta/tasks.parquet: the one task
    meta/episodes/chunk-000/file-000.parquet  of each episode: where it is, its own statistics, `success`, `termination`

Statistics are exact for an episode; those of all of them are joined as LeRobot's own writer joins them, where a
quantile is the mean of the episodes' quantiles. Memory is that of a shard, and of the numbers of one episode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simyard.core.errors import StoreError
from simyard.runner.recording.reading import ArrayForm
from simyard.runner.video.encoding import encode
from simyard.runner.video.trajectories import VideoError

if TYPE_CHECKING:
    import numpy as np

    from simyard.convert import Source

    Array = np.ndarray[Any, Any]

STATE, ENVIRONMENT_STATE, IMAGES = "observation.state", "observation.environment_state", "observation.images"
_STATES = ("joint_position", "obs", "obs/policy")
"""Quantities that can be the robot's state: the first that was recorded is."""
_ENVIRONMENT_STATES = ("obs", "obs/policy", "body_pose")
"""Quantities that can be the environment's, if they are not the robot's."""
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_FILES_A_CHUNK, _DATA_MB, _VIDEO_MB = 1000, 100, 200
_WHOLE = 1e-3
"""Part by which a rate may differ from a whole number to be called that."""
_KEYFRAME_EVERY = 2
"""Training reads single pictures: LeRobot's own videos have as many keyframes."""
_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_PICTURES_MOST = 100
"""Pictures of an episode from which its statistics are made."""
_BATCH = 500
"""Episodes whose rows are written at once."""

Stats = dict[str, "Array"]


def is_video(form: ArrayForm) -> bool:
    """Return whether a quantity is pictures that H.264 holds: RGB with even sides."""
    shape = form["shape"]
    return form["dtype"] == "uint8" and len(shape) == 3 and shape[2] == 3 and not (shape[0] % 2 or shape[1] % 2)


def feature_names(forms: Mapping[str, ArrayForm]) -> dict[str, str]:
    """Return by recorded key the name of its feature."""
    names = {"action": "action", "reward": "next.reward"}
    for key, form in forms.items():
        flat = key.removeprefix("obs/").replace("/", "_")
        names.setdefault(key, f"{IMAGES}.{flat.removeprefix('images_')}" if is_video(form) else f"observation.{flat}")
    state = next((key for key in _STATES if key in forms), None)
    others = next((key for key in _ENVIRONMENT_STATES if key in forms and key != state), None)
    names |= {key: name for key, name in ((state, STATE), (others, ENVIRONMENT_STATE)) if key is not None}
    return {key: names[key] for key in forms}


def write_dataset(source: Source, beside: Path, names: Mapping[str, str]) -> None:
    """Write a dataset.

    Args:
        source: The rollout.
        beside: A new folder.
        names: By recorded key the name of its feature.

    Raises:
        StoreError: If a video cannot be encoded.
    """
    rate = 1 / source.period_s
    fps = round(rate) if rate >= 0.5 and abs(rate - round(rate)) <= _WHOLE * rate else rate
    features = _Features(source, names)
    videos = {name: _Video(source, key, name, beside, fps) for key, name in names.items() if name in features.of_videos}
    try:
        for video in videos.values():
            video.write()
    except VideoError as error:
        advice = "Convert where ffmpeg is: pip install imageio-ffmpeg."
        raise StoreError(f"A video cannot be encoded: {error.reason}", code="no_video", advice=advice) from error

    # The numbers, an episode at a time; what is said of each episode goes to a table of its own.
    data = _Files(beside, f"data/{_PLACE}.parquet", _DATA_MB)
    episodes = _Files(beside, f"meta/episodes/{_PLACE}.parquet", _DATA_MB)
    total = _Total()
    waiting: list[dict[str, Any]] = []
    task = source.task or "rollout"
    for number, (start, end, values) in enumerate(_episodes(source, features)):
        columns = features.columns(number, start, values, fps)
        stats = {name: _stats_of(values) for name, values in columns.items()}
        stats |= {name: video.stats[number] for name, video in videos.items()}
        total.add(stats)
        row: dict[str, Any] = {"episode_index": number, "tasks": [task], "length": end - start}
        row |= {f"data/{name}": place for name, place in data.place().items()}
        row |= {"dataset_from_index": start, "dataset_to_index": end}
        for name, video in videos.items():
            row |= {f"videos/{name}/{what}": value for what, value in video.places[number].items()}
        row |= {f"stats/{name}/{what}": each.tolist() for name, of in stats.items() for what, each in of.items()}
        row |= {"success": int(source.success[number]), "termination": int(source.termination[number])}
        data.write(features.table(columns))
        waiting.append(row)
        if len(waiting) == _BATCH or end == source.steps:
            place = {f"meta/episodes/{name}": place for name, place in episodes.place().items()}
            episodes.write(_rows([row | place for row in waiting]))
            waiting.clear()
    data.close()
    episodes.close()

    _write_tasks(beside / "meta" / "tasks.parquet", task)
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(source.ends),
        "total_frames": source.steps,
        "total_tasks": 1,
        "chunks_size": _FILES_A_CHUNK,
        "data_files_size_in_mb": _DATA_MB,
        "video_files_size_in_mb": _VIDEO_MB,
        "fps": fps,
        "splits": {"train": f"0:{len(source.ends)}"},
        "data_path": f"data/{_PLACE}.parquet",
        "video_path": f"videos/{{video_key}}/{_PLACE}.mp4" if videos else None,
        "features": features.to_json(fps),
    }
    (beside / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    (beside / "meta" / "stats.json").write_text(json.dumps(total.to_json(), indent=4))


class _Features:
    """Features of a dataset: those that were recorded, and those that each has."""

    _OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")

    def __init__(self, source: Source, names: Mapping[str, str]) -> None:
        self._source, self._names = source, names
        self.of_videos = {name for key, name in names.items() if is_video(source.form(key))}
        self.recorded = {key: name for key, name in names.items() if name not in self.of_videos}
        self._measured = bool((source.success >= 0).all())

    def shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a step of a feature; states and actions are vectors."""
        shape = self._source.shape(key) or (1,)
        return (math.prod(shape),) if self._names[key] in (STATE, ENVIRONMENT_STATE) else shape

    def columns(self, number: int, start: int, values: Mapping[str, Array], fps: float) -> dict[str, Array]:
        """Return the columns of an episode: `(steps, ...)`, by feature."""
        import numpy as np

        length = len(next(iter(values.values())))
        columns = {}
        for key, name in self.recorded.items():
            array = values[key].reshape(length, *self.shape(key))
            columns[name] = array.astype(np.float32) if array.dtype.kind == "f" else array
        last = np.arange(length) == length - 1
        columns["next.done"] = last[:, None]
        if self._measured:
            columns["next.success"] = (last & (self._source.success[number] == 1))[:, None]
        frames = np.arange(length)
        own: list[Array] = [(frames / fps).astype(np.float32), frames]
        own += [np.full_like(frames, number), start + frames, np.zeros_like(frames)]
        return columns | {name: each[:, None] for name, each in zip(self._OWN, own, strict=True)}

    def table(self, columns: Mapping[str, Array]) -> Any:
        """Return columns as Arrow has them: a number a row, or lists of fixed length."""
        import numpy as np
        import pyarrow

        arrays = {}
        for name, values in columns.items():
            array = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
            shape = values.shape[1:]
            for size in reversed(shape if shape != (1,) else ()):
                array = pyarrow.FixedSizeListArray.from_arrays(array, size)
            arrays[name] = array
        return pyarrow.table(arrays)

    def to_json(self, fps: float) -> dict[str, Any]:
        """Return the features as `info.json` has them."""
        found: dict[str, Any] = {}
        for key, name in self._names.items():
            if name in self.of_videos:
                height, width, _ = self._source.shape(key)
                facts = {"height": height, "width": width, "codec": "h264", "pix_fmt": "yuv420p", "fps": fps}
                info = {f"video.{what}": value for what, value in (facts | {"channels": 3}).items()}
                info |= {"video.is_depth_map": False, "has_audio": False}
                names: list[str] | None = ["height", "width", "channels"]
                found[name] = {"dtype": "video", "shape": [height, width, 3], "names": names, "info": info}
            else:
                dtype = str(self._source.dtype(key))
                dtype = "float32" if dtype.startswith("float") else dtype
                found[name] = {"dtype": dtype, "shape": [*self.shape(key)], "names": self._entries(key)}
        flags = ["next.done", *(["next.success"] if self._measured else [])]
        found |= {name: {"dtype": "bool", "shape": [1], "names": None} for name in flags}
        kinds = {name: "float32" if name == "timestamp" else "int64" for name in self._OWN}
        return found | {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in kinds.items()}

    def _entries(self, key: str) -> list[str] | None:
        """Return a name for each entry of a vector; None where that is not known."""
        names, shape = self._source.describe(key).get("names"), self.shape(key)
        if not names or len(shape) > 1:
            return None
        bodies = self._source.attributes.get("bodies")
        if len(names) < shape[0] and isinstance(bodies, list):
            names = [f"{body}.{name}" for body in bodies for name in names]
        return [*names] if len(names) == shape[0] else None


def _episodes(source: Source, features: _Features) -> Iterator[tuple[int, int, dict[str, Array]]]:
    """Yield start, end and numbers of each episode."""
    import numpy as np

    number = 0
    parts: list[dict[str, Array]] = []
    for window in source.windows(list(features.recorded)):
        first, stop = window.start, window.stop
        while first < stop:
            start, end = int(source.ends[number - 1]) if number else 0, int(source.ends[number])
            rows = slice(first - window.start, min(stop, end) - window.start)
            parts.append({key: values[rows] for key, values in window.values.items()})
            first = min(stop, end)
            if first == end:
                yield start, end, {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
                number, parts = number + 1, []


class _Files:
    """Parquet files of some size, numbered, that rows are appended to."""

    def __init__(self, folder: Path, path: str, most_mb: int) -> None:
        self._folder, self._path, self._most = folder, path, most_mb << 20
        self._number = 0
        self._writer: Any = None

    def place(self) -> dict[str, int]:
        """Return where the next rows go; a full file is left for another."""
        if self._writer is not None and self._file().stat().st_size >= self._most:
            self.close()
            self._number += 1
        return _place(self._number)

    def write(self, table: Any) -> None:
        """Append rows, as one group."""
        import pyarrow.parquet

        if self._writer is None:
            self._file().parent.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(self._file(), table.schema, compression="snappy")
        self._writer.write_table(table, row_group_size=max(1, len(table)))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _file(self) -> Path:
        return self._folder / self._path.format(**_place(self._number))


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // _FILES_A_CHUNK, "file_index": number % _FILES_A_CHUNK}


class _Video:
    """Videos of one feature: its pictures of all episodes, in files of some size."""

    def __init__(self, source: Source, key: str, name: str, folder: Path, fps: float) -> None:
        self._source, self._fps = source, fps
        self._path = str(folder / "videos" / name / f"{_PLACE}.mp4")
        self._height, self._width, _ = source.shape(key)
        self._pictures = (
            (piece.start + row, picture) for piece in source.pieces(key) for row, picture in enumerate(piece.values)
        )
        self._number = 0
        self.places: list[dict[str, Any]] = []
        """Of each episode: its file, and where it begins and ends there, in seconds."""
        self.stats: list[Stats] = []
        """Of each episode: of the channels, from 0 to 1."""

    def write(self) -> None:
        """Encode everything.

        Raises:
            VideoError: If ffmpeg cannot.
        """
        while len(self.stats) < len(self._source.ends):
            path = Path(self._path.format(**_place(self._number)))
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (self._width, self._height)
            encode(self._until_full(path), path, fps=self._fps, size=size, every=_KEYFRAME_EVERY)
            self._number += 1

    def _until_full(self, path: Path) -> Iterator[Array]:
        """Yield the pictures of whole episodes until their file is large enough."""
        import numpy as np

        begun, count, looked_at, histogram = 0, 0, set[int](), np.zeros((3, 256), np.int64)
        for frame, (row, picture) in enumerate(self._pictures):
            number = len(self.stats)
            start, end = int(self._source.ends[number - 1]) if number else 0, int(self._source.ends[number])
            if row == start:
                begun, count = frame, min(_PICTURES_MOST, end - start)
                looked_at = set(np.linspace(start, end - 1, count).round().astype(int).tolist())
                histogram[:] = 0
            if row in looked_at:
                for channel in range(3):
                    histogram[channel] += np.bincount(picture[..., channel].reshape(-1), minlength=256)
            yield np.ascontiguousarray(picture)
            if row + 1 == end:
                times = {"from_timestamp": begun / self._fps, "to_timestamp": (frame + 1) / self._fps}
                self.places.append(_place(self._number) | times)
                self.stats.append(_stats_of_pixels(histogram, count))
                if path.exists() and path.stat().st_size >= _VIDEO_MB << 20:
                    return


def _stats_of(values: Array) -> Stats:
    """Return the statistics of an episode's values, each of the shape of a step."""
    import numpy as np

    values = values.astype(np.float64)
    stats = {"min": values.min(axis=0), "max": values.max(axis=0), "mean": values.mean(axis=0)}
    stats |= {"std": values.std(axis=0), "count": np.array([len(values)])}
    return stats | dict(zip(_QUANTILES, np.quantile(values, [*_QUANTILES.values()], axis=0), strict=True))


def _stats_of_pixels(histogram: Array, pictures: int) -> Stats:
    """Return the statistics of channels, `(3, 1, 1)`, from the number of pixels of each value."""
    import numpy as np

    levels, weights = np.arange(256) / 255, histogram / histogram.sum(axis=1, keepdims=True)
    mean = (weights * levels).sum(axis=1)
    below = weights.cumsum(axis=1)
    stats = {
        "min": levels[(histogram > 0).argmax(axis=1)],
        "max": levels[255 - (histogram[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt((weights * (levels - mean[:, None]) ** 2).sum(axis=1)),
    }
    stats |= {name: levels[(below >= part - 1e-12).argmax(axis=1)] for name, part in _QUANTILES.items()}
    return {name: each.reshape(3, 1, 1) for name, each in stats.items()} | {"count": np.array([pictures])}


class _Total:
    """Statistics of all episodes, joined as they come."""

    def __init__(self) -> None:
        self._stats: dict[str, Stats] = {}

    def add(self, stats: Mapping[str, Stats]) -> None:
        """Join those of a further episode."""
        import numpy as np

        for name, new in stats.items():
            if (old := self._stats.get(name)) is None:
                self._stats[name] = new
                continue
            count = old["count"] + new["count"]
            share = float(new["count"][0] / count[0])
            apart = new["mean"] - old["mean"]
            joined = {each: old[each] + share * (new[each] - old[each]) for each in ("mean", *_QUANTILES)}
            variance = (1 - share) * old["std"] ** 2 + share * new["std"] ** 2 + share * (1 - share) * apart**2
            joined |= {"std": np.sqrt(variance), "count": count}
            joined |= {"min": np.minimum(old["min"], new["min"]), "max": np.maximum(old["max"], new["max"])}
            self._stats[name] = {each: joined[each] for each in old}

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return what `stats.json` holds."""
        return {name: {each: value.tolist() for each, value in of.items()} for name, of in self._stats.items()}


def _rows(rows: list[dict[str, Any]]) -> Any:
    """Return the rows of episodes as a table."""
    import pyarrow

    return pyarrow.Table.from_pylist(rows)


def _write_tasks(path: Path, task: str) -> None:
    """Write the table of tasks as pandas does: the text is its index."""
    import pyarrow
    import pyarrow.parquet

    about = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
            for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "pandas_version": "2.2.0",
    }
    table = pyarrow.table({"task_index": pyarrow.array([0], "int64"), "task": [task]})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path)
