"""Series revisions on their way to jobs: what is open, and the moves of a judged revision.

What comes in: verdicts of `assemble`. What goes out: series rows moved, and jobs whose input is frozen
in the same transaction. Owns: one job for each (revision, model, model digest, settings digest).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, exists, insert, select

from dicom_node.lifecycle import InstanceState, JobState, SeriesState
from dicom_node.records import Ending, InstanceFacts, NewJob, OpenSeries, SeriesKey
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.tables import association, instance, job, job_input, series
from dicom_node.store.transitions import began, move


@dataclass(frozen=True, slots=True)
class Revision:
    """A series revision in short: enough to see whether it changed since it was last looked at."""

    id: int
    instances: int
    state: SeriesState


class Assembly:
    """The assembler's view of the store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def waiting(self) -> list[Revision]:
        """Revisions that are OPEN, or STABLE and not yet routed, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series.c.id, series.c.instances, series.c.state)
                .where(series.c.state.in_((SeriesState.OPEN, SeriesState.STABLE)))
                .order_by(series.c.id)
            )
            return [Revision(*row) for row in rows]

    def load(self, series_id: int) -> OpenSeries:
        """One revision with the facts of its instances, in the order of arrival."""
        with reading(self._engine) as connection:
            row = connection.execute(select(series).where(series.c.id == series_id)).one()
            key = SeriesKey(row.study_uid, row.series_uid)
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
                released=_all_released(connection, key),
            )

    def hold(self, series_id: int, reason: str) -> bool:
        """OPEN or STABLE -> HELD."""
        return self._leave_waiting(series_id, SeriesState.HELD, reason)

    def stable(self, series_id: int, instances: int, reason: str) -> bool:
        """OPEN -> STABLE, unless another instance came since the verdict was formed."""
        with writing(self._engine) as connection:
            current = connection.execute(
                select(series.c.instances).where(series.c.id == series_id).with_for_update()
            ).scalar_one()
            if current != instances:
                return False
            return move(connection, series, series_id, SeriesState.OPEN, SeriesState.STABLE, reason)

    def no_route(self, series_id: int, reason: str) -> bool:
        """STABLE -> NO_ROUTE."""
        return self._leave_waiting(series_id, SeriesState.NO_ROUTE, reason)

    def queue(self, series_id: int, jobs: Sequence[NewJob], reason: str) -> bool:
        """STABLE -> QUEUED, with its jobs and their frozen input in the same transaction."""
        with writing(self._engine) as connection:
            if not move(
                connection, series, series_id, SeriesState.STABLE, SeriesState.QUEUED, reason
            ):
                return False
            for new in jobs:
                create_job(connection, series_id, new)
        return True

    def _leave_waiting(self, series_id: int, new: SeriesState, reason: str) -> bool:
        with writing(self._engine) as connection:
            old = connection.execute(
                select(series.c.state).where(series.c.id == series_id).with_for_update()
            ).scalar_one()
            if old not in (SeriesState.OPEN, SeriesState.STABLE):
                return False
            return move(connection, series, series_id, old, new, reason)


def create_job(connection: Connection, series_id: int, new: NewJob) -> int | None:
    """Insert a job and freeze its input; None if the very same job exists."""
    job_id = connection.execute(
        insert_or_ignore(connection, job)
        .values(
            state=JobState.QUEUED,
            series_id=series_id,
            model=new.model,
            model_digest=new.model_digest,
            settings_digest=new.settings_digest,
            route=new.route,
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
    members = (
        select(job.c.id, instance.c.id)
        .join_from(job, series, job.c.series_id == series.c.id)
        .join(
            instance,
            (instance.c.series_uid == series.c.series_uid)
            & (instance.c.study_uid == series.c.study_uid),
        )
        .where(job.c.id == job_id, instance.c.state == InstanceState.RECEIVED)
    )
    connection.execute(insert(job_input).from_select(["job_id", "instance_id"], members))
    began(connection, job, job_id, JobState.QUEUED, f"route {new.route}")
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
    carried = exists().where(
        instance.c.association_id == association.c.id, instance.c.study_uid == study_uid
    )
    found = connection.execute(
        select(association.c.id).where(association.c.ending.is_(None), carried).limit(1)
    ).first()
    return found is not None


def _all_released(connection: Connection, key: SeriesKey) -> bool:
    endings = connection.execute(
        select(association.c.ending)
        .join(instance, instance.c.association_id == association.c.id)
        .where(instance.c.study_uid == key.study_uid, instance.c.series_uid == key.series_uid)
        .distinct()
    ).scalars()
    return set(endings) == {Ending.RELEASED}
