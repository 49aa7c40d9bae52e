"""The images: what their Dockerfiles promise, and the scripts that they run, run for real."""

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers import HANG_S, wait_until

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deployments" / "images"
SIMULATORS = {
    "isaaclab-2.3": ("nvcr.io/nvidia/isaac-lab:2.3.2", "/isaac-sim/python.sh", "root"),
    "isaaclab-3.0": ("nvcr.io/nvidia/isaac-lab:3.0.0", "/opt/isaaclab-venv/bin/python", "1000:1000"),
    "isaaclab-3.0-kitless": ("nvcr.io/nvidia/isaac-lab:3.0.0-kitless", "/opt/isaaclab-venv/bin/python", "1000:1000"),
}
"""Image, its Python, its user."""
ALL = (*SIMULATORS, "control")


@dataclass
class Dockerfile:
    """The instructions of one, in order."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, name: str) -> "Dockerfile":
        lines = (IMAGES / name / "Dockerfile").read_text().splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        joined = re.sub(r"\\\n\s*", " ", text)
        return cls(
            [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]
        )

    def all(self, word: str) -> list[str]:
        return [rest for found, rest in self.instructions if found == word]

    @property
    def env(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for text in self.all("ENV") for pair in shlex.split(text))

    @property
    def args(self) -> dict[str, str]:
        return dict(text.split("=", 1) for text in self.all("ARG"))


@pytest.fixture(params=ALL)
def dockerfile(request: pytest.FixtureRequest) -> Dockerfile:
    return Dockerfile.read(request.param)


def test_every_image_is_looked_at() -> None:
    assert sorted(path.parent.name for path in IMAGES.glob("*/Dockerfile")) == sorted(ALL)


@pytest.mark.parametrize("name", SIMULATORS)
def test_a_simulator_has_the_base_the_python_and_the_user_of_its_release(name: str) -> None:
    base, python, user = SIMULATORS[name]
    found = Dockerfile.read(name)
    assert found.args["BASE"] == base
    assert found.env["SIMYARD_PYTHON"] == python
    assert found.all("USER") == ["root", user]  # installed as root, run as this
    assert "graphics" in found.env["NVIDIA_DRIVER_CAPABILITIES"] or found.env["NVIDIA_DRIVER_CAPABILITIES"] == "all"


@pytest.mark.parametrize("name", SIMULATORS)
def test_no_licence_is_accepted(name: str) -> None:
    env = Dockerfile.read(name).env
    # A base may bake a value in: these must be there, and empty.
    assert [env[key] for key in ("ACCEPT_EULA", "OMNI_KIT_ACCEPT_EULA", "PRIVACY_CONSENT")] == ["", "", ""]
    assert "SIMYARD_ACCEPT_NVIDIA_EULA" not in env


def test_nothing_smells_of_a_secret(dockerfile: Dockerfile) -> None:
    names = [*dockerfile.env, *dockerfile.args]
    assert not [name for name in names if re.search(r"SECRET|PASSWORD|TOKEN|KEY|CREDENTIAL|AUTH", name)]


def test_an_init_comes_first_and_passes_the_command_through(dockerfile: Dockerfile) -> None:
    assert dockerfile.all("ENTRYPOINT") == ['["/usr/bin/tini", "-s", "-g", "--", "/opt/simyard/start"]']
    assert (IMAGES / "start.sh").read_text().rstrip().endswith('exec "$@"')


def test_everything_that_is_written_lies_in_one_volume(dockerfile: Dockerfile) -> None:
    assert dockerfile.env["SIMYARD_HOME"] == "/var/lib/simyard"
    folders = [key for key in dockerfile.env if key.endswith(("HOME", "CACHE_PATH"))]
    assert "HOME" in folders
    assert all(dockerfile.env[key].startswith("/var/lib/simyard") for key in folders)
    assert not dockerfile.all("VOLUME")  # who declares one can mount nothing over it in a derived image
    # What the simulation does with threads is simyard's to say, and git is not there.
    assert "OMP_NUM_THREADS" not in dockerfile.env
    assert dockerfile.env["GIT_PYTHON_REFRESH"] == "quiet"


def test_root_writes_nothing_into_the_home_of_the_user(dockerfile: Dockerfile) -> None:
    words = [f"{word} {rest}" for word, rest in dockerfile.instructions]
    (home,) = [index for index, text in enumerate(words) if text.startswith("ENV HOME=")]
    assert home > max(index for index, text in enumerate(words) if text.startswith("RUN "))


def test_physx_without_kit_is_that_of_the_embedded_simulator() -> None:
    packages = Dockerfile.read("isaaclab-3.0-kitless").args["PHYSX"].strip('"').split()
    given = dict(package.split("==") for package in packages)
    assert given == {name: version(name) for name in ("ovphysx", "ovstage")}
    assert all("PHYSX" not in Dockerfile.read(name).args for name in ALL if name != "isaaclab-3.0-kitless")


def test_simulators_differ_in_what_they_must_alone() -> None:
    one, *others = [Dockerfile.read(name).env for name in SIMULATORS]
    own = {"SIMYARD_PYTHON", "NVIDIA_DRIVER_CAPABILITIES", "OMNI_KIT_ALLOW_ROOT"}
    assert all(one.items() - other.items() <= {(key, one[key]) for key in own & set(one)} for other in others)


def test_the_commands_of_the_build_exist(dockerfile: Dockerfile) -> None:
    (run,) = dockerfile.all("RUN")
    assert run.startswith("--mount=type=bind,source=.,target=/src ")  # no source stays in a layer
    scripts = re.findall(r"/src/(\S+)", run)
    assert scripts == ["deployments/images/system.sh", "deployments/images/install.sh"]
    assert all(os.access(ROOT / script, os.X_OK) for script in scripts)
    assert "/opt/simyard" in run.split()
    assert not dockerfile.all("COPY")
    assert not dockerfile.all("ADD")


@pytest.mark.parametrize("name", ALL)
def test_the_builder_gets_what_is_installed_and_nothing_else(name: str) -> None:
    lines = (IMAGES / name / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines == (IMAGES / "control" / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    (copied,) = re.findall(r"cp -r (.*) \"\$work/source\"", (IMAGES / "install.sh").read_text())
    assert allowed == {*copied.split(), "constraints.txt"}
    assert all((ROOT / path).exists() for path in allowed)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which install.sh has made `simyard`, and has put the runner into `lab`."""
    folder = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "lab"], check=True)
    env = os.environ | {"UV": str(Path(sys.executable).with_name("uv")), "SUPERVISOR_PYTHON": sys.executable}
    command = [IMAGES / "install.sh", folder / "simyard", folder / "lab/bin/python"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def python(folder: Path, name: str, code: str) -> str:
    command = [folder / name / "bin/python", "-c", code]
    env = os.environ | {"PREFECT_HOME": str(folder / ".prefect")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.long  # it installs all of simyard
def test_the_supervisor_has_an_environment_of_its_own_with_pinned_versions(installed: Path) -> None:
    code = "import simyard.flows.run_job, prefect, sys; print(prefect.__version__, sys.prefix)"
    version, prefix = python(installed, "simyard", code).split()
    for name in ("start", "worker"):
        assert (installed / "simyard" / name).read_bytes() == (IMAGES / f"{name}.sh").read_bytes()
    assert f"prefect=={version}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert prefix == str(installed / "simyard")
    done = subprocess.run([installed / "simyard/bin/simyard", "--help"], capture_output=True, text=True, check=True)
    assert "train" in done.stdout


@pytest.mark.long
def test_isaac_labs_python_has_the_runner_and_no_prefect(installed: Path) -> None:
    code = "import simyard.runner.session, importlib.util as u; print(u.find_spec('prefect'), u.find_spec('pydantic'))"
    assert python(installed, "lab", code) == "None None"
    assert not (installed / "lab/bin/simyard").exists()  # it cannot run there, and may come first on the path


def test_an_empty_volume_is_filled_and_the_command_takes_over(tmp_path: Path) -> None:
    home = tmp_path / "volume"
    env = os.environ | {
        "SIMYARD_HOME": str(home), "HOME": str(home / "user"), "PREFECT_HOME": str(home / ".prefect"),
        "WARP_CACHE_PATH": str(home / "cache/warp"), "TMPDIR": str(tmp_path),
    }  # fmt: skip
    home.mkdir()
    done = subprocess.run([IMAGES / "start.sh", "sh", "-c", "exit 7"], env=env, check=False)
    assert done.returncode == 7
    kept = {"https", "kit-cache", "kit-data", "warp"}
    assert {path.name for path in (home / "cache").iterdir()} == kept
    assert (tmp_path / "https").resolve() == home / "cache/https"  # Isaac Lab's mirror of assets outlives the container


def test_a_volume_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "volume"
    file.touch()
    env = os.environ | {"SIMYARD_HOME": str(file), "HOME": str(file / "user"), "PREFECT_HOME": str(file / ".prefect")}
    done = subprocess.run([IMAGES / "start.sh", "true"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"user {os.getuid()} cannot write in {file}" in done.stderr


PREFECT = """#!{python}
import signal, subprocess, sys, time
run = "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(.5), print('run told'), sys.exit()));"
child = subprocess.Popen([sys.executable, "-c", run + "print('run', flush=True); time.sleep(60)"])
signal.signal(15, lambda *_: (print("worker told", child.poll(), flush=True), sys.exit(3)))
print("worker", *sys.argv[1:], flush=True)
while True: time.sleep(1)
"""


def test_a_worker_that_is_asked_to_end_lets_its_runs_end_first(tmp_path: Path) -> None:
    # In place of Prefect: it prints in which order its run and itself are told.
    program, out = tmp_path / "prefect", tmp_path / "out"
    program.write_text(PREFECT.format(python=sys.executable))
    program.chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with out.open("wb") as file:
        worker = subprocess.Popen([IMAGES / "worker.sh", "--pool", "gpu"], env=env, stdout=file, start_new_session=True)
    wait_until(lambda: {"run", "worker"} <= set(re.findall(r"^\w+", out.read_text(), re.MULTILINE)), HANG_S, "both")
    os.killpg(worker.pid, signal.SIGTERM)  # as `tini -g` does
    assert worker.wait(HANG_S) == 3
    said = out.read_text().splitlines()
    assert "worker worker start --type process --pool gpu" in said
    assert said[-2:] == ["run told", "worker told 0"]
