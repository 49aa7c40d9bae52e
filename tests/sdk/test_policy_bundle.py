"""A bundle and its check, as a robot has them."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from containers import Podman, shared_libraries
from exported import episodes, export, export_memory, make_network, pairs, remembering
from helpers import HANG_S

from simyard.policy.__main__ import main
from simyard.policy.bundle import README, opened, write_bundle
from simyard.policy.check import check
from simyard.runner.exporting.golden import read_golden, write_golden


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a bundle."""
    folder = tmp_path_factory.mktemp("exported")
    export(folder)
    observations, actions = pairs(make_network(), rows=40)
    first = np.zeros((20, 2), bool)
    first[0] = True
    write_golden(folder, 1e-4, {"obs": observations.reshape(20, 2, 4)}, actions.reshape(20, 2, 2), first)
    return read(folder)


def read(folder: Path) -> dict[str, bytes]:
    (folder / "checklist.json").write_text("{}")
    names = ("policy.onnx", "policy_contract.json", "golden.json", "checklist.json")
    return {name: (folder / name).read_bytes() for name in names} | {README: b"# It"}


@pytest.fixture
def bundle(files: dict[str, bytes], tmp_path: Path) -> Path:
    write_bundle(tmp_path / "policy.zip", files)
    return tmp_path / "policy.zip"


