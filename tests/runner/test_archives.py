"""Every hostile archive here is really built, byte for byte, and really read."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simyard.core.errors import Category, RequestError
from simyard.runner.assets import archives
from simyard.runner.assets.archives import ArchiveLimits, Kind


@pytest.fixture
def parent(tmp_path):
    """The folder that an archive is unpacked in."""
    folder = tmp_path / "parent"
    folder.mkdir()
    (folder / "neighbour.txt").write_text("untouched")
    return folder


def make_zip(path, members):
    """Write (name or ZipInfo, bytes) pairs as they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def zip_member(name, mode=0, **fields):
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def make_tar(path, members, **options):
    """Write (TarInfo, bytes) pairs as they are."""
    with tarfile.open(path, "w:gz", **options) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def tar_member(name, **fields):
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


def make(pack, folder, members):
    """Write (name, bytes) pairs as either kind."""
    if pack == "zip":
        return make_zip(folder / "a.zip", members)
    return make_tar(folder / "a.tgz", [(tar_member(name), data) for name, data in members])


def make_pax(folder, member=None, **headers):
    """Write a file with extended headers of its own, or with a global one."""
    member = member or tar_member("a")
    return make_tar(folder / "a.tgz", [(member, b"")], format=tarfile.PAX_FORMAT, pax_headers=headers)


def patch(path, old, new):
    """Change bytes in a built archive, as an attacker would."""
    assert len(old) == len(new)
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def overwrite(path, find, new):
    """Change the bytes at the place that a function finds in an archive's bytes."""
    data = bytearray(path.read_bytes())
    at = find(data)
    data[at : at + len(new)] = new
    path.write_bytes(data)
    return path


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def refused(path, parent, code, match, limits=archives.DEFAULT):
    """Both ways in refuse it the same way, and nothing is left behind or changed."""
    before = snapshot(parent)
    with pytest.raises(RequestError, match=match) as by_unpack:
        archives.unpack(path, parent / "dest", limits)
    assert snapshot(parent) == before
    with pytest.raises(RequestError) as by_inspect:
        archives.inspect(path, limits)
    failure = by_unpack.value.failure
    assert by_inspect.value.failure == failure
    assert failure.code == code
    assert failure.category is Category.USER
    assert failure.advice
    return failure


# What is accepted.


PACKS = pytest.mark.parametrize("pack", ["zip", "tgz"])


@pytest.mark.parametrize("name", ["a.zip", "A.ZIP", "a.tar.gz", "a.tgz"])
def test_round_trip(name, tmp_path, parent):
    contents = {
        "pkg/__init__.py": b"x = 1\n",
        "pkg/data/mesh.bin": random.Random(1).randbytes(3_000_000),
        "README": b"",
    }
    path = make(name.lower()[-3:], tmp_path, contents.items()).rename(tmp_path / name)

    info = archives.unpack(path, parent / "dest")

    assert info == archives.inspect(path)
    files = [path for path in (parent / "dest").rglob("*") if path.is_file()]
    assert {str(path.relative_to(parent / "dest")): path.read_bytes() for path in files} == contents
    assert info.files == tuple(contents)
    assert info.folders == ("pkg", "pkg/data")
    assert info.total_bytes == 3_000_006
    assert info.archive_bytes == path.stat().st_size
    assert info.kind is (Kind.ZIP if "zip" in name.lower() else Kind.TAR_GZ)


def test_modes_do_not_come_from_the_archive_or_the_umask(tmp_path, parent):
    tar = make_tar(
        tmp_path / "a.tgz",
        [(tar_member("d", type=tarfile.DIRTYPE, mode=0o1777), b""), (tar_member("d/setuid", mode=0o6777), b"x")],
    )
    zipped = make_zip(tmp_path / "a.zip", [("d/", b""), (zip_member("d/setuid", stat.S_IFREG | 0o4777), b"x")])
    old = os.umask(0o077)
    try:
        archives.unpack(tar, parent / "tar")
        archives.unpack(zipped, parent / "zip")
    finally:
        os.umask(old)
    for dest in (parent / "tar", parent / "zip"):
        assert [stat.S_IMODE((dest / name).stat().st_mode) for name in (".", "d", "d/setuid")] == [0o755, 0o755, 0o644]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_with_long_and_foreign_names(form, tmp_path, parent):
    names = ["a/" + "long" * 22 + "/" + "n" * 80]
    if form != tarfile.USTAR_FORMAT:
        names += ["b/" + "x" * 240, "grüße/日本語.py"]
    path = make_tar(tmp_path / "a.tgz", [(tar_member(name), name.encode()) for name in names], format=form)

    archives.unpack(path, parent / "dest")

    assert [(parent / "dest" / name).read_text() for name in names] == names


