"""Small packages are really built, installed into an overlay, and imported by another Python process."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import HANG_S, wait_until

from simyard.core.errors import RequestError
from simyard.tasks.packages import install as packages

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cartpole_heavy"
SITE = Path(sysconfig.get_path("purelib"))

BUILD_SYSTEM = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'


class Job:
    """The folders of one job."""

    def __init__(self, folder):
        self.folder = folder
        self.overlay = folder / "overlay"
        self.scratch = folder / "scratch"

    def pack(self, files, name="env.zip", top=""):
        """Pack files, as text by name."""
        source = make_project(self.folder / f"source of {name}", files)
        return make_archive(source, self.folder / name, top)

    def install(self, archive, **options):
        options = {"python": sys.executable, "scratch": self.scratch, **options}
        return packages.install(archive, self.overlay, **options)

    def run(self, code):
        """Run code as a workload does, and return what it prints, from JSON."""
        setup = f"import importlib.metadata, json, site, sys; site.addsitedir({str(self.overlay)!r}); "
        done = subprocess.run([sys.executable, "-P", "-c", setup + code], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def refused(self, archive, code, match, **options):
        """It is refused, and the overlay, the environment and the scratch folder (but for the log) are as before."""
        before = self._snapshot()
        with pytest.raises(RequestError, match=match) as caught:
            self.install(archive, **options)
        assert self._snapshot() == before
        assert [path.name for path in self.scratch.iterdir() if not path.name.endswith(".log")] == []
        assert caught.value.failure.code == code
        assert caught.value.failure.advice
        return caught.value.failure

    def _snapshot(self):
        return sorted(self.overlay.rglob("*")), sorted(SITE.iterdir()), self.overlay.exists()


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path)


def make_project(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def pyproject(name, *, version="1.0", extra=""):
    return f'{BUILD_SYSTEM}[project]\nname = "{name}"\nversion = "{version}"\n{extra}'


def make_archive(folder, path, top=""):
    """Pack a folder by its archive's extension, below a top folder if one is named."""
    files = [(file, f"{top}{file.relative_to(folder)}") for file in sorted(folder.rglob("*")) if file.is_file()]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in files:
                archive.write(file, name)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for file, name in files:
                archive.add(file, name)
    return path


def make_wheel(folder, name, files, *, metadata="", entry_points="", version="1.0"):
    """Write a wheel by hand: no build, so that a test of what it says is fast."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    content = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if entry_points:
        content[f"{info}/entry_points.txt"] = f"[{packages.TASKS_GROUP}]\n{entry_points}\n"
    record = "".join(f"{inner},,\n" for inner in [*content, f"{info}/RECORD"])
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in {**content, f"{info}/RECORD": record}.items():
            archive.writestr(inner, text)
    return path


# What is installed.


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("env.zip", "my_env-1.0/"),
        ("env.tgz", ""),
        # Formats and tops in every combination are unpacked without a build by the modules below.
        *(pytest.param(name, top, marks=pytest.mark.long) for name, top in (
            ("env.zip", ""), ("env.tgz", "my_env-1.0/"), ("env.tar.gz", ""), ("env.tar.gz", "my_env-1.0/"),
        )),
    ],
)  # fmt: skip
def test_source_archive(name, top, job):
    files = {
        "pyproject.toml": pyproject("my-env", extra='[project.entry-points."isaaclab.tasks"]\nmine = "my_env.tasks"\n'),
        "my_env/__init__.py": "",
        "my_env/tasks.py": "REGISTERED = True\n",
    }
    archive = job.pack(files, name, top)

    installed = job.install(archive)

    assert installed == packages.InstalledPackage(
        name="my-env",
        version="1.0",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        modules=("my_env",),
        task_entry_points={"mine": "my_env.tasks"},
    )
    loaded = job.run(
        "print(json.dumps([p.load().__name__ for p in importlib.metadata.entry_points(group='isaaclab.tasks')]))"
    )
    assert loaded == ["my_env.tasks"]
    assert "my_env" not in os.listdir(SITE)


def test_setup_py(job):
    files = {
        "setup.py": "from setuptools import setup\nsetup(name='old_env', version='0.3', packages=['old_env'])\n",
        "old_env/__init__.py": "",
    }
    archive = job.pack(files, "old.tar.gz")

    installed = job.install(archive)

    assert (installed.name, installed.version, installed.modules) == ("old_env", "0.3", ("old_env",))
    assert installed.task_entry_points == {}
    assert job.run("import old_env; print(json.dumps(old_env.__file__))").startswith(str(job.overlay))


EXTENSION_SETUP = """
import os
from setuptools import setup

