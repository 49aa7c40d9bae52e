"""An asset root made from what packages on the index carry: robots for Isaac Lab's tasks, offline from then on.

Converters and packages live in an environment of their own in the home, for they pin another MuJoCo than the simulator
does. `recipes.py` says what is made of which package; `convert.py` makes it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from simyard.core.errors import Category, Failure, RequestError, SimyardError
from simyard.core.files import held, read_json, scratch, sha256_of, write_atomic, write_json
from simyard.core.wire import Wire, WireError
from simyard.runner.assets.asset_root import embedded_root
from simyard.runner.assets.robot_files import main_file
from simyard.tasks.robots.recipes import Package, Recipe
from simyard.tasks.shared.limited import limited

CONVERTERS = ("mujoco-usd-converter==0.8.0", "urdf-usd-converter==0.3.4")
"""The converters, as the index has them."""
_HERE = Path(__file__).parent
_INSTALL_S = 1800
"""Seconds in which an installation ends: the largest package has 131 MB."""
_CONVERT_S = 900
_PATIENCE_S = 1800
"""Seconds that a second builder waits for the first."""
_FORMATS = {".urdf": "urdf", ".xml": "mjcf", ".mjcf": "mjcf"}
_LAST_LINES = 12

State = Literal["built", "missing", "older", "not ours"]
OnLine = Callable[[str], None]


@dataclass(frozen=True)
class Origin(Wire):
    """Where a built asset comes from: the record beside it, `<file>.origin.json`."""

    schema_version: int
    """Of this record."""
    recipe: Recipe
    """What was done."""
    converters: tuple[str, ...]
    """What converted it."""
    source_sha256: str
    """Digest of the description in the package."""
    usd_sha256: str
    """Digest of the asset."""


def build(home: Path, root: Path, recipes: Sequence[Recipe], say: OnLine) -> dict[str, State]:
    """Make assets below a root, and return what became of each; what is there already is left.

    An asset that somebody else put there, such as NVIDIA's own, is never replaced.

    Args:
        home: The machine's own folder, for the environment.
        root: The asset root.
        recipes: What to make.
        say: Called with a line for each that is made.

    Raises:
        SimyardError: A package could not be had, or a conversion failed; what was made before stays.
    """
    embedded_root(root)
    done: dict[str, State] = {}
    for recipe in recipes:
        done[recipe.name] = found = state(root, recipe)
        if found in ("missing", "older"):
            package = _installed(home, recipe.package)
            _build_one(home, root, recipe, package)
            done[recipe.name] = "built"
        say(f"{recipe.name:8} {done[recipe.name]:9} {recipe.target}")
    return done


def state(root: Path, recipe: Recipe) -> State:
    """Tell how an asset stands below a root."""
    target = root / recipe.target
    if not target.exists():
        return "missing"
    try:
        origin = Origin.from_json(read_json(_record(target)))
    except WireError:
        return "older"
    except (OSError, ValueError):
        return "not ours"
    is_same = origin.recipe == recipe and origin.converters == CONVERTERS
    if origin.usd_sha256 != sha256_of(target):
        return "not ours"
    return "built" if is_same else "older"


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.origin.json")


def _build_one(home: Path, root: Path, recipe: Recipe, package: Path) -> None:
    """Convert one robot, and put it below the root with its licence and its record; the asset comes last."""
    source = package / recipe.file
    text = package / recipe.licence_file if "/" in recipe.licence_file else _HERE / recipe.licence_file
    packages = {recipe.package.name: str(source.parents[3])} if "/robots/" in recipe.file else {}
    with scratch("robot") as folder:
        made = folder / Path(recipe.target).name
        plan = {"file": str(source), "out": str(made), "packages": packages, "recipe": recipe.to_json()}
        _convert(home, plan, folder)
        target = root / recipe.target
        origin = Origin(1, recipe, CONVERTERS, sha256_of(source), sha256_of(made))
        write_atomic(target.with_name(f"{target.name}.LICENSE"), text.read_bytes())
        target.unlink(missing_ok=True)  # an older one: never with the record of the new one
        write_json(_record(target), origin.to_json())
        write_atomic(target, made.read_bytes())


def convert_file(home: Path, path: Path, folder: Path) -> Path:
    """Convert a user's description, or a bundle with one, to one USD file in a folder of this process.

    It is looked into before, in the child with limits, and the converter reads the checked copy alone.

    Args:
        home: The machine's own folder, for the environment.
        path: A .urdf, .xml or .mjcf file, or an archive with one.
        folder: Where the USD goes, under the name of `path`.

    Raises:
        RequestError: It is none of these, or not what it says.
        SimyardError: The converters could not be had.
    """
    formats = [format_ for ending, format_ in _FORMATS.items() if path.name.lower().endswith(ending)]
    bundled = path.name.lower().endswith((".zip", ".tar.gz", ".tgz"))
    if not formats and not bundled:
        raise RequestError(
            f"{path.name!r} cannot be converted to USD.",
            code="bad_asset_name",
            advice=f"Name a {', '.join(_FORMATS)} file, or a .zip, .tar.gz or .tgz with one.",
        )
    refused: RequestError | None = None
    for format_ in formats or ("urdf", "mjcf"):
        try:
            main = limited(main_file, path, format_, folder / format_)
            break
        except RequestError as error:
            refused = refused or error
    else:
        assert refused is not None
        raise refused
    out = folder / f"{path.name.split('.')[0]}.usd"
    _convert(home, {"file": str(main), "out": str(out), "packages": {}, "recipe": None}, folder)
    return out


# --- the environment ------------------------------------------------------------------------------------------------


def _convert(home: Path, plan: Mapping[str, object], folder: Path) -> None:
    """Run the converter on a plan.

    Raises:
        RequestError: It refuses the description.
        SimyardError: The converters could not be had.
    """
    python = _environment(home) / "bin" / "python"
    file = folder / "plan.json"
    file.write_text(json.dumps(plan), encoding="utf-8")
    variables = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    done = _run(
        [str(python), "-I", str(_HERE / "convert.py"), str(file)], variables | {"HOME": str(folder)}, _CONVERT_S
    )
    if done.returncode or not Path(str(plan["out"])).is_file():
        raise RequestError(
            f"{Path(str(plan['file'])).name!r} could not be converted to USD ({_ended(done)}).{_tail(done)}",
            code="conversion_failed",
            advice="Mend what the lines name; `simyard rollout` takes URDF and MJCF as they are.",
        )


def _environment(home: Path) -> Path:
    """Return the environment of the converters, made if need be."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256("\n".join((*CONVERTERS, version)).encode()).hexdigest()
    folder = _cache(home) / f"environment-{digest[:12]}"

    def make(uv: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        _install([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], "an environment")
        python = str(folder / "bin" / "python")
        _install([uv, "pip", "install", "--quiet", "--python", python, *CONVERTERS], " and ".join(CONVERTERS))

    return _once(folder, make)


def _installed(home: Path, package: Package) -> Path:
    """Return the folder with a package's files, installed if need be without what it depends on."""
    folder = _cache(home) / f"{package.name}-{package.version}-{package.sha256[:12]}"

    def make(uv: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        with scratch("package") as temporary:
            needed = temporary / "requirements.txt"
            needed.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n", encoding="utf-8")
            flags = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", str(folder)]
            tool = [uv, "pip", "install", "--quiet", "--python", sys.executable, *flags]
            _install([*tool, "--requirement", str(needed)], f"{package.name}=={package.version}")

    return _once(folder, make)


def _cache(home: Path) -> Path:
    return home / "cache" / "robots"


def _once(folder: Path, make: Callable[[str], None]) -> Path:
    """Return a folder that is made once, by whichever process comes first; a half-made one is made anew."""
    mark = folder / ".whole"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.with_name(f"{folder.name}.lock"), patience_s=_PATIENCE_S) as lock:
        if lock is None:
            raise SimyardError(
                Failure(
                    code="assets_busy",
                    category=Category.INFRA,
                    message=f"Another process has been making {str(folder)!r} for {_PATIENCE_S // 60} minutes.",
                    advice="See what it does, end it, and run the command again.",
                )
            )
        if not mark.exists():
            make(_uv())
            mark.touch()
    return folder


def _uv() -> str:
    for found in (str(Path(sys.executable).with_name("uv")), shutil.which("uv")):
        if found and Path(found).is_file():
            return found
    raise RequestError("There is no uv here.", code="no_uv", advice=f"Install it: {sys.executable} -m pip install uv")


def _install(command: list[str], what: str) -> None:
    done = _run(command, dict(os.environ), _INSTALL_S)
    if done.returncode:
        raise SimyardError(
            Failure(
                code="package_not_installed",
                category=Category.INFRA,
                message=f"uv could not install {what} ({_ended(done)}).{_tail(done)}",
                advice="It needs a package index once: let this machine reach one, or name yours in UV_DEFAULT_INDEX. "
                "On a machine without one use a copy of an asset root built elsewhere: ISAACSIM_ASSET_ROOT.",
            )
        )


def _run(command: list[str], env: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, env=env, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SimyardError(
            Failure(
                code="assets_too_slow",
                category=Category.INFRA,
                message=f"{Path(command[0]).name} did not end within {timeout_s:g} s.",
                advice="Run the command again: what is whole is kept.",
            )
        ) from error


def _ended(done: subprocess.CompletedProcess[str]) -> str:
    return f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    # A converter says `Status:` of what it does.
    lines = [line.rstrip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("Status:")]
    return "".join(f"\n    {line[:300]}" for line in lines[-_LAST_LINES:]) + ("\n" if lines else "")
