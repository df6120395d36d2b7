"""Index rows for what is durable in the spool: in batches behind the listener, and after a crash.

What comes in: events of associations (opened, stored, ended), in their order; and at start, segments that
a dead process left. What goes out: calls of the store's `Intake`. Owns two invariants: every record of a
segment is indexed before the segment is sealed, and a segment whose writer lives is never touched. The
truth is the segment, so an event that is lost loses nothing.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.errors import CannotUnderstand
from dicom_node.observe.logging import get_logger
from dicom_node.read.header import Header, read_header
from dicom_node.records import Ending, ReceivedInstance, SegmentAddress
from dicom_node.store import spool
from dicom_node.store.intake import Intake
from dicom_node.store.spool import (
    AbandonedSegment,
    RecordMeta,
    RecordWriter,
    SegmentOwner,
    SegmentWriter,
)

log = get_logger(__name__)

QUIET_SECONDS = 0.1
BATCH_SECONDS = 2.0
BATCH_SIZE = 200
HASH_ASIDE = 64 << 10
"""Data sets that are shorter are hashed in less time than it takes to wake a thread."""
QUEUE_LIMIT = 20_000
"""Instances that may wait for their row before nothing more is accepted."""
_RETRY_FIRST = 0.2
_RETRY_LONGEST = 5.0


@dataclass(frozen=True, slots=True)
class Opened:
    """An association began to store."""

    owner: SegmentOwner
    segment: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An instance is durable."""

    association_id: str
    meta: RecordMeta
    address: SegmentAddress
    header: Header
    record: RecordWriter


@dataclass(frozen=True, slots=True)
class Ended:
    """An association that stored something ended; its segment can be sealed."""

    association_id: str
    ending: Ending
    writer: SegmentWriter


Event = Opened | Stored | Ended


