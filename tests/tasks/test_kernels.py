"""Kernels of one machine on another: what is brought, what is trusted, what is refused."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from simyard.core.errors import RequestError
from simyard.core.files import sha256_of
from simyard.requests.settings import MachineSettings
from simyard.tasks.shared.kernels import MANIFEST, export_kernels, import_kernels, prepare_caches

HASH = "0123abcd"
MODULE = f"1.17.0/wp_solver_{HASH}"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An archive of a machine that has compiled two modules, and is compiling a third."""
    folder = tmp_path_factory.mktemp("there")
    with pytest.MonkeyPatch.context() as patch:
        machine = a_machine(folder, patch)
        for name, data in {
            f"{MODULE}/solver.cubin": "solver",
            f"{MODULE}/solver.meta": "{}",
            "1.17.0/wp_joints_1/joints.cubin": "joints",
            "1.17.0/wp_new_2_p77_t88/new.cubin": "half",
        }.items():
            put(folder / "warp" / name, data)
        put(folder / "cuda" / "1" / "a", "driver's")
        (folder / "warp" / "1.17.0" / "link").symlink_to("/etc/hostname")
        return export_kernels(machine, "default", folder / "kernels.tar.gz")


def a_machine(folder, patch):
    """Settings of a machine whose caches are below a folder."""
    patch.setenv("SIMYARD_HOME", str(folder / "home"))
    for name, cache in {
        "WARP_CACHE_PATH": "warp",
        "CUDA_CACHE_PATH": "cuda",
        "TRITON_CACHE_DIR": "triton",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
    }.items():
        patch.setenv(name, str(folder / cache))
    return MachineSettings.from_env()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data)


@pytest.fixture
def here(tmp_path, monkeypatch):
    return a_machine(tmp_path, monkeypatch)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_machine_gets_what_it_has_not_and_keeps_what_it_has(exported, here, tmp_path):
    put(tmp_path / "warp" / MODULE / "solver.cubin", "its own")
    found = import_kernels(here, "default", Path(exported.file), exported.sha256)
    assert (exported.files, found.new, found.there) == (4, 3, 1)
    assert contents(tmp_path / "warp") == {
        f"{MODULE}/solver.cubin": "its own", f"{MODULE}/solver.meta": "{}", "1.17.0/wp_joints_1/joints.cubin": "joints",
    }  # fmt: skip
    assert contents(tmp_path / "cuda") == {"1/a": "driver's"}
    assert found.made_on == exported.made_on
    assert found.made_on.packages["warp-lang"]


def test_what_the_site_names_comes_to_each_project_once(exported, here, tmp_path, monkeypatch):
    monkeypatch.setenv("SIMYARD_KERNELS", f"{exported.file}@sha256:{exported.sha256}")
    machine, said = MachineSettings.from_env(), []
    for _ in range(2):
        prepare_caches(machine, "lab", said.append)
    assert said == [f"4 files of kernels from {exported.file!r}, 0 were there"]
    assert len(contents(tmp_path / "home/cache/code/lab/warp")) == 3
    assert not (tmp_path / "warp").exists(), "of the project default"

    monkeypatch.setenv("SIMYARD_KERNELS", f"{exported.file}@sha256:{'0' * 64}")
    prepare_caches(MachineSettings.from_env(), "lab", said.append)
    assert said[1].startswith(f"no kernels from {exported.file!r}: kernels.tar.gz has sha256 {exported.sha256}")


@pytest.mark.parametrize("value", ["kernels.tar.gz@sha256:" + "0" * 64, "/kernels.tar.gz", "/k@sha256:12"])
def test_a_site_names_its_kernels_by_their_digest(here, monkeypatch, value):
    monkeypatch.setenv("SIMYARD_KERNELS", value)
    with pytest.raises(RequestError, match="SIMYARD_KERNELS is") as refused:
        MachineSettings.from_env()
    assert "as `simyard cache export` printed it" in refused.value.failure.advice


def forged(exported, path, *, made_on=None, files=()):
    """Write an archive like that one with another manifest, or with more files."""
    with tarfile.open(exported.file) as source, tarfile.open(path, "w:gz") as archive:
        for entry in source:
            data = source.extractfile(entry).read()
            if entry.name == MANIFEST and made_on is not None:
                data = json.dumps({**json.loads(data), **made_on}).encode()
            add(archive, entry.name, data)
        for name in files:
            add(archive, name, b"hostile")
    return path


def add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


OTHER = {"gpus": ["NVIDIA H200 (9.0)"], "driver": "580.65.06"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            {"made_on": OTHER},
            "other_kernels",
            "gpus NVIDIA H200 (9.0) there, none here; driver 580.65.06 there, none here",
        ),
        (
            {"files": ["elsewhere/a"]},
            "bad_kernels",
            "it has 'elsewhere', which is none of warp, cuda",
        ),
        ({"files": ["../a"]}, "archive_unsafe_name", "leads out of the folder"),
    ],
    ids=["of another machine", "no cache", "a way out"],
)
def test_an_archive_that_is_not_for_this_machine_changes_nothing(exported, here, tmp_path, change, code, said):
    archive = forged(exported, tmp_path / "forged.tar.gz", **change)
    with pytest.raises(RequestError) as refused:
        import_kernels(here, "default", archive, sha256_of(archive))
    assert refused.value.failure.code == code
    assert said in str(refused.value)
    assert refused.value.failure.advice
    assert not (tmp_path / "warp").exists()


def test_an_archive_that_is_not_there_is_named(here, tmp_path):
    with pytest.raises(RequestError, match=r"no\.tar\.gz' cannot be read: No such file"):
        import_kernels(here, "default", tmp_path / "no.tar.gz", "0" * 64)


def test_an_archive_that_is_not_the_one_is_not_even_opened(exported, here, tmp_path):
    archive = tmp_path / "other.tar.gz"
    archive.write_bytes(b"no archive at all")
    with pytest.raises(RequestError, match=r"other\.tar\.gz has sha256 .*, not '[0-9a-f]{64}'") as refused:
        import_kernels(here, "default", archive, exported.sha256)
    assert refused.value.failure.code == "wrong_digest"
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(
    ("project", "into", "code"),
    [
        ("default", "kernels.tar.gz", "no_kernels"),
        ("../up", "kernels.tar.gz", "bad_project"),
        ("default", "no/k", "no_folder"),
    ],
)
def test_nothing_is_written_where_there_is_nothing_to_export(here, tmp_path, project, into, code):
    with pytest.raises(RequestError) as refused:
        export_kernels(here, project, tmp_path / into)
    assert refused.value.failure.code == code
    assert {path.name for path in tmp_path.iterdir()} <= {"home"}
