"""Walk a zip or a gzipped tar file entry by entry, in memory that does not grow with what the file claims."""

from __future__ import annotations

import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from simyard.core.errors import RequestError

_BLOCK = 512
_CHUNK = 1 << 20
_EXTENDED_HEADER = 64 << 10
_TAR_PADDING = 1 << 20
_ZIP_RECORD = 2048
_GZIP_PIECE = 64 << 10
_GZIP_MEMBERS = 1000


class Entry(NamedTuple):
    """One entry of an archive; its name is not checked yet."""

    name: str
    """As it stands in the archive."""
    is_folder: bool
    """A folder, otherwise a plain file."""
    size: int
    """Bytes, as its header claims."""
    read: Callable[[int], bytes]
    """Returns at most so many bytes more, and nothing at the end; good until the next entry is asked for."""


# --- zip ------------------------------------------------------------------------------------------------------------


def zip_entries(file: BinaryIO, most_entries: int) -> Iterator[Entry]:
    """Walk a zip file.

    Args:
        file: The file, at its beginning.
        most_entries: The number that is still accepted.

    Raises:
        RequestError: An entry is not a plain, unencrypted file or folder, or there are too many.
    """
    _count_zip_entries(file, most_entries)
    with zipfile.ZipFile(file) as archive:
        # Entries that share packed bytes are refused: a few megabytes then unpack to petabytes, and readers disagree.
        ordered = sorted(archive.infolist(), key=lambda member: member.header_offset)
        starts = [*(member.header_offset for member in ordered), archive.start_dir]
        for member, next_start in zip(ordered, starts[1:], strict=True):
            least = 30 + len(member.orig_filename) + member.compress_size
            if member.header_offset < 0 or member.header_offset + least > next_start:
                raise damaged(f"{show(member.filename)} overlaps with what follows it")

        for member in archive.infolist():
            _check_zip_member(member)
            if member.is_dir():
                yield Entry(member.filename, True, 0, lambda _: b"")
            else:
                with archive.open(member) as data:
                    yield Entry(member.filename, False, member.file_size, data.read)


def _count_zip_entries(file: BinaryIO, most_entries: int) -> None:
    """Walk the directory before zipfile does: zipfile makes an object of every entry, however many there are."""
    # Find the directory as zipfile finds it: its last record says how long it is.
    size = file.seek(0, os.SEEK_END)
    tail_start = max(0, size - 22 - 0xFFFF - 76)
    file.seek(tail_start)
    tail = file.read()
    at = len(tail) - 22
    if not (tail[at:].startswith(b"PK\5\6") and tail.endswith(b"\0\0")):
        at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < 22:
        raise damaged("the directory at the end of the zip file is missing")
    (length,) = struct.unpack_from("<L", tail, at + 12)
    end = tail_start + at
    if at >= 76 and tail[at - 20 :].startswith(b"PK\6\7"):  # Zip64: its two records stand before this one.
        (length,) = struct.unpack_from("<Q", tail, at - 76 + 40)
        end -= 76
    if length > end:
        raise damaged("the directory of the zip file is longer than the file")
    if length > (allowed := most_entries * _ZIP_RECORD):  # zipfile has all of it in memory
        raise too_large(f"The directory of the zip file has {length:,} bytes", f"{allowed:,} bytes")

    # Count its entries.
    file.seek(end - length)
    count = 0
    while file.tell() < end:
        header = file.read(46)
        if not header.startswith(b"PK\1\2"):
            raise damaged("the directory of the zip file is damaged")
        file.seek(sum(struct.unpack_from("<3H", header, 28)), os.SEEK_CUR)
        count += 1
        if count > most_entries:
            raise too_many(most_entries)
    file.seek(0)


