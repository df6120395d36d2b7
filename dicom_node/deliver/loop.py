"""The courier: takes what is due to a destination, sends it, and writes down what became of it.

What comes in: rows of the outbox. What goes out: moved rows. One thread for each destination, so that a
PACS that hangs delays nobody else. Owns: nothing is SENT that the destination did not accept, and
nothing leaves whose content, patient or study is no longer what was made.
"""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from structlog.contextvars import bound_contextvars

from dicom_node.deliver import scu
from dicom_node.deliver.check import checked_kind
from dicom_node.deliver.commitment import reports
from dicom_node.deliver.confirm import Confirmer, reported_to, wait_seconds
from dicom_node.deliver.fallback import LABELMAP, send_binary
from dicom_node.deliver.ways import way_to
from dicom_node.errors import (
    CannotUnderstand,
    ComposeError,
    DiskFull,
    PeerRefused,
    PeerUnreachable,
    StaleLease,
)
from dicom_node.lifecycle import Verdict, judge_store_status
from dicom_node.observe.exchange import begin_sending, sent
from dicom_node.observe.logging import get_logger, hashed
from dicom_node.observe.recording import record
from dicom_node.records import DueDelivery
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.deliveries import Outbox

log = get_logger(__name__)

Study = tuple[str, str]
"""Study Instance UID and Patient ID."""


class Courier:
    """Delivers to one destination."""

    def __init__(
        self,
        name: str,
        destination: DestinationSettings,
        settings: Settings,
        outbox: Outbox,
        rng: random.Random | None = None,
        pause: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._name = name
        self._called_ae = destination.ae_title
        self._calling_ae = settings.deliver.ae_title or settings.receive.ae_title
        self._settings = settings.deliver
        self._outbox = outbox
        self._rng = rng or random.Random()
        self._pause = pause
        self._answer_confirms = destination.confirm == "response"
        self._way = way_to(destination, settings)
        self._confirmer = Confirmer(
            name, destination.confirm, self._way, settings.deliver, outbox, self._rng
        )

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop."""
        while not self._pause(stop, self._settings.poll_seconds):
            try:
                self.deliver_due(stop.is_set)
                self._confirmer.ask()
            except StaleLease:
                log.warning("another courier took over", destination=self._name)

    def deliver_due(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Try everything that is due, over one association where its contexts suffice."""
        due = self._outbox.due(self._name, self._settings.retry_longest_seconds)
        kinds = {}
        for delivery in due:
            try:
                kinds[delivery] = checked_kind(delivery)
            except CannotUnderstand as error:
                self._dead(delivery, str(error))
        for batch in scu.batches(kinds):
            try:
                with self._way.sending({kinds[one] for one in batch}) as send:
                    self._send(batch, send, stopping)
            except (PeerUnreachable, PeerRefused) as error:
                # nobody is there: all of them wait, each for a while of its own
                for delivery in batch:
                    if (tried := self._outbox.begin(delivery)) is not None:
                        self._retry(tried, str(error))
                return

    def confirm(self) -> None:
        """Ask the destination for what it took, if it is time to."""
        self._confirmer.ask()

    def _send(
        self,
        batch: Sequence[DueDelivery],
        send: Callable[[Path], scu.Answer],
        stopping: Callable[[], bool],
    ) -> None:
        taken: Counter[Study] = Counter()
        failed: Counter[Study] = Counter()
        for study in {(one.study_uid, one.patient_id) for one in batch}:
            record(begin_sending(self._calling_ae, self._called_ae, *study))
        try:
            self._send_each(batch, send, stopping, taken, failed)
        finally:
            for study in taken.keys() | failed.keys():
                told = (taken[study], failed[study])
                record(sent(self._calling_ae, self._called_ae, *study, *told))

    def _send_each(
        self,
        batch: Sequence[DueDelivery],
        send: Callable[[Path], scu.Answer],
        stopping: Callable[[], bool],
        taken: Counter[Study],
        failed: Counter[Study],
    ) -> None:
        for waiting in batch:
            if stopping():
                return
            delivery = self._outbox.begin(waiting)
            if delivery is None:
                continue
            study = (delivery.study_uid, delivery.patient_id)
            with bound_contextvars(study=hashed(delivery.study_uid), delivery=delivery.id):
                try:
                    answer = send(Path(delivery.path))
                except PeerUnreachable as error:
                    # this one may be what breaks the peer; the others are due as before, and go without it
                    failed[study] += 1
                    self._retry(delivery, str(error))
                    return
                was_taken = self._judge(delivery, answer)
                (taken if was_taken else failed)[study] += 1

    def _judge(self, delivery: DueDelivery, answer: scu.Answer) -> bool:
        """Write down what an answer means; whether the destination took it."""
        if answer.status is None:
            self._refused(delivery, answer.comment)
            return False
        said = f"{self._way.verb} answered {answer.status:04X}" + (
            f" ({answer.comment})" if answer.comment else ""
        )
        verdict = judge_store_status(answer.status)
        if verdict is Verdict.RETRY:
            self._retry(delivery, said)
        elif verdict is Verdict.DEAD:
            self._refused(delivery, said)
        else:
            if self._answer_confirms:
                self._outbox.accepted(delivery, said)
            else:
                self._outbox.sent(delivery, said, self._settings.confirm_first_seconds)
            log.info(
                "delivered",
                destination=self._name,
                instance=hashed(delivery.sop_instance_uid),
                status=f"{answer.status:04X}",
                confirmed=self._answer_confirms,
            )
            return True
        return False

    def _refused(self, delivery: DueDelivery, reason: str) -> None:
        """The destination does not want it: a LABELMAP it may want as BINARY, anything else is dead."""
        if delivery.sop_class_uid != LABELMAP:
            self._dead(delivery, reason)
            return
        try:
            if send_binary(delivery, self._outbox, reason):
                log.warning("LABELMAP refused, BINARY follows", destination=self._name)
        except DiskFull as error:
            self._retry(delivery, str(error))
        except (CannotUnderstand, ComposeError) as error:
            self._dead(delivery, f"{reason}; no BINARY twin either: {error}")

    def _retry(self, delivery: DueDelivery, reason: str) -> None:
        wait = wait_seconds(self._settings, delivery.attempts, self._rng)
        if wait is None:
            self._dead(delivery, f"{reason}; given up after {delivery.attempts} tries")
            return
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


@contextmanager
def listening_for_reports(settings: Settings, outbox: Outbox) -> Iterator[int | None]:
    """Listen for storage commitment reports, where the configuration says so; the value is the port."""
    port = settings.deliver.report_port
    if port is None:
        yield None
        return
    ae_title = settings.deliver.ae_title or settings.receive.ae_title
    reported = reported_to(outbox, settings.deliver, random.Random())
    with reports(ae_title, settings.receive.host, port, reported) as listening_on:
        log.info("listens for storage commitment reports", port=listening_on)
        yield listening_on
