"""What may be thrown away: images whose results reached every destination, and files that nobody names.

What comes in: an age. What goes out: series that may go, instances moved to PURGED, names of files that
nothing needs. Owns: nothing is purged that is held, unfinished, or not confirmed by every destination;
a given-up delivery keeps its images. It touches no file.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import SeriesKey
from dicom_node.store.database import reading, writing
from dicom_node.store.dialect import batched
from dicom_node.store.inputs import on_series
from dicom_node.store.tables import association, delivery, instance, job, result, series
from dicom_node.store.transitions import move_all

SETTLED = (SeriesState.QUEUED, SeriesState.NO_ROUTE)
REACHED = (DeliveryState.CONFIRMED, DeliveryState.WITHDRAWN)


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A series whose images may go."""

    key: SeriesKey
    instances: int
    octets: int
    last_received_at: datetime


class Retention:
    """Questions and moves of whoever clears up."""

    def __init__(self, engine: Engine, folder_id: str | None = None) -> None:
        """
        Args:
            engine: the store.
            folder_id: only series of which images lie in this data folder are purged for its sake.
        """
        self._engine = engine
        self._folder_id = folder_id

    def purgeable(self, before: datetime, limit: int = 1000) -> list[Purgeable]:
        """Series whose last instance came before a time and that nothing waits for, oldest first."""
        kept = exists().where(
            instance.c.series_uid == series.c.series_uid,
            instance.c.study_uid == series.c.study_uid,
            instance.c.state == InstanceState.RECEIVED,
        )
        if self._folder_id is not None:
            kept = kept.where(
                association.c.id == instance.c.association_id,
                association.c.folder_id.in_(("", self._folder_id)),
            )
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series.c.study_uid, series.c.series_uid, series.c.last_received_at)
                .where(series.c.last_received_at < before, kept, *_nothing_waits())
                .order_by(series.c.last_received_at)
                .limit(limit)
            ).all()
            return [_purgeable(connection, *row) for row in rows]

    def purge(self, key: SeriesKey, reason: str) -> int:
        """RECEIVED -> PURGED for a series, if nothing waits for it still; returns how many instances."""
        with writing(self._engine) as connection:
            latest = connection.execute(
                select(series.c.id).where(*_is(key), *_nothing_waits()).with_for_update(of=series)
            ).first()
            if latest is None:
                return 0
            members = (instance.c.study_uid == key.study_uid) & (
                instance.c.series_uid == key.series_uid
            )
            received, purged = InstanceState.RECEIVED, InstanceState.PURGED
            return move_all(connection, instance, members, received, purged, reason)

    def result_files(self, key: SeriesKey) -> list[str]:
        """Where the results of a purged series lie; empty while one of its images is kept."""
        with reading(self._engine) as connection:
            kept = connection.execute(
                select(instance.c.id)
                .where(
                    instance.c.study_uid == key.study_uid,
                    instance.c.series_uid == key.series_uid,
                    instance.c.state == InstanceState.RECEIVED,
                )
                .limit(1)
            ).first()
            if kept is not None:
                return []
            return list(
                connection.execute(
                    select(result.c.path)
                    .join(job, job.c.id == result.c.job_id)
                    .join(series, series.c.id == job.c.series_id)
                    .where(*_is(key))
                ).scalars()
            )

    def needless_segments(self, names: Collection[str]) -> list[str]:
        """Which of these segments no kept instance lies in, and no open association writes."""
        needless: list[str] = []
        with reading(self._engine) as connection:
            for some in batched(sorted(names)):
                needed = exists().where(
                    instance.c.segment == association.c.segment,
                    instance.c.state == InstanceState.RECEIVED,
                )
                needless += connection.execute(
                    select(association.c.segment).where(
                        association.c.segment.in_(some), association.c.ending.is_not(None), ~needed
                    )
                ).scalars()
        return needless

    def claim_is_live(self, job_id: int, token: int) -> bool:
        """Whether what a worker wrote under this claim is committed, or may still be, and not yet purged."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(job.c.state, job.c.token, series.c.study_uid, series.c.series_uid)
                .join(series, series.c.id == job.c.series_id)
                .where(job.c.id == job_id)
            ).first()
            if row is None or row.token != token or row.state is JobState.CANCELLED:
                return False
            # another host may have purged the series; its results here go with it
            members = (
                instance.c.study_uid == row.study_uid,
                instance.c.series_uid == row.series_uid,
            )
            kept = instance.c.state == InstanceState.RECEIVED
            return bool(connection.execute(select(exists().where(*members, kept))).scalar())


def _purgeable(
    connection: Connection, study_uid: str, series_uid: str, last_received_at: datetime
) -> Purgeable:
    instances, octets = connection.execute(
        select(func.count(instance.c.id), func.coalesce(func.sum(instance.c.length), 0)).where(
            instance.c.series_uid == series_uid,
            instance.c.study_uid == study_uid,
            instance.c.state == InstanceState.RECEIVED,
        )
    ).one()
    return Purgeable(SeriesKey(study_uid, series_uid), instances, int(octets), last_received_at)


def _is(key: SeriesKey) -> tuple[ColumnElement[bool], ...]:
    return (series.c.study_uid == key.study_uid, series.c.series_uid == key.series_uid)


def _nothing_waits() -> tuple[ColumnElement[bool], ...]:
    """The last revision was settled, and neither it nor an earlier one has anything under way."""
    every = series.alias("every_revision")
    same = (every.c.study_uid == series.c.study_uid) & (every.c.series_uid == series.c.series_uid)
    unfinished = (
        exists()
        .where(same, on_series(every.c.id))
        .where(job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
    )
    unreached = (
        exists()
        .where(same, on_series(every.c.id), result.c.job_id == job.c.id)
        .where(delivery.c.result_id == result.c.id, delivery.c.state.not_in(REACHED))
    )
    return (series.c.state.in_(SETTLED), ~unfinished, ~unreached)
