"""Outgoing webhooks: the end of a job, a managed run or a sweep is sent to a URL, once it is in the store.

What is to be sent lies in the store's outbox until it was delivered or given up, so it survives every restart. Copies
of the service agree in the store on who sends. One that dies in the middle of it leaves the webhook to another, which
sends it again; receivers tell by the delivery's id.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from pydantic import JsonValue

from simyard.core.errors import RequestError, SimyardError
from simyard.core.records import NotificationRecord
from simyard.core.wire import Wire, now
from simyard.service import outbound, signatures
from simyard.service.auth import Caller
from simyard.service.errors import FieldErrors, FieldProblem
from simyard.service.prefect_api import Launches
from simyard.service.settings import Settings
from simyard.service.status import ENDED, Answer, answer_of
from simyard.store import keys
from simyard.store.store import KeyNotFound, Store
from simyard.tasks.shared.api_keys import check_project, webhook_secret

FIELD = "notify_url"
MAX_URL_CHARACTERS = 2000
PAUSES_S = (5, 30, 120, 600, 1800, 3600, 3600, 3600)
"""From one failed delivery to the next; after the last of them it is given up."""
TIMEOUT_S = 10.0
"""A whole delivery."""
CLAIM_S = 120.0
"""A copy of the service that has not sent after so long what it meant to send has died."""
RECEIVERS_AT_ONCE = 32
ROUND_S = 10.0
"""Seconds that one receiver is sent one webhook after another, before the others have their turn again."""
LOOK_S = 20.0
"""Seconds between two questions to Prefect about work without a result in the store: nearly all of it goes on."""

logger = logging.getLogger("simyard.service")


@dataclass(frozen=True, kw_only=True)
class Notice(Wire):
    """One entry of the outbox: work whose end is to be told, and the receiver."""

    id: str
    """Of the job, the run or the sweep."""
    project: str
    """Project that the work belongs to."""
    key_id: str
    """Of the API key that asked for it; the signature's secret follows from it."""
    url: str
    """URL that it is sent to."""
    failures: int = 0
    """Deliveries that failed so far."""
    not_before: float = 0.0
    """Time at which the next delivery is due, in seconds since 1970."""

    @property
    def record(self) -> str:
        """The key of what became of it."""
        return keys.keys_of(self.id).notification

    def is_due(self) -> bool:
        """Return whether it may be sent now; one that is due later than any pause is the work of a clock set back."""
        wait_s = self.not_before - time.time()
        return wait_s <= 0 or wait_s > max(PAUSES_S)


def take_url(body: dict[str, JsonValue], caller: Caller) -> str | None:
    """Take the field out of a body: the URL that the end is sent to.

    Raises:
        FieldErrors: It is no text.
        RequestError: The URL is refused.
    """
    url = body.pop(FIELD, None)
    if url is None:
        return None
    if not isinstance(url, str) or len(url) > MAX_URL_CHARACTERS:
        problem = f"{FIELD} is a URL of {MAX_URL_CHARACTERS} characters at most, not {url!r:.80}"
        raise FieldErrors(FieldProblem(["body", FIELD], problem, "url"))
    outbound.check_url(url, caller.settings.private_hosts, FIELD)
    return url


def register(caller: Caller, own_id: str, url: str) -> None:
    """Have the end of a job, a run or a sweep told; asked for twice, it is told once."""
    notice = Notice(id=own_id, project=caller.project, key_id=caller.key.key_id, url=url)
    if not caller.store.exists(notice.record):
        caller.settings.open().put_new(keys.outbox(own_id), json.dumps(notice.to_json()).encode())


