"""Series revisions on their way to jobs: what is open, and the moves of a judged revision.

What comes in: verdicts of `assemble`. What goes out: series rows moved, and jobs whose input is frozen
in the same transaction. Owns: one job for each (revision, model, model digest, settings digest).
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from dicom_node.lifecycle import (
    InstanceState,
    JobState,
    SeriesState,
    learned_idle_seconds,
    learned_return_seconds,
    longest_pause,
    longest_return,
    remembered_pause,
    remembered_share,
)
from dicom_node.records import Ending, InstanceFacts, NewJob, OpenSeries, SeriesKey
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.tables import (
    association,
    carriage,
    instance,
    job,
    job_input,
    job_series,
    series,
    source,
)
from dicom_node.store.transitions import began, move


@dataclass(frozen=True, slots=True)
class Revision:
    """A series revision in short: enough to see whether it changed since it was last looked at."""

    id: int
    instances: int
    state: SeriesState
    expected: int | None
    calling_ae: str
    key: SeriesKey


class Assembly:
    """The assembler's view of the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def waiting(self) -> list[Revision]:
        """Revisions that are OPEN, or STABLE and not yet routed, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series)
                .where(series.c.state.in_((SeriesState.OPEN, SeriesState.STABLE)))
                .order_by(series.c.id)
            )
            return [
                Revision(
                    row.id,
                    row.instances,
                    row.state,
                    row.expected,
                    row.calling_ae,
                    SeriesKey(row.study_uid, row.series_uid),
                )
                for row in rows
            ]

    def load(self, series_id: int) -> OpenSeries:
        """One revision with the facts of its instances, in the order of arrival."""
        with reading(self._engine) as connection:
            row = connection.execute(select(series).where(series.c.id == series_id)).one()
            return _loaded(connection, row)

    def study(self, study_uid: str) -> list[tuple[OpenSeries, SeriesState]]:
        """The last revision of every series of a study, and its state."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series)
                .where(series.c.study_uid == study_uid, series.c.state != SeriesState.SUPERSEDED)
                .order_by(series.c.id)
            ).all()
            return [(_loaded(connection, row), row.state) for row in rows]

    def hold(self, series_id: int, instances: int, reason: str) -> bool:
        """OPEN -> HELD, unless another instance came since the verdict was formed."""
        with writing(self._engine) as connection:
            return _judged(connection, series_id, instances, SeriesState.HELD, reason) is not None

    def stable(self, series_id: int, instances: int, reason: str) -> bool:
        """OPEN -> STABLE, unless another instance came since the verdict was formed."""
        with writing(self._engine) as connection:
            row = _judged(connection, series_id, instances, SeriesState.STABLE, reason)
            if row is not None:
                _learn(connection, row.calling_ae, SeriesKey(row.study_uid, row.series_uid))
            return row is not None

    def expect(self, series_id: int, instances: int) -> None:
        """Note how many instances the sender says the series has."""
        with writing(self._engine) as connection:
            connection.execute(
                update(series).where(series.c.id == series_id).values(expected=instances)
            )

    def no_route(self, series_id: int, reason: str) -> bool:
        """STABLE -> NO_ROUTE."""
        with writing(self._engine) as connection:
            stable, no_route = SeriesState.STABLE, SeriesState.NO_ROUTE
            return move(connection, series, series_id, stable, no_route, reason)

    def queue(self, series_id: int, jobs: Sequence[NewJob], reason: str) -> bool:
        """STABLE -> QUEUED, with its jobs and their frozen input in the same transaction.

        A job on several series queues the others of them too, which had no route of their own.

        Returns:
            False if nothing was done: it is STABLE no more, or one of the others changed meanwhile.
        """
        others = {member for new in jobs for _, member in new.members} - {series_id}
        with writing(self._engine) as connection:
            states = _locked(connection, {series_id, *others})
            if any(states[other] not in COMPLETE for other in others):
                return False
            if not move(
                connection, series, series_id, SeriesState.STABLE, SeriesState.QUEUED, reason
            ):
                return False
            for new in jobs:
                create_job(connection, new.members[0][1] if new.members else series_id, new)
            for other in others:
                if states[other] is SeriesState.NO_ROUTE:
                    _queue_after_all(connection, other, reason)
        return True


