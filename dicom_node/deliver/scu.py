"""The DIMSE side of a PACS, as its client: C-ECHO, C-STORE, and C-FIND to see what it keeps.

What comes in: an address and files. What goes out: one answer for each file. A file's own status is an
answer; only an association that cannot be had, or that breaks, is an error. No decisions here.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.errors import CannotUnderstand, PeerRefused, PeerUnreachable

MAX_CONTEXTS = 128
"""Presentation contexts of one association (PS3.8 9.3.2.2: odd numbers of one byte)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer is, and as whom we call it."""

    host: str
    port: int
    called_ae: str
    calling_ae: str
    timeout: float = 30.0

    def __str__(self) -> str:
        return f"{self.called_ae} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the peer said to one C-STORE: a status, or None where it took no such object."""

    status: int | None
    comment: str = ""


@contextmanager
def associated(address: Address, contexts: Iterable[tuple[str, list[str]]]) -> Iterator[Any]:
    """An association, released at the end of the block.

    Args:
        address: the peer.
        contexts: abstract syntax -> transfer syntaxes to propose.

    Raises:
        PeerUnreachable: nobody answers there, or the association broke.
        PeerRefused: the peer rejected the association.
    """
    ae = AE(ae_title=address.calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = address.timeout
    ae.connection_timeout = min(address.timeout, 10.0)
    for abstract, transfers in contexts:
        ae.add_requested_context(abstract, transfers)
    association = ae.associate(address.host, address.port, ae_title=address.called_ae)
    if association.is_rejected:
        raise PeerRefused(f"{address} rejected the association{_rejection(association)}")
    if not association.is_established:
        if association.acceptor.primitive is not None and not association.accepted_contexts:
            raise PeerRefused(f"{address} accepted none of the proposed presentation contexts")
        raise PeerUnreachable(f"{address} does not answer")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        else:
            association.abort()


def echo(address: Address) -> None:
    """C-ECHO (PS3.4 Annex A).

    Raises:
        PeerUnreachable, PeerRefused: it did not work.
    """
    with associated(address, [(Verification, [ImplicitVRLittleEndian])]) as association:
        status = association.send_c_echo()
        if "Status" not in status:
            raise PeerUnreachable(f"{address} did not answer the C-ECHO")
        if status.Status != 0:
            raise PeerRefused(f"{address} answered the C-ECHO with {status.Status:04X}")


def read_file(path: Path) -> Dataset:
    """Read a Part 10 file that is to be sent.

    Raises:
        CannotUnderstand: it is not one, or lacks what a C-STORE needs.
    """
    try:
        data_set = dcmread(path)
        _ = data_set.SOPClassUID, data_set.SOPInstanceUID, data_set.file_meta.TransferSyntaxUID
    except (InvalidDicomError, AttributeError, OSError, EOFError, ValueError) as error:
        raise CannotUnderstand(
            f"{path.name}: not a DICOM file that can be sent ({error})"
        ) from error
    return data_set


def store(address: Address, files: Iterable[Path]) -> Iterator[tuple[Path, Answer]]:
    """C-STORE files over one association (or more, if they need over 128 contexts).

    Yields:
        Each file with the peer's answer, as it comes.

    Raises:
        PeerUnreachable: no association, or it broke; files without an answer were not stored.
        PeerRefused: the association was rejected.
        CannotUnderstand: a file is not DICOM.
    """
    pending = list(files)
    heads = [(path, _head(path)) for path in pending]
    for batch in _batches(heads):
        with associated(address, _contexts(head for _, head in batch)) as association:
            for path, _ in batch:
                yield path, _store_one(association, address, path)


def holds(address: Address, study_uid: str, sop_instance_uids: Iterable[str]) -> set[str]:
    """Which of these instances the peer says it has, by C-FIND at IMAGE level (PS3.4 C.4.1).

    Raises:
        PeerUnreachable, PeerRefused: the query could not be made.
    """
    wanted = set(sop_instance_uids)
    find = StudyRootQueryRetrieveInformationModelFind
    with associated(address, [(find, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]) as peer:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = study_uid
        query.SeriesInstanceUID = ""
        query.SOPInstanceUID = ""
        found = set()
        for status, identifier in peer.send_c_find(query, find):
            if "Status" not in status:
                raise PeerUnreachable(f"{address} broke off the C-FIND")
            if identifier is not None and "SOPInstanceUID" in identifier:
                found.add(str(identifier.SOPInstanceUID))
            elif status.Status not in (0x0000, 0xFF00, 0xFF01):
                raise PeerRefused(f"{address} answered the C-FIND with {status.Status:04X}")
        return wanted & found


@dataclass(frozen=True, slots=True)
class _Head:
    sop_class_uid: str
    transfer_syntax_uid: str


def _head(path: Path) -> _Head:
    try:
        meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        return _Head(str(meta.SOPClassUID), str(meta.file_meta.TransferSyntaxUID))
    except (InvalidDicomError, AttributeError, OSError, EOFError, ValueError) as error:
        raise CannotUnderstand(
            f"{path.name}: not a DICOM file that can be sent ({error})"
        ) from error


def _contexts(heads: Iterable[_Head]) -> list[tuple[str, list[str]]]:
    """One context for each (class, encoding): a peer that knows only implicit VR still takes ours."""
    uncompressed = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    contexts: dict[tuple[str, str], list[str]] = {}
    for head in heads:
        plain = head.transfer_syntax_uid in uncompressed
        proposed = uncompressed if plain else [head.transfer_syntax_uid]
        contexts[(head.sop_class_uid, proposed[0])] = list(proposed)
    return [(abstract, transfers) for (abstract, _), transfers in contexts.items()]


def _batches(heads: list[tuple[Path, _Head]]) -> Iterator[list[tuple[Path, _Head]]]:
    batch: list[tuple[Path, _Head]] = []
    kinds: set[_Head] = set()
    for path, head in heads:
        if head not in kinds and len(kinds) == MAX_CONTEXTS:
            yield batch
            batch, kinds = [], set()
        batch.append((path, head))
        kinds.add(head)
    if batch:
        yield batch


def _store_one(association: Any, address: Address, path: Path) -> Answer:
    try:
        status = association.send_c_store(read_file(path))
    except ValueError as error:  # no accepted context for this class and encoding
        return Answer(None, f"not accepted by {address}: {error}")
    except RuntimeError as error:  # the association went away before the request
        raise PeerUnreachable(f"{address} broke off") from error
    if "Status" not in status:
        raise PeerUnreachable(f"{address} did not answer a C-STORE")
    return Answer(int(status.Status), str(status.get("ErrorComment", "")))


def _rejection(association: Any) -> str:
    primitive = association.acceptor.primitive
    if primitive is None:
        return ""
    return f": {primitive.reason_str} ({primitive.result_str.lower()})"
