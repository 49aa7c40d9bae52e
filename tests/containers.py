"""A real container engine for tests: podman, with a storage and a network of its own, and two images."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import pytest
from helpers import end, wait_until
from lazy import lazy

docker = lazy("docker")

ROOT = Path(__file__).parents[1]
BUSYBOX, PYTHON = "localhost/simyard-busybox:latest", "localhost/simyard-python:latest"
MACHINE = "localhost/simyard-machine:latest"
_APPLETS = ("sh", "cat", "echo", "env", "id", "ls", "mkdir", "sleep", "tail", "touch", "true")
# A machine that is a container itself may not raise limits, so the engine's own are asked for.
_CONF = """
[containers]
{line}
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
[engine]
{line}
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
"""
_LEFT_OUT = ("test", "tests", "site-packages", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3")


class Podman:
    """A running engine."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process
        self.address = f"unix://{folder}/podman.sock"

    @cached_property
    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.address, timeout=60)

    @cached_property
    def busybox(self) -> str:
        """An image of a shell and little else."""
        self._build(BUSYBOX, [("/bin/busybox", shutil.which("busybox"))], "ENV PATH=/bin")
        return BUSYBOX

    @cached_property
    def python(self) -> str:
        """An image of the same, and Python: the interpreter that runs the tests, with its standard library."""
        binary, library = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
        modules = [path for path in library.rglob("*") if path.is_file() and not _left_out(path.relative_to(library))]
        files = [binary, *modules, *shared_libraries(binary, *library.glob("lib-dynload/*.so"))]
        self._build(
            PYTHON,
            [("/bin/busybox", shutil.which("busybox")), *((str(path), path) for path in files)],
            f"ENV PATH={binary.parent}:/bin",
            {f"{binary.parent}/{name}": binary.name for name in ("python", "python3")},
        )
        return PYTHON

    @cached_property
    def machine(self) -> str:
        """An image of nothing but folders: `mounts` puts this machine's programs and the checkout into them."""
        links = {f"/{name}": f"usr/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64")}
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        self._import(MACHINE, [], links, f"ENV PATH={path}")
        return MACHINE

    @property
    def mounts(self) -> list[str]:
        """What containers of `machine` mount to be like this machine, read-only."""
        here = {Path("/usr"), Path("/etc/ssl"), Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT}
        own = [path for path in here if not any(path != other and path.is_relative_to(other) for other in here)]
        return [f"{path}:{path}:ro" for path in sorted(own)]

    def _build(self, image, files, change, links=None) -> None:
        self._import(image, files, {f"/bin/{name}": "busybox" for name in _APPLETS} | (links or {}), change)

    def _import(self, image, files, links, change) -> None:
        path = self.folder / "image.tar"
        with tarfile.open(path, "w") as tar:
            for folder in (
                "proc",
                "sys",
                "dev",
                "run",
                "etc",
                "run/simyard",
                "tmp",
                "simyard",
                "simyard/input",
                "simyard/output",
            ):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                tar.addfile(entry)
            for name, source in dict(files).items():
                tar.add(os.path.realpath(source), name)
            for name, target in links.items():
                if name not in dict(files):
                    entry = tarfile.TarInfo(name.lstrip("/"))
                    entry.type, entry.linkname = tarfile.SYMTYPE, target
                    tar.addfile(entry)
        repository, _, tag = image.rpartition(":")
        self.client.api.import_image(str(path), repository, tag, changes=[change])
        path.unlink()


def _left_out(path: Path) -> bool:
    return any(part in _LEFT_OUT or part.startswith("config-") for part in path.parts)


def shared_libraries(*binaries: Path) -> list[Path]:
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in sorted(set(re.findall(r"^\t(?:\S+ => )?(/\S+) \(", listed, re.MULTILINE)))]


@contextmanager
def serving(line: str = "", *, own_network: bool = True) -> Iterator[Podman]:
    """Run podman's service; nothing of it is left at the end.

    Args:
        line: One more of its configuration, in both sections: versions of podman differ in where they look.
        own_network: Whether it has a network of its own, with a bridge; without, containers may use this machine's.
    """
    for program, package in (("podman", "podman"), ("runc", "runc"), ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install {package}")
    if os.geteuid() != 0:
        pytest.skip("only root may run podman with a network of its own here")
    folder = Path(tempfile.mkdtemp(prefix="simyard-"))  # podman wants paths shorter than pytest's
    (folder / "containers.conf").write_text(_CONF.format(line=line))
    env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"), "TMPDIR": str(folder)}
    with (folder / "service.log").open("wb") as log:
        process = subprocess.Popen(
            # Its bridge, its firewall rules and its mounts are in name spaces that go with it; and it goes by itself
            # should nobody end it.
            ["unshare", *(["--net"] if own_network else []), "--mount", "podman",
             "--root", folder / "root", "--runroot", folder / "run", "--tmpdir", folder / "tmp",
             "system", "service", "--time=3600", f"unix://{folder}/podman.sock"],
            env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(
            lambda: (folder / "podman.sock").exists() or process.poll() is not None,
            30, f"podman: {(folder / 'service.log').read_text()}",
        )  # fmt: skip
        assert process.poll() is None, (folder / "service.log").read_text()
        podman = Podman(folder, process)
        yield podman
        for container in podman.client.containers.list(all=True, ignore_removed=True):
            container.stop(timeout=0)
            container.remove(force=True)
        podman.client.close()
    finally:
        end(process)
        shutil.rmtree(folder)
