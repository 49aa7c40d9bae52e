"""What a machine says of itself: each look at something real that is missing, broken or there."""

import sys
from importlib.metadata import version
from xml.parsers import expat

import pytest

from simyard.tasks.shared.machine_checks import check_expat, machine_checks, read_settings


@pytest.fixture
def look(tmp_path, monkeypatch):
    """Return the checks of this machine by name."""
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SIMYARD_PYTHON", "/bin/false")

    def run(**env):
        for name, value in env.items():
            monkeypatch.setenv(name, str(value))
        settings, site = read_settings()
        return {check.name: check for check in (settings, *machine_checks(site))}

    return run


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_simulator_of_this_environment(look):
    checks = look(SIMYARD_PYTHON=sys.executable)
    assert (checks["Python"].state, checks["Isaac Lab"].state, checks["licence"].state) == ("ok", "ok", "ok")
    assert checks["Isaac Lab"].text.startswith("3.0.0 without Kit, Newton ")
    assert checks["physics"].state == "ok"
    assert checks["physics"].text.startswith(f"newton {version('newton')}")
    assert checks["assets"].text.startswith("embedded: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("exit 3", "exit code 3", id="fails"),
        pytest.param("echo Hello", "Expecting value", id="prints something else"),
        pytest.param("echo 7", "printed 7", id="prints another JSON"),
        pytest.param("echo '{}'", "lacks the field", id="prints too little"),
        pytest.param("echo 'No module named simyard' >&2; exit 1", "No module named simyard", id="has no simyard"),
    ],
)
def test_a_python_that_is_none(look, tmp_path, text, said):
    checks = look(SIMYARD_PYTHON=script(tmp_path / "python", text))
    assert checks["Python"].state == "failed"
    assert said in checks["Python"].text
    assert "SIMYARD_PYTHON" in checks["Python"].fix
    assert {checks[name].state for name in ("Isaac Lab", "CUDA", "licence")} == {"skipped"}


def test_a_python_that_is_not_there(look, tmp_path):
    checks = look(SIMYARD_PYTHON=tmp_path / "python")
    assert checks["Python"].state == "failed"
    assert "No such file" in checks["Python"].text


KIT = '{"scripts": null, "kit": true, "versions": {"python": "3.12.1", "isaaclab": "3.0.0", "isaacsim": "6.0.0"}}'


def test_a_licence_that_nobody_has_accepted(look, tmp_path):
    python = script(tmp_path / "python", f"echo 'Kit says hello'\necho '{KIT}'")
    checks = look(SIMYARD_PYTHON=python)
    assert checks["Isaac Lab"].text == "3.0.0 with Kit, Isaac Sim 6.0.0"
    assert "physx in Isaac Sim 6.0.0" in checks["physics"].text
    assert checks["licence"].state == "warning"
    assert "SIMYARD_ACCEPT_NVIDIA_EULA=on" in checks["licence"].fix
    assert look(SIMYARD_ACCEPT_NVIDIA_EULA="on")["licence"].state == "ok"


def test_scripts_of_isaac_lab_2_3(look, tmp_path):
    (tmp_path / "VERSION").write_text("2.3.1\n")
    said = f'{{"scripts": "{tmp_path}", "kit": false, "versions": {{"python": "3.11.9"}}}}'
    checks = look(SIMYARD_PYTHON=script(tmp_path / "python", f"echo '{said}'"))
    assert checks["Isaac Lab"].text.startswith("2.3.1 in ")
    assert checks["licence"].state == "warning"


def test_assets_of_ones_own(look, tmp_path):
    missing = look(ISAACSIM_ASSET_ROOT=tmp_path / "assets")["assets"]
    assert missing.state == "failed"
    (tmp_path / "assets").mkdir()
    assert look()["assets"].state == "ok"
    unreachable = look(ISAACSIM_ASSET_ROOT="http://127.0.0.1:9/Assets")["assets"]
    assert (unreachable.state, unreachable.text) == ("failed", "127.0.0.1 cannot be reached")


def test_the_version_of_what_reads_xml():
    check = check_expat()
    assert check.text.startswith(expat.EXPAT_VERSION.removeprefix("expat_"))
    is_safe = expat.version_info >= (2, 6, 0)
    assert (check.state, bool(check.fix)) == (("ok", False) if is_safe else ("warning", True))


def test_kernels_cold_and_warm(look, tmp_path):
    cold = look(WARP_CACHE_PATH=tmp_path / "warp")["kernel cache"]
    assert (cold.state, cold.text.partition(",")[0]) == ("ok", "cold")
    (tmp_path / "warp" / "wp_newton_1234").mkdir(parents=True)
    assert look()["kernel cache"].text.startswith("warm, 1 modules")
    (tmp_path / "warp").chmod(0o777)
    anyones = look()["kernel cache"]
    assert (anyones.state, repr(str(tmp_path / "warp")) in anyones.text) == ("failed", True)
    assert "chmod -R go-w" in anyones.fix


def test_a_bad_setting_leaves_the_others(look, tmp_path):
    checks = look(SIMYARD_CACHE_GB="much")
    assert checks["settings"].state == "failed"
    assert "SIMYARD_CACHE_GB" in checks["settings"].text
    assert str(tmp_path / "home") in checks["disk"].text
