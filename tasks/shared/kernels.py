"""Compiled kernels of a machine as one archive, for other machines of its kind.

What is in such an archive runs as machine code in the next job. So an importing machine trusts a digest that its owner
names, takes nothing that was made for another GPU, driver, processor or version, and replaces nothing that it has.
"""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from simyard.core.errors import RequestError, SimyardError
from simyard.core.files import open_inside, read_json, replacing, scratch, sha256_of, write_atomic, write_json
from simyard.core.wire import Wire
from simyard.requests.settings import MachineSettings
from simyard.runner.assets.archives import inspect, unpack
from simyard.tasks.shared.api_keys import check_project
from simyard.tasks.shared.limited import limited
from simyard.tasks.shared.machine_checks import PYTHON_S, ask

MANIFEST = "kernels.json"
"""The archive's only file outside the folders of the caches."""
_COMPILERS = ("isaaclab", "isaacsim", "newton", "warp-lang", "mujoco-warp", "torch")
"""Packages that hold kernels, or compile them."""
_PARTIAL = re.compile(r"_p\d+_t\d+$|\.partial$")
"""Ends of the names of folders in which Warp, or an import, is at work."""
_INSTALLED = """
import json
from simyard.runner.adapter import versions
print(json.dumps({"versions": versions("cpu")}))
"""


@dataclass(frozen=True, kw_only=True)
class Kind(Wire):
    """Kind of a machine, as far as compiled code depends on it."""

    gpus: tuple[str, ...]
    """Name and compute capability of its GPUs, each once; empty without one."""
    driver: str | None
    """Version of NVIDIA's driver; None without one."""
    processor: str
    """Its architecture, and a digest of the instructions that it has."""
    python: str
    """The simulator's Python, `3.12`."""
    packages: dict[str, str]
    """Versions of what compiles, in the simulator's Python."""

    def in_words(self) -> str:
        """Return it in one line."""
        gpu = f"{', '.join(self.gpus)}, driver {self.driver}" if self.gpus else "no GPU"
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return f"{gpu}; processor {self.processor}; Python {self.python}, {packages or 'none of the packages'}"


@dataclass(frozen=True, kw_only=True)
class Exported(Wire):
    """An archive that was written."""

    file: str
    sha256: str
    """Its digest, by which an import knows it."""
    size_bytes: int
    files: int
    project: str
    made_on: Kind


@dataclass(frozen=True, kw_only=True)
class Imported(Wire):
    """An archive that was taken in."""

    sha256: str
    """Its digest: what was trusted."""
    project: str
    new: int
    """Files that the caches did not have."""
    there: int
    """Files that they had: these stay as they are."""
    made_on: Kind


@dataclass(frozen=True, kw_only=True)
class _Installed(Wire):
    versions: dict[str, str]


def export_kernels(machine: MachineSettings, project: str, into: Path) -> Exported:
    """Write the compiled kernels of a project into a `.tar.gz`.

    Raises:
        RequestError: There are none, others may have put something among them, or it would be no archive to import.
        OSError: It cannot be written.
    """
    machine.require_own_caches(check_project(project))
    if not into.absolute().parent.is_dir():
        raise RequestError(
            f"There is no folder {str(into.absolute().parent)!r}.", code="no_folder", advice="Make it, or name another."
        )
    made_on = this_kind(machine)
    files = 0
    with scratch("kernels") as folder, replacing(into.absolute()) as beside:
        write_json(folder / MANIFEST, made_on.to_json())
        with tarfile.open(beside, "w:gz", compresslevel=3) as archive:
            archive.add(folder / MANIFEST, MANIFEST)
            for name, cache in machine.code_folders(project).items():
                for path in _compiled(cache):
                    inside = path.relative_to(cache)
                    with open_inside(cache, inside) as file:
                        member = archive.gettarinfo(arcname=f"{name}/{inside}", fileobj=file)
                        archive.addfile(member, file)
                    files += 1
        if not files:
            raise RequestError(
                f"Nothing is compiled yet for the project {project!r} on this machine.",
                code="no_kernels",
                advice="Run a job here that is like those to come, then export.",
            )
        # What it is to be named by, and that an import will take it.
        named = folder / "kernels.tar.gz"
        named.symlink_to(beside)
        known = inspect(named)
    return Exported(
        file=str(into),
        sha256=known.sha256,
        size_bytes=known.archive_bytes,
        files=files,
        project=project,
        made_on=made_on,
    )


