"""Storage commitment as its user: ask a PACS to take over responsibility, and take in its report.

What comes in: references of objects that were sent; N-EVENT-REPORTs, on the association that asked or on
one of the PACS's own. What goes out: a call of `Reported` for each report. PS3.4 Annex J. The decision
what a report means for a delivery is the outbox's.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.deliver.scu import Address, associated
from dicom_node.deliver.turns import my_turn
from dicom_node.errors import DimseStatus, PeerRefused, PeerUnreachable
from dicom_node.observe.logging import get_logger, hashed

log = get_logger(__name__)

Reported = Callable[[str, Collection[str], Mapping[str, str]], int]
"""Transaction UID, SOP instances that are kept, those that are not with the reason -> how many it settled."""

WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model SOP Instance (PS3.4 J.3.5)."""
REQUEST_COMMITMENT = 1
LINGER_SECONDS = 2.0
"""How long the association that asked stays open for a report; a PACS may also call back."""

FAILURES = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0213: "resource limitation",
    0x0122: "referenced SOP class not supported",
    0x0119: "class / instance conflict",
    0x0131: "duplicate transaction UID",
}
"""Failure Reason (PS3.3 C.14-1)."""


def request(
    address: Address,
    transaction_uid: str,
    references: Sequence[tuple[str, str]],
    reported: Reported,
    linger: float = LINGER_SECONDS,
) -> None:
    """N-ACTION: ask for commitment, and wait a little for the report on the same association.

    Args:
        address: the PACS.
        transaction_uid: names this request; the report carries it.
        references: `(SOP Class UID, SOP Instance UID)` of what was sent.
        reported: called with the report, if it comes here.
        linger: seconds to wait for it.

    Raises:
        PeerUnreachable: no association, or it broke.
        PeerRefused: the PACS does not do it, or refused the request.
    """
    arrived: list[str] = []

    def on_report(event: Any) -> int:
        status = take_in(event, reported)
        arrived.append(transaction_uid)
        return status

    contexts = [
        (StorageCommitmentPushModel, [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)])
    ]
    handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
    with associated(address, contexts, handlers) as association:
        my_turn(association)
        status, _ = association.send_n_action(
            _request(transaction_uid, references),
            REQUEST_COMMITMENT,
            StorageCommitmentPushModel,
            WELL_KNOWN_INSTANCE,
        )
        if "Status" not in status:
            raise PeerUnreachable(f"{address} did not answer the request for storage commitment")
        if status.Status != DimseStatus.SUCCESS:
            raise PeerRefused(
                f"{address} answered the request for storage commitment with {status.Status:04X}"
            )
        deadline = time.monotonic() + linger
        while not arrived and association.is_established and time.monotonic() < deadline:
            time.sleep(0.02)


@contextmanager
def reports(ae_title: str, host: str, port: int, reported: Reported) -> Iterator[int]:
    """Listen for reports that PACS send on associations of their own; the value is the port."""
    ae = AE(ae_title=ae_title)
    ae.add_supported_context(Verification)
    # the PACS opens the association, and is still the SCP of this class (PS3.4 J.3.1)
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_N_EVENT_REPORT, lambda event: take_in(event, reported))]
    server = ae.start_server((host, port), block=False, evt_handlers=handlers)
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def take_in(event: Any, reported: Reported) -> int:
    """Answer an N-EVENT-REPORT; what it says goes to `reported`."""
    try:
        report = event.event_information
        transaction_uid = str(report.TransactionUID)
        kept = {
            str(one.ReferencedSOPInstanceUID) for one in report.get("ReferencedSOPSequence", ())
        }
        failed = {
            str(one.ReferencedSOPInstanceUID): _reason(one)
            for one in report.get("FailedSOPSequence", ())
        }
    except Exception as error:  # whatever a stranger's data set holds
        log.warning("storage commitment report not understood", error=type(error).__name__)
        return DimseStatus.PROCESSING_FAILURE
    settled = reported(transaction_uid, kept, failed)
    log.info(
        "storage commitment report",
        transaction=hashed(transaction_uid),
        kept=len(kept),
        failed=len(failed),
        settled=settled,
    )
    return DimseStatus.SUCCESS


def _reason(failed: Dataset) -> str:
    code = int(failed.get("FailureReason", 0))
    return f"{code:04X} {FAILURES.get(code, '')}".strip()


def _request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        one = Dataset()
        one.ReferencedSOPClassUID = sop_class_uid
        one.ReferencedSOPInstanceUID = sop_instance_uid
        information.ReferencedSOPSequence.append(one)
    return information