def test_what_packers_add_is_taken(tmp_path, parent):
    """`tar czf x.tgz ./` writes `./` before every name, and `git archive` a global header with a comment."""
    members = [
        (tar_member(".", type=tarfile.DIRTYPE), b""),
        (tar_member("./pkg", type=tarfile.DIRTYPE), b""),
        (tar_member("./pkg/a.py"), b"1"),
    ]
    path = make_tar(tmp_path / "a.tgz", members, format=tarfile.PAX_FORMAT, pax_headers={"comment": "abc"})

    assert archives.unpack(path, parent / "dest").files == ("pkg/a.py",)


def test_real_tar_command(tmp_path, parent):
    (tmp_path / "src/pkg").mkdir(parents=True)
    (tmp_path / "src/pkg/a.py").write_text("1")
    assert os.system(f"tar -C {tmp_path}/src -czf {tmp_path}/a.tar.gz .") == 0

    assert archives.unpack(tmp_path / "a.tar.gz", parent / "dest").files == ("pkg/a.py",)


@pytest.mark.long  # an archive of 65,536 files takes seconds to make
def test_zip64_directory(tmp_path, parent):
    """zipfile writes Zip64 records for more than 65,535 entries, so the limit is raised here."""
    path = make_zip(tmp_path / "a.zip", [(str(number), b"") for number in range(65_536)])
    assert b"PK\6\7" in path.read_bytes()

    info = archives.inspect(path, ArchiveLimits(entries=70_000))

    assert len(info.files) == 65_536
    refused(path, parent, "archive_too_large", "too many entries")


def test_existing_destination_is_left_alone(tmp_path, parent):
    path = make_zip(tmp_path / "a.zip", [("a", b"")])
    with pytest.raises(FileExistsError, match="neighbour"):
        archives.unpack(path, parent / "neighbour.txt")
    assert (parent / "neighbour.txt").read_text() == "untouched"


# Names.

HOSTILE_NAMES = {
    "../evil": "leads out",
    "a/../../evil": "leads out",
    "a/..": "leads out",
    "/etc/passwd": "is absolute",
    ".//etc/passwd": "empty part",
    "C:/evil": "drive letter",
    "./c:evil": "drive letter",
    "a\\b": "backslash",
    "..\\evil": "backslash",
    "a//b": "empty part",
    "a/./b": "empty part or a '.'",
    "bell\a": "control",
    "line\nbreak": "control",
    "right\u202eto left": "invisible",
    "d/" * 33 + "f": "is too deep",
    "n" * 256: "is too long",
    "/".join(["n" * 200] * 6): "is too long",
}


@PACKS
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names(name, pack, tmp_path, parent):
    path = make(pack, tmp_path, [("good", b""), (name, b"evil")])
    failure = refused(path, parent, "archive_unsafe_name", HOSTILE_NAMES[name])
    assert repr(name)[1:100] in failure.message
    assert "Allowed: " in failure.advice


CLASHES = [
    (["a", "a"], "'a' is taken by 'a'"),
    (["a/b", "A/b"], "'A' is taken by 'a'"),
    (["README", "readme"], "'readme' is taken by 'README'"),
    (["stra\u00dfe", "STRASSE"], "is taken by"),
    (["caf\u00e9", "cafe\u0301"], "is taken by"),
    (["a", "a/b"], "'a' is taken by 'a'"),
    (["a/b", "a"], "'a' is taken by 'a'"),
    (["a/", "a/"], "'a' is taken by 'a'"),
    (["a/", "a"], "'a' is taken by 'a'"),
    (["./a", "a"], "'a' is taken by 'a'"),
]


