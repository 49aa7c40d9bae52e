"""A machine's settings, from the environment."""

import os

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
        ("SIMYARD_ROBOT_SENSORS", ", "),
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


CODE = ("WARP_CACHE_PATH", "CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


def test_compiled_code_is_kept_for_each_project_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "warp"))
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    machine = MachineSettings.from_env()
    of = {
        project: machine.workload_env(embedded_assets=False, project=project) for project in ("default", "lab", "other")
    }
    assert (of["default"]["WARP_CACHE_PATH"], of["default"].get("TRITON_CACHE_DIR")) == (str(tmp_path / "warp"), None)
    for name in CODE:
        assert of["lab"][name].startswith(str(tmp_path / "home" / "cache" / "code" / "lab")), name
        assert len({env.get(name) for env in of.values()}) == 3, name


@pytest.mark.parametrize("project", ["default", "lab"])
@pytest.mark.parametrize(
    ("what", "mode", "uid", "is_refused"),
    [
        (".", 0o777, None, True), ("wp_a", 0o777, None, True), ("wp_a/kernel.so", 0o666, None, True),
        ("wp_a/kernel.so", 0o644, 12345, True), ("wp_a/kernel.so", 0o664, None, False), (".", 0o755, None, False),
    ],
    ids=["folder", "module", "file", "of another user", "of our group", "private"],
)  # fmt: skip
def test_a_cache_that_others_may_write_is_refused(tmp_path, monkeypatch, project, what, mode, uid, is_refused):
    if uid is not None and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WARP_CACHE_PATH", str(tmp_path / "warp"))
    machine = MachineSettings.from_env()
    machine.require_own_caches(project)
    cache = tmp_path / "warp" if project == "default" else tmp_path / "home" / "cache" / "code" / "lab" / "warp"
    (cache / "wp_a").mkdir(parents=True)
    (cache / "wp_a" / "kernel.so").touch(mode=0o644)
    (cache / "wp_a" / "link").symlink_to("kernel.so")  # a link's own mode is 777
    (cache / what).chmod(mode)
    if uid is not None:
        os.chown(cache / what, uid, -1)
    if not is_refused:
        machine.require_own_caches(project)
        return
    with pytest.raises(RequestError) as caught:
        machine.require_own_caches(project)
    assert repr(str(cache / what)) in str(caught.value)
    assert caught.value.failure.code == "unsafe_cache"
    assert f"chmod -R go-w {cache}" in caught.value.failure.advice
