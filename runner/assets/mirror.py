"""Copy what tasks need from an asset store on the network: run in the Python that has Isaac Lab.

    python -m simyard.runner.assets.mirror FOLDER ANSWER TASK…

Isaac Lab's own downloader fetches the files and what their USD layers refer to, from the root that
`ISAACSIM_ASSET_ROOT` names, or else from NVIDIA's. They come to lie below the folder as they do below that root.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from simyard.core.errors import Failure, RequestError, SimyardError
from simyard.core.files import write_json
from simyard.core.wire import Wire

_BESIDE = (".lock", ".isaaclab-cache.json", ".partial")
"""Endings of what the downloader keeps beside its files."""


@dataclass(frozen=True)
class Mirrored(Wire):
    """What became of a copy."""

    root: str
    """The address that it was made from."""
    copied: dict[str, int]
    """Size of each file by its path below the root."""
    missing: tuple[str, ...]
    """Files that the store does not have, by their paths."""


@dataclass(frozen=True)
class Answer(Wire):
    """What the child has to say: one of the two."""

    mirrored: Mirrored | None
    """What became of the copy."""
    failure: Failure | None
    """Why there is none."""


def mirror(folder: Path, tasks: Sequence[str]) -> Mirrored:
    """Copy what tasks need into a folder; files that are there are fetched anew.

    Raises:
        RequestError: A task is unknown, the root is no address, or there is no route to it.
    """
    from isaaclab.utils import assets

    from simyard.runner.isaaclab import lookup
    from simyard.runner.isaaclab.overrides import resolve

    root: str = assets.NUCLEUS_ASSET_ROOT_DIR
    if "://" not in root:
        raise RequestError(
            f"{root!r} is a folder, not a store on the network.",
            code="bad_asset_root",
            advice="Name the address with --from, or unset ISAACSIM_ASSET_ROOT: then it is NVIDIA's.",
        )
    lookup.register_tasks(None)
    known = lookup.registered_tasks()
    for task in tasks:
        lookup.find_task(task, None, known)
    wanted: set[str] = set()
    for task in tasks:
        wanted |= lookup.wanted_assets(resolve(task, None, ["physics=newton_mjwarp"], []), root)
    if wanted and not lookup.reachable(urlsplit(root)):
        raise RequestError(
            f"There is no route to {root!r}, which has the {len(wanted)} files that {', '.join(tasks)} needs.",
            code="assets_unreachable",
            advice="Run this where it is reached, and carry the folder here. `simyard assets build` makes robots from "
            "packages instead.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    copied: dict[str, int] = {}
    missing: list[str] = []
    with tempfile.TemporaryDirectory(prefix=".mirror-", dir=folder) as staging:
        for path in sorted(wanted):
            try:
                assets.retrieve_file_path(path, staging)
            except (FileNotFoundError, RuntimeError):
                missing.append(path.removeprefix(root).lstrip("/"))
        for file, name in _fetched(Path(staging), root):
            target = folder / name
            copied[name] = file.stat().st_size
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
            for beside in ("LICENSE", "origin.json"):  # of a robot that was built here: it is the store's own now
                target.with_name(f"{target.name}.{beside}").unlink(missing_ok=True)
    return Mirrored(root, copied, tuple(missing))


def _fetched(staging: Path, root: str) -> Iterator[tuple[Path, str]]:
    """Yield the files that came from below a root, each with its path below it."""
    address = urlsplit(root)
    base = staging / address.scheme / address.netloc.replace(":", "_") / address.path.strip("/")
    for file in sorted(base.rglob("*")):
        if file.is_file() and not file.is_symlink() and not file.name.endswith(_BESIDE):
            yield file, file.relative_to(base).as_posix()


def main(folder: str, answer: str, *tasks: str) -> None:
    """Be the child: what there is to say goes into a file, for libraries print."""
    try:
        said = Answer(mirror(Path(folder), tasks), None)
    except SimyardError as error:
        said = Answer(None, error.failure)
    write_json(Path(answer), said.to_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
