"""The courier: takes what is due to a destination, sends it, and writes down what became of it.

What comes in: rows of the outbox. What goes out: moved rows. One thread for each destination, so that a
PACS that hangs delays nobody else. Owns: nothing is SENT that the destination did not accept, and a file
whose content is no longer what was made is never sent.
"""

import hashlib
import random
import threading
from collections.abc import Sequence
from pathlib import Path

from dicom_node.deliver import scu
from dicom_node.errors import CannotUnderstand, PeerRefused, PeerUnreachable
from dicom_node.lifecycle import Verdict, backoff_seconds, judge_store_status
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.records import DueDelivery
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.deliveries import Outbox

log = get_logger(__name__)


class Courier:
    """Delivers to one destination."""

    def __init__(
        self,
        name: str,
        destination: DestinationSettings,
        settings: Settings,
        outbox: Outbox,
        rng: random.Random | None = None,
    ) -> None:
        self._name = name
        self._destination = destination
        self._settings = settings.deliver
        self._outbox = outbox
        self._rng = rng or random.Random()
        self._address = scu.Address(
            host=destination.host,
            port=destination.port,
            called_ae=destination.ae_title,
            calling_ae=settings.deliver.ae_title or settings.receive.ae_title,
            timeout=settings.deliver.network_timeout,
        )

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop."""
        while not stop.wait(self._settings.poll_seconds):
            self.deliver_due()
            if self._destination.confirm == "query":
                self.confirm_by_query()

    def deliver_due(self) -> None:
        """Try everything that is due, over one association."""
        due = self._outbox.due(self._name, self._settings.retry_longest_seconds)
        sendable = [delivery for delivery in due if self._may_be_sent(delivery)]
        if sendable:
            self._send(sendable)

    def confirm_by_query(self) -> None:
        """Ask the destination for what it took; what it lost is sent again."""
        by_study: dict[str, list[DueDelivery]] = {}
        for delivery in self._outbox.unconfirmed(self._name):
            by_study.setdefault(delivery.study_uid, []).append(delivery)
        for study_uid, deliveries in by_study.items():
            try:
                kept = scu.holds(self._address, study_uid, [d.sop_instance_uid for d in deliveries])
            except (PeerUnreachable, PeerRefused) as error:
                log.warning("confirmation postponed", destination=self._name, reason=str(error))
                return
            for delivery in deliveries:
                if delivery.sop_instance_uid in kept:
                    self._outbox.confirmed(delivery, "found by C-FIND")
                else:
                    self._retry(delivery, "the destination took it and does not list it")

    def _may_be_sent(self, delivery: DueDelivery) -> bool:
        if self._outbox.superseded(delivery):
            self._outbox.withdraw(
                delivery, "a later revision of the series came before it was sent"
            )
            return False
        path = Path(delivery.path)
        try:
            content = path.read_bytes()
        except OSError as error:
            self._dead(delivery, f"the file cannot be read: {error.strerror}")
            return False
        if hashlib.sha256(content).hexdigest() != delivery.sha256:
            self._dead(delivery, "the file has changed since it was made")
            return False
        return True

    def _send(self, due: Sequence[DueDelivery]) -> None:
        by_path = {Path(delivery.path): delivery for delivery in due}
        unanswered = dict(by_path)
        try:
            for path, answer in scu.store(self._address, by_path):
                self._judge(unanswered.pop(path), answer)
        except (PeerUnreachable, PeerRefused) as error:
            for delivery in unanswered.values():
                self._retry(delivery, str(error))
        except CannotUnderstand as error:
            for delivery in unanswered.values():
                self._dead(delivery, str(error))

    def _judge(self, delivery: DueDelivery, answer: scu.Answer) -> None:
        if answer.status is None:
            self._dead(delivery, answer.comment)
            return
        said = f"C-STORE answered {answer.status:04X}" + (
            f" ({answer.comment})" if answer.comment else ""
        )
        verdict = judge_store_status(answer.status)
        if verdict is Verdict.RETRY:
            self._retry(delivery, said)
        elif verdict is Verdict.DEAD:
            self._dead(delivery, said)
        else:
            self._outbox.sent(delivery, said)
            log.info(
                "delivered",
                destination=self._name,
                instance=hashed(delivery.sop_instance_uid),
                status=f"{answer.status:04X}",
            )
            if self._destination.confirm == "response":
                self._outbox.confirmed(delivery, "the C-STORE answer counts as confirmation")

    def _retry(self, delivery: DueDelivery, reason: str) -> None:
        attempt = delivery.attempts + 1
        if attempt >= self._settings.max_attempts:
            self._dead(delivery, f"{reason}; given up after {attempt} tries")
            return
        wait = backoff_seconds(
            attempt,
            first=self._settings.retry_first_seconds,
            longest=self._settings.retry_longest_seconds,
            rng=self._rng,
        )
        self._outbox.retry(delivery, reason, wait)
        log.warning(
            "delivery postponed", destination=self._name, reason=reason, wait=round(wait, 1)
        )

    def _dead(self, delivery: DueDelivery, reason: str) -> None:
        self._outbox.dead(delivery, reason)
        log.error(
            "delivery given up",
            destination=self._name,
            instance=hashed(delivery.sop_instance_uid),
            reason=reason,
        )