@PACKS
@pytest.mark.parametrize(("names", "match"), CLASHES)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_clash(names, match, pack, tmp_path, parent):
    if pack == "zip":
        path = make_zip(tmp_path / "a.zip", [(name, b"") for name in names])
    else:
        kinds = [tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE for name in names]
        members = [(tar_member(name, type=kind), b"") for name, kind in zip(names, kinds, strict=True)]
        path = make_tar(tmp_path / "a.tgz", members)
    refused(path, parent, "archive_duplicate_name", match)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.sampled_from("ab./\\:\0\n~éÉß ") | st.characters(), min_size=1, max_size=12), min_size=1, max_size=4
    ),
    pack=st.sampled_from(["zip", "tgz"]),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_names_stay_inside_or_leave_nothing(names, pack, tmp_path_factory):
    """Whatever the names are: every file lies in the folder under its own name, or the whole archive is refused."""
    root = tmp_path_factory.mktemp("any")
    try:
        path = make(pack, root, [(name, b"") for name in names])
    except (UnicodeEncodeError, IndexError):
        return  # the packer itself refuses lone surrogates and, before Python 3.12, empty names
    try:
        info = archives.unpack(path, root / "dest")
    except RequestError:
        assert os.listdir(root) == [path.name]
        return
    assert sorted(os.listdir(root)) == sorted([path.name, "dest"])
    found = {str(file.relative_to(root / "dest")) for file in (root / "dest").rglob("*") if file.is_file()}
    assert found == set(info.files)
    assert len(found) == sum(not name.endswith("/") for name in names)
    assert all(not file.is_symlink() for file in (root / "dest").rglob("*"))


# Entries that are no plain files.


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (stat.S_IFLNK, "'evil' is a symbolic link"),
        (stat.S_IFIFO, "a fifo"),
        (stat.S_IFCHR, "a device"),
        (stat.S_IFBLK, "a device"),
        (stat.S_IFSOCK, "a socket"),
        (stat.S_IFDIR, "named as a file"),
        (tarfile.SYMTYPE, "'evil' is a symbolic link"),
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.BLKTYPE, "a device"),
        (tarfile.FIFOTYPE, "a fifo"),
        (tarfile.GNUTYPE_SPARSE, "a sparse file"),
        (b"Z", "of the unknown type b'Z'"),
    ],
)
def test_special_entries(kind, match, tmp_path, parent):
    """Zip has modes of files, and tar types of entries."""
    if isinstance(kind, int):
        path = make_zip(tmp_path / "a.zip", [("good", b""), (zip_member("evil", kind | 0o777), b"/etc/passwd")])
    else:
        evil = tar_member("evil", type=kind, linkname="good")
        path = make_tar(tmp_path / "a.tgz", [(tar_member("good"), b""), (evil, b"")])
    refused(path, parent, "archive_unsafe_entry", match)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_zip_methods(method, tmp_path, parent):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a", b"x" * 1000)
    refused(tmp_path / "a.zip", parent, "archive_unsafe_entry", f"packed by method {method}")


# Sizes.

SMALL = ArchiveLimits(total_bytes=1 << 20, file_bytes=100_000, entries=10, ratio=50, ratio_floor_bytes=200_000)


@PACKS
def test_bomb_of_a_few_kilobytes(pack, tmp_path, parent):
    """100 MB of zeros: about 100 kB on the disk, refused once the default ratio is passed."""
    path = make(pack, tmp_path, [("zeros", bytes(100_000_000))])
    assert path.stat().st_size < 200_000
    failure = refused(path, parent, "archive_too_large", "unpacks to more than")
    assert "200 times" in failure.advice


def test_total(tmp_path, parent):
    noise = random.Random(1).randbytes(90_000)
    path = make("tgz", tmp_path, [(str(number), noise) for number in range(9)])
    archives.inspect(path, SMALL)
    limits = ArchiveLimits(total_bytes=812_000)
    assert path.stat().st_size < limits.total_bytes
    failure = refused(path, parent, "archive_too_large", "unpacks to more than is allowed", limits)
    assert "812,000 bytes in all" in failure.advice


