"""The spool: an append-only segment file for each association that stored something.

What comes in: data sets as raw bytes, exactly as a peer sent them, and the UIDs of their commands. What
goes out: addresses under which the same bytes can be read again. Owns the invariant that makes status
0000 true: when `RecordWriter.finish` returns, the record survives kill -9 and power loss. File names are
made here, never from anything that a peer sent. It must not know what a data set means.

A segment is a block that says which association it belongs to, then records. A record is a header
(UIDs, length, CRCs of the data and of itself) and the data set, padded so that the next one begins on a
block. The header is written with the data, before the one `fdatasync`; what a crash left half-written
fails a CRC, and the segment ends there. The process that writes a segment holds an exclusive `flock` on
it; a finished and fully indexed segment is marked by taking away its write permission.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Self

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from dicom_node.errors import OutOfResources, SpoolFailed
from dicom_node.records import Peer, SegmentAddress

BLOCK = 512
SUFFIX = ".segment"
SEALED = 0o440

_SEGMENT_MAGIC = b"DNSEGM02"
_SEGMENT = struct.Struct("<8sII")
_RECORD_MAGIC = b"DNRECORD"
_RECORD = struct.Struct("<8sIIQq64s64s64s")
RECORD_HEADER = _RECORD.size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUFFER = 1 << 20
_PAGE = 4096
_WRITE_AHEAD = 128 << 10
"""So many bytes of a data set are sent on to the disk while the rest arrives."""


@dataclass(frozen=True, slots=True)
class SegmentOwner:
    """The association that a segment belongs to."""

    association_id: str
    peer: Peer
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class RecordMeta:
    """What a record's header says of its data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    received_at: datetime


def record_end(address: SegmentAddress) -> int:
    """The segment's offset behind the record of this data set: where the next record begins."""
    return _aligned(address.offset + address.length)


