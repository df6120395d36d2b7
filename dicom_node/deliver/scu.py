"""The DIMSE side of a PACS, as its client: C-ECHO, C-STORE, and C-FIND to see what it keeps.

What comes in: an address and files. What goes out: one answer for each file. A file's own status is an
answer; only an association that cannot be had, or that breaks, is an error. No decisions here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicom_node.deliver.turns import my_turn, taking_turns
from dicom_node.errors import CannotUnderstand, PeerRefused, PeerUnreachable
from dicom_node.observe.exchange import asked
from dicom_node.observe.recording import record

T = TypeVar("T")

UNCOMPRESSED = [str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)]
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
def associated(
    address: Address, contexts: Iterable[tuple[str, list[str]]], handlers: Sequence[Any] = ()
) -> Iterator[Any]:
    """An association, released at the end of the block.

    Args:
        address: the peer.
        contexts: abstract syntax -> transfer syntaxes to propose.
        handlers: pynetdicom's event handlers, for what the peer may ask of us.

    Raises:
        PeerUnreachable: nobody answers there, or the association broke.
        PeerRefused: the peer rejected the association.
    """
    ae = AE(ae_title=address.calling_ae)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = address.timeout
    ae.connection_timeout = min(address.timeout, 10.0)
    for abstract, transfers in contexts:
        ae.add_requested_context(abstract, transfers)
    association = ae.associate(
        address.host, address.port, ae_title=address.called_ae, evt_handlers=list(handlers)
    )
    if association.is_rejected:
        raise PeerRefused(f"{address} rejected the association{_rejection(association)}")
    if not association.is_established:
        if association.acceptor.primitive is not None and not association.accepted_contexts:
            raise PeerRefused(f"{address} accepted none of the proposed presentation contexts")
        raise PeerUnreachable(f"{address} does not answer")
    try:
        yield taking_turns(association)
    finally:
        if association.is_established:
            my_turn(association)
            association.release()
        else:
            association.abort()


def echo(address: Address) -> None:
    """C-ECHO (PS3.4 Annex A).

    Raises:
        PeerUnreachable, PeerRefused: it did not work.
    """
    with associated(address, [(Verification, [ImplicitVRLittleEndian])]) as association:
        my_turn(association)
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
        Each file with the peer's answer, as it comes; a file that is not DICOM has no status.

    Raises:
        PeerUnreachable: no association, or it broke; files without an answer were not stored.
        PeerRefused: the association was rejected.
    """
    kinds: dict[Path, Kind] = {}
    for path in files:
        try:
            kinds[path] = kind_of(path)
        except CannotUnderstand as error:
            yield path, Answer(None, str(error))
    for batch in batches(kinds):
        with storing(address, {kinds[path] for path in batch}) as send:
            for path in batch:
                yield path, send(path)


@contextmanager
def storing(address: Address, kinds: Iterable["Kind"]) -> Iterator[Callable[[Path], Answer]]:
    """An association that takes these kinds of object; the value sends one file over it.

    Raises:
        PeerUnreachable: no association; also what the value raises when it breaks.
        PeerRefused: the association was rejected.
    """
    with associated(address, _contexts(kinds)) as association:
        yield lambda path: _store_one(association, address, path)


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
        matches = _find(peer, address, query, find)
        return wanted & {str(one.get("SOPInstanceUID", "")) for one in matches}


def related_instances(address: Address, study_uid: str, series_uid: str) -> int | None:
    """How many instances the peer says a series has; None if it does not know the series or the number.

    C-FIND at SERIES level for Number of Series Related Instances (PS3.4 C.6.2.1.3, PS3.3 C.4-11 macro).

    Raises:
        PeerUnreachable, PeerRefused: the query could not be made.
    """
    find = StudyRootQueryRetrieveInformationModelFind
    with associated(address, [(find, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])]) as peer:
        query = Dataset()
        query.QueryRetrieveLevel = "SERIES"
        query.StudyInstanceUID = study_uid
        query.SeriesInstanceUID = series_uid
        query.NumberOfSeriesRelatedInstances = None
        for match in _find(peer, address, query, find):
            if str(match.get("SeriesInstanceUID", "")) == series_uid:
                number = match.get("NumberOfSeriesRelatedInstances")
                return None if number is None else int(number)
    return None


