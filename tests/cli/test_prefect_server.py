"""The auth string of a site's Prefect server: kept, private, and lent to commands that go to that server alone."""

import os
import stat

import pytest

from simyard.cli.prefect_server import find_auth, own_server

URL = "http://127.0.0.1:4200/api"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home whose commands have no Prefect server yet."""
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"):
        monkeypatch.setenv(name, "")  # so that it is as it was when the test is over
        monkeypatch.delenv(name)
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    return tmp_path


def test_it_is_made_once_for_its_owner_alone(home):
    first = own_server(home, URL)
    user, _, password = first.auth.partition(":")
    assert (user, len(password) >= 43) == ("simyard", True)
    assert own_server(home, "http://127.0.0.1:4300/api").auth == first.auth
    assert stat.S_IMODE((home / "prefect-auth").stat().st_mode) == 0o600
    assert str(home / "prefect-auth") in first.where
    assert first.env["PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"


@pytest.mark.parametrize(
    ("url", "is_lent"),
    [
        (URL, True),
        ("http://localhost:4200/api/", True),
        ("http://127.0.0.1:4201/api", False),
        ("http://prefect.example.com:4200/api", False),
        ("http://127.0.0.1@prefect.example.com:4200/api", False),
        ("http://127.0.0.1:port/api", False),
        ("", False),
    ],
)
def test_a_command_is_lent_it_for_that_server_alone(home, monkeypatch, url, is_lent):
    auth = own_server(home, URL).auth
    monkeypatch.setenv("PREFECT_API_URL", url)
    find_auth()
    assert os.environ.get("PREFECT_API_AUTH_STRING") == (auth if is_lent else None)


def test_the_owners_own_counts(home, monkeypatch):
    own_server(home, URL)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "lab:of-the-owner")
    given = own_server(home, URL)
    assert (given.auth, given.where) == ("lab:of-the-owner", "PREFECT_SERVER_API_AUTH_STRING")
    monkeypatch.setenv("PREFECT_API_URL", URL)
    find_auth()
    assert "PREFECT_API_AUTH_STRING" not in os.environ, "the one that was made before is that server's no more"
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "lab:of-the-owner")
    find_auth()
    assert os.environ["PREFECT_API_AUTH_STRING"] == "lab:of-the-owner"
