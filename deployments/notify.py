"""Notifications: a Prefect automation for each receiver, which a block of Prefect's own sends to.

Flows tell Prefect what happened by events (`flows/notices.py`), whose names are here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from pydantic import SecretStr

from simyard.core.errors import RequestError, unknown
from simyard.deployments.apply import OnChange

ABOUT = {
    "end": tuple(f"simyard.{kind}.{end}" for kind in ("job", "run", "sweep") for end in ("succeeded", "canceled")),
    "failure": ("simyard.job.failed", "simyard.run.failed", "simyard.sweep.failed"),
    "stall": ("simyard.job.stalled",),
    "budget": ("simyard.run.out_of_budget", "simyard.sweep.out_of_budget"),
    "promotion": ("simyard.promotion.promoted",),
}
"""The events that each word of `--notify-on` stands for."""
USUAL = ("failure", "stall", "budget", "promotion")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_SLACK = ("hooks.slack.com", "hooks.slack-gov.com")
_ADVICE = (
    "Write NAME=URL: the address of a Slack webhook, any http(s):// address, or one of Apprise's, such as "
    "'mailto://user:password@example.com?to=lab@example.com'."
)


@dataclass(frozen=True)
class Receiver:
    """A receiver of notifications."""

    name: str
    url: str
    about: tuple[str, ...]
    """Words of `ABOUT`."""

    @classmethod
    def checked(cls, text: str, about: str) -> Receiver:
        """Return the receiver that `--notify` and `--notify-on` name.

        Args:
            text: NAME=URL.
            about: Words with commas between; empty for the usual ones.

        Raises:
            RequestError: One of them is none.
        """
        name, equals, url = text.partition("=")
        parts = urlsplit(url)
        if not equals or not _NAME.fullmatch(name) or not parts.scheme or not parts.netloc:
            shown = f"{name}=…" if equals else text  # the address may hold a password
            raise RequestError(f"--notify {shown!r} is no receiver.", code="bad_receiver", advice=_ADVICE)
        words = tuple(dict.fromkeys(re.findall(r"[^\s,]+", about))) or USUAL
        for word in words:
            if word not in ABOUT:
                raise unknown("notification", word, ABOUT, code="bad_receiver")
        return cls(name, url, words)

    def block(self) -> SlackWebhook | CustomWebhookNotificationBlock:
        """Return the block that sends to it."""
        parts = urlsplit(self.url)
        if parts.scheme in ("http", "https") and parts.hostname not in _SLACK:
            return CustomWebhookNotificationBlock(
                name=self.name, url=self.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
            )
        return SlackWebhook(url=SecretStr(self.url))  # which gives any other address to Apprise

    def automation(self, block_id: Any) -> AutomationCore:
        """Return the automation that has the block send."""
        return AutomationCore(
            name=f"simyard-{self.name}",
            description=f"Tells {self.name} of {', '.join(self.about)}; made by `simyard deploy --notify`.",
            trigger=EventTrigger(
                expect={event for word in self.about for event in ABOUT[word]},
                for_each={"prefect.resource.id"},
                posture=Posture.Reactive,
                threshold=1,
            ),
            actions=[
                SendNotification(
                    block_document_id=block_id,
                    subject="{{ event.payload.subject }}",
                    body="{{ event.payload.message }}",
                )
            ],
        )


def apply_receiver(client: SyncPrefectClient, receiver: Receiver, on_change: OnChange) -> None:
    """Send the block and the automation of a receiver; one that is there is replaced."""
    block_id = receiver.block().save(f"simyard-{receiver.name}", overwrite=True, _sync=True)  # type: ignore[call-arg]
    wanted = receiver.automation(block_id)
    known = client.read_automations_by_name(wanted.name)
    for one in known[1:]:
        client.delete_automation(one.id)
    if known:
        client.update_automation(known[0].id, wanted)
    else:
        client.create_automation(wanted)
    on_change(f"notifications of {receiver.name}: {', '.join(receiver.about)}", "updated" if known else "created")


def remove_receiver(client: SyncPrefectClient, name: str, on_change: OnChange) -> None:
    """Delete the automation and the block of a receiver; one that is not there is deleted already."""
    known = client.read_automations_by_name(f"simyard-{name}")
    for one in known:
        client.delete_automation(one.id)
    for kind in (SlackWebhook, CustomWebhookNotificationBlock):
        with suppress(ValueError):
            kind.delete(f"{kind.get_block_type_slug()}/simyard-{name}", _sync=True)  # type: ignore[call-arg]
    on_change(f"notifications of {name}", "deleted" if known else "unchanged")
