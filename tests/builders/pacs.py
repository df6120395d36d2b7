"""PACS that answer as a test tells them: any status, too late, half, not at all; real sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SegmentationStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]


@dataclass
class TestPacs:
    """A storage SCP in a test's hand."""

    __test__ = False

    status: Callable[[Dataset], int] = lambda _: 0x0000
    """What it answers to a C-STORE; an object answered with 0000 or a warning is kept."""
    listed: Callable[[Dataset], bool] = lambda _: True
    """Whether a C-FIND lists an object that is kept."""
    commit: Callable[[Dataset], int | None] = lambda _: None
    """The Failure Reason for a reference of a commitment request; None commits it."""
    report_on_same: bool = True
    report_to: int | None = None
    """Send the report on an association of its own, to this port."""
    kept: dict[str, Dataset] = field(default_factory=dict)
    stores: list[str] = field(default_factory=list)
    """SOP Instance UIDs of every C-STORE, in order."""
    finds: int = 0
    actions: list[str] = field(default_factory=list)
    """Transaction UIDs of every commitment request."""
    port: int = 0
    hang: threading.Event | None = None
    """While it is set up and not set, a C-STORE is not answered."""

    def on_store(self, event: Any) -> int:
        data_set = event.dataset
        self.stores.append(str(data_set.SOPInstanceUID))
        if self.hang is not None:
            self.hang.wait(20)
        status = self.status(data_set)
        if status == -1:
            event.assoc.abort()
            return 0x0110
        if status == 0 or status >> 12 == 0xB:
            data_set.file_meta = event.file_meta
            self.kept[str(data_set.SOPInstanceUID)] = data_set
        return status

    def on_find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.finds += 1
        for uid, kept in self.kept.items():
            if kept.StudyInstanceUID == event.identifier.StudyInstanceUID and self.listed(kept):
                match = Dataset()
                match.QueryRetrieveLevel = "IMAGE"
                match.StudyInstanceUID = kept.StudyInstanceUID
                match.SeriesInstanceUID = kept.SeriesInstanceUID
                match.SOPInstanceUID = uid
                yield 0xFF00, match

    def on_action(self, event: Any) -> tuple[int, None]:
        asked = event.action_information
        self.actions.append(str(asked.TransactionUID))
        report, kind = self._report(asked)
        if self.report_to is not None:
            threading.Thread(target=self._call_back, args=(report, kind), daemon=True).start()
        elif self.report_on_same:
            threading.Thread(
                target=event.assoc.send_n_event_report,
                args=(report, kind, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"),
                daemon=True,
            ).start()
        return 0x0000, None

    def _report(self, asked: Dataset) -> tuple[Dataset, int]:
        report = Dataset()
        report.TransactionUID = asked.TransactionUID
        report.ReferencedSOPSequence = []
        report.FailedSOPSequence = []
        for one in asked.ReferencedSOPSequence:
            reference = Dataset()
            reference.ReferencedSOPClassUID = one.ReferencedSOPClassUID
            reference.ReferencedSOPInstanceUID = one.ReferencedSOPInstanceUID
            reason = self.commit(one)
            if reason is None:
                report.ReferencedSOPSequence.append(reference)
            else:
                reference.FailureReason = reason
                report.FailedSOPSequence.append(reference)
        kind = 2 if report.FailedSOPSequence else 1
        if not report.FailedSOPSequence:
            del report.FailedSOPSequence
        return report, kind

    def _call_back(self, report: Dataset, kind: int) -> None:
        from pynetdicom import build_role

        ae = AE("PACS")
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate("127.0.0.1", self.report_to, ext_neg=[role])
        if association.is_established:
            association.send_n_event_report(
                report, kind, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
            )
            association.release()


@contextmanager
def pacs_that(
    pacs: TestPacs | None = None,
    *,
    takes: Sequence[str] = (ComprehensiveSRStorage, SegmentationStorage),
    syntaxes: Sequence[str] = tuple(UNCOMPRESSED),
    called: str | None = None,
    finds: bool = True,
    port: int = 0,
) -> Iterator[TestPacs]:
    """Run it for the length of the block.

    Args:
        pacs: how it answers.
        takes: SOP classes that it accepts.
        syntaxes: transfer syntaxes that it accepts for them.
        finds: whether it knows C-FIND.
        called: the only AE title that it may be called by; None accepts any.
        port: where to listen; 0 is a free one.
    """
    pacs = pacs or TestPacs()
    ae = AE(ae_title="PACS")
    ae.require_called_aet = called is not None
    if called is not None:
        ae.ae_title = called
    for sop_class in takes:
        ae.add_supported_context(sop_class, list(syntaxes))
    ae.add_supported_context(Verification)
    if finds:
        ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    ae.add_supported_context(StorageCommitmentPushModel)
    handlers = [
        (evt.EVT_C_STORE, pacs.on_store),
        (evt.EVT_C_FIND, pacs.on_find),
        (evt.EVT_N_ACTION, pacs.on_action),
    ]
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    pacs.port = server.server_address[1]
    try:
        yield pacs
    finally:
        if pacs.hang is not None:
            pacs.hang.set()
        server.shutdown()
