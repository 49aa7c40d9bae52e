"""`simyard upload` and `simyard assets`: what is refused, what is printed, and an upload that is interrupted."""

import contextlib
import gzip
import io
import json
import os
import signal
import socket
import stat
import tarfile
import threading
import time
import urllib.parse
import zipfile

import click.testing
import pytest
from helpers import HANG_S, CommandLine, make_bucket, wait_until

from simyard.cli.main import main
from simyard.store.store import PART_BYTES, sha256_file


def zipped(*members):
    """Return a zip file of names, or entries, and their content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return out.getvalue()


def tarred(name, **fields):
    """Return a gzipped tar file with one entry."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        for field, value in fields.items():
            setattr(member, field, value)
        archive.addfile(member)
    return out.getvalue()


def link(name, mode):
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    return entry


GOOD = zipped(("robot/robot.urdf", b"<robot/>"))
PACKAGE = "isaac_lab_task_package"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        pytest.param("a.pt", "chekpoint", ["'chekpoint'", "Did you mean 'checkpoint'?", "'robot'"], id="unknown kind"),
        pytest.param("a.pt", "", ["Unknown kind of asset ''", "'scene'"], id="empty kind"),
        pytest.param("a.pt", "Checkpoint", ["'Checkpoint'", "Did you mean 'checkpoint'?"], id="kind in another case"),
        pytest.param("a.exe", "robot", ["'a.exe'", ".urdf, .usd", "checkpoint"], id="ending"),
        pytest.param("a.zip.txt", "robot", ["'a.zip.txt'", ".urdf, .usd"], id="two endings"),
        pytest.param("zip", "robot", ["'zip'", ".zip"], id="no ending"),
        pytest.param("a.pt", "robot", ["'a.pt'", "of a robot", ".urdf"], id="a checkpoint as a robot"),
        pytest.param("a.urdf", "checkpoint", ["'a.urdf'", ".pt, .pth, .zip"], id="a robot as a checkpoint"),
        pytest.param("a.usd", PACKAGE, ["'a.usd'", ".zip, .tar.gz, .tgz, .whl"], id="a scene as a package"),
        pytest.param("a.tar.gz", "robot", ["'a.tar.gz'", ".zip"], id="a package as a robot"),
    ],
)
def test_a_bad_kind_or_ending_is_refused(refuse, tmp_path, name, kind, said):
    (tmp_path / name).write_bytes(b"content")
    refuse("upload", name, "--kind", kind, said=said)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        pytest.param("a.usd", b"PXR", ["'a.usd' cannot be converted to USD", ".urdf, .xml, .mjcf"], id="usd"),
        pytest.param("a.zip", zipped(("../a.urdf", b"<robot/>")), ["'../a.urdf'"], id="a name that leads out"),
        pytest.param("a.zip", zipped((link("a.urdf", stat.S_IFLNK), b"/etc/passwd")), ["'a.urdf'"], id="a link"),
        pytest.param("a.urdf", b'<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><robot/>', ["'a.urdf'"],
                     id="an entity"),
        pytest.param("a.urdf", b'<robot><link name="l"><visual><geometry><mesh filename="/etc/passwd"/></geometry>'
                     b"</visual></link></robot>", ["/etc/passwd"], id="a mesh elsewhere"),
    ],
)  # fmt: skip
def test_what_cannot_become_usd_is_refused_before_there_are_converters(refuse, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    refuse("upload", name, "--kind", "robot", "--to", "usd", said=said)
    assert not list(tmp_path.rglob("*.lock"))


@pytest.mark.parametrize(
    "name",
    ["a\nb.pt", "a\x1b[31m.pt", " a.pt", "-a.pt", ".a.pt", "ä.pt", "a#1.pt", "a b.pt", "a:b.pt", "\udcff.pt",
     "x" * 126 + ".pt"],
    ids=ascii,
)  # fmt: skip
def test_a_bad_name_is_refused(refuse, tmp_path, name):
    (tmp_path / name).write_bytes(b"content")
    said = [repr(name) if name.isascii() else "cannot be a file's name", "letters, digits", "128 at most"]
    refuse("upload", tmp_path / name, "--kind", "checkpoint", said=said)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        pytest.param("{", ["--metadata is not JSON", "franka"], id="cut off"),
        pytest.param("", ["--metadata is not JSON"], id="empty"),
        pytest.param("[1]", ["of type list"], id="a list"),
        pytest.param("null", ["of type NoneType"], id="null"),
        pytest.param('{"a": NaN}', ["cannot be JSON"], id="NaN"),
        pytest.param('{"a": -Infinity}', ["cannot be JSON"], id="infinity"),
        pytest.param('{"a": 1e999}', ["cannot be JSON"], id="a number too large"),
        pytest.param("[" * 100_000, ["--metadata is not JSON"], id="nested deep"),
        pytest.param(json.dumps({"a": "x" * 70_000}), ["70,009 bytes", "65,536"], id="too long"),
    ],
)
def test_bad_metadata_is_refused(refuse, tmp_path, metadata, said):
    (tmp_path / "a.pt").write_bytes(b"content")
    refuse("upload", "a.pt", "--kind", "checkpoint", "--metadata", metadata, said=said)