def import_kernels(machine: MachineSettings, project: str, archive: Path, sha256: str) -> Imported:
    """Take the kernels of another machine into the caches of a project.

    Args:
        machine: This machine.
        project: Whose jobs will run them.
        archive: What `export_kernels` wrote.
        sha256: The digest that the export printed: the owner's word that this archive is the one.

    Raises:
        RequestError: It is another archive, hostile, or of another kind of machine; nothing was changed then.
        OSError: It cannot be read, or the caches not written.
    """
    machine.require_own_caches(check_project(project))
    with scratch("kernels") as folder:
        # A copy of our own is judged and unpacked: the file may be another's, who changes it meanwhile.
        copy = folder / "kernels.tar.gz"
        try:
            shutil.copyfile(archive, copy)
        except OSError as error:
            raise RequestError(
                f"{str(archive)!r} cannot be read: {error.strerror}.",
                code="no_file",
                advice="Name what `simyard cache export` wrote.",
            ) from error
        if (found := sha256_of(copy)) != sha256.lower().removeprefix("sha256:"):
            raise RequestError(
                f"{archive.name} has sha256 {found}, not {sha256!r}.",
                code="wrong_digest",
                advice="Name the digest that `simyard cache export` printed, and import no archive of another origin: "
                "what is in it runs as machine code.",
            )
        unpacked = folder / "unpacked"
        limited(unpack, copy, unpacked)

        # Made for such a machine, and nothing but caches.
        try:
            made_on = Kind.from_json(read_json(unpacked / MANIFEST))
        except (OSError, ValueError) as error:
            raise _no_kernels(archive.name, f"its {MANIFEST} is missing or unreadable") from error
        if differences := _differences(made_on, this_kind(machine)):
            raise RequestError(
                f"{archive.name} was made on another kind of machine: {'; '.join(differences)}.",
                code="other_kernels",
                advice="Export on a machine with the same GPU, driver, processor and packages as this one.",
            )
        folders = machine.code_folders(project)
        caches = sorted(path.name for path in unpacked.iterdir() if path.name != MANIFEST)
        if other := [name for name in caches if name not in folders or not (unpacked / name).is_dir()]:
            raise _no_kernels(archive.name, f"it has {other[0]!r}, which is none of {', '.join(folders)}")
        counts = [_merge(unpacked / name, folders[name]) for name in caches]
    new, there = map(sum, zip(*counts, strict=True)) if counts else (0, 0)
    return Imported(sha256=found, project=project, new=new, there=there, made_on=made_on)


def prepare_caches(machine: MachineSettings, project: str, log: Callable[[str], None]) -> None:
    """Have the caches ready for a simulator: nobody else's, and once with the kernels that the site has for them.

    A machine of another kind does without and compiles; its log says why.

    Args:
        machine: This machine.
        project: Whose simulator starts.
        log: Called with a message about the kernels.

    Raises:
        RequestError: Others may have put something into a cache.
    """
    machine.require_own_caches(project)
    if machine.kernels is None:
        return
    mark = machine.home / "cache" / "kernels" / f"{project}-{machine.kernels.sha256}"
    if mark.exists():
        return
    file = machine.kernels.file
    try:
        found = import_kernels(machine, project, file, machine.kernels.sha256)
    except (SimyardError, OSError) as error:
        log(f"no kernels from {str(file)!r}: {error}")
        return
    write_atomic(mark, b"")
    log(f"{found.new} files of kernels from {str(file)!r}, {found.there} were there")


def this_kind(machine: MachineSettings) -> Kind:
    """Return the kind of this machine."""
    try:
        installed = ask(machine, _INSTALLED, PYTHON_S, _Installed).versions
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{machine.python!r} does not say what is installed: {error}",
            code="bad_python",
            advice="Name a Python that has Isaac Lab and simyard in SIMYARD_PYTHON; `simyard doctor` says more.",
        ) from error
    gpus, driver = _gpus()
    return Kind(
        gpus=gpus,
        driver=driver,
        processor=_processor(),
        python=".".join(installed["python"].split(".")[:2]),
        packages={name: installed[name] for name in _COMPILERS if name in installed},
    )


def _gpus() -> tuple[tuple[str, ...], str | None]:
    """Return the GPUs of this machine and their driver; none where it does not answer."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = {
            "{} ({}.{})".format(pynvml.nvmlDeviceGetName(handle), *pynvml.nvmlDeviceGetCudaComputeCapability(handle))
            for handle in handles
        }
        return tuple(sorted(found)), str(pynvml.nvmlSystemGetDriverVersion()) if found else None
    except pynvml.NVMLError:
        return (), None


def _processor() -> str:
    """Return the architecture and a digest of the instructions: kernels for the CPU use all that there are."""
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        about = ""
    line = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", about, re.MULTILINE)
    flags = " ".join(sorted(line.group(1).split())) if line else ""
    return f"{platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def _differences(there: Kind, here: Kind) -> list[str]:
    """Return what differs, in words."""
    other = {**there.to_json(), **there.packages}
    own = {**here.to_json(), **here.packages}
    names = [name for name in dict.fromkeys([*other, *own]) if name != "packages" and other.get(name) != own.get(name)]
    return [f"{name} {_shown(other.get(name))} there, {_shown(own.get(name))} here" for name in names]


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) and value else str(value or "none")


def _compiled(cache: Path) -> Iterator[Path]:
    """Yield the files of a cache, save those that are being written."""
    for path in sorted(cache.rglob("*")):
        if path.is_file() and not path.is_symlink() and not any(map(_PARTIAL.search, path.relative_to(cache).parts)):
            yield path


def _no_kernels(archive: str, why: str) -> RequestError:
    return RequestError(
        f"{archive} holds no kernels: {why}.",
        code="bad_kernels",
        advice="Import what `simyard cache export` wrote, unchanged.",
    )


def _merge(source: Path, target: Path) -> tuple[int, int]:
    """Bring in what is not there, a whole folder at once where it is new: a job sees all of a module or nothing of it.

    Returns:
        The numbers of files that were new, and that were there.
    """
    files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(target) as beside:
                if source.is_dir():
                    shutil.copytree(source, beside)
                else:
                    shutil.copyfile(source, beside)
            return len(files), 0
        except OSError:
            if not target.exists():
                raise
            # A job has compiled it meanwhile.
    if source.is_file():
        return 0, 1
    counts = [_merge(path, target / path.name) for path in sorted(source.iterdir())]
    return sum(new for new, _ in counts), sum(there for _, there in counts)
