"""The outbox: results that are to reach a destination.

What comes in: what the courier did. What goes out: deliveries that are due. Owns: a delivery ends as
CONFIRMED, DEAD or WITHDRAWN; every try is on record before it is made; a result of a superseded revision
does not begin its way. A due time is the one wall-clock value that decides anything, so a clock that was
set back must not park a delivery: a wait that is longer than the longest one the policy knows counts as
over.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, exists, insert, or_, select, update

from dicom_node.lifecycle import DeliveryState, SeriesState
from dicom_node.records import DueDelivery, ResultObject
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.inputs import outdated
from dicom_node.store.tables import delivery, job, result, series
from dicom_node.store.transitions import began, move

REJECTION = "rejection"
"""The kind of an IOCM note that withdraws earlier results (`compose.key_objects`)."""
WAITING = (DeliveryState.PENDING, DeliveryState.RETRYING)
MOST = 200
"""Rows that are looked at in one go."""


class Outbox:
    """The courier's view of the store."""

    def __init__(
        self,
        engine: Engine,
        folder_id: str | None = None,
        fence: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        """
        Args:
            engine: the store.
            folder_id: deliver only results that lie in this data folder; None, wherever they lie.
            fence: raises `StaleLease` in the transaction in which a try begins, where delivering is no
                longer this process's duty. What a destination answered is written down all the same: it is
                true, and moves are compare-and-set.
        """
        self._engine = engine
        self._ours = () if folder_id is None else (result.c.folder_id.in_(("", folder_id)),)
        self._fence = fence

    def due(self, destination: str, longest_wait: float, limit: int = MOST) -> list[DueDelivery]:
        """Deliveries to one destination that may be tried now, oldest first.

        A note that withdraws earlier results is not due before those that take their place were accepted:
        a study is never left without either.

        Args:
            destination: its name in the configuration.
            longest_wait: the longest wait between two tries that the policy knows, in seconds.
            limit: the most to return.
        """
        waits = delivery.c.state.in_(WAITING)
        return self._list(destination, limit, waits, _over(longest_wait), ~_withdraws_too_early())

    def begin(self, due: DueDelivery) -> DueDelivery | None:
        """Note that a try begins, before anything leaves the node.

        Returns:
            The delivery as it is now; None if it is not to be sent any more. A result of a superseded
            revision is WITHDRAWN here, in the same transaction.
        """
        with writing(self._engine) as connection:
            self._fence(connection)
            row = connection.execute(
                select(
                    delivery.c.state,
                    delivery.c.attempts,
                    series.c.state.label("revision"),
                    outdated().label("outdated"),
                )
                .join(result, result.c.id == delivery.c.result_id)
                .join(job, job.c.id == result.c.job_id)
                .join(series, series.c.id == job.c.series_id)
                .where(delivery.c.id == due.id)
                .with_for_update(of=delivery)
            ).one()
            if row.state not in WAITING:
                return None
            if row.revision is SeriesState.SUPERSEDED or row.outdated:
                reason = "a later revision of the series came before it was sent"
                move(connection, delivery, due.id, row.state, DeliveryState.WITHDRAWN, reason)
                return None
            connection.execute(
                update(delivery).where(delivery.c.id == due.id).values(attempts=row.attempts + 1)
            )
        return replace(due, state=row.state, attempts=row.attempts + 1)

    def unconfirmed(
        self, destination: str, longest_wait: float, limit: int = MOST
    ) -> list[DueDelivery]:
        """Deliveries that the destination took and that it may now be asked for; arguments as in `due`."""
        sent = delivery.c.state == DeliveryState.SENT
        return self._list(destination, limit, sent, _over(longest_wait))

    def sent(self, due: DueDelivery, reason: str, ask_after: float = 0.0) -> None:
        """-> SENT: the destination took it; whether it keeps it may be asked after so many seconds."""
        with writing(self._engine) as connection:
            move(
                connection,
                delivery,
                due.id,
                due.state,
                DeliveryState.SENT,
                reason,
                asks=0,
                transaction_uid=None,
                sent_at=utc_now(),
                due_at=utc_now() + timedelta(seconds=ask_after),
            )

    def accepted(self, due: DueDelivery, reason: str) -> None:
        """-> SENT -> CONFIRMED in one transaction, where the answer itself counts as confirmation."""
        with writing(self._engine) as connection:
            now = utc_now()
            sent = DeliveryState.SENT
            if move(connection, delivery, due.id, due.state, sent, reason, sent_at=now):
                confirmed = DeliveryState.CONFIRMED
                move(connection, delivery, due.id, sent, confirmed, reason, confirmed_at=now)

    def asked(
        self, asked: Sequence[DueDelivery], wait: float, transaction_uid: str | None = None
    ) -> None:
        """The destination was asked for these and has not said yes; to be asked again after `wait` s.

        Args:
            asked: deliveries in SENT.
            wait: seconds.
            transaction_uid: of the storage commitment request that asked, if it was one.
        """
        with writing(self._engine) as connection:
            connection.execute(
                update(delivery)
                .where(
                    delivery.c.id.in_([one.id for one in asked]),
                    delivery.c.state == DeliveryState.SENT,
                )
                .values(
                    asks=delivery.c.asks + 1,
                    transaction_uid=transaction_uid,
                    due_at=utc_now() + timedelta(seconds=wait),
                )
            )

    def reported(
        self,
        transaction_uid: str,
        kept: Collection[str],
        failed: Mapping[str, str],
        wait: Callable[[int], float | None],
    ) -> int:
        """Take in a storage commitment report (PS3.4 J.3.3): what is kept, and what is not, and why.

        What failed is sent again. A report of a transaction that was never asked for, or that a later
        one took the place of, changes nothing.

        Args:
            transaction_uid: of the request.
            kept: SOP instances that the destination has taken responsibility for.
            failed: SOP instance -> why not.
            wait: tries made -> seconds until what failed is sent again; None gives it up.

        Returns:
            How many deliveries it settled.
        """
        settled = 0
        with writing(self._engine) as connection:
            rows = connection.execute(
                select(delivery.c.id, delivery.c.attempts, result.c.sop_instance_uid)
                .join(result, result.c.id == delivery.c.result_id)
                .where(
                    delivery.c.transaction_uid == transaction_uid,
                    delivery.c.state == DeliveryState.SENT,
                )
            ).all()
            for row in rows:
                if row.sop_instance_uid in kept:
                    new, reason = DeliveryState.CONFIRMED, "storage commitment"
                    values: dict[str, Any] = {"confirmed_at": utc_now()}
                elif row.sop_instance_uid in failed:
                    reason = f"storage commitment failed: {failed[row.sop_instance_uid]}"
                    seconds = wait(row.attempts)
                    new = DeliveryState.DEAD if seconds is None else DeliveryState.RETRYING
                    values = {"due_at": utc_now() + timedelta(seconds=seconds or 0.0)}
                else:
                    continue
                sent = DeliveryState.SENT
                settled += move(connection, delivery, row.id, sent, new, reason, **values)
        return settled

    def confirmed(self, due: DueDelivery, reason: str) -> None:
        """SENT -> CONFIRMED."""
        with writing(self._engine) as connection:
            move(
                connection,
                delivery,
                due.id,
                DeliveryState.SENT,
                DeliveryState.CONFIRMED,
                reason,
                confirmed_at=utc_now(),
            )

    def retry(self, due: DueDelivery, reason: str, wait: float) -> None:
        """-> RETRYING, due again after `wait` seconds."""
        with writing(self._engine) as connection:
            move(
                connection,
                delivery,
                due.id,
                due.state,
                DeliveryState.RETRYING,
                reason,
                due_at=utc_now() + timedelta(seconds=wait),
            )

    def dead(self, due: DueDelivery, reason: str) -> None:
        """-> DEAD: it is not tried again without an operator's word."""
        with writing(self._engine) as connection:
            move(connection, delivery, due.id, due.state, DeliveryState.DEAD, reason)

    def beside(self, due: DueDelivery, kinds: Collection[str]) -> list[DueDelivery]:
        """What the same job made for the same destination, of some kinds, this delivery among them."""
        own = delivery.alias("own")
        its_job = (
            select(result.c.job_id)
            .join(own, own.c.result_id == result.c.id)
            .where(own.c.id == due.id)
            .scalar_subquery()
        )
        alive = delivery.c.state != DeliveryState.WITHDRAWN
        return self._list(
            due.destination, MOST, result.c.job_id == its_job, result.c.kind.in_(kinds), alive
        )

    def stood_in_for(
        self, refused: DueDelivery, made: Sequence[ResultObject], gone: Collection[str], reason: str
    ) -> bool:
        """Other results go out in the place of one that was refused, and of what refers to it.

        Args:
            refused: the delivery that was tried.
            made: PENDING from now on, results of the same job.
            gone: SOP instances that are WITHDRAWN where they are not on their way yet.
            reason: for the record.

        Returns:
            False where the delivery is no longer waiting; then nothing has changed.
        """
        with writing(self._engine) as connection:
            row = connection.execute(
                select(delivery.c.state, result.c.job_id, result.c.folder_id)
                .join(result, result.c.id == delivery.c.result_id)
                .where(delivery.c.id == refused.id)
                .with_for_update(of=delivery)
            ).one()
            if row.state not in WAITING:
                return False
            for one in made:
                add_result(connection, row.job_id, refused.destination, one, row.folder_id)
            waiting = connection.execute(
                select(delivery.c.id, delivery.c.state)
                .join(result, result.c.id == delivery.c.result_id)
                .where(
                    result.c.job_id == row.job_id,
                    result.c.sop_instance_uid.in_(gone),
                    delivery.c.destination == refused.destination,
                    delivery.c.state.in_(WAITING),
                )
                .with_for_update(of=delivery)
            ).all()
            for other in waiting:
                move(connection, delivery, other.id, other.state, DeliveryState.WITHDRAWN, reason)
        return True

    def abandon_unknown(self, destinations: Collection[str]) -> int:
        """-> DEAD for what is to go where the configuration names no destination any more."""
        with writing(self._engine) as connection:
            stranded = connection.execute(
                select(delivery.c.id, delivery.c.state, delivery.c.destination)
                .join(result, result.c.id == delivery.c.result_id)
                .where(
                    delivery.c.state.in_((*WAITING, DeliveryState.SENT)),
                    delivery.c.destination.not_in(list(destinations)),
                    *self._ours,
                )
            ).all()
            return sum(
                move(
                    connection,
                    delivery,
                    row.id,
                    row.state,
                    DeliveryState.DEAD,
                    f"no destination {row.destination} is configured",
                )
                for row in stranded
            )

    def _list(
        self, destination: str, limit: int, *conditions: ColumnElement[bool]
    ) -> list[DueDelivery]:
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    delivery.c.id,
                    delivery.c.destination,
                    delivery.c.attempts,
                    delivery.c.state,
                    result.c.path,
                    result.c.sha256,
                    result.c.sop_class_uid,
                    result.c.sop_instance_uid,
                    result.c.study_uid,
                    series.c.patient_id,
                    delivery.c.asks,
                )
                .join(result, result.c.id == delivery.c.result_id)
                .join(job, job.c.id == result.c.job_id)
                .join(series, series.c.id == job.c.series_id)
                .where(delivery.c.destination == destination, *conditions, *self._ours)
                .order_by(delivery.c.id)
                .limit(limit)
            )
            return [DueDelivery(**row._mapping) for row in rows]


