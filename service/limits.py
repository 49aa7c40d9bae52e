"""Limits of a key: so many jobs at once, and so much money."""

from __future__ import annotations

from simyard.core.errors import RequestError
from simyard.service.auth import Caller
from simyard.service.prefect_api import Launches, id_of
from simyard.service.settings import Settings
from simyard.store.keys import JobKeys
from simyard.store.store import Store
from simyard.tasks.managed.record import run_status
from simyard.tasks.shared import usage
from simyard.tasks.shared.history import load_spec


class Limits:
    """Asks Prefect what a key has started; what ended jobs cost is remembered, because it does not change."""

    def __init__(self, settings: Settings, launches: Launches) -> None:
        self._usd_per_gpu_hour = settings.site.usd_per_gpu_hour
        self._launches = launches
        self._ended: dict[str, float] = {}

    def admit(self, caller: Caller) -> None:
        """Raise `RequestError` where the key may not start another job now."""
        key = caller.key
        if key.max_active_jobs is not None:
            active = self._launches.count_unended(key.key_id)
            if active >= key.max_active_jobs:
                raise RequestError(
                    f"{active} jobs of this API key wait or run; it may have {key.max_active_jobs}.",
                    code="too_many_jobs",
                    advice="Wait until one has ended, or cancel one.",
                )
        if key.max_credits is not None and (spent := self.spent(caller)) >= key.max_credits:
            raise RequestError(
                f"The jobs of this API key have cost {spent:.2f} USD of GPU time; it may spend {key.max_credits:.2f}.",
                code="over_budget",
                advice="Ask the owner for a key with a larger budget: simyard keys create --max-credits USD.",
            )

    def spent(self, caller: Caller) -> float:
        """Return the cost of a key's jobs and managed runs so far, in USD."""
        ids = {own_id for run in self._launches.of_key(caller.key.key_id) if (own_id := id_of(run))}
        return sum(self._cost(own_id, caller.store) for own_id in ids)

    def _cost(self, own_id: str, store: Store) -> float:
        if own_id in self._ended:
            return self._ended[own_id]
        try:
            if own_id.startswith("run-"):
                standing = run_status(store, own_id)
                cost, ended = standing.credits, standing.ended_by is not None
            else:
                cost = usage.in_usd(usage.gpu_seconds(load_spec(store, own_id), store), self._usd_per_gpu_hour)
                ended = store.get_json_or_none(JobKeys(own_id).result) is not None
        except RequestError:  # it was deleted
            return 0.0
        if ended:
            self._ended[own_id] = cost
        return cost
