"""The outbox: results that are to reach a destination.

What comes in: what the courier did. What goes out: deliveries that are due. Owns: a delivery ends as
CONFIRMED, DEAD or WITHDRAWN, and every try is on record. A due time is the one wall-clock value that
decides anything, so a clock that was set back must not park a delivery: a wait that is longer than the
longest one the policy knows counts as over.
"""

from datetime import timedelta

from sqlalchemy import ColumnElement, Engine, or_, select

from dicom_node.lifecycle import DeliveryState
from dicom_node.records import DueDelivery
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.tables import delivery, job, result, series
from dicom_node.store.transitions import move

WAITING = (DeliveryState.PENDING, DeliveryState.RETRYING)


class Outbox:
    """The courier's view of the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def due(self, destination: str, longest_wait: float, limit: int = 200) -> list[DueDelivery]:
        """Deliveries to one destination that may be tried now, oldest first.

        Args:
            destination: its name in the configuration.
            longest_wait: the longest wait between two tries that the policy knows, in seconds.
            limit: the most to return.
        """
        now = utc_now()
        over = or_(
            delivery.c.due_at <= now,
            delivery.c.due_at > now + timedelta(seconds=longest_wait),
        )
        return self._list(destination, limit, delivery.c.state.in_(WAITING), over)

    def unconfirmed(self, destination: str, limit: int = 200) -> list[DueDelivery]:
        """Deliveries that the destination took and has not confirmed yet."""
        return self._list(destination, limit, delivery.c.state == DeliveryState.SENT)

    def sent(self, due: DueDelivery, reason: str) -> None:
        """-> SENT: the destination took it; whether it keeps it is another question."""
        with writing(self._engine) as connection:
            move(
                connection,
                delivery,
                due.id,
                due.state,
                DeliveryState.SENT,
                reason,
                attempts=due.attempts + 1,
                sent_at=utc_now(),
            )

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
                attempts=due.attempts + 1,
                due_at=utc_now() + timedelta(seconds=wait),
            )

    def dead(self, due: DueDelivery, reason: str) -> None:
        """-> DEAD: it is not tried again without an operator's word."""
        with writing(self._engine) as connection:
            move(
                connection,
                delivery,
                due.id,
                due.state,
                DeliveryState.DEAD,
                reason,
                attempts=due.attempts + 1,
            )

    def superseded(self, due: DueDelivery) -> bool:
        """Whether a later revision of the series exists than the one this result was made from."""
        with reading(self._engine) as connection:
            mine = connection.execute(
                select(series.c.study_uid, series.c.series_uid, series.c.revision)
                .join(job, job.c.series_id == series.c.id)
                .join(result, result.c.job_id == job.c.id)
                .join(delivery, delivery.c.result_id == result.c.id)
                .where(delivery.c.id == due.id)
            ).one()
            later = connection.execute(
                select(series.c.id).where(
                    series.c.study_uid == mine.study_uid,
                    series.c.series_uid == mine.series_uid,
                    series.c.revision > mine.revision,
                )
            ).first()
            return later is not None

    def withdraw(self, due: DueDelivery, reason: str) -> None:
        """-> WITHDRAWN: it was never sent, and is not to be sent any more."""
        with writing(self._engine) as connection:
            move(connection, delivery, due.id, due.state, DeliveryState.WITHDRAWN, reason)

    def revive(self) -> int:
        """DEAD -> PENDING for all, on an operator's word; returns how many."""
        with writing(self._engine) as connection:
            dead = connection.execute(
                select(delivery.c.id).where(delivery.c.state == DeliveryState.DEAD)
            )
            return sum(
                move(
                    connection,
                    delivery,
                    row_id,
                    DeliveryState.DEAD,
                    DeliveryState.PENDING,
                    "tried again on an operator's word",
                    due_at=utc_now(),
                )
                for row_id in dead.scalars().all()
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
                )
                .join(result, result.c.id == delivery.c.result_id)
                .where(delivery.c.destination == destination, *conditions)
                .order_by(delivery.c.id)
                .limit(limit)
            )
            return [DueDelivery(**row._mapping) for row in rows]