class SegmentWriter:
    """Appends records to one segment. For one thread; the segment is locked until `close`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.name = path.name
        self._path = path
        self._descriptor = descriptor
        self._end = BLOCK
        self._failed = False
        # two, so that one record can be hashed while the next one arrives; pages of their own, so that
        # they go back to the system when the association ends
        self._buffers: list[mmap.mmap] = []
        self._records: list[RecordWriter] = []

    @classmethod
    def open(cls, spool_dir: Path, owner: SegmentOwner) -> Self:
        """Create the segment of an association; its name is durable with the first record.

        Raises:
            OutOfResources: the file cannot be created, or the disk is full.
            SpoolFailed: the disk failed.
        """
        path = spool_dir / f"{owner.association_id}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o640)
        except OSError as error:
            raise OutOfResources(f"the spool takes no new segment: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(descriptor, _segment_block(owner), 0)
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise _failure(error) from error
        return cls(path, descriptor)

    def begin(self) -> "RecordWriter":
        """Start a record behind the last finished one.

        Raises:
            SpoolFailed: an earlier write or sync of this segment failed.
        """
        if self._failed:
            raise SpoolFailed("an earlier write of this segment failed")
        if len(self._buffers) < 2:
            self._buffers.append(mmap.mmap(-1, _BUFFER))
            buffer = self._buffers[-1]
        else:
            self._records.pop(0).digest()
            buffer = self._buffers[0]
            self._buffers.reverse()
        record = RecordWriter(self, self._descriptor, self._end, buffer)
        self._records.append(record)
        return record

    def append(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: bytes
    ) -> tuple[RecordMeta, SegmentAddress]:
        """Write one whole data set; it is durable when this returns."""
        record = self.begin()
        record.write(data)
        return record.finish(sop_class_uid, sop_instance_uid, transfer_syntax_uid)

    def rest(self) -> None:
        """No more records come: give the buffers back. The segment stays locked."""
        for record in self._records:
            record.digest()
        self._records.clear()
        self._buffers.clear()

    def remove(self) -> None:
        """Delete a segment that holds no record."""
        self._path.unlink(missing_ok=True)
        self.close(sealed=False)

    def close(self, *, sealed: bool) -> None:
        """Give up the lock; `sealed` says that every record is indexed and nothing is left to recover."""
        self.rest()
        if self._descriptor >= 0:
            if sealed:
                os.fchmod(self._descriptor, SEALED)
            os.close(self._descriptor)
            self._descriptor = -1

    def sync(self, end: int) -> None:
        """Make what was written durable, and the segment's name too; the next record begins at `end`.

        Raises:
            SpoolFailed: it may or may not be; the segment takes nothing more.
        """
        try:
            os.fdatasync(self._descriptor)
            if self._end == BLOCK:
                sync_folder(self._path.parent)
        except OSError as error:
            # after a failed sync nobody knows what the disk holds, also where it was only full
            self._failed = True
            raise SpoolFailed(f"the spool's disk failed: {error.strerror}") from error
        self._end = end

    def fail(self) -> None:
        """What was written may or may not be on the disk, and no later sync can tell: write no more."""
        self._failed = True


class RecordWriter:
    """One record while its data set arrives: fragments go into `room`, and soon on to the disk.

    Whole pages are written, and the disk is started on them, while the rest of the data set is on its way;
    the first page, which holds the header, and the last follow at the end.
    """

    # thousands of them may wait for their rows
    __slots__ = (
        "_base",
        "_crc",
        "_descriptor",
        "_digest",
        "_digesting",
        "_hash",
        "_hashed",
        "_head",
        "_segment",
        "_start",
        "_summed",
        "_used",
        "_view",
        "_written",
        "length",
    )

    def __init__(
        self, segment: SegmentWriter, descriptor: int, start: int, buffer: mmap.mmap
    ) -> None:
        self.length = 0
        self._segment = segment
        self._descriptor = descriptor
        self._start = start
        self._view = memoryview(buffer)
        self._base = start
        """Where in the segment the buffer begins."""
        self._used = self._summed = RECORD_HEADER
        self._head = self._written = _PAGE - start % _PAGE
        if self._head < RECORD_HEADER:
            self._head = self._written = self._head + _PAGE
        self._crc = 0
        self._hash = hashlib.sha256()
        self._hashed = RECORD_HEADER
        self._digest: str | None = None
        self._digesting = threading.Lock()

    def room(self) -> memoryview:
        """Where the next bytes of the data set belong; never empty. Tell `filled` how many came.

        Raises:
            OutOfResources: the disk is full.
            SpoolFailed: the disk failed.
        """
        if self._used == len(self._view):
            self._empty_buffer()
        elif self._used - self._written >= _WRITE_AHEAD:
            self._write_ahead()
        return self._view[self._used :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `room`."""
        self._used += count
        self.length += count

    def write(self, data: bytes | memoryview) -> None:
        """Copy bytes in."""
        rest = memoryview(data)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.filled(count)
            rest = rest[count:]

    def data_set(self) -> memoryview:
        """The bytes so far, to be looked at before they are acknowledged; release it before `finish`.

        Raises:
            OutOfResources, SpoolFailed: they could not be written.
        """
        if self._base == self._start:
            return self._view[RECORD_HEADER : self._used].toreadonly()
        self._write(self._written, self._used)
        self._written = self._used
        return _map(self._descriptor, self._start + RECORD_HEADER, self.length)

    def finish(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> tuple[RecordMeta, SegmentAddress]:
        """Write header and rest, and sync: the record is durable when this returns.

        Raises:
            OutOfResources: the disk is full; the record must be discarded, and the next may succeed.
            SpoolFailed: the disk failed; the segment takes nothing more.
        """
        self._sum()
        meta = RecordMeta(sop_class_uid, sop_instance_uid, transfer_syntax_uid, datetime.now(UTC))
        header = _record_header(meta, self.length, self._crc)
        if self._base != self._start:
            self._write(self._written, self._used)
            self._write_bytes(memoryview(header), self._start)
        else:
            self._view[:RECORD_HEADER] = header
            if self._written == self._head:
                self._write(0, self._used)
            else:
                self._write(0, self._head)
                self._write(self._written, self._used)
        offset = self._start + RECORD_HEADER
        self._segment.sync(_aligned(offset + self.length))
        return meta, SegmentAddress(self._segment.name, offset, self.length)

    def digest(self) -> str:
        """SHA-256 of the data set, after `finish` or `discard`; any thread may ask, and ask again.

        The hash names the content in the index and recognizes what is sent twice. That the bytes came to
        the disk is the CRC's to tell, so that no sender waits for the hash.
        """
        with self._digesting:
            if self._digest is None:
                self._hash.update(self._view[self._hashed : self._used])
                self._view.release()
                self._digest = self._hash.hexdigest()
                del self._hash
            return self._digest

    def discard(self) -> None:
        """Forget the record; the next one begins where it began."""
        with self._digesting:
            self._view.release()
            self._digest = ""
        if self._base != self._start or self._written != self._head:
            # a segment that failed is cut at recovery
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._start)

    def _sum(self) -> None:
        self._crc = zlib.crc32(self._view[self._summed : self._used], self._crc)
        self._summed = self._used

    def _write_ahead(self) -> None:
        """Write the whole pages that are there, and have the disk begin with them."""
        stop = self._used - (self._base + self._used) % _PAGE
        self._write(self._written, stop)
        offset, length = self._base + self._written, stop - self._written
        # what is dirty is sent to the disk and stays in the cache, as it is not clean yet
        with suppress(OSError):
            os.posix_fadvise(self._descriptor, offset, length, os.POSIX_FADV_DONTNEED)
        self._written = stop
        self._sum()

    def _empty_buffer(self) -> None:
        """Write all of it, so that it can be filled once more."""
        self._sum()
        if self._base == self._start:
            self._write(RECORD_HEADER, self._head)
        self._write(self._written, self._used)
        self._hash.update(self._view[self._hashed : self._used])
        self._base += self._used
        self._used = self._summed = self._written = self._hashed = 0

    def _write(self, start: int, stop: int) -> None:
        self._write_bytes(self._view[start:stop], self._base + start)

    def _write_bytes(self, data: memoryview, offset: int) -> None:
        try:
            while data:
                count = os.pwrite(self._descriptor, data, offset)
                data = data[count:]
                offset += count
        except OSError as error:
            failure = _failure(error)
            if isinstance(failure, SpoolFailed):
                self._segment.fail()
            raise failure from error