@PACKS
@pytest.mark.parametrize(
    ("members", "match", "allowed"),
    [
        pytest.param({"big": 100_001}, "'big' has 100,001 bytes", "100,000 bytes a file", id="a file"),
        pytest.param(dict.fromkeys("abcdefghijk", 0), "too many entries", "10 files and folders", id="files"),
        pytest.param({"a/b/c/d/e/f/g/h/i/j/k": 0}, "too many entries", "10 files and folders", id="folders"),
    ],
)
def test_one_limit_after_another(members, match, allowed, pack, tmp_path, parent):
    path = make(pack, tmp_path, [(name, bytes(size)) for name, size in members.items()])
    failure = refused(path, parent, "archive_too_large", match, SMALL)
    assert allowed in failure.advice


# Built by an attacker.


def overlapping(folder):
    """Two names for the same packed bytes: the second directory entry points to the first file."""
    path = make_zip(folder / "a.zip", [("aaaa", b"x" * 5000), ("bbbb", b"x" * 5000)])
    return overwrite(path, lambda data: data.rindex(b"PK\1\2") + 42, bytes(4))


def encrypted(folder):
    path = make_zip(folder / "a.zip", [("secret.py", b"x")])
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        overwrite(path, lambda data, start=signature, at=at: data.index(start) + at, b"\1")
    return path


def headers(folder, kind, data, count=1):
    """Extended headers alone: tarfile would read all of one into memory, and recurse once for each of many."""
    return make_tar(folder / "a.tgz", [(tar_member("x", type=kind), data)] * count)


def empty_members(folder):
    path = make_tar(folder / "a.tgz", [(tar_member("a"), b"")])
    path.write_bytes(gzip.compress(b"") * 1000 + path.read_bytes())
    return path


def fat_directory(folder):
    """Notes in the directory of a zip file: zipfile has the whole of it in memory."""
    members = [(zip_member(f"{number}", comment=bytes(60_000)), b"") for number in range(700)]
    return make_zip(folder / "a.zip", members)


def way_out(folder):
    """Something is written through a link of the same archive."""
    link = tar_member("way", type=tarfile.SYMTYPE, linkname="../..")
    return make_tar(folder / "a.tgz", [(link, b""), (tar_member("way/evil"), b"evil")])


def a_tar_member(folder, member):
    return make_tar(folder / "a.tgz", [(member, b"")], format=tarfile.GNU_FORMAT)


