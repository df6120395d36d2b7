"""Custody of what one association stores: from the first byte of a data set to its status.

What comes in: C-STORE commands and the bytes of their data sets. What goes out: a DIMSE status that states
custody and nothing else (PS3.4 Table B.2-1; the table stands in the design and the conformance statement).
Owns the order of things: header read and compared, bytes synced, then 0000, then hash and index. It must not
know about PDUs.
"""

import os
import threading
import traceback
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dicom_node.errors import DimseStatus, NodeError, OutOfResources, SpoolFailed
from dicom_node.observe.exchange import received
from dicom_node.observe.intake import note_stopped
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.observe.recording import record
from dicom_node.read.header import Header, read_header
from dicom_node.receive.admit import check_identity
from dicom_node.receive.command import Command
from dicom_node.receive.index import Ended, Indexer, Opened, Stored
from dicom_node.records import Ending, Peer
from dicom_node.store.spool import RecordWriter, SegmentOwner, SegmentWriter

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The status of a response, with a comment for people."""

    status: DimseStatus
    comment: str = ""


class Readiness:
    """Whether the node can take more: disk, index, and whether a sync ever failed. Thread-safe."""

    def __init__(self, spool_dir: Path, reserve_bytes: int, indexer: Indexer) -> None:
        self._spool_dir = spool_dir
        self._reserve = reserve_bytes
        self._indexer = indexer
        self._spool_failed = threading.Event()
        self._low = False

    @property
    def congestion(self) -> str | None:
        """Why nothing more is taken; None where it is."""
        if self._spool_failed.is_set():
            return "the spool failed"
        if self._disk_is_low():
            return "the disk is low"
        return self._indexer.blocked

    def keep_free(self, reserve_bytes: int) -> None:
        """Another limit of free disk."""
        self._reserve = reserve_bytes

    def spool_failed(self) -> None:
        """A write or sync failed: what the disk holds is unknown, so this process takes nothing more."""
        if not self._spool_failed.is_set():
            log.critical("spool failed, intake stops until this process starts anew")
            note_stopped(self._spool_dir, "the spool failed")
        self._spool_failed.set()

    def _disk_is_low(self) -> bool:
        try:
            stat = os.statvfs(self._spool_dir)
        except OSError:
            return True
        low = stat.f_bavail * stat.f_frsize < self._reserve
        if low is not self._low:
            self._low = low
            if low:
                log.error("disk is low, intake pauses")
            else:
                log.info("disk has room again, intake goes on")
        return low


class Custody:
    """Takes the data sets of one association. For one thread."""

    def __init__(
        self, spool_dir: Path, peer: Peer, indexer: Indexer, readiness: Readiness, max_bytes: int
    ) -> None:
        self.association_id = str(uuid.uuid4())
        self._spool_dir = spool_dir
        self._indexer = indexer
        self._readiness = readiness
        self._max_bytes = max_bytes
        self._writer: SegmentWriter | None = None
        self._owner = SegmentOwner(self.association_id, peer, datetime.now(UTC))
        self._stored = 0
        self._unbooked: Stored | None = None
        self._studies: Counter[tuple[str, str]] = Counter()
        """(Study Instance UID, Patient ID) -> instances stored."""
        self._series: set[str] = set()

    def begin(self) -> RecordWriter:
        """Room for the data set of a C-STORE.

        Raises:
            OutOfResources: the node takes nothing just now.
        """
        if (reason := self._readiness.congestion) is not None:
            raise OutOfResources(reason)
        if self._writer is None:
            self._writer = SegmentWriter.open(self._spool_dir, self._owner)
        return self._writer.begin()

    def check_size(self, length: int) -> None:
        """Pass if a data set may be so long.

        Raises:
            OutOfResources: it may not.
        """
        if length > self._max_bytes:
            raise OutOfResources("the data set is larger than this node is set to take")

    def complete(self, record: RecordWriter, command: Command, transfer_syntax: str) -> Answer:
        """All bytes of a data set are there: make them durable, or say why not."""
        try:
            with record.data_set() as data:
                header = read_header(data, transfer_syntax)
            check_identity(command, header)
            meta, address = record.finish(
                command.sop_class_uid, command.sop_instance_uid, transfer_syntax
            )
        except Exception as error:
            record.discard()
            return self.refuse(error, command)
        self._unbooked = Stored(self.association_id, meta, address, header, record)
        return Answer(DimseStatus.SUCCESS)

    def book(self) -> None:
        """Hand what was stored last to the index: its sender need not wait for that."""
        if self._unbooked is None:
            return
        if self._stored == 0:
            self._indexer.put(Opened(self._owner, self._unbooked.address.segment))
        self._stored += 1
        self._count(self._unbooked.header)
        self._indexer.put(self._unbooked)
        self._unbooked = None

    def _count(self, header: Header) -> None:
        """For the log and the audit trail."""
        self._studies[header.study_uid, header.patient_id] += 1
        if header.series_uid not in self._series:
            self._series.add(header.series_uid)
            log.info(
                "series comes in",
                study=hashed(header.study_uid),
                series=hashed(header.series_uid),
            )

    def refuse(self, error: Exception, command: Command) -> Answer:
        """The answer that an error means; the one place where an error becomes a status on the wire."""
        if isinstance(error, SpoolFailed):
            self._readiness.spool_failed()
        if isinstance(error, NodeError):
            answer = Answer(error.status, str(error))
        else:
            answer = Answer(DimseStatus.PROCESSING_FAILURE)
            # where, never what: the message of an error may quote the data set
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            log.error("bug in the listener", error=type(error).__name__, place=place)
        log.warning(
            "instance refused",
            association=self.association_id,
            instance=hashed(command.sop_instance_uid),
            status=f"{answer.status:04X}",
            reason=answer.comment,
        )
        return answer

    def end(self, ending: Ending) -> None:
        """The association is over."""
        if self._writer is None:
            return
        peer = self._owner.peer
        for (study_uid, patient_id), count in self._studies.items():
            record(
                received(peer.calling_ae, peer.host, peer.called_ae, study_uid, patient_id, count)
            )
        if self._stored:
            self._writer.rest()
            self._indexer.put(Ended(self.association_id, ending, self._writer))
        else:
            self._writer.remove()
        self._writer = None