def add_result(
    connection: Connection, job_id: int, destination: str, made: ResultObject, folder_id: str
) -> None:
    """One row for the object, however many destinations it has, and one delivery for this one."""
    connection.execute(
        insert_or_ignore(connection, result).values(
            job_id=job_id,
            kind=made.kind,
            description=made.description,
            path=str(made.path),
            folder_id=folder_id,
            sha256=made.sha256,
            sop_class_uid=made.sop_class_uid,
            sop_instance_uid=made.sop_instance_uid,
            series_uid=made.series_uid,
            study_uid=made.study_uid,
            created_at=utc_now(),
        )
    )
    result_id = connection.execute(
        select(result.c.id).where(
            result.c.job_id == job_id, result.c.sop_instance_uid == made.sop_instance_uid
        )
    ).scalar_one()
    delivery_id = connection.execute(
        insert(delivery)
        .values(
            state=DeliveryState.PENDING,
            result_id=result_id,
            destination=destination,
            attempts=0,
            asks=0,
            due_at=utc_now(),
        )
        .returning(delivery.c.id)
    ).scalar_one()
    began(connection, delivery, delivery_id, DeliveryState.PENDING, f"to {destination}")


def _over(longest_wait: float) -> ColumnElement[bool]:
    now = utc_now()
    set_back = now + timedelta(seconds=longest_wait)
    return or_(delivery.c.due_at <= now, delivery.c.due_at > set_back)


def _withdraws_too_early() -> ColumnElement[bool]:
    """A rejection note whose destination has not all of the results that take the place of the old ones."""
    other, its_result = delivery.alias("other"), result.alias("its_result")
    return (result.c.kind == REJECTION) & exists().where(
        its_result.c.job_id == result.c.job_id,
        its_result.c.kind != REJECTION,
        other.c.result_id == its_result.c.id,
        other.c.destination == delivery.c.destination,
        other.c.state.in_((*WAITING, DeliveryState.DEAD)),
    )