def test_what_has_no_content_kind_or_store_is_refused(refuse, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"")
    refuse("upload", "a.pt", "--kind", "checkpoint", said=["'a.pt' is empty"])
    refuse("upload", "b.pt", "--kind", "checkpoint", said=["There is no regular file 'b.pt'"])
    refuse("upload", "x" * 300 + ".pt", "--kind", "checkpoint", said=["There is no regular file"])
    refuse("upload", "a.pt", said=["--kind"])
    refuse("upload", "--kind", "checkpoint", said=["PATH"])
    refuse("upload", "a.pt", "--kind", "checkpoint", "--store", "ftp://x", said=["'ftp://x'"])


def test_a_bundles_entry_is_one_of_its_files(refuse, tmp_path):
    (tmp_path / "r.zip").write_bytes(zipped(("arm/a.urdf", b"<robot/>"), ("arm/m.stl", b"solid")))
    said = ["Unknown entry of 'r.zip': 'a.urdf'. Did you mean 'arm/a.urdf'?", "Allowed: 'arm/a.urdf'"]
    refuse("upload", "r.zip", "--kind", "robot", "--entry", "a.urdf", said=said)
    refuse("upload", "r.zip", "--kind", "robot", "--metadata", '{"entry": 1}', said=["Unknown entry of 'r.zip': 1"])
    (tmp_path / "a.pt").write_text("version https://git-lfs.github.com/spec/v1\n")
    refuse("upload", "a.pt", "--kind", "checkpoint", said=["'a.pt' is a pointer of Git LFS", "git lfs pull"])


@pytest.mark.parametrize("what", ["a folder", "a pipe", "a device", "a broken link"])
def test_what_is_no_regular_file_is_refused(refuse, tmp_path, what):
    path = tmp_path / "robot.usd"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(tmp_path / "nowhere")
    said = ["is a folder", ".zip"] if what == "a folder" else ["There is no regular file"]
    refuse("upload", path, "--kind", "robot", said=[repr(str(path)), *said])


@pytest.mark.parametrize("kind", ["robot", "scene", PACKAGE])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        pytest.param("a.zip", zipped(("../evil.py", b"x")), "'../evil.py'", id="traversal"),
        pytest.param("a.zip", zipped(("/etc/passwd", b"x")), "'/etc/passwd'", id="absolute"),
        pytest.param("a.zip", zipped((link("a.urdf", stat.S_IFLNK | 0o777), b"/etc/passwd")), "a.urdf", id="a link"),
        pytest.param("a.zip", zipped(("a.urdf", b"\0" * 100_000_000)), "unpacks to more than", id="a bomb"),
        pytest.param("a.zip", zipped(("a.urdf", b"x"), ("A.URDF", b"y")), "A.URDF", id="one name twice"),
        pytest.param("a.zip", zipped(("a\nb", b"x")), r"'a\nb'", id="a newline inside"),
        pytest.param("a.zip", GOOD[:-10], "The archive cannot be read", id="cut off"),
        pytest.param("a.zip", b"no zip", "neither a zip nor a gzip file", id="no archive"),
        pytest.param("a.zip", gzip.compress(b"x"), "a gzip file", id="another archive"),
    ],
)
def test_a_hostile_archive_is_refused(refuse, tmp_path, kind, name, content, said):
    (tmp_path / name).write_bytes(content)
    refuse("upload", tmp_path / name, "--kind", kind, said=[said])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(tarred("../evil.py"), "'../evil.py'", id="traversal"),
        pytest.param(tarred("a", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'a'", id="a symbolic link"),
        pytest.param(tarred("a", type=tarfile.LNKTYPE, linkname="b"), "'a'", id="a hard link"),
        pytest.param(tarred("a", type=tarfile.CHRTYPE), "'a'", id="a device"),
    ],
)
def test_a_hostile_tar_file_is_refused(refuse, tmp_path, content, said):
    (tmp_path / "a.tgz").write_bytes(content)
    refuse("upload", tmp_path / "a.tgz", "--kind", PACKAGE, said=[said])


