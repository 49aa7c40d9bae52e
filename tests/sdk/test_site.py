"""A machine's settings, from the environment."""

import pytest

from simyard.core.errors import RequestError
from simyard.requests.settings import Site


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


LICENCES = {"ACCEPT_EULA": "Y", "OMNI_KIT_ACCEPT_EULA": "YES"}


@pytest.mark.parametrize(
    ("site", "job", "given"),
    [(None, False, {}), ("off", False, {}), ("on", False, LICENCES), (None, True, LICENCES), ("off", True, LICENCES)],
    ids=["nobody", "not the site", "the site", "the job", "the job, not the site"],
)
def test_only_a_word_of_site_or_job_accepts_the_licence(tmp_path, monkeypatch, site, job, given):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    for name, value in LICENCES.items():
        monkeypatch.setenv(name, value)  # an image has them baked in
    monkeypatch.delenv("SIMYARD_ACCEPT_NVIDIA_EULA", raising=False)
    if site is not None:
        monkeypatch.setenv("SIMYARD_ACCEPT_NVIDIA_EULA", site)
    env = Site.from_env().workload_env(embedded_assets=False, accepts_eula=job)
    assert {name: env[name] for name in LICENCES if name in env} == given
    assert "SIMYARD_ACCEPT_NVIDIA_EULA" not in env


def test_the_licence_is_accepted_in_no_other_words(monkeypatch):
    monkeypatch.setenv("SIMYARD_ACCEPT_NVIDIA_EULA", "yes")
    with pytest.raises(RequestError, match="SIMYARD_ACCEPT_NVIDIA_EULA is 'yes'"):
        Site.from_env()


@pytest.mark.parametrize(("setting", "pool"), [(None, None), ("", None), ("gpu", "gpu")])
def test_a_site_may_have_a_pool(monkeypatch, setting, pool):
    monkeypatch.delenv("SIMYARD_POOL", raising=False)
    if setting is not None:
        monkeypatch.setenv("SIMYARD_POOL", setting)
    assert Site.from_env().pool == pool