SPARSE = {"GNU.sparse.realsize": "1099511627776", "GNU.sparse.major": "1"}
BUILT = {
    "a NUL in a zip name": (
        lambda folder: patch(make_zip(folder / "a.zip", [("evil.py#.txt", b"")]), b"evil.py#", b"evil.py\0"),
        "archive_unsafe_name", "NUL",
    ),
    "a NUL in a pax name": (
        lambda folder: make_pax(folder, tar_member("good", pax_headers={"path": "evil.py\0.txt"})),
        "archive_unsafe_name", "NUL",
    ),
    "a tar file named as a folder": (
        lambda folder: a_tar_member(folder, tar_member("evil/")), "archive_unsafe_name", "ends as a folder",
    ),
    "an empty zip name": (
        lambda folder: make_zip(folder / "a.zip", [(zip_member(""), b"")]), "archive_unsafe_name", "is empty",
    ),
    "an undecodable tar name": (
        lambda folder: a_tar_member(folder, tar_member("caf\udce9")), "archive_unsafe_name", "undecodable",
    ),
    "a zip folder with content": (
        lambda folder: make_zip(folder / "a.zip", [("evil/", b"content")]),
        "archive_unsafe_entry", "a folder with content",
    ),
    "a link with a long target": (
        lambda folder: a_tar_member(folder, tar_member("evil", type=tarfile.SYMTYPE, linkname="x" * 200)),
        "archive_unsafe_entry", "is a link",
    ),
    "a way out": (way_out, "archive_unsafe_entry", "'way' is a symbolic link"),
    "a sparse file of pax": (
        lambda folder: make_pax(folder, tar_member("evil", pax_headers=SPARSE)),
        "archive_unsafe_entry", "a sparse file",
    ),
    "encrypted": (encrypted, "archive_encrypted", r"'secret.py' is encrypted\."),
    "three files beyond the ratio": (
        lambda folder: make_zip(folder / "a.zip", [(name, bytes(90_000)) for name in "abc"]),
        "archive_too_large", "more than 200,000", SMALL,
    ),
    "an archive too large itself": (
        lambda folder: make_zip(folder / "a.zip", [("a", random.Random(1).randbytes(99_000))]),
        "archive_too_large", "The archive has", ArchiveLimits(total_bytes=10_000),
    ),
    "a directory that says 10 bytes of a megabyte": (
        lambda folder: patch(
            make_zip(folder / "a.zip", [("a", bytes(1_000_000))]), struct.pack("<L", 1_000_000), struct.pack("<L", 10)
        ),
        "archive_damaged", "Bad CRC-32", SMALL,
    ),
    "an extended header of any length": (
        lambda folder: headers(folder, tarfile.XHDTYPE, bytes(10_000_000)), "archive_damaged", "10,000,000 bytes",
    ),
    "endless extended headers": (
        lambda folder: headers(folder, tarfile.GNUTYPE_LONGNAME, b"name", count=31),
        "archive_too_large", "too many entries", SMALL,
    ),
    "the folder itself, again and again": (
        lambda folder: make_tar(folder / "a.tgz", [(tar_member("./", type=tarfile.DIRTYPE), b"")] * 31),
        "archive_too_large", "too many entries", SMALL,
    ),
    "gzip members without content": (empty_members, "archive_too_large", "has too many members"),
    "a zip directory for the memory": (fat_directory, "archive_too_large", "directory of the zip file has"),
    "a global header that names every file": (
        lambda folder: make_pax(folder, path="../evil"), "archive_damaged", "global header",
    ),
    "overlapping zip entries": (overlapping, "archive_damaged", "overlaps"),
    "another checksum of gzip": (
        lambda folder: overwrite(
            make("tgz", folder, [("a", b"x")]), lambda data: len(data) - 8, struct.pack("<L", zlib.crc32(b"other"))
        ),
        "archive_damaged", "incorrect data check",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BUILT)
def test_what_an_attacker_builds(case, tmp_path, parent):
    build, code, match, *limits = BUILT[case]
    refused(build(tmp_path), parent, code, match, *limits)


# Damage.


@pytest.mark.parametrize("keep", [0, 3, 10, 100, 0.5, -1])
@PACKS
def test_truncated(pack, keep, tmp_path, parent):
    path = make(pack, tmp_path, [(str(number), random.Random(number).randbytes(2_000)) for number in range(5)])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    if keep == 0 or (pack, keep) == ("zip", 3):  # too short to be known by its content
        refused(path, parent, "archive_wrong_extension", "is neither a zip nor a gzip file")
    else:
        refused(path, parent, "archive_damaged", "cannot be read")


@pytest.mark.parametrize(
    ("tail", "match"),
    [
        (b"", "ends too early"),
        (b"garbage" + bytes(505), "header of the tar file is damaged"),
        (bytes(512) + b"\1" * 512, "something follows"),
        (bytes(2_000_000), "something follows"),
    ],
    ids=["no end mark", "garbage for a header", "data after the end", "too much padding"],
)
def test_tar_with_a_wrong_end(tail, match, tmp_path, parent):
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        archive.addfile(tar_member("a"), io.BytesIO())
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(body.getvalue()[:512] + tail))
    refused(path, parent, "archive_damaged", match)


BROKEN_PAX = [
    b"30 path=short\n", b"nonsense", b"3 a\n", b"12 path=evil" + b"\n" * 5, b"19 size=99999999999\n", b"12 size=-99\n",
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN_PAX)
def test_broken_pax_headers(body, tmp_path, parent):
    head = tar_member("x", type=tarfile.XHDTYPE)
    path = make_tar(tmp_path / "a.tgz", [(head, body), (tar_member("a"), b"")])
    with pytest.raises(RequestError):
        archives.unpack(path, parent / "dest")
    assert os.listdir(parent) == ["neighbour.txt"]


def damage(data, draw):
    for _ in range(draw.randint(1, 5)):
        data[draw.randrange(len(data))] = draw.choice([0, 255, draw.randrange(256)])