def _check_zip_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if not name:  # is_dir() of Python 3.11 would stumble over it
        raise unsafe_name(name, "is empty")
    if name != member.orig_filename:
        raise unsafe_name(member.orig_filename, "has a NUL or a second spelling")
    if member.flag_bits & 0x2041:  # encrypted, strongly encrypted, hidden headers
        raise RequestError(
            f"{show(name)} is encrypted.",
            code="archive_encrypted",
            advice="Allowed: entries without a password. Pack it again without one.",
        )
    # bz2 and lzma are left out: zipfile decodes them in pieces of any size.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise unsafe_entry(name, f"packed by method {member.compress_type}", "methods 0 (stored) and 8 (deflated)")
    mode = stat.S_IFMT(member.external_attr >> 16)
    if mode not in (0, stat.S_IFDIR if member.is_dir() else stat.S_IFREG):
        raise unsafe_entry(name, _ZIP_MODES.get(mode, f"of the unknown mode {mode:#o}"))
    if member.is_dir() and (member.file_size or member.compress_size > 2):  # deflating nothing gives two bytes
        raise unsafe_entry(name, "a folder with content")


_ZIP_MODES = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a fifo",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "marked as a folder, but named as a file",
    stat.S_IFREG: "marked as a file, but named as a folder",
}


# --- tar ------------------------------------------------------------------------------------------------------------


_TAR_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_TAR_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.GNUTYPE_LONGLINK: "a link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a fifo",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def tar_entries(file: BinaryIO, spend: Callable[[int], None], most_entries: int) -> Iterator[Entry]:
    """Walk a gzipped tar file.

    The headers are walked here: tarfile's own walk reads an extended header of any length into memory, and takes a
    damaged header for the end of the archive.

    Args:
        file: The file, at its beginning.
        spend: Called with the bytes of each header, which are unpacked bytes too.
        most_entries: The number that is still accepted; each may have two extended headers.

    Raises:
        RequestError: An entry is not a plain file or folder, there are too many, or the file is damaged.
    """
    stream = _Gzip(file)
    headers = 0
    given: dict[str, str] = {}  # what extended headers say of the next entry
    while any(block := _exactly(stream, _BLOCK)):
        spend(_BLOCK)
        headers += 1
        if headers > 3 * most_entries:
            raise too_many(most_entries)
        try:
            head = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise damaged(f"a header of the tar file is damaged ({error})") from error
        if head.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
            given |= _extended_header(head, stream, spend)
            continue
        name, size = given.get("path", head.name), int(given.get("size", head.size))
        if head.type not in (*_TAR_FILES, tarfile.DIRTYPE):
            raise unsafe_entry(name, _TAR_TYPES.get(head.type, f"of the unknown type {head.type!r}"))
        if size < 0 or (size and head.isdir()):
            raise damaged(f"{show(name)} has a size of {size}")
        data = _Limited(stream, size)
        yield Entry(name, head.isdir(), size, data.read)
        _exactly(stream, data.left + -size % _BLOCK)
        given = {}
    # Read to the end, which also proves gzip's checksum; only padding may follow.
    padding = 0
    while chunk := stream.read(_CHUNK):
        padding += len(chunk)
        if any(chunk) or padding > _TAR_PADDING:
            raise damaged("something follows the end mark of the tar file")


