"""The ways to a destination: DIMSE, or DICOMweb. The courier does not know which one it takes.

What comes in: a destination's settings. What goes out: a `Way` that sends files and asks what is kept. A
further way is one class here and one line in `way_to`.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from dicom_node.deliver import scu
from dicom_node.deliver.commitment import Reported, request
from dicom_node.deliver.stow import StowService
from dicom_node.errors import PeerRefused
from dicom_node.settings import DestinationSettings, Settings


class Way(Protocol):
    """How files reach a destination."""

    verb: str
    query: str

    def sending(
        self, kinds: Iterable[scu.Kind]
    ) -> AbstractContextManager[Callable[[Path], scu.Answer]]:
        """Be ready for these kinds of object; the value sends one file.

        Raises:
            PeerUnreachable, PeerRefused: it cannot be reached; also what the value raises.
        """

    def holds(self, study_uid: str, sop_instance_uids: Sequence[str]) -> set[str]:
        """Which of these instances it says it has; errors as above."""

    def ask_commitment(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], reported: Reported
    ) -> None:
        """Ask it to take over responsibility; errors as above."""


class DimseWay:
    """C-STORE, C-FIND and storage commitment."""

    verb = "C-STORE"
    query = "C-FIND"

    def __init__(self, address: scu.Address) -> None:
        self._address = address

    def sending(
        self, kinds: Iterable[scu.Kind]
    ) -> AbstractContextManager[Callable[[Path], scu.Answer]]:
        """One association."""
        return scu.storing(self._address, kinds)

    def holds(self, study_uid: str, sop_instance_uids: Sequence[str]) -> set[str]:
        """By C-FIND."""
        return scu.holds(self._address, study_uid, sop_instance_uids)

    def ask_commitment(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], reported: Reported
    ) -> None:
        """By N-ACTION."""
        request(self._address, transaction_uid, references, reported)


class WebWay:
    """STOW-RS and QIDO-RS."""

    verb = "STOW-RS"
    query = "QIDO-RS"

    def __init__(self, service: StowService) -> None:
        self._service = service

    def sending(
        self,
        kinds: Iterable[scu.Kind],  # noqa: ARG002 (a web service takes what it takes)
    ) -> AbstractContextManager[Callable[[Path], scu.Answer]]:
        """One connection."""
        return self._service.storing()

    def holds(self, study_uid: str, sop_instance_uids: Sequence[str]) -> set[str]:
        """By QIDO-RS."""
        return self._service.holds(study_uid, sop_instance_uids)

    def ask_commitment(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], reported: Reported
    ) -> None:
        """There is none."""
        del transaction_uid, references, reported
        raise PeerRefused("a DICOMweb service has no storage commitment")


def way_to(destination: DestinationSettings, settings: Settings) -> Way:
    """The way that a destination's settings ask for."""
    timeout = settings.deliver.network_timeout
    if destination.stow_url is not None:
        return WebWay(StowService(destination.stow_url, destination.authorization_file, timeout))
    return DimseWay(
        scu.Address(
            host=destination.host,
            port=destination.port,
            called_ae=destination.ae_title,
            calling_ae=settings.deliver.ae_title or settings.receive.ae_title,
            timeout=timeout,
        )
    )
