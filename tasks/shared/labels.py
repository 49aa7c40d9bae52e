"""Tags and notes that people give jobs: bounded, plain text, the last writer's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from simyard.core.errors import RequestError
from simyard.core.records import JobLabels
from simyard.core.wire import now
from simyard.store import keys
from simyard.store.store import Store
from simyard.tasks.shared.history import load_spec
from simyard.tasks.shared.listing import read_each

MOST_TAGS = 20
LONGEST_NOTE = 4000
"""Characters."""
_TAG = re.compile(r"\w[\w.:/=+-]{0,39}")
# Control characters but tabs and line feeds, and lone surrogates, which UTF-8 has not.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def read(store: Store, job_id: str) -> JobLabels:
    """Return the tags and the note of a job; empty ones where nobody gave any."""
    found = store.get_record_or_none(keys.labels(job_id), JobLabels)
    return found or JobLabels(job_id=job_id, tags=(), note="", by="", updated_at="")


def read_some(store: Store, wanted: Collection[str]) -> dict[str, JobLabels]:
    """Return the labels of those of some jobs that have any, by one listing and a read each; a bad one is left out."""
    listed = [entry.key.rpartition("/")[2].removesuffix(".json") for entry in store.list(keys.LABELS)]
    names = [name for name in listed if name in wanted]
    found = read_each(names, lambda name: store.get_record_or_none(keys.labels(name), JobLabels))
    return {name: one for name, one in zip(names, found, strict=True) if isinstance(one, JobLabels)}


def change(
    store: Store,
    job_id: str,
    *,
    by: str,
    add: Iterable[str] = (),
    remove: Collection[str] = (),
    tags: Iterable[str] | None = None,
    note: str | None = None,
) -> JobLabels:
    """Change the tags and the note of a job.

    Args:
        store: The job's store.
        job_id: The job.
        by: Id of the API key, or `command line`.
        add: Tags to add.
        remove: Tags to remove; one that it has not is no error.
        tags: All of its tags from now on, before some are added and removed; None keeps those that it has.
        note: The note; empty for none, None keeps the one that it has.

    Raises:
        RequestError: There is no such job, or a tag or the note is none.
    """
    load_spec(store, job_id)
    before = read(store, job_id)
    chosen = {*(before.tags if tags is None else tags), *add} - set(remove)
    for tag in sorted(chosen):
        if not _TAG.fullmatch(tag):
            raise RequestError(
                f"{tag[:80]!r} is no tag.",
                code="bad_label",
                advice="Allowed: 1 to 40 of letters, digits and '_.:/=+-', a letter, a digit or '_' first.",
            )
    if len(chosen) > MOST_TAGS:
        raise RequestError(
            f"These are {len(chosen)} tags; a job has {MOST_TAGS} at most.", code="bad_label", advice="Remove some."
        )
    text = before.note if note is None else note.replace("\r\n", "\n").strip()
    unsafe = _UNSAFE.search(text)
    if unsafe or len(text) > LONGEST_NOTE:
        has = f"the character {unsafe[0]!r}" if unsafe else f"{len(text):,} characters"
        advice = f"Allowed: {LONGEST_NOTE:,} characters of plain text."
        raise RequestError(f"The note has {has}.", code="bad_label", advice=advice)
    labels = JobLabels(job_id=job_id, tags=tuple(sorted(chosen)), note=text, by=by, updated_at=now())
    store.put_record(keys.labels(job_id), labels)
    return labels