class _Gzip:
    """The unpacked bytes of a gzip file.

    Its members are counted: `gzip` of the standard library begins each anew in Python, three seconds for a megabyte of
    empty ones.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._packed = b""
        self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._members = 1

    def read(self, count: int) -> bytes:
        """Return so many bytes, and fewer at the end alone."""
        pieces = []
        while count:
            packed = self._packed or self._file.read(_GZIP_PIECE)
            if self._member.eof:
                if not packed:
                    break
                if not (packed := packed.lstrip(b"\0")):  # padding, as on tapes
                    self._packed = b""
                    continue
                self._members += 1
                if self._members > _GZIP_MEMBERS:
                    allowed = f"{_GZIP_MEMBERS:,} members, of which packers write one"
                    raise too_large("The gzip file has too many members", allowed)
                self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            if not packed:
                raise damaged("the gzip file ends too early")
            piece = self._member.decompress(packed, count)
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)


class _Limited:
    """The bytes of one entry in a stream."""

    def __init__(self, stream: _Gzip, size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, count: int) -> bytes:
        chunk = self._stream.read(min(count, self.left))
        self.left -= len(chunk)
        return chunk


def _exactly(stream: _Gzip, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise damaged("the tar file ends too early")
    return data


def _extended_header(head: tarfile.TarInfo, stream: _Gzip, spend: Callable[[int], None]) -> dict[str, str]:
    """Return an extended header's records on the next entry; only its path and size matter here."""
    if not 0 < head.size <= _EXTENDED_HEADER:
        raise damaged(f"an extended header has {head.size:,} bytes; at most {_EXTENDED_HEADER:,} are read")
    body = _exactly(stream, head.size + -head.size % _BLOCK)[: head.size]
    spend(len(body))
    if head.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": body.removesuffix(b"\0").decode("utf-8", "surrogateescape")}
    records = _pax_records(body)
    if any(key.startswith("GNU.sparse.") for key in records):
        raise unsafe_entry(records.get("GNU.sparse.name", records.get("path", "?")), "a sparse file")
    found = {key: value for key, value in records.items() if key in ("path", "size")}
    if found and head.type == tarfile.XGLTYPE:
        raise damaged("a global header gives every file one name or size")
    if not re.fullmatch("[0-9]{1,18}", found.get("size", "0"), re.ASCII):
        raise damaged(f"an extended header gives a size of {show(found['size'])}")
    return found


_PAX_RECORD = re.compile(rb"([0-9]{1,6}) ([^=]+)=")


def _pax_records(body: bytes) -> dict[str, str]:
    """Read the lines `LENGTH KEY=VALUE`, where the length counts the whole line."""
    records = {}
    at = 0
    while at < len(body):
        match = _PAX_RECORD.match(body, at)
        end = at + int(match[1]) if match else 0
        if not match or not match.end() < end <= len(body) or body[end - 1 : end] != b"\n":
            raise damaged("an extended header cannot be read")
        records[match[2].decode("utf-8", "replace")] = body[match.end() : end - 1].decode("utf-8", "surrogateescape")
        at = end
    return records


# --- refusals: what was wrong, what is allowed, what to do ----------------------------------------------------------


def show(name: str) -> str:
    """Return a member's name for a message; names are hostile, and can be long."""
    return repr(name if len(name) <= 200 else name[:200] + "…")


def unsafe_name(name: str, why: str, allowed: str = "relative names with / between their parts") -> RequestError:
    """Return the error for a name that is refused."""
    return RequestError(
        f"The name {show(name)} {why}.",
        code="archive_unsafe_name",
        advice=f"Allowed: {allowed}. Rename it and pack again.",
    )


def unsafe_entry(name: str, what: str, allowed: str = "plain files and folders") -> RequestError:
    """Return the error for an entry that is not a plain file or folder."""
    return RequestError(
        f"{show(name)} is {what}.",
        code="archive_unsafe_entry",
        advice=f"Allowed: {allowed}. Leave it out or replace it, and pack again.",
    )


def too_large(what: str, limit: str) -> RequestError:
    """Return the error for a limit that is passed."""
    return RequestError(
        f"{what}.",
        code="archive_too_large",
        advice=f"Allowed: {limit}. Leave out what the job does not need.",
    )


def too_many(allowed: int) -> RequestError:
    """Return the error for too many entries."""
    return too_large("The archive has too many entries", f"{allowed:,} files and folders")


def damaged(why: str) -> RequestError:
    """Return the error for an archive that cannot be read."""
    return RequestError(
        f"The archive cannot be read: {why}.",
        code="archive_damaged",
        advice="Pack and send it again; 'python -m zipfile -t FILE' or 'gzip -t FILE' tells whether it is whole.",
    )