COMPLETE = (SeriesState.STABLE, SeriesState.QUEUED, SeriesState.NO_ROUTE)


def _locked(connection: Connection, series_ids: Collection[int]) -> dict[int, SeriesState]:
    rows = connection.execute(
        select(series.c.id, series.c.state)
        .where(series.c.id.in_(series_ids))
        .order_by(series.c.id)
        .with_for_update()
    )
    return {row.id: row.state for row in rows}


def _queue_after_all(connection: Connection, series_id: int, reason: str) -> None:
    no_route, stable, queued = SeriesState.NO_ROUTE, SeriesState.STABLE, SeriesState.QUEUED
    move(connection, series, series_id, no_route, stable, reason)
    move(connection, series, series_id, stable, queued, reason)


def _loaded(connection: Connection, row: Any) -> OpenSeries:
    key = SeriesKey(row.study_uid, row.series_uid)
    habit = _habit(connection, row.calling_ae)
    return OpenSeries(
        id=row.id,
        key=key,
        revision=row.revision,
        patient_id=row.patient_id,
        calling_ae=row.calling_ae,
        called_ae=row.called_ae,
        attributes=row.attributes,
        instances=_facts(connection, key),
        sending=_still_sending(connection, key.study_uid),
        released=_released(connection, key),
        expected=row.expected,
        idle_seconds=learned_idle_seconds(habit.series, habit.longest_pause),
        return_seconds=learned_return_seconds(habit.return_share, habit.longest_return),
        study_patient_ids=_study_patient_ids(connection, key.study_uid),
    )


def _judged(
    connection: Connection, series_id: int, instances: int, new: SeriesState, reason: str
) -> Any:
    """Move a revision that is still as it was judged, and return its row; None if it is not."""
    row = connection.execute(select(series).where(series.c.id == series_id).with_for_update()).one()
    if row.instances != instances:
        return None
    moved = move(connection, series, series_id, SeriesState.OPEN, new, reason)
    return row if moved else None


def create_job(
    connection: Connection, series_id: int, new: NewJob, run: int = 0, reason: str = ""
) -> int | None:
    """Insert a job and freeze its input; None if the very same job exists.

    Args:
        connection: a transaction that writes.
        series_id: the revision.
        new: what to run.
        run: 0, or how often an operator had it run again; its results have UIDs of their own.
        reason: why the job begins, if not for its route.
    """
    job_id = connection.execute(
        insert_or_ignore(connection, job)
        .values(
            state=JobState.QUEUED,
            series_id=series_id,
            model=new.model,
            model_digest=new.model_digest,
            settings_digest=new.settings_digest,
            run=run,
            route=new.route,
            destinations=list(new.destinations),
            priority=new.priority,
            attempts=0,
            deaths=0,
            token=0,
            beat=0,
            created_at=utc_now(),
        )
        .returning(job.c.id)
    ).scalar()
    if job_id is None:
        return None
    taken = [member for _, member in new.members] or [series_id]
    if new.members:
        rows = [
            {"job_id": job_id, "position": position, "series_id": member, "name": name}
            for position, (name, member) in enumerate(new.members)
        ]
        connection.execute(insert(job_series), rows)
    members = (
        select(job.c.id, instance.c.id)
        .join_from(job, series, series.c.id.in_(taken))
        .join(
            instance,
            (instance.c.series_uid == series.c.series_uid)
            & (instance.c.study_uid == series.c.study_uid),
        )
        .where(job.c.id == job_id, instance.c.state == InstanceState.RECEIVED)
    )
    connection.execute(insert(job_input).from_select(["job_id", "instance_id"], members))
    began(connection, job, job_id, JobState.QUEUED, reason or f"route {new.route}")
    return int(job_id)


