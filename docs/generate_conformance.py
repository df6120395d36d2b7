"""Writes the DICOM conformance statement: `python docs/generate_conformance.py`.

`docs/conformance.md` has the shape of PS3.2. Its tables come from the code that negotiates and answers, and
its words from `docs/conformance.in.md`; a test fails when it is out of date, and another starts a receiver
and proposes what it lists and what it does not.
"""

from pathlib import Path

from pydicom.uid import UID

from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.errors import DimseStatus
from dicom_node.receive import pdu
from dicom_node.receive.contexts import (
    IMPLEMENTATION_VERSION_NAME,
    STORAGE_SYNTAXES,
    VERIFICATION_SYNTAXES,
    storage_sop_classes,
)
from dicom_node.receive.scp import MAX_PDU
from dicom_node.receive.tls import CIPHERS
from dicom_node.receive.transport import Patience
from dicom_node.settings import Settings

HERE = Path(__file__).resolve().parent

_STATUSES = (
    (DimseStatus.SUCCESS, "The data set is durable: it survives a crash and a loss of power."),
    (DimseStatus.SUCCESS, "The same instance with the same content is held already."),
    (
        DimseStatus.SUCCESS,
        "The same instance with other content is held: both are kept, and the series is held back.",
    ),
    (
        DimseStatus.SUCCESS,
        "The data set is whole but odd (pixel length, geometry, missing attributes): it is kept, and "
        "the series is held back.",
    ),
    (
        DimseStatus.OUT_OF_RESOURCES,
        "The disk is low or fails, the database fails, the index is behind, or the data set is larger "
        "than the limit.",
    ),
    (
        DimseStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS,
        "Command and data set differ in SOP Class UID or SOP Instance UID.",
    ),
    (
        DimseStatus.CANNOT_UNDERSTAND,
        "The header cannot be read, or names no study or series; no data set, or no SOP Instance UID.",
    ),
    (
        DimseStatus.SOP_CLASS_NOT_SUPPORTED,
        "The SOP class of the command is not that of the presentation context.",
    ),
    (DimseStatus.PROCESSING_FAILURE, "An error of the node itself."),
    (DimseStatus.UNRECOGNIZED_OPERATION, "Any other operation than C-STORE and C-ECHO."),
)

_REJECTIONS = (
    (pdu.Rejection(1, 2, 2), "The protocol version is not 1."),
    (pdu.APPLICATION_CONTEXT_NOT_SUPPORTED, "The application context is not that of DICOM."),
    (
        pdu.CALLING_AE_NOT_RECOGNIZED,
        "No configured peer has this calling AE title, address, certificate name and user.",
    ),
    (pdu.CALLED_AE_NOT_RECOGNIZED, "Called AE titles are configured, and this is none of them."),
    (
        pdu.TEMPORARY_CONGESTION,
        "Too many associations, in all or from this address; or for the reasons of status A700.",
    ),
)


def conformance() -> str:
    """The whole statement, as Markdown."""
    text = (HERE / "conformance.in.md").read_text(encoding="utf-8")
    for name, value in _values().items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _values() -> dict[str, str]:
    patience, receive = Patience(), Settings.model_construct().receive
    return {
        "IMPLEMENTATION_CLASS_UID": str(IMPLEMENTATION_CLASS_UID),
        "IMPLEMENTATION_VERSION_NAME": IMPLEMENTATION_VERSION_NAME,
        "MAX_PDU": str(MAX_PDU),
        "MAX_ASSOCIATIONS": str(receive.max_associations),
        "MAX_PER_PEER": str(receive.max_associations_per_peer),
        "NEGOTIATION": f"{receive.negotiation_timeout:g}",
        "IDLE": f"{receive.network_timeout:g}",
        "SILENCE": f"{patience.silence:g}",
        "RATE": f"{patience.bytes_per_second:g}",
        "CREDIT": f"{patience.credit:g}",
        "MAX_INSTANCE_MB": str(receive.max_instance_mb),
        "CIPHERS": "\n".join(f"- `{name}`" for name in CIPHERS.split(":")),
        "VERIFICATION_SYNTAXES": _uids(VERIFICATION_SYNTAXES),
        "STORAGE_SYNTAXES": _uids(STORAGE_SYNTAXES),
        "STORAGE_CLASSES": _uids(sorted(storage_sop_classes(), key=_in_order)),
        "STATUSES": _table(
            ("status", "situation"), [(f"{status:04X}", text) for status, text in _STATUSES]
        ),
        "REJECTIONS": _table(
            ("result / source / reason", "situation"), [(str(r), text) for r, text in _REJECTIONS]
        ),
    }


def _uids(uids: tuple[str, ...] | list[str]) -> str:
    rows = [
        (UID(uid).name if UID(uid).name != uid else "(newer than our dictionary)", uid)
        for uid in uids
    ]
    return _table(("name", "UID"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _in_order(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


if __name__ == "__main__":
    (HERE / "conformance.md").write_text(conformance(), encoding="utf-8")
