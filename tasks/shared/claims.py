"""The one process that makes the attempts of a job which several may want: `jobs/<job_id>/drivers/<n>.json`.

A claim is written once and never renewed: while its process makes an attempt, that has heartbeats. One whose process
has died, or seems to have, is succeeded by the next number, and counts for nothing should the process come back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from simyard.core.records import Heartbeat, this_process
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.shared import usage
from simyard.tasks.shared.heartbeat import PATIENCE


@dataclass(frozen=True)
class Claim:
    """This process's claim on a job."""

    store: Store
    job_id: str
    number: int

    @property
    def counts(self) -> bool:
        """Whether no other process has succeeded this one, which looked dead and was not."""
        return not self.store.exists(JobKeys(self.job_id).driver(self.number + 1))

    def give_up(self) -> None:
        """Let others have the job."""
        if self.counts:
            self.store.delete(JobKeys(self.job_id).driver(self.number))


def take(store: Store, job_id: str) -> Claim | None:
    """Claim a job for this process; return None while another one has it, or makes an attempt at it."""
    newest = usage.last_attempt(store, job_id)
    beat: Heartbeat | None = newest.status if newest is not None and newest.outcome is None else None
    if beat is not None and _is_elsewhere(beat):
        return None
    own = json.dumps(Heartbeat(**this_process()).to_json()).encode()
    taken = [int(entry.key.rpartition("/")[2].partition(".")[0]) for entry in store.list(JobKeys(job_id).drivers)]
    number = max(taken, default=1)
    while True:
        key = JobKeys(job_id).driver(number)
        if store.put_new(key, own):
            return Claim(store, job_id, number)
        holder = store.get_record_or_none(key, Heartbeat)
        if holder is not None and holder.is_own():
            return Claim(store, job_id, number)
        if holder is None or _is_elsewhere(holder):
            return None
        number += 1  # its process has died: of those who find that, one is its successor


def _is_elsewhere(beat: Heartbeat) -> bool:
    return not beat.is_own() and not beat.is_gone(PATIENCE.supervisor.silence_s)
