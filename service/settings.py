"""Settings of a service: its owner makes them once, through the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from simyard.blocks.reference import absolute, below, open_store
from simyard.core.errors import RequestError
from simyard.requests.settings import MachineSettings, number_from_env, on_or_off
from simyard.service.outbound import place
from simyard.store.backend import Location
from simyard.store.keys import PROJECTS
from simyard.store.store import Store
from simyard.tasks.shared.api_keys import site_secret
from simyard.tasks.shared.gate import listed_stores

DEFAULT_PROJECT = "default"
"""The project whose jobs are those of the site's own store, so that the command line sees them too."""
_MAX_UPLOAD_GB = 20.0
_URL_MINUTES = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One service's settings; every copy of it has the same."""

    machine: MachineSettings
    """The machine's."""
    store: str
    """Reference to the site's store, the same from every folder."""
    secret: bytes = field(repr=False)
    """`SIMYARD_SECRET`, else the file `secret` in the home: what URLs and outgoing webhooks are signed with."""
    public_url: str | None = None
    """`SIMYARD_PUBLIC_URL`: where clients reach the service; by default what each request was sent to."""
    pool: str | None = None
    """`SIMYARD_POOL`: the work pool that has the simulator; by default the flow's own worker has."""
    input_stores: tuple[Location, ...] = ()
    """`SIMYARD_INPUT_STORES`: where jobs may take inputs from, `s3://bucket/prefix,…`."""
    private_hosts: frozenset[str] = frozenset()
    """`SIMYARD_PRIVATE_HOSTS`: `host:port,…` of this network that users may name in URLs."""
    max_upload_bytes: int = int(_MAX_UPLOAD_GB * 1e9)
    """`SIMYARD_MAX_UPLOAD_GB`, in gigabytes: the largest file that may be uploaded."""
    url_seconds: int = int(_URL_MINUTES * 60)
    """`SIMYARD_URL_MINUTES`, in minutes: how long a signed URL is good."""
    hooks: Path | None = None
    """`SIMYARD_HOOKS`: the file that says what incoming webhooks start."""
    _opened: dict[str, Store] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stores by project: to open one may ask Prefect for a block."""

    @classmethod
    def from_env(cls) -> Settings:
        """Read the settings.

        Raises:
            RequestError: One has a bad value.
        """
        machine = MachineSettings.from_env()
        hooks = os.environ.get("SIMYARD_HOOKS")
        return cls(
            machine=replace(machine, allow_cpu_trainers=on_or_off("SIMYARD_ALLOW_CPU_TRAINERS", default="off")),
            store=absolute(machine.store),
            secret=site_secret(machine.home),
            public_url=_public_url(),
            pool=os.environ.get("SIMYARD_POOL") or None,
            input_stores=listed_stores(),
            private_hosts=frozenset(_private_host(text) for text in _listed("SIMYARD_PRIVATE_HOSTS")),
            max_upload_bytes=int(number_from_env("SIMYARD_MAX_UPLOAD_GB", _MAX_UPLOAD_GB, "gigabytes") * 1e9),
            url_seconds=int(number_from_env("SIMYARD_URL_MINUTES", _URL_MINUTES, "minutes") * 60),
            hooks=Path(hooks) if hooks else None,
        )

    def reference(self, project: str) -> str:
        """Return the reference to a project's store: no project's keys lead out of it."""
        return self.store if project == DEFAULT_PROJECT else below(self.store, f"{PROJECTS}/{project}")

    def open(self, project: str = DEFAULT_PROJECT) -> Store:
        """Return a project's store, opened once; the service keeps its own records in that of the default project."""
        if project not in self._opened:
            self._opened[project] = open_store(self.reference(project))
        return self._opened[project]


def _public_url() -> str | None:
    text = os.environ.get("SIMYARD_PUBLIC_URL")
    if not text:
        return None
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise RequestError(
            f"SIMYARD_PUBLIC_URL is {text!r}.", code="bad_setting", advice="Give http(s)://HOST[:PORT][/PATH]."
        )
    return text.rstrip("/")


def _listed(name: str) -> list[str]:
    return [text.strip() for text in os.environ.get(name, "").split(",") if text.strip()]


def _private_host(text: str) -> str:
    try:
        parts = urlsplit(f"//{text.lower()}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or text.lower() != place(host, port):
        raise RequestError(
            f"SIMYARD_PRIVATE_HOSTS has {text!r}.",
            code="bad_setting",
            advice="Give HOST:PORT, or [ADDRESS]:PORT for IPv6; the port of https is 443, of http 80.",
        )
    return place(host, port)