class Indexer:
    """A thread that turns events into rows. `blocked` says why the listener should take nothing more."""

    def __init__(self, spool_dir: Path, intake: Intake) -> None:
        self._spool_dir = spool_dir
        self._intake = intake
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._failing = False
        self._hurry = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="indexer", daemon=True)
        self._unhashed: queue.SimpleQueue[RecordWriter] = queue.SimpleQueue()
        self._hasher = threading.Thread(target=self._hash, name="hasher", daemon=True)

    @property
    def blocked(self) -> str | None:
        """Why nothing more should be accepted; None where all is well."""
        if self._failing:
            return "the database fails"
        if self._events.qsize() > QUEUE_LIMIT:
            return "the index is behind"
        return None

    def start(self) -> None:
        """Recover what a dead process left, then index what comes."""
        self._thread.start()
        self._hasher.start()

    def put(self, event: Event) -> None:
        """Hand over an event; never blocks."""
        self._events.put(event)
        if isinstance(event, Stored) and event.address.length >= HASH_ASIDE:
            self._unhashed.put(event.record)
        if isinstance(event, Ended) or self._events.qsize() >= BATCH_SIZE:
            self._hurry.set()

    def stop(self, seconds: float) -> None:
        """Index what was handed over, for at most so many seconds, and end."""
        self._events.put(None)
        self._hurry.set()
        self._thread.join(seconds / 2)
        self._stopping.set()
        self._thread.join(seconds / 2)

    def _hash(self) -> None:
        """Hash what is large while its association goes on; whoever needs the hash earlier makes it."""
        while True:
            self._unhashed.get().digest()

    def _run(self) -> None:
        self._persistently(lambda: recover(self._spool_dir, self._intake))
        going = True
        while going:
            batch, going = self._next_batch()
            for action in self._actions(batch):
                if not self._persistently(action):
                    return

    def _next_batch(self) -> tuple[list[Event], bool]:
        """Events that came together; an ended association waits for nobody.

        While a peer sends without a pause its instances have the interpreter to themselves: rows wait
        for a moment in which nothing comes, or for as long as a batch may be.
        """
        batch: list[Event] = []
        event = self._events.get()
        until = time.monotonic() + BATCH_SECONDS
        before = -1
        while (waiting := self._events.qsize()) != before and time.monotonic() < until:
            before = waiting
            if self._hurry.wait(QUIET_SECONDS):
                break
        self._hurry.clear()
        while event is not None:
            batch.append(event)
            if len(batch) >= BATCH_SIZE:
                self._hurry.set()  # there is more
                return batch, True
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _actions(self, batch: Sequence[Event]) -> Iterable[Callable[[], None]]:
        """What is to be done, in an order that keeps that of each association."""
        stored: dict[str, list[Stored]] = {}
        for event in batch:
            if isinstance(event, Opened):
                yield lambda e=event: self._intake.association_opened(  # type: ignore[misc]
                    e.owner.association_id, e.owner.peer, e.segment, e.owner.opened_at
                )
            elif isinstance(event, Stored):
                stored.setdefault(event.association_id, []).append(event)
            else:
                if mine := stored.pop(event.association_id, None):
                    yield lambda m=mine: self._index(m)  # type: ignore[misc]
                yield lambda e=event: self._end(e)  # type: ignore[misc]
        for mine in stored.values():
            yield lambda m=mine: self._index(m)  # type: ignore[misc]

    def _index(self, stored: Sequence[Stored]) -> None:
        instances = [_received(e) for e in stored]
        end = spool.record_end(stored[-1].address)
        self._intake.index(stored[0].association_id, instances, end)

    def _end(self, event: Ended) -> None:
        self._intake.association_ended(event.association_id, event.ending)
        event.writer.close(sealed=True)

    def _persistently(self, action: Callable[[], object]) -> bool:
        """Do it until it succeeds; False where the process ends first, which loses nothing."""
        delay = _RETRY_FIRST
        while True:
            try:
                action()
            except Exception as error:  # the database may fail in any way; the rows come later
                if not self._failing:
                    log.error("database fails, intake pauses", error=type(error).__name__)
                self._failing = True
                if self._stopping.wait(delay):
                    return False
                delay = min(_RETRY_LONGEST, delay * 2)
                continue
            if self._failing:
                log.info("database is back, intake goes on")
            self._failing = False
            return True


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found."""

    segments: int
    instances: int


def recover(spool_dir: Path, intake: Intake) -> Recovered:
    """Index what dead processes acknowledged and did not index, and end their associations.

    So too what a database does not know that was restored from before the spool. Several processes may do
    this at once, and receivers may run meanwhile.
    """
    _unseal_forgotten(spool_dir, intake)
    known = {entry.id: entry for entry in intake.open_associations()}
    segments = instances = 0
    for path in spool.unsealed(spool_dir):
        abandoned = AbandonedSegment.claim(path)
        if abandoned is None:
            continue
        owner = spool.owner(path)
        if owner is None and spool.of_another_version(path):
            log.error("segment of another version is left for it to recover", segment=path.name)
            abandoned.leave()
            continue
        if owner is None and any(spool.records(path)):
            log.error("segment with a damaged head is left as it is", segment=path.name)
            abandoned.leave()
            continue
        entry = known.get(owner.association_id) if owner else None
        if owner is None or (entry is None and not any(spool.records(path))):
            # the process died before the first record was whole: nothing was acknowledged
            abandoned.remove()
            continue
        segments += 1
        instances += _recover_one(abandoned, owner, entry.indexed_to if entry else 0, intake)
    for entry in known.values():
        if not (spool_dir / Path(entry.segment).name).exists():
            intake.association_ended(entry.id, Ending.LOST)
    if segments:
        log.warning("segments of a dead process recovered", segments=segments, instances=instances)
    return Recovered(segments, instances)


def _unseal_forgotten(spool_dir: Path, intake: Intake) -> None:
    # looked for before the database is asked: what is sealed meanwhile is in it already
    sealed = list(spool.sealed(spool_dir))
    finished = intake.finished_segments() if sealed else set()
    for path in sealed:
        if path.name not in finished:
            spool.unseal(path)


def _recover_one(
    abandoned: AbandonedSegment, owner: SegmentOwner, indexed_to: int, intake: Intake
) -> int:
    path = abandoned.path
    intake.association_opened(owner.association_id, owner.peer, path.name, owner.opened_at)
    count, end = 0, max(indexed_to, spool.BLOCK)
    batch: list[ReceivedInstance] = []
    for meta, address in spool.records(path, indexed_to):
        end = spool.record_end(address)
        if (instance := _reread(owner.association_id, path.parent, meta, address)) is not None:
            batch.append(instance)
        if len(batch) >= BATCH_SIZE:
            intake.index(owner.association_id, batch, end)
            count += len(batch)
            batch = []
    if batch:
        intake.index(owner.association_id, batch, end)
        count += len(batch)
    abandoned.cut(end)
    intake.association_ended(owner.association_id, Ending.LOST)
    abandoned.seal()
    return count


def _reread(
    association_id: str, spool_dir: Path, meta: RecordMeta, address: SegmentAddress
) -> ReceivedInstance | None:
    with spool.open_data_set(spool_dir, address) as data:
        try:
            header = read_header(data, meta.transfer_syntax_uid)
        except CannotUnderstand:
            return None  # it was never acknowledged
    sha256 = spool.digest(spool_dir, address)
    return _instance(association_id, meta, address, sha256, header)


def _received(event: Stored) -> ReceivedInstance:
    sha256 = event.record.digest()
    return _instance(event.association_id, event.meta, event.address, sha256, event.header)


def _instance(
    association_id: str, meta: RecordMeta, address: SegmentAddress, sha256: str, header: Header
) -> ReceivedInstance:
    return ReceivedInstance(
        association_id,
        address,
        sha256,
        meta.sop_class_uid,
        meta.sop_instance_uid,
        meta.transfer_syntax_uid,
        header.study_uid,
        header.series_uid,
        header.patient_id,
        header.attributes,
        meta.received_at,
        header.oddities,
    )