# --- reading --------------------------------------------------------------------------------------


def records(
    path: Path, from_offset: int = 0, *, verify: bool = True
) -> Iterator[tuple[RecordMeta, SegmentAddress]]:
    """The records of a segment from an offset on (0: all), up to the first one that is not whole.

    Args:
        path: the segment.
        from_offset: where a record begins.
        verify: also compare the data set's CRC, which reads all of it.
    """
    position = max(from_offset, BLOCK)
    size = path.stat().st_size
    with path.open("rb") as file:
        while position + RECORD_HEADER <= size:
            file.seek(position)
            parsed = _parse_record(file.read(RECORD_HEADER))
            if parsed is None:
                return
            meta, length, crc = parsed
            address = SegmentAddress(path.name, position + RECORD_HEADER, length)
            if address.offset + length > size:
                return
            if verify and _crc_of(path, address) != crc:
                return
            yield meta, address
            position = record_end(address)


def owner(path: Path) -> SegmentOwner | None:
    """The association that a segment belongs to; None where the file is no whole segment."""
    with path.open("rb") as file:
        block = file.read(BLOCK)
    if len(block) < BLOCK:
        return None
    magic, length, crc = _SEGMENT.unpack_from(block)
    text = block[_SEGMENT.size : _SEGMENT.size + length]
    if magic != _SEGMENT_MAGIC or zlib.crc32(text) != crc:
        return None
    values = json.loads(text)
    return SegmentOwner(
        values["association_id"],
        Peer(values["calling_ae"], values["called_ae"], values["host"]),
        datetime.fromisoformat(values["opened_at"]),
    )