def mend_tar_checksums(data):
    """Without this a changed header is refused by its checksum, and its fields are never read."""
    for at in range(0, len(data), 512):
        header = data[at : at + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(header)


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 2**32), pack=st.sampled_from(["zip", "tar"]))
def test_changed_bytes_never_surprise(seed, pack, tmp_path_factory):
    """A damaged archive is refused or read; no other error, no hang, nothing left."""
    root = tmp_path_factory.mktemp("damage")
    draw = random.Random(seed)
    buffer = io.BytesIO()
    if pack == "zip":
        path = make_zip(root / "a.zip", [("pkg/a.py", b"x = 1\n" * 50), ("pkg/b/", b""), ("c", b"1")])
        data = bytearray(path.read_bytes())
        damage(data, draw)
        path.write_bytes(data)
    else:
        with tarfile.open(fileobj=buffer, mode="w", format=draw.choice([0, 1, 2])) as archive:
            archive.addfile(tar_member("d" * 60 + "/" + "n" * draw.choice([1, 80]), size=3), io.BytesIO(b"123"))
        data = bytearray(buffer.getvalue()[:4096])
        damage(data, draw)
        mend_tar_checksums(data)
        path = root / "a.tgz"
        path.write_bytes(gzip.compress(bytes(data), 1))
    try:
        archives.unpack(path, root / "dest")
    except RequestError:
        assert os.listdir(root) == [path.name]


# Kinds.


def test_extension_and_content_must_agree(tmp_path, parent):
    zipped = make_zip(tmp_path / "a.zip", [("a", b"")]).read_bytes()
    tarred = make_tar(tmp_path / "a.tgz", [(tar_member("a"), b"")]).read_bytes()
    cases = [
        ("b.tar.gz", zipped, "'b.tar.gz' is a zip file"),
        ("b.zip", tarred, "'b.zip' is a gzip file"),
        ("b.whl", tarred, "'b.whl' is a gzip file"),
        ("b.whl", zipped, "without the '\\*.dist-info/WHEEL' of a wheel"),
        ("b.zip", b"#!/bin/sh\n", "is neither a zip nor a gzip file"),
        ("b.zip", b"#!/bin/sh\n" + zipped, "is neither a zip nor a gzip file"),
        ("b.7z", zipped, "'b.7z' is not named as an archive"),
        ("b.gz", tarred, "'b.gz' is not named as an archive"),
    ]
    for name, data, match in cases:
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, parent, "archive_wrong_extension", match)
    (tmp_path / "c.tgz").write_bytes(gzip.compress(b"not a tar file" * 100))
    refused(tmp_path / "c.tgz", parent, "archive_damaged", "a header of the tar file is damaged")


def test_wheel(tmp_path, parent):
    members = [("a.py", b""), ("a-1.dist-info/WHEEL", b"Wheel-Version: 1.0\n")]
    path = make_zip(tmp_path / "a-1-py3-none-any.whl", members)
    assert archives.inspect(path).kind is Kind.WHEEL
    refused(make_zip(tmp_path / "a.zip", members), parent, "archive_wrong_extension", "'a.zip' is a wheel")


def test_gzip_in_members_with_padding(tmp_path):
    """As some packers write it, and tapes pad it."""
    whole = gzip.decompress(make("tgz", tmp_path, [("a", random.Random(1).randbytes(300_000))]).read_bytes())
    pieces = [gzip.compress(whole[at : at + 5_000]) for at in range(0, len(whole), 5_000)]
    (tmp_path / "a.tgz").write_bytes(b"".join(pieces) + bytes(100_000))
    assert archives.inspect(tmp_path / "a.tgz").total_bytes == 300_000


def test_empty_archives(tmp_path):
    """Nothing in it is no danger: whoever needs something in it says so."""
    assert archives.inspect(make_zip(tmp_path / "a.zip", [])).files == ()
    assert archives.inspect(make_tar(tmp_path / "a.tgz", [])).files == ()


def test_zip_directory_cut_to_nothing(tmp_path):
    """The end record says that the directory has no bytes, though there are entries."""
    path = overwrite(make_zip(tmp_path / "a.zip", [("a", b"")]), lambda data: len(data) - 10, bytes(4))
    assert archives.inspect(path).files == ()


def test_missing_file_is_not_a_bad_request(tmp_path):
    with pytest.raises(FileNotFoundError):
        archives.inspect(Path(tmp_path / "none.zip"))
