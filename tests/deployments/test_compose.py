"""The site in containers: compose itself reads the file, and what it names is there."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from simyard.cli.main import main

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "deployments" / "compose.yaml"
PAGE = (ROOT / "docs" / "gpu-box.md").read_text(encoding="utf-8")
SECRETS = ("POSTGRES_PASSWORD", "PREFECT_PASSWORD", "SIMYARD_SECRET")
MARKED = {name: f"<{name}>" for name in SECRETS}
"""Values that are found again in what compose makes of the file."""


def program() -> list[str]:
    """Return how compose is called here."""
    if shutil.which("docker"):
        plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    pytest.skip("neither `docker compose` nor `docker-compose` is installed")


def config(env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Have compose read the file, with variables from a file as an operator gives them."""
    variables = folder / "compose.env"
    variables.write_text("".join(f"{key}={value}\n" for key, value in env.items()))
    command = [*program(), "--env-file", variables, "-f", COMPOSE, "--profile", "two-gpus", "config"]
    return subprocess.run(
        command, cwd=folder, env={"PATH": "/usr/local/bin:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what compose makes of the file."""
    done = config(MARKED | {"AWS_REGION": "eu-central-1"}, tmp_path_factory.mktemp("compose"))
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_not_given_is_asked_for(name: str, tmp_path: Path) -> None:
    done = config({key: value for key, value in MARKED.items() if key != name}, tmp_path)
    assert done.returncode != 0
    (said,) = set(re.findall(rf"\$\{{{name}:\?(.*?)\}}", COMPOSE.read_text()))
    assert said in done.stderr


def test_no_password_is_written_down(read: Any) -> None:
    secret = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY")
    values = {
        (name, key): value
        for name, service in read["services"].items()
        for key, value in service.get("environment", {}).items()
        if secret.search(key) and value is not None
    }
    assert values
    assert not {place: value for place, value in values.items() if not any(mark in value for mark in MARKED.values())}


def test_the_rest_of_the_credentials_comes_from_the_file_where_it_is_given(read: Any) -> None:
    for name in ("control", "api", "gpu"):
        env = read["services"][name]["environment"]
        assert env["AWS_REGION"] == "eu-central-1"
        assert env.get("AWS_ACCESS_KEY_ID") is None  # not given, so not empty either


def test_services_that_stay_say_how_they_are(read: Any) -> None:
    stay = {name for name, service in read["services"].items() if service.get("restart") != "no"}
    assert stay == {"postgres", "prefect", "control", "api", "gpu", "gpu-1"}
    assert not [name for name in stay if not read["services"][name]["healthcheck"]["test"]]
    tests = {name: " ".join(read["services"][name]["healthcheck"]["test"]) for name in stay}
    assert "pg_isready" in tests["postgres"]
    assert "/api/health" in tests["prefect"]
    assert "/readyz" in tests["api"]


def test_each_waits_for_what_it_needs(read: Any) -> None:
    needs = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in read["services"].items()
    }
    deployed = {"deploy": "service_completed_successfully"}
    assert needs == {
        "postgres": {}, "prefect": {"postgres": "service_healthy"}, "deploy": {"prefect": "service_healthy"},
        "control": deployed, "api": deployed, "gpu": deployed,
        "gpu-1": deployed,
    }  # fmt: skip


def test_volumes_are_declared_and_used(read: Any) -> None:
    mounts = [text for service in read["services"].values() for text in service.get("volumes", [])]
    sources = {mount["source"] if isinstance(mount, dict) else mount.split(":")[0] for mount in mounts}
    assert sources == set(read["volumes"])  # so no folder of the machine, and no socket of its engine


def test_nothing_is_published_beyond_this_machine() -> None:
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:4200:4200", "127.0.0.1:8400:8400"]


def test_the_gpu_is_reserved_and_a_job_has_time_to_end(read: Any) -> None:
    gpu = read["services"]["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"], device["device_ids"]) == ("nvidia", ["gpu"], ["0"])
    assert gpu["shm_size"]
    assert not gpu.get("privileged")
    graces = {service["stop_grace_period"] for service in read["services"].values()}
    assert graces <= {"60s", "1m0s"}


def test_the_images_are_ours_and_can_be_built(read: Any) -> None:
    for name, service in read["services"].items():
        if name != "postgres":
            assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_the_commands_that_are_named_exist(read: Any) -> None:
    commands = {name: service.get("command") for name, service in read["services"].items()}
    assert commands["api"][:3] == ["/opt/simyard/bin/python", "-m", "simyard.service"]
    assert (ROOT / "service" / "__main__.py").is_file()
    scripts = {name: commands[name][0] for name in ("control", "gpu", "gpu-1")}
    assert set(scripts.values()) == {"/opt/simyard/worker"}
    assert '"$prefix/worker"' in (ROOT / "deployments/images/install.sh").read_text()
    deploy = commands["deploy"][-1]
    assert "simyard deploy &&" in deploy
    options = {option for param in main.commands["deploy"].params for option in param.opts}
    assert set(re.findall(r"(--[a-z-]+)", deploy)) <= options


def test_the_pools_of_the_workers_are_those_that_are_deployed(read: Any) -> None:
    deploy = read["services"]["deploy"]["command"][-1]
    (pool,) = re.findall(r"--pool (\S+)", deploy)
    command = read["services"]["gpu"]["command"]
    assert command[command.index("--pool") + 1] == pool
    for name in ("control", "api"):
        assert read["services"][name]["environment"]["SIMYARD_POOL"] == pool


def test_the_page_has_every_variable() -> None:
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    text = COMPOSE.read_text()
    passed_on = set(re.findall(r"^ +((?:AWS|SIMYARD)_\w+):$", text, re.MULTILINE))
    assert named == set(re.findall(r"\$\{(\w+)", text)) | passed_on


def test_the_second_gpu_is_a_second_worker_with_caches_of_its_own(read: Any) -> None:
    one, two = (read["services"][name] for name in ("gpu", "gpu-1"))
    own = {"deploy", "volumes", "profiles"}
    assert {key: one[key] for key in one.keys() - own} == {key: two[key] for key in two.keys() - own}
    assert two["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] == ["1"]
    assert not [volume for volume in two["volumes"] if volume in one["volumes"] and "/var/lib/simyard" in str(volume)]
    assert two["profiles"] == ["two-gpus"]
    assert "--profile two-gpus" in PAGE
