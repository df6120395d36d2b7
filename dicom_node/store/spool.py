"""The spool: an append-only segment file for each association that stored something.

What comes in: data sets as raw bytes, exactly as a peer sent them, and the UIDs of their commands. What
goes out: addresses under which the same bytes can be read again. Owns the invariant that makes status
0000 true: when `RecordWriter.finish` returns, the record survives kill -9 and power loss. File names are
made here, never from anything that a peer sent. It must not know what a data set means.

A segment is a block that says which association it belongs to, then records. A record is a header
(UIDs, length, SHA-256, its own CRC) and the data set, padded so that the next one begins on a block. The
header is written with the data, before the one `fdatasync`; what a crash left half-written fails its CRC
or its hash, and the segment ends there. The process that writes a segment holds an exclusive `flock` on
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

_SEGMENT_MAGIC = b"DNSEGM01"
_SEGMENT = struct.Struct("<8sII")
_RECORD_MAGIC = b"DNRECORD"
_RECORD = struct.Struct("<8sI4xQq32s64s64s64s")
RECORD_HEADER = _RECORD.size
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUFFER = 1 << 20
_HASH_EVERY = 128 << 10


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
    sha256: str
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
        self._buffer: mmap.mmap | None = None

    @classmethod
    def open(cls, spool_dir: Path, owner: SegmentOwner) -> Self:
        """Create the segment of an association and make its name durable.

        Raises:
            OutOfResources: the file cannot be created.
            SpoolFailed: it cannot be synced.
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
            os.fsync(descriptor)
            _sync_folder(spool_dir)
        except OSError as error:
            os.close(descriptor)
            raise _failure(error) from error
        return cls(path, descriptor)

    def begin(self) -> "RecordWriter":
        """Start a record behind the last finished one.

        Raises:
            SpoolFailed: an earlier write or sync of this segment failed.
        """
        if self._failed:
            raise SpoolFailed("an earlier write of this segment failed")
        if self._buffer is None:
            # pages of its own, so that they go back to the system when the association ends
            self._buffer = mmap.mmap(-1, _BUFFER)
        return RecordWriter(self, self._descriptor, self._end, self._buffer)

    def append(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: bytes
    ) -> tuple[RecordMeta, SegmentAddress]:
        """Write one whole data set; it is durable when this returns."""
        record = self.begin()
        record.write(data)
        return record.finish(sop_class_uid, sop_instance_uid, transfer_syntax_uid)

    def rest(self) -> None:
        """No more records come: give the buffer back. The segment stays locked."""
        self._buffer = None

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

    def finished(self, end: int) -> None:
        """A record is durable up to `end`."""
        self._end = end

    def fail(self) -> None:
        """What was written may or may not be on the disk, and no later sync can tell: write no more."""
        self._failed = True