class Outbox:
    """Sender of the webhooks that are due. Every copy of the service has one."""

    def __init__(self, settings: Settings, launches: Launches) -> None:
        self._settings = settings
        self._launches = launches
        self._looked: dict[str, float] = {}

    def deliver(self) -> int:
        """Send the webhooks that are due, to several receivers at once; return the number delivered or given up."""
        own = self._settings.open()
        entries = own.list(keys.OUTBOX)
        if not entries:
            return 0
        receivers: dict[str, list[Notice]] = defaultdict(list)
        with ThreadPoolExecutor(min(len(entries), RECEIVERS_AT_ONCE)) as threads:
            for notice in threads.map(lambda entry: _read(own, entry.key), entries):
                if notice and notice.is_due():
                    receivers[outbound.place(*outbound.host_and_port(notice.url, FIELD))].append(notice)
            return sum(threads.map(self._deliver_to_one, receivers.values()))

    def _deliver_to_one(self, notices: Iterable[Notice]) -> int:
        """Send one receiver its webhooks; when one fails, the others wait for the next round."""
        settled = 0
        until = time.monotonic() + ROUND_S
        for notice in notices:
            try:
                state = self._deliver(notice)
            except Exception as error:  # whatever is wrong with one must not keep the others
                logger.warning("webhook of %s: %r", notice.id, error)
                continue
            settled += state is True
            if state is False or (state and time.monotonic() > until):
                break
        return settled

    def _deliver(self, notice: Notice) -> bool | None:
        """Send one webhook, if its time has come.

        Returns:
            True when there is nothing more to do about it, False when the receiver did not take it, None when it was
            not sent.
        """
        own, store = self._settings.open(), self._settings.open(notice.project)
        if (answer := self._ended(notice, own, store)) is None:
            return None
        if store.exists(notice.record):  # who sent it died before it could say so here
            self._forget(own, notice)
            return None

        # One copy of the service sends it this time; another may have been faster since this one read the entry.
        number = notice.failures + 1
        if not _claim(own, notice.id, number):
            return None
        if (found := _read(own, keys.outbox(notice.id))) != notice:
            if found is None:
                self._forget(own, notice)
            return None

        event = f"{answer.NOUN}.{answer.status}"
        delivery = f"{notice.id}.{answer.status}"
        body = json.dumps({"event": event, "delivery_id": delivery, "data": answer.to_json()})
        problem = _send(notice, delivery, body, self._settings)
        if problem is not None and number <= len(PAUSES_S):
            logger.warning("webhook of %s: %s", notice.id, problem)
            later = replace(notice, failures=number, not_before=time.time() + PAUSES_S[number - 1])
            own.put_record(keys.outbox(notice.id), later)
            return False
        record = NotificationRecord(
            delivered=problem is None, url=_shown(notice.url), event=event, delivery_id=delivery, deliveries=number,
            problem=problem, at=now(),
        )  # fmt: skip
        store.put_record(notice.record, record)
        self._forget(own, notice)
        return True

    def _ended(self, notice: Notice, own: Store, store: Store) -> Answer | None:
        """Return the status of work that has ended; None while it goes on, or if there is no such work any more."""
        now = time.monotonic()
        result = keys.keys_of(notice.id).result
        if now - self._looked.get(notice.id, -LOOK_S) < LOOK_S and not store.exists(result):
            return None
        self._looked[notice.id] = now
        try:
            answer = answer_of(store, notice.id, self._launches)
        except RequestError as error:  # it was deleted
            logger.warning("webhook of %s: there is nothing to tell any more: %s", notice.id, error)
            self._forget(own, notice)
            return None
        return answer if answer.status in ENDED else None

    def _forget(self, own: Store, notice: Notice) -> None:
        """Take a webhook out of the outbox."""
        own.delete(keys.outbox(notice.id))
        own.delete_prefix(keys.sending(notice.id))
        self._looked.pop(notice.id, None)


def _read(own: Store, key: str) -> Notice | None:
    """Return an entry of the outbox; None where another copy has just settled it. What is none is thrown away."""
    try:
        data = own.get_bytes(key)
    except KeyNotFound:
        return None
    try:
        notice = Notice.from_json(json.loads(data))
        if key != keys.outbox(notice.id) or notice.failures < 0:
            raise ValueError(f"it is about {notice.id!r}, after {notice.failures} failures")
        check_project(notice.project)
        outbound.host_and_port(notice.url, FIELD)
        return notice
    except (ValueError, RecursionError, RequestError) as error:
        logger.error("%s is no webhook to send, and is deleted: %s", key, error)
        own.delete(key)
        return None


def _shown(url: str) -> str:
    """Return a URL as records have it: many receivers tell their senders by a secret in path or query."""
    parts = urlsplit(url)
    secret = "/…" if parts.path.strip("/") or parts.query else ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{secret}"


def _claim(own: Store, own_id: str, number: int) -> bool:
    """Return whether this copy of the service is the one that sends it this time."""
    key = keys.sending_once(own_id, number)
    if own.put_new(key, b"{}"):
        return True
    try:
        age_s = (datetime.now(UTC) - own.stat(key).modified).total_seconds()
    except KeyNotFound:  # another copy has settled it at this moment
        return False
    if age_s < CLAIM_S:
        return False
    own.delete(key)
    return own.put_new(key, b"{}")


def _send(notice: Notice, delivery: str, body: str, settings: Settings) -> str | None:
    """Send a body; return why it was not taken."""
    secret = webhook_secret(settings.secret, notice.key_id)
    data = body.encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "simyard",
        "Content-Length": str(len(data)),
        **signatures.signed(secret, delivery, body),
    }
    try:
        with outbound.sent(
            "POST", notice.url, settings.private_hosts, FIELD, headers=headers, body=data,
            patience=outbound.Patience(TIMEOUT_S),
        ) as answer:  # fmt: skip
            return None if 200 <= answer.status < 300 else f"it answered {answer.status}"
    except SimyardError as error:
        return error.failure.message
