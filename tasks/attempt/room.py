"""Room for a job, looked for before it begins: on this machine's disk, and in the store where that is a folder here."""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from pathlib import Path

from simyard.core.errors import DISK_FULL, Category, Failure, WorkloadError
from simyard.core.specs import Room
from simyard.store.store import Store


def require_room(room: Room | None, home: Path, store: Store, share: float = 1.0) -> None:
    """Refuse a job for which there is too little room, as far as that can be told before.

    Args:
        room: The estimate of what it writes, in each of the two places; None where there is none.
        home: The folder that it works in.
        store: Its store.
        share: Part of the job that is still to do.

    Raises:
        WorkloadError: With the folders, and what they have and need.
    """
    if room is None:
        return
    # Two folders of one disk need it twice.
    disks = defaultdict[int, list[Path]](list)
    for folder in filter(None, (home, store.folder)):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        disks[os.stat(there).st_dev].append(there)
    for folders in disks.values():
        needed, free = int(room.size_bytes * share) * len(folders), shutil.disk_usage(folders[0]).free
        if needed > free:
            named = " and ".join(repr(str(folder)) for folder in folders)
            failure = Failure(
                code=DISK_FULL,
                category=Category.INFRA,
                message=f"{named}: {_size(free)} free, and the job will write about {_size(needed)} there "
                f"(an estimate: {room.what}).",
                advice="Make room on that disk, or have the job keep less; then run or resume it again.",
            )
            raise WorkloadError(failure)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