os.unlink("my_ext/stolen.txt")
os.symlink({secret!r}, "my_ext/stolen.txt")
setup(name="my_ext", version="0.1", packages=["my_ext"])
"""


def test_a_repository_of_an_extension_as_github_packs_it(job):
    """Its root configures linters, and its project names the outermost package alone, as `pip install -e` allows."""
    secret = job.folder / "secret.txt"
    secret.write_text("hunter2")
    own = "ext-main/source/my_ext/my_ext"
    files = {
        "ext-main/pyproject.toml": f'{BUILD_SYSTEM}[tool.isort]\nprofile = "black"\n',
        "ext-main/docker/Dockerfile": "FROM scratch\n",
        "ext-main/scripts/train.py": "raise SystemExit\n",
        "ext-main/source/my_ext/setup.py": EXTENSION_SETUP.format(secret=str(secret)),
        f"{own}/__init__.py": "from .tasks import LEARNED\n",
        f"{own}/tasks/__init__.py": "LEARNED = True\n",
        f"{own}/tasks/agents/ppo.yaml": "seed: 42\n",
        f"{own}/tasks/__pycache__/old.pyc": "",
        f"{own}/.idea/settings.xml": "",
        f"{own}/stolen.txt": "mine",
    }

    installed = job.install(job.pack(files, "ext-main.zip"))

    assert (installed.name, installed.modules) == ("my_ext", ("my_ext",))
    assert installed.left_out == ("my_ext", "my_ext/tasks", "my_ext/tasks/agents")
    assert job.run("import my_ext; print(json.dumps(my_ext.LEARNED))") is True
    files_there = (path for path in (job.overlay / "my_ext").rglob("*.*") if path.parent.name != "__pycache__")
    found = {str(path.relative_to(job.overlay / "my_ext")) for path in files_there}
    assert found == {"__init__.py", "tasks/__init__.py", "tasks/agents/ppo.yaml"}, "a link of the build is not followed"


@pytest.mark.parametrize(
    ("backend", "requires"),
    [
        ("uv_build", "uv_build>=0.12.6,<0.13"),  # of Isaac Lab's own template; the uv beside it is newer
        # One build shows that the tools are there.
        *(pytest.param(backend, tool, marks=pytest.mark.long) for backend, tool in (
            ("hatchling.build", "hatchling"), ("flit_core.buildapi", "flit_core>=3.2"),
            ("poetry.core.masonry.api", "poetry-core"), ("pdm.backend", "pdm-backend"),
        )),
    ],
)  # fmt: skip
def test_tools_that_projects_are_built_with(backend, requires, job):
    files = {
        "my_lab/pyproject.toml": f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "{backend}"\n'
        '[project]\nname = "my_lab"\nversion = "0.1.0"\ndescription = "Mine."\ndependencies = ["isaaclab==3.0.0"]\n'
        '[project.entry-points."isaaclab.tasks"]\nmy_lab = "my_lab.tasks"\n',
        "my_lab/src/my_lab/__init__.py": '"""Mine."""\n',
        "my_lab/src/my_lab/tasks/__init__.py": "",
        "my_lab/src/my_lab/data/robot.usda": "#usda 1.0\n",
    }
    installed = job.install(job.pack(files))
    assert (installed.name, installed.task_entry_points) == ("my_lab", {"my_lab": "my_lab.tasks"})
    assert installed.left_out == ()
    assert (job.overlay / "my_lab/data/robot.usda").is_file()


def test_a_folder_zipped_on_a_mac_into_folders_with_spaces_and_quotes(tmp_path):
    """Finder adds a second folder at the top."""
    job = Job(tmp_path / 'it\'s a "job"')
    job.folder.mkdir()
    source = make_project(job.folder / "source", {"my_env/pyproject.toml": pyproject("my-env"), "__MACOSX/._x": ""})
    make_project(source, {"my_env/my_env/__init__.py": "", "my_env/my_env/._a.py.txt": ""})
    assert job.install(make_archive(source, job.folder / "my env (1).zip")).modules == ("my_env",)


@pytest.fixture
def example_wheel(job):
    copy = shutil.copytree(EXAMPLE, job.folder / "cartpole_heavy")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", job.folder, copy]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = job.folder.glob("*.whl")
    return wheel


@pytest.fixture
def example_archive(job):
    return make_archive(EXAMPLE, job.folder / "cartpole_heavy.zip", "cartpole_heavy/")


@pytest.mark.parametrize(
    "packed", ["example_archive", pytest.param("example_wheel", marks=pytest.mark.long)], ids=["archive", "wheel"]
)
def test_the_example_is_a_task_once_it_is_installed(packed, request, job):
    assert job.install(request.getfixturevalue(packed)).task_entry_points == {"cartpole_heavy": "cartpole_heavy"}
    tasks = job.run(
        "from isaaclab.cli import load_external_tasks; load_external_tasks(); import gymnasium; "
        "spec = gymnasium.spec('Heavy-Cartpole-Direct'); print(json.dumps([spec.id, sorted(spec.kwargs)]))"
    )
    assert tasks[0] == "Heavy-Cartpole-Direct"
    assert {"rl_games_cfg_entry_point", "rsl_rl_cfg_entry_point", "skrl_cfg_entry_point"} <= set(tasks[1])


def test_packages_one_after_another(job):
    """The second needs the first; both share a namespace."""
    first = make_wheel(job.folder, "lab_robots", {"lab/robots/__init__.py": "R = 1\n", "share/lab/a.txt": ""})
    second = make_wheel(
        job.folder,
        "lab_tasks",
        {"lab/tasks/__init__.py": "from lab.robots import R\n"},
        metadata="Requires-Dist: lab-robots>=1\nRequires-Dist: numpy\n",
        entry_points="lab = lab.tasks",
    )
    job.refused(second, "package_missing_dependency", r"lab-robots>=1 \(not installed\)\.")

    assert job.install(first).modules == ("lab",)
    assert job.install(second).modules == ("lab",)

    assert job.run("import lab.tasks; print(json.dumps(lab.tasks.R))") == 1
    job.refused(second, "package_shadows", "'lab_tasks' 1.0 is installed already: 1.0 in ")


def test_requirements_that_do_not_count(job):
    """Markers are respected, extras are not needed, and one Isaac Lab wheel holds several distributions."""
    metadata = (
        "Requires-Dist: isaaclab[all]>=3\n"
        "Requires-Dist: isaaclab_tasks\n"
        "Requires-Dist: nowhere-a; python_version < '3.8'\n"
        "Requires-Dist: nowhere-b; extra == 'dev'\n"
        "Provides-Extra: dev\n"
    )
    assert job.install(make_wheel(job.folder, "fine", {"fine.py": ""}, metadata=metadata)).modules == ("fine",)


# The tools.


@pytest.fixture
def wrapper(tmp_path, monkeypatch):
    """A script in place of Python, as Isaac Sim has it, and no uv beside it or on PATH: pip does the work."""
    script = tmp_path / "bin" / "python.sh"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return str(script)


@pytest.mark.long  # an environment more
@pytest.mark.parametrize("with_setup_py", [False, True])
def test_pip_where_there_is_no_uv(with_setup_py, job, wrapper):
    files = {"my_env/__init__.py": ""}
    if with_setup_py:
        files["setup.py"] = "from setuptools import setup\nsetup(name='my-env', version='1.0', packages=['my_env'])\n"
    else:
        files["pyproject.toml"] = pyproject("my-env")
    archive = job.pack(files)

    assert job.install(archive, python=wrapper).modules == ("my_env",)

    assert "-m pip wheel" in (job.scratch / "env.zip.log").read_text()
    assert job.run("import my_env; print(json.dumps(my_env.__file__))").startswith(str(job.overlay))


def test_python_without_setuptools(job, monkeypatch):
    """A bare environment can take wheels, and says what it lacks for a build."""
    bare = job.folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bare], check=True)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    files = {"pyproject.toml": pyproject("my-env"), "my_env/__init__.py": ""}
    archive = job.pack(files)

    failure = job.refused(archive, "package_build_failed", "could not be built", python=str(bare / "bin/python"))

    assert "needs what is not installed: setuptools (not installed)" in failure.advice
    wheel = make_wheel(job.folder, "fine", {"fine.py": ""}, metadata="Requires-Dist: gone; python_version < '3'\n")
    assert job.install(wheel, python=str(bare / "bin/python")).modules == ("fine",)


def test_build_sees_no_credentials(job):
    """Neither in its own environment nor in one of its ancestors, of which the first has some."""
    code = """
