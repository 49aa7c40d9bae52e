"""The store that a command works on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simyard.requests.settings import Site
    from simyard.store.store import Store


def open_site_store(reference: str | None) -> Store:
    """Open the store a command names, or the site's own."""
    from simyard.blocks.reference import open_store
    from simyard.requests.settings import Site

    return open_store(reference or Site.from_env().store)


def open_site(reference: str | None) -> tuple[Site, str, Store]:
    """Return this machine's settings, and the store of a command: an address that holds in any folder, and itself."""
    from simyard.blocks.reference import absolute, open_store
    from simyard.requests.settings import Site

    site = Site.from_env()
    reference = absolute(reference or site.store)
    return site, reference, open_store(reference)
