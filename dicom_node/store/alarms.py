"""What is wrong, by the database; what people were told of it; and the messages that are to reach them.

What comes in: questions, decisions. What goes out: plain values. Deciding and putting the messages into the
outbox is one transaction, so that of two processes that look at the same time one tells, and a crash in
between loses nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, delete, func, insert, select, update

from dicom_node.lifecycle import DeliveryState, JobState, SeriesState
from dicom_node.observe.alarms import Notice, Remembered
from dicom_node.observe.logging import hashed
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import one_alarm_at_a_time
from dicom_node.store.page_tables import alarm, alarm_message
from dicom_node.store.tables import association, delivery, job, series
from dicom_node.store.worklist import as_utc

NAMED = 5
"""The most studies that a message names, by the hash that logs and the page know."""

Decision = Callable[[Mapping[str, Remembered]], tuple[list[Notice], dict[str, Remembered]]]


class AlarmBook:
    """The alarms of a node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def held(self) -> tuple[int, list[str]]:
        """How many series are held, and the newest studies among them as logs name them."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series.c.study_uid)
                .where(series.c.state == SeriesState.HELD)
                .order_by(series.c.id.desc())
            ).scalars()
            return _named(rows.all())

    def failed(self) -> tuple[int, list[str]]:
        """As `held`, of jobs that failed and that nobody has run again."""
        with reading(self._engine) as connection:
            later = job.alias()
            rows = connection.execute(
                select(series.c.study_uid)
                .join(job, job.c.series_id == series.c.id)
                .where(
                    job.c.state.in_((JobState.FAILED, JobState.POISON)),
                    series.c.state != SeriesState.SUPERSEDED,
                    ~select(later.c.id)
                    .where(
                        later.c.series_id == job.c.series_id,
                        later.c.model == job.c.model,
                        later.c.id > job.c.id,
                    )
                    .exists(),
                )
                .order_by(job.c.id.desc())
            ).scalars()
            return _named(rows.all())

    def dead(self) -> dict[str, int]:
        """Destination -> deliveries that were given up."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(delivery.c.destination, func.count().label("dead"))
                .where(delivery.c.state == DeliveryState.DEAD)
                .group_by(delivery.c.destination)
            )
            return {row.destination: row.dead for row in rows}

    def last_contacts(self) -> dict[str, datetime]:
        """Calling AE title -> when it opened its last association that stored something."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(association.c.calling_ae, func.max(association.c.opened_at)).group_by(
                    association.c.calling_ae
                )
            )
            return {ae: when for ae, last in rows if (when := as_utc(last)) is not None}

    def tell(self, decide: Decision, channels: Sequence[str], pause: timedelta) -> list[Notice]:
        """Let it be decided what to tell, and put that into the outbox, once for each channel.

        Args:
            decide: from what was told before to what is to be told, and to be remembered.
            channels: `email`, `webhook`.
            pause: the shortest time between two messages; before it is over nothing is decided.

        Returns:
            What was put there.
        """
        now = utc_now()
        with writing(self._engine) as connection:
            one_alarm_at_a_time(connection)
            last = as_utc(connection.execute(select(func.max(alarm_message.c.at))).scalar())
            if last is not None and now - last < pause:
                return []
            before = {
                row.key: Remembered(row.level, row.told, _utc(row.since), _utc(row.told_at))
                for row in connection.execute(select(alarm))
            }
            notices, kept = decide(before)
            if notices:
                connection.execute(delete(alarm))
                rows = [{"key": key, **asdict(one)} for key, one in kept.items()]
                if rows:
                    connection.execute(insert(alarm), rows)
                told = [asdict(one) | {"since": one.since.isoformat()} for one in notices]
                connection.execute(
                    insert(alarm_message),
                    [{"channel": one, "at": now, "notices": told} for one in channels],
                )
        return notices

    def open(self) -> dict[str, Remembered]:
        """What people were told of and is not over."""
        with reading(self._engine) as connection:
            return {
                row.key: Remembered(row.level, row.told, _utc(row.since), _utc(row.told_at))
                for row in connection.execute(select(alarm).order_by(alarm.c.since))
            }

    def unsent(self, channel: str) -> list[tuple[int, datetime, list[dict[str, Any]]]]:
        """Number, time and notices of the messages that are to be sent, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(alarm_message)
                .where(alarm_message.c.sent_at.is_(None), alarm_message.c.channel == channel)
                .order_by(alarm_message.c.id)
            )
            return [(row.id, _utc(row.at), row.notices) for row in rows]

    def sent(self, number: int) -> None:
        """A message has left."""
        with writing(self._engine) as connection:
            connection.execute(
                update(alarm_message).where(alarm_message.c.id == number).values(sent_at=utc_now())
            )

    def forget(self, older_than: timedelta) -> None:
        """Remove messages of so long ago, sent or not: who reads them then is misled."""
        with writing(self._engine) as connection:
            limit = utc_now() - older_than
            connection.execute(delete(alarm_message).where(alarm_message.c.at < limit))


def _named(study_uids: Sequence[str]) -> tuple[int, list[str]]:
    newest = list(dict.fromkeys(study_uids))[:NAMED]
    return len(study_uids), [hashed(uid) for uid in newest]


def _utc(when: datetime) -> datetime:
    found = as_utc(when)
    assert found is not None
    return found
