"""The jobs that an API key may have at once, and the money that they may cost.

Copies of the service keep nothing and agree through the store: a key that may have four jobs at once has four places,
and a job takes one before it is staged, by a write that only one can win. A place whose job has ended is taken by the
next one that looks for a place, so nobody has to give one back.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prefect.client.schemas.objects import FlowRun

from simyard.core.errors import RequestError
from simyard.core.records import Place
from simyard.core.sweep_records import SweepResult
from simyard.service.prefect_api import Launches, id_of
from simyard.service.recovery import MOST_RUNS
from simyard.service.settings import Settings
from simyard.store import keys
from simyard.store.keys import JobKeys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.managed.record import run_status
from simyard.tasks.retention import spent_by_deleted
from simyard.tasks.shared import usage
from simyard.tasks.shared.history import load_spec
from simyard.tasks.sweeps.record import sweep_status

if TYPE_CHECKING:
    from simyard.service.auth import Caller

LEASE_S = 600.0
"""Seconds that a place is kept for work without a flow run: its inputs are on their way into the store, or whoever
took the place has died."""


class Limits:
    """The limits of keys. What has ended, and its cost, is remembered, because it does not change."""

    def __init__(self, settings: Settings, launches: Launches) -> None:
        self._usd_per_gpu_hour = settings.machine.usd_per_gpu_hour
        self._launches = launches
        self._site = settings.open()
        self._ended: dict[str, float] = {}
        self._over: set[str] = set()
        self._places: dict[str, Place] = {}

    def admit(self, caller: Caller, own_id: str | None) -> None:
        """Raise `RequestError` where the key may not start another job now; nothing is taken yet.

        Args:
            caller: Who sent the request.
            own_id: Of the job that its idempotency key stands for; None for a new one.
        """
        key = caller.key
        if key.max_active_jobs is not None:
            taken = self._taken(key.key_id)
            if all(place.id != own_id for _, place in taken.values()):
                self._free_place(caller, key.max_active_jobs, taken)
        if key.max_credits is not None and self._usd_per_gpu_hour is None:
            raise RequestError(
                f"This API key may spend {key.max_credits:.2f} USD of GPU time, and the site names no price for it.",
                code="no_price",
                advice="Have the site's owner set SIMYARD_USD_PER_GPU_HOUR, or ask for a key without a budget.",
            )
        if key.max_credits is not None and (spent := self.spent(caller)) >= key.max_credits:
            raise RequestError(
                f"The jobs of this API key have cost {spent:.2f} USD of GPU time; it may spend {key.max_credits:.2f}.",
                code="over_budget",
                advice="Ask the owner for a key with a larger budget: simyard keys create --max-credits USD.",
            )

    # The jobs at once

    def reserve(self, caller: Caller, own_id: str) -> None:
        """Take a place for work that is about to be staged: a job, or a whole managed run or sweep. Some needs none.

        Of many that ask in the same moment, in whichever copies of the service, no more get one than there are.

        Raises:
            RequestError: All places are taken.
        """
        most, key_id = caller.key.max_active_jobs, caller.key.key_id
        if most is None:
            return
        taken = self._taken(key_id)
        if own_id not in (place.id for _, place in taken.values()) and self._launches.find(own_id) is not None:
            return
        while own_id not in (place.id for _, place in taken.values()):
            number, generation = self._free_place(caller, most, taken)
            place = Place(id=own_id, taken_at=datetime.now(UTC).isoformat())
            key = keys.place(key_id, number, generation)
            is_written = self._site.put_new(key, json.dumps(place.to_json()).encode())
            # The newest in a place has it. Where this one was slow, another has come and gone meanwhile, and the key
            # was free again: so what counts is seen after the write, in the next round.
            taken = self._taken(key_id)
            if is_written and taken[number][0] == generation:
                for entry in self._site.list(key.rpartition("/")[0]):
                    if entry.key < key:
                        self._site.delete(entry.key)

    def _taken(self, key_id: str) -> dict[int, tuple[int, Place]]:
        """Return what is in each place that was ever taken, by its number, and how many were there before."""
        while True:
            newest: dict[int, int] = {}
            for entry in self._site.list(keys.places(key_id)):
                number, generation = map(int, entry.key.removesuffix(".json").split("/")[-2:])
                newest[number] = max(generation, newest.get(number, 0))
            with suppress(KeyNotFound):  # the next one has it, and has cleared up behind it, since they were listed
                return {
                    number: (generation, self._place(keys.place(key_id, number, generation)))
                    for number, generation in newest.items()
                }

    def _place(self, key: str) -> Place:
        """Return what is under a key; it is written once, and so read once."""
        if key not in self._places:
            self._places[key] = self._site.get_record(key, Place)
        return self._places[key]

    def _free_place(self, caller: Caller, most: int, taken: dict[int, tuple[int, Place]]) -> tuple[int, int]:
        """Return the number of a place that is free, and how many were there before the next one.

        Raises:
            RequestError: None is.
        """
        for number in range(1, most + 1):
            if number not in taken:
                return number, 0
        runs = self._launches.find_all([place.id for _, place in taken.values() if place.id not in self._over])
        for number, (generation, place) in sorted(taken.items()):
            if place.id in self._over or _is_over(place, runs[place.id], caller.store):
                self._over.add(place.id)
                return number, generation + 1
        raise RequestError(
            f"{len(taken)} jobs of this API key wait or run; it may have {most}.",
            code="too_many_jobs",
            advice="Wait until one has ended, or cancel one.",
        )

    # The money

    def spent(self, caller: Caller) -> float:
        """Return the cost of a key's work so far, in USD, trainings of sweeps too; none of what is still to come."""
        ids = {own_id for run in self._launches.of_key(caller.key.key_id) if (own_id := id_of(run))}
        return sum(self._cost(own_id, caller.store) for own_id in ids)

    def _cost(self, own_id: str, store: Store) -> float:
        if own_id in self._ended:
            return self._ended[own_id]
        try:
            if own_id.startswith("run-"):
                known = run_status(store, own_id)
                cost, ended = known.credits, known.ended_by is not None
            elif own_id.startswith("sweep-"):
                swept = sweep_status(store, own_id)
                cost = (swept.cost.usd if swept.cost else None) or 0.0
                ended = isinstance(swept, SweepResult)
            else:
                cost = usage.cost(load_spec(store, own_id), store).usd or 0.0
                ended = store.get_json_or_none(JobKeys(own_id).result) is not None
        except RequestError:  # it was deleted
            cost, ended = usage.in_usd(spent_by_deleted(store, own_id), self._usd_per_gpu_hour) or 0.0, True
        if ended:
            self._ended[own_id] = cost
        return cost


def _is_over(place: Place, run: FlowRun | None, store: Store) -> bool:
    """Return whether the work that has a place neither waits nor runs, nor is set going again."""
    if run is None or run.state is None:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(place.taken_at)).total_seconds()
        return age_s > LEASE_S
    if run.state.is_final() and (not run.state.is_crashed() or run.run_count >= MOST_RUNS):
        return True
    return store.exists(keys.keys_of(place.id).result)