def open_data_set(spool_dir: Path, address: SegmentAddress) -> memoryview:
    """The raw bytes of a data set, mapped from its segment; nothing is copied.

    Raises:
        FileNotFoundError: the segment was removed.
        ValueError: the segment is shorter than the address says.
    """
    descriptor = os.open(spool_dir / Path(address.segment).name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _map(descriptor, address.offset, address.length)
    finally:
        os.close(descriptor)


def digest(spool_dir: Path, address: SegmentAddress) -> str:
    """SHA-256 of a data set.

    Raises:
        FileNotFoundError: the segment was removed.
    """
    hashed = hashlib.sha256()
    for part in _parts(spool_dir / Path(address.segment).name, address):
        hashed.update(part)
    return hashed.hexdigest()


def part10(spool_dir: Path, meta: RecordMeta, address: SegmentAddress) -> bytes:
    """An instance as a plain DICOM file (PS3.10): preamble of zeros, file meta information, data set.

    Raises:
        FileNotFoundError, ValueError: the segment is gone or shorter than the address says.
    """
    file_meta = FileMetaDataset()
    file_meta.MediaStorageSOPClassUID = UID(meta.sop_class_uid)
    file_meta.MediaStorageSOPInstanceUID = UID(meta.sop_instance_uid)
    file_meta.TransferSyntaxUID = UID(meta.transfer_syntax_uid)
    with BytesIO() as buffer, open_data_set(spool_dir, address) as data:
        buffer.write(bytes(128) + b"DICM")
        write_file_meta_info(DicomIO(buffer), file_meta)
        buffer.write(data)
        return buffer.getvalue()


def unsealed(spool_dir: Path) -> Iterator[Path]:
    """Segments that are not marked as finished and indexed: still written, or left by a crash."""
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        if path.stat().st_mode & stat.S_IWUSR:
            yield path


def sealed(spool_dir: Path) -> Iterator[Path]:
    """Segments that were marked as finished and indexed."""
    for path in sorted(spool_dir.glob(f"*{SUFFIX}")):
        if not path.stat().st_mode & stat.S_IWUSR:
            yield path


def unseal(path: Path) -> None:
    """Take the mark away: the index has lost this segment, so that it is to be recovered."""
    path.chmod(SEALED | stat.S_IWUSR)


def of_another_version(path: Path) -> bool:
    """Whether an older or newer node wrote the segment, in a form that this one does not read."""
    with path.open("rb") as file:
        magic = file.read(len(_SEGMENT_MAGIC))
    return magic[:-2] == _SEGMENT_MAGIC[:-2] and magic != _SEGMENT_MAGIC


class AbandonedSegment:
    """A segment whose writer is dead, held under its lock while it is recovered."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Take the segment; None where its writer lives or another process recovers it."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return cls(path, descriptor)

    def remove(self) -> None:
        """Delete a segment that never held a record."""
        self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def leave(self) -> None:
        """Let go of it as it is."""
        os.close(self._descriptor)

    def cut(self, end: int) -> None:
        """Cut what was never acknowledged off the tail."""
        if os.fstat(self._descriptor).st_size > end:
            os.ftruncate(self._descriptor, end)
            os.fsync(self._descriptor)

    def seal(self) -> None:
        """Mark it as finished and indexed, and let go of it."""
        os.fchmod(self._descriptor, SEALED)
        os.close(self._descriptor)


# --- bytes ----------------------------------------------------------------------------------------


def _segment_block(owner: SegmentOwner) -> bytes:
    values = {
        "association_id": owner.association_id,
        "calling_ae": owner.peer.calling_ae,
        "called_ae": owner.peer.called_ae,
        "host": owner.peer.host,
        "opened_at": owner.opened_at.isoformat(),
    }
    text = json.dumps(values).encode()
    return (_SEGMENT.pack(_SEGMENT_MAGIC, len(text), zlib.crc32(text)) + text).ljust(BLOCK, b"\0")


def _record_header(meta: RecordMeta, length: int, crc_of_data: int) -> bytes:
    packed = _RECORD.pack(
        _RECORD_MAGIC,
        0,
        crc_of_data,
        length,
        round(meta.received_at.timestamp() * 1e6),
        meta.sop_class_uid.encode(),
        meta.sop_instance_uid.encode(),
        meta.transfer_syntax_uid.encode(),
    )
    crc = zlib.crc32(packed)
    return packed[:8] + crc.to_bytes(4, "little") + packed[12:]


def _parse_record(header: bytes) -> tuple[RecordMeta, int, int] | None:
    magic, crc, data_crc, length, received, sop_class, instance, syntax = _RECORD.unpack(header)
    if magic != _RECORD_MAGIC or zlib.crc32(header[:8] + bytes(4) + header[12:]) != crc:
        return None
    meta = RecordMeta(
        sop_class.rstrip(b"\0").decode(),
        instance.rstrip(b"\0").decode(),
        syntax.rstrip(b"\0").decode(),
        datetime.fromtimestamp(received / 1e6, UTC),
    )
    return meta, length, data_crc


def _crc_of(path: Path, address: SegmentAddress) -> int:
    crc = 0
    for part in _parts(path, address):
        crc = zlib.crc32(part, crc)
    return crc


def _parts(path: Path, address: SegmentAddress) -> Iterator[bytes]:
    """A data set piece by piece: one that is larger than the memory must be readable too."""
    with path.open("rb") as file:
        file.seek(address.offset)
        left = address.length
        while left and (part := file.read(min(left, _BUFFER))):
            left -= len(part)
            yield part


def _map(descriptor: int, offset: int, length: int) -> memoryview:
    if length == 0:
        return memoryview(b"")
    page = offset - offset % mmap.ALLOCATIONGRANULARITY
    mapped = mmap.mmap(descriptor, offset - page + length, offset=page, access=mmap.ACCESS_READ)
    # the view keeps the mapping alive
    return memoryview(mapped)[offset - page :]


def _failure(error: OSError) -> OutOfResources:
    """What a write that failed means: a full disk gets room again, anything else is a broken one."""
    if error.errno in _FULL:
        return OutOfResources("the spool's disk is full")
    return SpoolFailed(f"the spool's disk failed: {error.strerror}")


def _aligned(offset: int) -> int:
    return (offset + BLOCK - 1) // BLOCK * BLOCK


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
