"""Episodes of a rollout, played in the browser: the page, and what it fetches of each."""

from __future__ import annotations

import json
from functools import lru_cache
from urllib.parse import quote

from simyard.core.artifacts import ROLLOUT
from simyard.core.errors import RequestError
from simyard.core.specs import JobSpec
from simyard.service.job_look import JobLook
from simyard.service.job_page import TEMPLATES
from simyard.store.store import Entry, Store
from simyard.tasks.pages.playback import playback

MOST_KEPT = 8
"""Episodes that are kept, of at most 5 MB each."""


def episode_of(look: JobLook, episode: int) -> bytes:
    """Return an episode of a job's rollout as JSON, as `read_episode` of tasks/pages/playback.py gives it.

    Raises:
        RequestError: The job has no rollout, that has no such episode, or it cannot be played.
    """
    return _read(look.store, rollout_of(look), episode)


@lru_cache(MOST_KEPT)
def _read(store: Store, entry: Entry, episode: int) -> bytes:
    found = playback(store, entry.key, entry.size_bytes, episode)
    return json.dumps(found, allow_nan=False, separators=(",", ":")).encode()


def rollout_of(look: JobLook) -> Entry:
    """Return a job's `rollout.zarr`, as it was listed.

    Raises:
        RequestError: There is none.
    """
    entry = look.entries.get(look.keys.artifact(ROLLOUT.name))
    if entry is None:
        raise RequestError(
            f"Job {look.job_id} has no {ROLLOUT.name}.",
            code="no_rollout",
            advice="Jobs of the kind rollout leave one, once they have ended.",
        )
    return entry


def playback_page(spec: JobSpec, token: str, nonce: str) -> str:
    """Return the page that plays a job's episodes.

    Args:
        spec: The job.
        token: Of the links to the job.
        nonce: Name of the page's style and script in its policy.
    """
    query = f"?token={quote(token)}"
    return TEMPLATES.render(
        "playback.html.j2",
        title=f"{spec.name}: episodes", nonce=nonce, reload_ms=None, spec=spec,
        back=f"../{spec.job_id}{query}", data=f"playback/%s{query}",
    )  # fmt: skip