def _facts(connection: Connection, key: SeriesKey) -> tuple[InstanceFacts, ...]:
    rows = connection.execute(
        select(
            instance.c.id,
            instance.c.sop_instance_uid,
            instance.c.sop_class_uid,
            instance.c.sha256,
            instance.c.patient_id,
            instance.c.attributes,
            instance.c.quarantine,
        )
        .where(
            instance.c.study_uid == key.study_uid,
            instance.c.series_uid == key.series_uid,
            instance.c.state == InstanceState.RECEIVED,
        )
        .order_by(instance.c.id)
    )
    return tuple(InstanceFacts(*row) for row in rows)


def _still_sending(connection: Connection, study_uid: str) -> bool:
    found = connection.execute(
        select(association.c.id)
        .join(carriage, carriage.c.association_id == association.c.id)
        .where(carriage.c.study_uid == study_uid, association.c.ending.is_(None))
        .limit(1)
    ).first()
    return found is not None


def _released(connection: Connection, key: SeriesKey) -> bool:
    """Whether every association that carried the series was released.

    One that broke is made good by a later one that carried the series too and was released: the sender
    tried again.
    """
    carriers = connection.execute(
        select(association.c.ending, association.c.opened_at, association.c.ended_at)
        .join(carriage, carriage.c.association_id == association.c.id)
        .where(carriage.c.study_uid == key.study_uid, carriage.c.series_uid == key.series_uid)
    ).all()
    released = [one for one in carriers if one.ending is Ending.RELEASED]
    return bool(released) and all(
        one.ending is Ending.RELEASED
        or (one.ended_at and any(later.opened_at >= one.ended_at for later in released))
        for one in carriers
    )


def _study_patient_ids(connection: Connection, study_uid: str) -> tuple[str, ...]:
    found = connection.execute(
        select(series.c.patient_id)
        .where(series.c.study_uid == study_uid)
        .distinct()
        .order_by(series.c.patient_id)
    )
    return tuple(found.scalars())


@dataclass(frozen=True, slots=True)
class _Habit:
    """A row of `source`."""

    series: int = 0
    longest_pause: float = 0.0
    longest_return: float = 0.0
    return_share: float = 0.0


def _habit(connection: Connection, calling_ae: str, *, to_change: bool = False) -> _Habit:
    columns = [source.c[one.name] for one in fields(_Habit)]
    query = select(*columns).where(source.c.calling_ae == calling_ae)
    known = connection.execute(query.with_for_update() if to_change else query).first()
    return _Habit() if known is None else _Habit(*known)


def _learn(connection: Connection, calling_ae: str, key: SeriesKey) -> None:
    """Remember of a series' sender how long it paused, and how long it took to come back with more."""
    arrivals = connection.execute(
        select(instance.c.association_id, instance.c.received_at, association.c.ending)
        .join(association, association.c.id == instance.c.association_id)
        .where(instance.c.study_uid == key.study_uid, instance.c.series_uid == key.series_uid)
        .order_by(instance.c.received_at, instance.c.id)
    ).all()
    pause = longest_pause([one.received_at for one in arrivals])
    if pause is None:
        return
    released = {one.association_id for one in arrivals if one.ending is Ending.RELEASED}
    came_back = longest_return(
        [(one.association_id, one.received_at) for one in arrivals], released
    )
    first = _Habit()
    connection.execute(
        insert_or_ignore(connection, source).values(calling_ae=calling_ae, **asdict(first))
    )
    known = _habit(connection, calling_ae, to_change=True)
    learned = _Habit(
        series=known.series + 1,
        longest_pause=remembered_pause(known.longest_pause, pause),
        longest_return=remembered_pause(known.longest_return, came_back),
        return_share=remembered_share(known.return_share, came_back),
    )
    connection.execute(
        update(source).where(source.c.calling_ae == calling_ae).values(**asdict(learned))
    )