def _find(peer: Any, address: Address, query: Dataset, model: str) -> list[Dataset]:
    record(asked(address.calling_ae, address.called_ae, str(model), _encoded(query)))
    matches = []
    my_turn(peer)
    for status, identifier in peer.send_c_find(query, model):
        if "Status" not in status:
            raise PeerUnreachable(f"{address} broke off the C-FIND")
        if identifier is not None:
            matches.append(identifier)
        elif status.Status not in (0x0000, 0xFF00, 0xFF01):
            raise PeerRefused(f"{address} answered the C-FIND with {status.Status:04X}")
    return matches


def _encoded(query: Dataset) -> bytes:
    """An identifier, Explicit VR Little Endian."""
    encoded = DicomBytesIO()
    encoded.is_little_endian, encoded.is_implicit_VR = True, False
    write_dataset(encoded, query)
    return bytes(encoded.getvalue())


@dataclass(frozen=True, slots=True)
class Kind:
    """What an association must have been negotiated for, to take an object."""

    sop_class_uid: str
    transfer_syntax_uid: str


def kind_of(path: Path) -> Kind:
    """The kind of a file.

    Raises:
        CannotUnderstand: it is not a DICOM file, or lacks what a C-STORE needs.
    """
    try:
        meta = dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
        return Kind(str(meta.SOPClassUID), str(meta.file_meta.TransferSyntaxUID))
    except (InvalidDicomError, AttributeError, OSError, EOFError, ValueError) as error:
        raise CannotUnderstand(
            f"{path.name}: not a DICOM file that can be sent ({error})"
        ) from error


def batches(kinds: Mapping[T, Kind]) -> Iterator[list[T]]:
    """Things to send in lists, each of which one association's presentation contexts suffice for."""
    batch: list[T] = []
    proposed: set[Kind] = set()
    for thing, kind in kinds.items():
        # a compressed kind may need two contexts
        if kind not in proposed and len(proposed) == MAX_CONTEXTS // 2:
            yield batch
            batch, proposed = [], set()
        batch.append(thing)
        proposed.add(kind)
    if batch:
        yield batch


def _contexts(kinds: Iterable[Kind]) -> list[tuple[str, list[str]]]:
    """One context for each (class, encoding), and for what is compressed also an uncompressed one.

    A peer that knows only implicit VR still takes ours, and one that knows no compression too.
    """
    contexts: dict[tuple[str, str], list[str]] = {}
    for kind in sorted(kinds, key=lambda kind: (kind.sop_class_uid, kind.transfer_syntax_uid)):
        contexts[(kind.sop_class_uid, UNCOMPRESSED[0])] = UNCOMPRESSED
        if kind.transfer_syntax_uid not in UNCOMPRESSED:
            syntax = kind.transfer_syntax_uid
            contexts[(kind.sop_class_uid, syntax)] = [syntax]
    return [(abstract, list(transfers)) for (abstract, _), transfers in contexts.items()]


def _store_one(association: Any, address: Address, path: Path) -> Answer:
    try:
        data_set = read_file(path)
        _decompress_for(association, data_set)
        my_turn(association)
        status = association.send_c_store(data_set)
    except CannotUnderstand as error:
        return Answer(None, str(error))
    except ValueError as error:  # no accepted context for this class and encoding
        return Answer(None, f"not accepted by {address}: {error}")
    except RuntimeError as error:  # the association went away before the request
        raise PeerUnreachable(f"{address} broke off") from error
    if "Status" not in status:
        raise PeerUnreachable(f"{address} did not answer a C-STORE")
    return Answer(int(status.Status), str(status.get("ErrorComment", "")))


def _decompress_for(association: Any, data_set: Dataset) -> None:
    """Decompress what the peer takes only uncompressed."""
    accepted = {
        syntax
        for context in association.accepted_contexts
        if context.abstract_syntax == data_set.SOPClassUID
        for syntax in context.transfer_syntax
    }
    syntax = data_set.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax not in accepted and accepted & set(UNCOMPRESSED):
        data_set.decompress(generate_instance_uid=False)


def _rejection(association: Any) -> str:
    primitive = association.acceptor.primitive
    if primitive is None:
        return ""
    return f": {primitive.reason_str} ({primitive.result_str.lower()})"
