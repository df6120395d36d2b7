"""Whether a destination keeps what it took: asked by C-FIND, or by storage commitment.

What comes in: deliveries in SENT. What goes out: moved rows. Owns: nothing is CONFIRMED that the
destination did not say it has, and a PACS that indexes late is not sent everything twice: what it does
not list is sent again only after `confirm_grace_seconds`. A PACS that answers no request for storage
commitment for so long is asked by C-FIND; where it refuses that too, the delivery is DEAD, for a person to
look at. Time is counted in questions asked, not by a clock.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Literal

from pydicom.uid import generate_uid

from dicom_node.deliver.commitment import Reported
from dicom_node.deliver.ways import Way
from dicom_node.errors import PeerRefused, PeerUnreachable
from dicom_node.lifecycle import ask_wait_seconds, backoff_seconds, waited_seconds
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.records import DueDelivery
from dicom_node.settings import DeliverSettings
from dicom_node.store.deliveries import Outbox

log = get_logger(__name__)


class Confirmer:
    """Asks one destination."""

    def __init__(
        self,
        name: str,
        how: Literal["response", "query", "commitment"],
        way: Way,
        settings: DeliverSettings,
        outbox: Outbox,
        rng: random.Random,
    ) -> None:
        self._name = name
        self._how = how
        self._way = way
        self._settings = settings
        self._outbox = outbox
        self._rng = rng

    def ask(self) -> None:
        """Ask for everything that it is time to ask for."""
        if self._how == "response":
            return
        sent = self._outbox.unconfirmed(self._name, self._settings.retry_longest_seconds)
        if not sent:
            return
        try:
            if self._how == "commitment":
                overdue = [one for one in sent if self._grace_is_over(one)]
                if asked := [one for one in sent if one not in overdue]:
                    self._ask_for_commitment(asked)
                if overdue:
                    self._look_for_uncommitted(overdue)
            else:
                self._look_for(sent)
        except (PeerUnreachable, PeerRefused) as error:
            log.warning("confirmation postponed", destination=self._name, reason=str(error))

    def _look_for_uncommitted(self, overdue: list[DueDelivery]) -> None:
        """What was never committed: listed is as good, and what cannot be known either is a person's."""
        try:
            self._look_for(overdue, ", after no report of storage commitment came")
        except PeerRefused as error:
            for delivery in overdue:
                self._outbox.dead(
                    delivery, f"the destination took it and never committed it, and {error}"
                )

    def _look_for(self, sent: list[DueDelivery], told: str = "") -> None:
        by_study: dict[str, list[DueDelivery]] = defaultdict(list)
        for delivery in sent:
            by_study[delivery.study_uid].append(delivery)
        for study_uid, deliveries in by_study.items():
            self._postpone(deliveries)
            kept = self._way.holds(study_uid, [d.sop_instance_uid for d in deliveries])
            for delivery in deliveries:
                if delivery.sop_instance_uid in kept:
                    self._outbox.confirmed(delivery, f"found by {self._way.query}{told}")
                    log.info(
                        "confirmed",
                        study=hashed(study_uid),
                        destination=self._name,
                        instance=hashed(delivery.sop_instance_uid),
                    )
                elif self._grace_is_over(delivery):
                    self._send_again(delivery)

    def _send_again(self, delivery: DueDelivery) -> None:
        reason = "the destination took it and does not list it"
        wait = wait_seconds(self._settings, delivery.attempts, self._rng)
        if wait is None:
            self._outbox.dead(delivery, f"{reason}; given up after {delivery.attempts} tries")
        else:
            self._outbox.retry(delivery, reason, wait)

    def _ask_for_commitment(self, sent: list[DueDelivery]) -> None:
        transaction_uid = str(generate_uid(prefix=None))
        # on record before the question leaves: the report may come before its answer
        self._postpone(sent, transaction_uid)
        log.info(
            "storage commitment asked for",
            transaction=hashed(transaction_uid),
            destination=self._name,
            studies=sorted({hashed(one.study_uid) for one in sent}),
        )
        self._way.ask_commitment(
            transaction_uid,
            [(one.sop_class_uid, one.sop_instance_uid) for one in sent],
            reported_to(self._outbox, self._settings, self._rng),
        )

    def _postpone(self, asked: list[DueDelivery], transaction_uid: str | None = None) -> None:
        """Note the question first, so that a peer that breaks off is not asked in a tight loop."""
        asks = min(one.asks for one in asked)
        wait = ask_wait_seconds(
            asks + 1,
            first=self._settings.confirm_first_seconds,
            longest=self._settings.retry_longest_seconds,
        )
        self._outbox.asked(asked, wait, transaction_uid)

    def _grace_is_over(self, delivery: DueDelivery) -> bool:
        waited = waited_seconds(
            delivery.asks + 1,
            first=self._settings.confirm_first_seconds,
            longest=self._settings.retry_longest_seconds,
        )
        return waited >= self._settings.confirm_grace_seconds


def wait_seconds(settings: DeliverSettings, attempts: int, rng: random.Random) -> float | None:
    """Seconds until a delivery is tried again after so many tries; None if it is given up."""
    if attempts >= settings.max_attempts:
        return None
    first, longest = settings.retry_first_seconds, settings.retry_longest_seconds
    return backoff_seconds(max(attempts, 1), first=first, longest=longest, rng=rng)


def reported_to(outbox: Outbox, settings: DeliverSettings, rng: random.Random) -> Reported:
    """What takes in storage commitment reports for this outbox."""

    def reported(uid: str, kept: Collection[str], failed: Mapping[str, str]) -> int:
        return outbox.reported(
            uid, kept, failed, lambda attempts: wait_seconds(settings, attempts, rng)
        )

    return reported
