"""Asks senders how many images a series has, so that it is complete when so many came.

What comes in: revisions that wait, and the peers that the configuration says may be asked. What goes out:
the number that the sender knows, for completeness to judge by. A series is asked for only when nothing
came for a moment: a PACS that forwards while it receives knows no more than we do. It judges nothing; a
peer that does not answer changes nothing.
"""

import threading
import time
from collections.abc import Callable

from dicom_node.deliver import scu
from dicom_node.errors import PeerRefused, PeerUnreachable
from dicom_node.lifecycle import SeriesState
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.settings import PeerSettings, Settings
from dicom_node.store.assembly import Assembly, Revision

log = get_logger(__name__)

QUIET_SECONDS = 1.0
"""Silence before a sender is asked."""
AGAIN_SECONDS = 5.0
"""How long an answer, or none, stands before the same series is asked for once more."""


class Census:
    """Asks every peer that may be asked."""

    def __init__(
        self,
        settings: Settings,
        assembly: Assembly,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._assembly = assembly
        self._clock = clock
        self._pause = pause
        self._poll_seconds = settings.assemble.poll_seconds
        calling = settings.deliver.ae_title or settings.receive.ae_title
        self._addresses = {
            peer.ae_title: _address(peer, calling, settings.deliver.network_timeout)
            for peer in settings.peer
            if peer.query_host
        }
        self._seen: dict[int, tuple[int, float]] = {}
        """Revision -> instances, and when it may be asked for."""

    def run(self, stop: threading.Event) -> None:
        """Ask until told to stop."""
        while not self._pause(stop, self._poll_seconds):
            if self._addresses:
                self.sweep()

    def sweep(self) -> None:
        """Ask once for every revision that it is time to ask for."""
        waiting = [
            one
            for one in self._assembly.waiting()
            if one.state is SeriesState.OPEN and one.calling_ae in self._addresses
        ]
        seen, self._seen = self._seen, {}
        silent: set[str] = set()
        for revision in waiting:
            now = self._clock()
            instances, ask_at = seen.get(revision.id, (-1, 0.0))
            if instances != revision.instances:
                ask_at = now + QUIET_SECONDS
            elif now >= ask_at and revision.calling_ae not in silent:
                if not self._ask(revision):
                    silent.add(revision.calling_ae)
                ask_at = self._clock() + AGAIN_SECONDS
            self._seen[revision.id] = (revision.instances, ask_at)

    def _ask(self, revision: Revision) -> bool:
        """Ask one sender for one series; False if it cannot be asked now."""
        address = self._addresses[revision.calling_ae]
        try:
            key = revision.key
            count = scu.related_instances(address, key.study_uid, key.series_uid)
        except (PeerUnreachable, PeerRefused) as error:
            log.warning("sender not asked", peer=revision.calling_ae, reason=str(error))
            return False
        if count is not None and count > 0 and count != revision.expected:
            self._assembly.expect(revision.id, count)
            log.info("sender asked", series=hashed(key.series_uid), expected=count)
        return True


def _address(peer: PeerSettings, calling_ae: str, timeout: float) -> scu.Address:
    return scu.Address(
        host=peer.query_host,
        port=peer.query_port,
        called_ae=peer.query_ae_title or peer.ae_title,
        calling_ae=calling_ae,
        timeout=min(timeout, 5.0),
    )