def test_a_bundle_proves_itself(bundle: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["check", str(bundle), "--steps", "200", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["rows"], report["steps"], report["control_period_ms"]) == (True, 40, 200, 20.0)
    assert report["largest"] < 1e-5
    assert 0 < report["p50_ms"] <= report["p99_ms"] <= report["max_ms"]
    assert main(["check", str(bundle), "--steps", "20"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "fine"


def test_the_same_export_gives_the_same_bundle(bundle: Path, files: dict[str, bytes], tmp_path: Path):
    write_bundle(tmp_path / "again.zip", files)
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zip", "policy.zip"]


def test_a_memory_is_checked_step_by_step(tmp_path: Path):
    network = remembering(lstm=True)
    export_memory(network, tmp_path)
    begun = np.zeros((12, 3), bool)
    begun[0] = begun[5, 2] = True
    observations, actions = episodes(network, begun)
    write_golden(tmp_path, 1e-4, {"obs": observations}, actions, begun)
    golden = read_golden((tmp_path / "golden.json").read_bytes())
    assert golden.first_steps.array()[:, 0].tolist() == begun[:, 2].tolist(), "the one that ends is kept"
    write_bundle(tmp_path / "b.zip", read(tmp_path))
    report = check(tmp_path / "b.zip", 10)
    assert (report.ok, report.resets, report.rows) == (True, 1, 24)
    never = begun[:, 2:] & (np.arange(12) == 0)[:, None]
    write_golden(tmp_path, 1e-4, {"obs": observations[:, 2:]}, actions[:, 2:], never)
    write_bundle(tmp_path / "b.zip", read(tmp_path))
    assert not check(tmp_path / "b.zip", 10).ok, "a memory that nobody sets back"


def spoilt(change: Callable[[dict], None]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    def spoil(files: dict[str, bytes]) -> dict[str, bytes]:
        golden = json.loads(files["golden.json"])
        change(golden)
        return files | {"golden.json": json.dumps(golden).encode()}

    return spoil


def test_other_actions_fail_with_the_reason(
    files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    network = make_network(shift=0.01)
    observations, actions = pairs(network, rows=40)
    first = np.ones((40, 1), bool)
    write_golden(tmp_path, 1e-4, {"obs": observations[:, None]}, actions[:, None], first)
    write_bundle(tmp_path / "b.zip", files | {"golden.json": (tmp_path / "golden.json").read_bytes()})
    assert main(["check", str(tmp_path / "b.zip"), "--steps", "1"]) == 1
    assert "failed: The actions differ by 0.01, 0.0001 is allowed." in capsys.readouterr().out


def test_a_step_that_takes_too_long_fails(files: dict[str, bytes], tmp_path: Path):
    contract = json.loads(files["policy_contract.json"])
    contract |= {"control_period_s": 1e-9, "physics_dt_s": 1e-9, "decimation": 1}
    write_bundle(tmp_path / "b.zip", files | {"policy_contract.json": json.dumps(contract).encode()})
    report = check(tmp_path / "b.zip", 50)
    assert not report.ok
    assert report.reasons[0].startswith("A step takes")
    assert report.reasons[0].endswith("more than the control period of 1e-06 ms.")


def zipped(path: Path, files: dict[str, bytes], *more: tuple[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in (*files.items(), *more):
            archive.writestr(name, data)


HOSTILE = [
    ("no zip", lambda files, path: path.write_bytes(b"PK no"), "cannot be read as a zip"),
    ("cut short", lambda files, path: (zipped(path, files), path.write_bytes(path.read_bytes()[:-30])), "as a zip"),
    ("out of it", lambda files, path: zipped(path, files, ("../evil", b"")), "The bundle has '../evil'; expected are"),
    ("at the root", lambda files, path: zipped(path, files, ("/etc/evil", b"")), "The bundle has '/etc/evil'"),
    ("a folder", lambda files, path: zipped(path, files, ("a/", b"")), "The bundle has 'a/'"),
    ("without pairs", lambda files, path: zipped(path, {k: v for k, v in files.items() if k != "golden.json"}),
     "The bundle lacks golden.json"),
    ("a bomb", lambda files, path: zipped(path, files | {README: bytes(2**20 + 1)}), "1048577 bytes, 1048576"),
    ("another policy", lambda files, path: zipped(path, files | {"policy.onnx": b"x"}), "was changed after the export"),
    ("golden of other inputs", lambda files, path: zipped(path, spoilt(
        lambda golden: golden["observations"][0].update(name="camera"))(files)), r"the policy of \['obs'\]"),
    ("golden of another shape", lambda files, path: zipped(path, spoilt(
        lambda golden: golden["observations"][0].update(shape=[20, 2, 10**12]))(files)), "bytes, expected float32"),
    ("golden of other steps", lambda files, path: zipped(path, spoilt(
        lambda golden: golden["first_steps"].update(shape=[40, 1]))(files)), "not all of them have these"),
    ("golden without data", lambda files, path: zipped(path, spoilt(
        lambda golden: golden["actions"].pop("data"))(files)), "lacks the field 'data'"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_archives_that_are_no_bundle_are_refused(
    make, message: str, files: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "b.zip"
    make(files, path)
    with pytest.raises(ValueError, match=message):
        check(path, 1)
    assert main(["check", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "simyard policy bundle" in said
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.zip"]


def test_two_of_a_name_are_refused(files: dict[str, bytes], tmp_path: Path):
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(tmp_path / "b.zip", files, ("README.md", b"other"))
    with (
        pytest.raises(ValueError, match=r"The bundle has 'README.md'; expected are .* each once"),
        opened(tmp_path / "b.zip"),
    ):
        pass


def needed() -> dict[str, Path]:
    """Return the folders of this interpreter that a check takes, by their names: NumPy, ONNX Runtime, and simyard."""
    names = ("numpy", "onnxruntime", "google", "flatbuffers", "simyard")
    specs = {name: importlib.util.find_spec(name) for name in names}
    found = {name: Path(next(iter(spec.submodule_search_locations or ()))) for name, spec in specs.items() if spec}
    libraries = Path(np.__file__).parents[1] / "numpy.libs"
    return found | ({"numpy.libs": libraries} if libraries.exists() else {})


@pytest.mark.long  # makes a virtual environment; what the check imports is told by test_policy_runner.py
def test_a_clean_environment_checks_it(bundle: Path, tmp_path: Path):
    """With NumPy and ONNX Runtime alone: links to these, and to nothing else of this interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    for name, folder in needed().items():
        (site / name).symlink_to(folder.resolve())
    python = tmp_path / "venv/bin/python"
    absent = subprocess.run([python, "-c", "import click"], capture_output=True, check=False)
    assert absent.returncode == 1
    done = subprocess.run(
        [python, "-m", "simyard.policy", "check", bundle, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["steps"]) == (True, 10_000)


@pytest.mark.long  # a container engine, and an image of this interpreter
def test_a_container_checks_it_and_refuses_another(podman: Podman, bundle: Path, tmp_path: Path):
    """In a container without a network, of Python and these packages."""
    folders = needed()
    folders["simyard"] = Path(shutil.copytree(folders["simyard"], tmp_path / "simyard"))  # it is links to this checkout
    libraries = shared_libraries(*(file for folder in folders.values() for file in folder.rglob("*.so*")))
    mounts = [f"{folder.resolve()}:/site/{name}:ro" for name, folder in folders.items()]
    mounts += [f"{path}:{path}:ro" for path in libraries if path.is_relative_to("/usr") or path.is_relative_to("/lib")]

    def run(path: Path, *options: str) -> tuple[int, str, str]:
        container = podman.client.containers.run(
            podman.python, ["python3", "-m", "simyard.policy", "check", "/bundle.zip", *options],
            volumes=[*mounts, f"{path}:/bundle.zip:ro"], environment={"PYTHONPATH": "/site"}, network_mode="none",
            read_only=True, detach=True,
        )  # fmt: skip
        try:
            code = container.wait(timeout=HANG_S)["StatusCode"]
            return code, container.logs(stderr=False).decode(), container.logs(stdout=False).decode()
        finally:
            container.remove(force=True)

    code, printed, said = run(bundle, "--json")
    assert code == 0, said
    report = json.loads(printed)
    assert (report["ok"], report["steps"]) == (True, 10_000)
    cut = tmp_path / "cut.zip"
    cut.write_bytes(bundle.read_bytes()[:-30])
    code, printed, said = run(cut)
    assert (code, printed, "error: " in said) == (2, "", True), said