import os, pathlib
print("VARIABLES", sorted(os.environ))
pid = os.getpid()
while pid > 0:
    try:
        print(pid, pathlib.Path(f"/proc/{pid}/environ").read_bytes())
    except OSError as error:
        print(pid, error)
    pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
raise SystemExit(3)
"""
    archive = job.pack({"setup.py": code})
    install = f"""
import sys
from pathlib import Path
from simyard.core.process import give_up_looking, keep_private
from simyard.tasks.packages.install import install
give_up_looking()  # as those who are not root: of root's a build has less, and sees nothing for that alone
keep_private()
install(Path({str(archive)!r}), Path({str(job.overlay)!r}), python=sys.executable, scratch=Path({str(job.scratch)!r}))
"""
    env = {**os.environ, "AWS_SECRET_ACCESS_KEY": "hunter2"}
    done = subprocess.run([sys.executable, "-c", install], env=env, capture_output=True, text=True, check=False)
    assert "package could not be built" in done.stderr
    log = (job.scratch / "env.zip.log").read_text()
    assert "'PATH'" in log
    assert "not permitted" in log or "Permission denied" in log, "an ancestor has credentials"
    assert "hunter2" not in log
    assert "AWS_SECRET_ACCESS_KEY" not in log


@pytest.mark.parametrize("ends", ["time.sleep(600)", "raise SystemExit(3)"], ids=["hangs", "fails"])
def test_what_a_build_starts_ends_with_it(ends, job):
    """Also a daemon: in a session of its own, with nothing in its environment, and nobody's child any more."""
    code = f'''
import os, pathlib, subprocess, time
child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
daemon = """
import subprocess
nothing = dict(env={{}}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(subprocess.Popen(["sleep", "600"], start_new_session=True, **nothing).pid)
"""
found = subprocess.run([{sys.executable!r}, "-c", daemon], env={{}}, stdout=subprocess.PIPE, text=True)
pathlib.Path({str(job.folder / "pids")!r}).write_text(str(child.pid) + " " + found.stdout)
print("waiting", flush=True)
{ends}
'''
    archive = job.pack({"setup.py": code})
    # Time enough for it to begin.
    failed = ("package_timeout", "not installed within 15 s") if "sleep" in ends else ("package_build_failed", "built")
    job.refused(archive, *failed, timeout_s=15 if "sleep" in ends else HANG_S)

    pids = [int(pid) for pid in (job.folder / "pids").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)), HANG_S, "the end of what the build had started")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# What is refused.


