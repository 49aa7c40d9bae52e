"""The store that a command works on. It imports no Prefect, which would cost an upload two seconds."""

from __future__ import annotations

from simyard.blocks.reference import open_store
from simyard.requests.settings import Site
from simyard.store.store import Store


def open_site_store(reference: str | None) -> Store:
    """Open the store a command names, or the site's own."""
    return open_store(reference or Site.from_env().store)
