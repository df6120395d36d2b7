"""What Prometheus asks of the database: how many are where, what happened since, and how long it took.

What comes in: the cursors of the last time. What goes out: plain numbers. Each question reads an index or
the rows that are new, so that it costs the same after a year as on the first day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select

from dicom_node.lifecycle import DeliveryState, JobState
from dicom_node.store.database import reading
from dicom_node.store.dialect import version_of
from dicom_node.store.tables import association, delivery, instance, job, result, series, transition
from dicom_node.store.tally import Tally
from dicom_node.store.worklist import as_utc


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far the tables were read."""

    move: int
    instance: int

    def __str__(self) -> str:
        return f"{self.move}.{self.instance}"


@dataclass(frozen=True, slots=True)
class News:
    """What happened between two cursors."""

    until: Cursor
    moves: dict[tuple[str, str], int]
    """(entity, state) -> how often it was entered."""
    instances: dict[str, tuple[int, int]]
    """calling AE -> how many, and how many bytes."""
    durations: list[tuple[str, str, float]]
    """(stage, model, seconds)."""


class Metering:
    """Questions of the metrics page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def cursor(self) -> Cursor:
        """Where the tables end now."""
        with reading(self._engine) as connection:
            return _end(connection)

    def version(self) -> str:
        """Another text as soon as a page may look otherwise."""
        with reading(self._engine) as connection:
            return f"{_end(connection)}.{version_of(connection)}"

    def news(self, since: Cursor) -> News:
        """What happened since."""
        with reading(self._engine) as connection:
            until = _end(connection)
            moves = connection.execute(
                select(transition.c.entity, transition.c.new, func.count())
                .where(transition.c.id > since.move, transition.c.id <= until.move)
                .group_by(transition.c.entity, transition.c.new)
            )
            came = connection.execute(
                select(association.c.calling_ae, func.count(), func.sum(instance.c.length))
                .join(association, association.c.id == instance.c.association_id)
                .where(instance.c.id > since.instance, instance.c.id <= until.instance)
                .group_by(association.c.calling_ae)
            )
            return News(
                until=until,
                moves={(entity, new): count for entity, new, count in moves},
                instances={ae: (count, int(size)) for ae, count, size in came},
                durations=[
                    *_of_jobs(connection, since.move, until.move),
                    *_of_deliveries(connection, since.move, until.move),
                ],
            )

    def states(self) -> dict[tuple[str, str], int]:
        """(entity, state) -> how many are in it, for series, jobs, deliveries; of those there are any."""
        found = Tally(self._engine).counts()
        return {
            (table.name, state): count
            for table in (series, job, delivery)
            for state, count in found.get(table.name, {}).items()
        }

    def endings(self) -> dict[str, int]:
        """How associations ended; OPEN for those that have not."""
        return Tally(self._engine).counts().get(association.name, {})


def _end(connection: Connection) -> Cursor:
    return Cursor(
        connection.execute(select(func.max(transition.c.id))).scalar() or 0,
        connection.execute(select(func.max(instance.c.id))).scalar() or 0,
    )


def _entered(entity: str, states: Sequence[str], since: int, until: int) -> tuple[object, ...]:
    return (
        transition.c.entity == entity,
        transition.c.new.in_(states),
        transition.c.id > since,
        transition.c.id <= until,
    )


def _of_jobs(connection: Connection, since: int, until: int) -> list[tuple[str, str, float]]:
    ended = (JobState.STORED.value, JobState.FAILED.value)
    rows = connection.execute(
        select(
            job.c.model,
            series.c.last_received_at,
            job.c.created_at,
            job.c.started_at,
            job.c.ended_at,
        )
        .join(transition, transition.c.entity_id == job.c.id)
        .join(series, series.c.id == job.c.series_id)
        .where(*_entered("job", ended, since, until))  # type: ignore[arg-type]
    )
    found = []
    for model, received, created, started, ended_at in rows:
        found.append(("assemble", model, _seconds(received, created)))
        found.append(("queue", model, _seconds(created, started)))
        found.append(("infer", model, _seconds(started, ended_at)))
    return found


def _of_deliveries(connection: Connection, since: int, until: int) -> list[tuple[str, str, float]]:
    confirmed = (DeliveryState.CONFIRMED.value,)
    rows = connection.execute(
        select(
            job.c.model,
            series.c.last_received_at,
            job.c.ended_at,
            delivery.c.confirmed_at,
        )
        .join(transition, transition.c.entity_id == delivery.c.id)
        .join(result, result.c.id == delivery.c.result_id)
        .join(job, job.c.id == result.c.job_id)
        .join(series, series.c.id == job.c.series_id)
        .where(*_entered("delivery", confirmed, since, until), ~_sent_again())  # type: ignore[arg-type]
    )
    found = []
    for model, received, ended, at in rows:
        found.append(("deliver", model, _seconds(ended, at)))
        found.append(("last_image_to_pacs", model, _seconds(received, at)))
    return found


def _sent_again() -> ColumnElement[bool]:
    """It was confirmed before: how long an operator waited says nothing about the node."""
    before = transition.alias()
    return exists().where(
        before.c.entity == transition.c.entity,
        before.c.entity_id == transition.c.entity_id,
        before.c.new == transition.c.new,
        before.c.id < transition.c.id,
    )


def _seconds(begin: datetime | None, end: datetime | None) -> float:
    begin, end = as_utc(begin), as_utc(end)
    if begin is None or end is None:
        return 0.0
    return max(0.0, (end - begin).total_seconds())