class RecordWriter:
    """One record while its data set arrives: fragments go into `room`, whole buffers to the disk."""

    def __init__(
        self, segment: SegmentWriter, descriptor: int, start: int, buffer: mmap.mmap
    ) -> None:
        self.length = 0
        self._segment = segment
        self._descriptor = descriptor
        self._start = start
        self._view = memoryview(buffer)
        self._used = RECORD_HEADER
        self._hashed = RECORD_HEADER
        self._flushed = 0
        self._hash = hashlib.sha256()

    def room(self) -> memoryview:
        """Where the next bytes of the data set belong; never empty. Tell `filled` how many came.

        Raises:
            OutOfResources: the buffer was full, and so is the disk.
            SpoolFailed: the buffer was full, and the disk failed.
        """
        if self._used == len(self._view):
            self._flush()
        return self._view[self._used :]

    def filled(self, count: int) -> None:
        """So many bytes were put into `room`."""
        self._used += count
        self.length += count
        if self._used - self._hashed >= _HASH_EVERY:
            self._digest()

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
        if self._flushed == 0:
            return self._view[RECORD_HEADER : self._used].toreadonly()
        self._flush()
        return _map(self._descriptor, self._start + RECORD_HEADER, self.length)

    def finish(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
    ) -> tuple[RecordMeta, SegmentAddress]:
        """Write header and rest, and sync: the record is durable when this returns.

        Raises:
            OutOfResources: the disk is full; the record must be discarded, and the next may succeed.
            SpoolFailed: the disk failed; the segment takes nothing more.
        """
        self._digest()
        meta = RecordMeta(
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            self._hash.hexdigest(),
            datetime.now(UTC),
        )
        header = _record_header(meta, self.length)
        end = _aligned(self._start + RECORD_HEADER + self.length)
        try:
            if self._flushed == 0:
                self._view[:RECORD_HEADER] = header
                _write_all(self._descriptor, self._view[: self._used], self._start)
            else:
                self._flush()
                _write_all(self._descriptor, memoryview(header), self._start)
        except OSError as error:
            raise self._failed(error) from error
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # after a failed sync nobody knows what the disk holds, also where it was only full
            self._segment.fail()
            raise SpoolFailed(f"the spool's disk failed: {error.strerror}") from error
        self._segment.finished(end)
        self._view.release()
        offset = self._start + RECORD_HEADER
        return meta, SegmentAddress(self._segment.name, offset, self.length)

    def discard(self) -> None:
        """Forget the record; the next one begins where it began."""
        self._view.release()
        if self._flushed:
            # a segment that failed is cut at recovery
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._start)

    def _failed(self, error: OSError) -> OutOfResources:
        failure = _failure(error)
        if isinstance(failure, SpoolFailed):
            self._segment.fail()
        return failure

    def _digest(self) -> None:
        self._hash.update(self._view[self._hashed : self._used])
        self._hashed = self._used

    def _flush(self) -> None:
        self._digest()
        first = RECORD_HEADER if self._flushed == 0 else 0
        offset = self._start + RECORD_HEADER + self._flushed
        try:
            _write_all(self._descriptor, self._view[first : self._used], offset)
        except OSError as error:
            raise self._failed(error) from error
        self._flushed += self._used - first
        self._used = self._hashed = 0


# --- reading --------------------------------------------------------------------------------------


def records(
    path: Path, from_offset: int = 0, *, verify: bool = True
) -> Iterator[tuple[RecordMeta, SegmentAddress]]:
    """The records of a segment from an offset on (0: all), up to the first one that is not whole.

    Args:
        path: the segment.
        from_offset: where a record begins.
        verify: also compare the data set's hash, which reads all of it.
    """
    position = max(from_offset, BLOCK)
    size = path.stat().st_size
    with path.open("rb") as file:
        while position + RECORD_HEADER <= size:
            file.seek(position)
            parsed = _parse_record(file.read(RECORD_HEADER))
            if parsed is None:
                return
            meta, length = parsed
            address = SegmentAddress(path.name, position + RECORD_HEADER, length)
            if address.offset + length > size:
                return
            if verify and _digest_of(path, address) != meta.sha256:
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


def _record_header(meta: RecordMeta, length: int) -> bytes:
    packed = _RECORD.pack(
        _RECORD_MAGIC,
        0,
        length,
        round(meta.received_at.timestamp() * 1e6),
        bytes.fromhex(meta.sha256),
        meta.sop_class_uid.encode(),
        meta.sop_instance_uid.encode(),
        meta.transfer_syntax_uid.encode(),
    )
    crc = zlib.crc32(packed)
    return packed[:8] + crc.to_bytes(4, "little") + packed[12:]


def _parse_record(header: bytes) -> tuple[RecordMeta, int] | None:
    magic, crc, length, received, digest, sop_class, instance, syntax = _RECORD.unpack(header)
    if magic != _RECORD_MAGIC or zlib.crc32(header[:8] + bytes(4) + header[12:]) != crc:
        return None
    meta = RecordMeta(
        sop_class.rstrip(b"\0").decode(),
        instance.rstrip(b"\0").decode(),
        syntax.rstrip(b"\0").decode(),
        digest.hex(),
        datetime.fromtimestamp(received / 1e6, UTC),
    )
    return meta, length


def _digest_of(path: Path, address: SegmentAddress) -> str:
    with open_data_set(path.parent, address) as data:
        return hashlib.sha256(data).hexdigest()


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


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data = data[count:]
        offset += count


def _aligned(offset: int) -> int:
    return (offset + BLOCK - 1) // BLOCK * BLOCK


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
