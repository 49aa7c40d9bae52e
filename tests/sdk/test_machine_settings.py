"""A machine's settings, from the environment."""

import pytest

from simyard.core.errors import RequestError
from simyard.requests.settings import MachineSettings

CACHE, POOL = ("SIMYARD_CACHE_GB", "cache_bytes"), ("SIMYARD_POOL", "pool")


@pytest.mark.parametrize(
    ("names", "setting", "value"),
    [
        (CACHE, None, 20_000_000_000), (CACHE, "", 20_000_000_000), (CACHE, "0", 0), (CACHE, "0.5", 500_000_000),
        (POOL, None, None), (POOL, "", None), (POOL, "gpu", "gpu"),
    ],
)  # fmt: skip
def test_a_setting_has_a_default(tmp_path, monkeypatch, names, setting, value):
    variable, field = names
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path))
    monkeypatch.delenv(variable, raising=False)
    if setting is not None:
        monkeypatch.setenv(variable, setting)
    site = MachineSettings.from_env()
    assert (site.cache, getattr(site, field)) == (tmp_path / "cache" / "assets", value)


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        *(("SIMYARD_CACHE_GB", setting) for setting in ("much", "-1", "nan", "inf", "1e99", "20 GB", "0x10")),
        ("SIMYARD_ACCEPT_NVIDIA_EULA", "yes"),
    ],
)
def test_a_bad_setting_is_refused(monkeypatch, variable, setting):
    monkeypatch.setenv(variable, setting)
    with pytest.raises(RequestError) as caught:
        MachineSettings.from_env()
    assert f"{variable} is {setting!r}" in str(caught.value)


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
    env = MachineSettings.from_env().workload_env(embedded_assets=False, accepts_eula=job)
    assert {name: env[name] for name in LICENCES if name in env} == given
    assert "SIMYARD_ACCEPT_NVIDIA_EULA" not in env