def test_hostile_archive(job):
    path = job.folder / "env.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../evil.py", "")
    job.refused(path, "archive_unsafe_name", "leads out of the folder")
    assert not (job.folder / "evil.py").exists()


MISSING = (
    "Requires-Dist: nowhere-a\nRequires-Dist: numpy>=99,<100\nRequires-Dist: nowhere_b[x]>=2; python_version>'3'\n"
)
WHEELS = {
    "all that is missing": (
        {}, {"metadata": MISSING}, "missing_dependency",
        r"nowhere-a \(not installed\); numpy.* is installed\); nowhere_b>=2 \(not installed\)",
    ),
    "installed": ({"torch/__init__.py": ""}, {}, "shadows", r": 'torch' \(/.*torch/__init__\.py\)\."),
    "below": ({"isaaclab/extra.py": ""}, {}, "shadows", r"'isaaclab' \(/"),
    "standard library": (
        {"json.py": "", "os/__init__.py": ""}, {}, "shadows",
        r"'json' \(the standard library\), 'os' \(the standard library\)",
    ),
    "ours": ({"simyard/__init__.py": ""}, {}, "shadows", r"'simyard' \("),
    "start-up module": ({"sitecustomize.py": ""}, {}, "shadows", r"'sitecustomize' \("),
    "in a namespace": ({"google/protobuf/__init__.py": ""}, {}, "shadows", r"'google\.protobuf' \(/"),
    "data": ({"a-1.0.data/data/torch/x.py": ""}, {}, "shadows", r"'torch' \(/"),
    "pure": ({"a-1.0.data/purelib/numpy.py": ""}, {}, "shadows", r"'numpy' \(/"),
    "distribution": ({}, {"name": "numpy"}, "shadows", "'numpy' 1.0 is installed already"),
    "start-up hook": ({"hook.pth": "import os"}, {}, "startup_hook", "'hook.pth'"),
    "hidden hook": ({"a-1.0.data/purelib/hook.pth": "import os"}, {}, "startup_hook", "'hook.pth'"),
    "other Python": (
        {}, {"metadata": "Requires-Python: <3.11\n"}, "wrong_python",
        f"wants Python '<3.11'; the job runs on 3.{sys.version_info.minor}",
    ),
    **{
        f"entry point {value}": (
            {"a/__init__.py": ""}, {"entry_points": f"mine = {value}"}, "entry_point", f"no module '{value}'",
        )
        for value in ("a.tasks", "a_typo", "a_typo.tasks:register")
    },
    "two in one": ({"b-1.dist-info/METADATA": ""}, {}, "bad_wheel", "2 dist-info folders"),
    "entry points": ({}, {"entry_points": "nonsense"}, "bad_wheel", "entry_points.txt cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "options", "code", "match"), WHEELS.values(), ids=WHEELS)
def test_wheels_that_are_refused(files, options, code, match, job):
    wheel = make_wheel(job.folder, **{"name": "a", "files": {"mine.py": "", **files}, **options})
    job.refused(wheel, f"package_{code}", match)


def test_no_such_python(job):
    wheel = make_wheel(job.folder, "a", {"a.py": ""})
    job.refused(wheel, "package_python", "'/none/python' gives no answer", python="/none/python")


def test_two_packages_with_the_same_file(job):
    job.install(make_wheel(job.folder, "one", {"one.py": "", "share/a.txt": "one"}))
    two = make_wheel(job.folder, "two", {"two.py": "", "share/a.txt": "two"})
    job.refused(two, "package_shadows", "these files already: 'share/a.txt'")
    three = make_wheel(job.folder, "three", {"three.py": "", "share/a.txt/b": "three"})
    job.refused(three, "package_shadows", "these files already")
    job.refused(
        make_wheel(job.folder, "four", {"one/__init__.py": ""}), "package_shadows", r"'one' \(.*overlay/one\.py"
    )
    assert (job.overlay / "share/a.txt").read_text() == "one"


MINE = {"my_env/__init__.py": ""}
BUILD_TOOL = '[build-system]\nrequires = ["nowhere-build>=2", "setuptools"]\nbuild-backend = "nowhere_build"\n'
SOURCES = {
    "no project": (
        {"x/a.py": "", "x/b.py": ""}, "no_project", "neither setup.py nor a pyproject.toml .* at its top or in 'x'",
        "Pack the folder that has it.",
    ),
    "empty": ({}, "no_project", "found there: nothing", "Pack the folder that has it."),
    "deeper down": (
        {"pyproject.toml": "[tool.isort]\n", "lib/mine/setup.py": "", "README.md": ""}, "no_project",
        "found there: 'README.md', 'lib', 'pyproject.toml'",
        "There is one in 'lib/mine': pack that folder alone.",
    ),
    "several extensions": (
        {"pyproject.toml": BUILD_SYSTEM, "source/one/setup.py": "", "exts/two/pyproject.toml": BUILD_SYSTEM},
        "no_project", "The archive holds 2 projects: 'exts/two', 'source/one'.", "one of them alone",
    ),
    "broken build": (
        {"setup.py": "raise RuntimeError('no such luck')\n"}, "build_failed", "RuntimeError: no such luck", "at home",
    ),
    "broken pyproject": ({"pyproject.toml": "[project\n"}, "build_failed", "pyproject.toml cannot be read", "Correct"),
    "deep pyproject": (
        {"pyproject.toml": f"a = {'[' * 5000}{']' * 5000}\n"}, "build_failed", "values are nested too deep", "Correct",
    ),
    "large pyproject": (
        {"pyproject.toml": "#" * 65_537}, "build_failed", "it has 65,537 bytes; allowed are 65,536", "Correct",
    ),
    "needs a number": (
        {"pyproject.toml": "[build-system]\nrequires = 3\n"}, "build_failed", "has no list 'requires'", "Correct",
    ),
    "builds with a number": (
        {"pyproject.toml": "build-system = 3\n"}, "build_failed", "has no list 'requires'", "Correct",
    ),
    "no build tool": (
        {"pyproject.toml": BUILD_TOOL}, "build_failed", "nowhere_build",
        "needs what is not installed: nowhere-build>=2 (not installed)",
    ),
    # What setuptools before 70.1 says where `wheel` is not installed.
    "old setuptools": (
        {"setup.py": "raise SystemExit(\"error: invalid command 'bdist_wheel'\")\n"}, "build_failed",
        "invalid command 'bdist_wheel'", "needs what is not installed: wheel (not installed)",
    ),
    "missing dependency": (
        MINE | {"pyproject.toml": pyproject("my-env", extra='dependencies = ["nowhere-a>=1"]\n')},
        "missing_dependency", r"nowhere-a>=1 \(not installed\)", "",
    ),
    "no modules": (
        MINE | {"pyproject.toml": pyproject("my-env", extra="[tool.setuptools]\npackages = []\n")}, "empty",
        "'my-env' 1.0 has no Python module", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "code", "match", "advice"), SOURCES.values(), ids=SOURCES)
def test_sources_that_are_refused(files, code, match, advice, job):
    failure = job.refused(job.pack(files), f"package_{code}", match)
    assert advice in failure.advice
    if "setup.py" in files:
        assert re.search(match, (job.scratch / "env.zip.log").read_text())


def test_entry_point_into_another_package(job):
    wheel = make_wheel(job.folder, "a", {"a/__init__.py": ""}, entry_points="mine = json.decoder")
    assert job.install(wheel).task_entry_points == {"mine": "json.decoder"}


@pytest.mark.parametrize(
    ("name", "match"),
    [("mine.whl", "is not named as a wheel"), ("a-1.0-py2-none-any.whl", "could not be installed")],
)
def test_wheel_under_a_wrong_name(name, match, job):
    wheel = make_wheel(job.folder, "a", {"a.py": ""}).rename(job.folder / name)
    with pytest.raises(RequestError, match=match):
        job.install(wheel)
    assert not job.overlay.exists()


# Modules as they are, without a project


MODULES = {
    "mine/__init__.py": "",
    "mine/lift.py": "HEIGHT = 2\n",
    "mine/robot.urdf": "<robot/>",
    "README.md": "",
    "JOB.json": "",
}


@pytest.mark.parametrize("name", ["task.zip", "task.tar.gz"])
@pytest.mark.parametrize("top", ["", "task-1.0/", "src/", "task/src/"])
def test_modules_go_into_the_overlay_as_they_are(name, top, job):
    archive = job.pack(MODULES, name, top)

    installed = job.install(archive, module="mine.lift")

    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert installed == packages.InstalledPackage(
        name=name, version=digest[:12], sha256=digest, modules=("mine",), task_entry_points={}
    )
    files = {str(path.relative_to(job.overlay)) for path in job.overlay.rglob("*") if path.is_file()}
    assert files == {"mine/__init__.py", "mine/lift.py", "mine/robot.urdf"}
    assert job.run("import mine.lift; print(mine.lift.HEIGHT)") == 2


def test_a_project_is_built_whatever_module_is_wanted(job):
    files = {"pyproject.toml": pyproject("mine"), "mine/__init__.py": "", "other.txt": ""}
    archive = job.pack(files, "mine.zip")
    assert job.install(archive, module="mine").version == "1.0"


@pytest.mark.parametrize(
    ("files", "code", "match"),
    [
        ({"mine.py": "", "torch/__init__.py": ""}, "package_shadows", r"'torch' \("),
        ({"mine.py": "", "json.py": ""}, "package_shadows", "the standard library"),
        ({"mine.py": "", "simyard/__init__.py": ""}, "package_shadows", "'simyard'"),
        ({"mine.py": "", "sitecustomize.py": ""}, "package_shadows", "'sitecustomize'"),
        ({"mine.py": "", "hook.pth": "import os"}, "package_startup_hook", "hook.pth"),
        ({"deep/er/mine.py": ""}, "package_no_project", "neither setup.py nor"),
    ],
    ids=["installed", "standard library", "ours", "start-up module", "start-up hook", "not there"],
)
def test_modules_are_checked_as_packages_are(files, code, match, job):
    archive = job.pack(files, "task.zip")
    job.refused(archive, code, match, module="mine")


def test_modules_of_two_archives_do_not_meet(job):
    for number in (1, 2):
        make_archive(make_project(job.folder / f"source{number}", {"mine.py": ""}), job.folder / f"task{number}.zip")
    job.install(job.folder / "task1.zip", module="mine")
    job.refused(job.folder / "task2.zip", "package_shadows", r"'mine' \(.*overlay/mine\.py", module="mine")
