"""`/v1/home`: where the first page of a project is."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from fastapi import APIRouter

from simyard.service.auth import JobsCaller
from simyard.service.endpoints.pages import PAGE_SECONDS, site_token

router = APIRouter(tags=["pages"])


@dataclass(frozen=True, kw_only=True)
class HomeLink:
    """Address of a project's first page."""

    page_url: str
    """Address that needs no key; from it all pages of the project are found."""
    seconds: float
    """Time for which it is good."""


@router.get("/v1/home", summary="Get the address of the first page")
def home_link(caller: JobsCaller) -> HomeLink:
    """Return a link to the first page of the key's project."""
    token = quote(site_token(caller.settings, caller.key))
    return HomeLink(page_url=f"{caller.base_url}/?token={token}", seconds=PAGE_SECONDS)
