"""A machine's settings, from the environment."""

import pytest

from simyard.runner.errors import RequestError
from simyard.site import Site


@pytest.mark.parametrize(
    ("setting", "cache_bytes"), [(None, 20_000_000_000), ("", 20_000_000_000), ("0", 0), ("0.5", 500_000_000)]
)
def test_the_cache_has_a_place_and_a_size(tmp_path, monkeypatch, setting, cache_bytes):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    monkeypatch.delenv("SIMYARD_CACHE_GB", raising=False)
    if setting is not None:
        monkeypatch.setenv("SIMYARD_CACHE_GB", setting)
    site = Site.from_env()
    assert (site.cache, site.cache_bytes) == (tmp_path / "cache" / "assets", cache_bytes)


@pytest.mark.parametrize("setting", ["much", "-1", "nan", "inf", "1e99", "20 GB", "0x10"])
def test_a_bad_size_of_the_cache_is_refused(monkeypatch, setting):
    monkeypatch.setenv("SIMYARD_CACHE_GB", setting)
    with pytest.raises(RequestError, match="SIMYARD_CACHE_GB is") as caught:
        Site.from_env()
    assert repr(setting) in str(caught.value)