@pytest.mark.parametrize("asset_id", ["asset-1", "latest", "asset-" + "0" * 64])
def test_an_asset_that_is_not_there_is_refused(refuse, asset_id):
    refuse("assets", "show", asset_id, said=[repr(asset_id), "simyard assets list"])


@pytest.fixture
def run(tmp_path, store, monkeypatch):
    """Run a command in this process that must succeed."""
    monkeypatch.setenv("SIMYARD_STORE", str(store))
    monkeypatch.setenv("SIMYARD_HOME", str(tmp_path / "home"))

    def run_command(*arguments):
        result = click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result

    return run_command


def test_an_asset_from_its_upload_to_the_list(run, tmp_path):
    assert run("assets", "list").stdout == "No assets in this store yet.\n"
    assert json.loads(run("assets", "list", "--json").stdout) == []
    (tmp_path / "franka.zip").write_bytes(GOOD)
    uploaded = run("upload", tmp_path / "franka.zip", "--kind", "robot", "--metadata", '{"gripper": "panda"}')
    asset_id = f"asset-{sha256_file(tmp_path / 'franka.zip')}"
    assert uploaded.stdout == f"{asset_id}\n"  # stderr has the progress of an upload that takes long
    again = run("upload", tmp_path / "franka.zip", "--kind", "scene", "--json")
    (line,) = again.stdout.splitlines()
    record = json.loads(line)
    assert (record["asset_id"], record["kind"], record["metadata"]) == (asset_id, "scene", {})

    assert json.loads(run("assets", "list", "--json").stdout) == [record]
    assert json.loads(run("assets", "show", asset_id, "--json").stdout) == record
    header, row = run("assets", "list").stdout.splitlines()
    assert header.split() == ["ASSET", "KIND", "BYTES", "CREATED", "FILE"]
    assert row.split()[:3] == [asset_id, "scene", str(len(GOOD))]
    shown = run("assets", "show", asset_id).stdout
    assert "filename      franka.zip\n" in shown
    (tmp_path / "more.pt").write_bytes(b"x")
    run("upload", tmp_path / "more.pt", "--kind", "checkpoint")
    assert [record["filename"] for record in json.loads(run("assets", "list", "--json", "--limit", "1").stdout)] == [
        "more.pt"
    ]


@contextlib.contextmanager
def slow_way_to(server):
    """The address of a relay to a server that lets 64 kB through every hundredth of a second."""
    address = urllib.parse.urlsplit(server)

    def carry(source, target, pause_s):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                time.sleep(pause_s)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                there = socket.create_connection((address.hostname, address.port))
                for way in ((client, there, 0.01), (there, client, 0)):
                    threading.Thread(target=carry, args=way, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_an_upload_that_takes_a_while_shows_how_far_it_is(run, s3_server, tmp_path, monkeypatch):
    env = make_bucket(s3_server, "uploads")
    path = tmp_path / "policy.pt"
    path.write_bytes(os.urandom(4 * PART_BYTES))
    with slow_way_to(s3_server) as endpoint:
        for name, value in (env | {"AWS_ENDPOINT_URL": endpoint}).items():
            monkeypatch.setenv(name, value)
        uploaded = run("upload", path, "--kind", "checkpoint", "--store", "s3://uploads/lab")
        assert uploaded.stderr == "policy.pt\n"  # a bar that moves is for terminals
        again = run("upload", path, "--kind", "checkpoint", "--store", "s3://uploads/lab")
    assert again.stderr == ""
    assert uploaded.stdout == again.stdout == f"asset-{sha256_file(path)}\n"


def test_ctrl_c_says_that_the_next_upload_goes_on_and_it_does(store, tmp_path, flow_host):
    simyard = CommandLine({**os.environ, "SIMYARD_HOME": str(tmp_path / "home")}, flow_host)
    path = tmp_path / "policy.pt"
    with path.open("wb") as sparse:
        sparse.truncate(1_000_000_000)

    def interrupt_after(more_than):
        upload = simyard.start("upload", path, "--kind", "checkpoint", "--store", store, "--json")
        wait_until(lambda: [p for p in store.rglob("*#*") if p.stat().st_size > more_than], HANG_S, "some bytes")
        os.killpg(upload.pid, signal.SIGINT)  # as a terminal sends it: to the whole group
        out, err = upload.communicate(timeout=HANG_S)
        assert upload.returncode == 130, err
        assert "Run the same command again: it goes on where it stopped." in err
        assert "Traceback" not in err
        assert json.loads(out)["status"] == "canceled"
        (partial,) = [p for p in store.rglob("*") if p.is_file()]
        return partial.stat()

    first = interrupt_after(10_000_000)
    second = interrupt_after(first.st_size)
    assert second.st_ino == first.st_ino
    assert second.st_size > first.st_size
