"""What an operator may order: hold, release, complete, retry, cancel, rerun, resend, and what waits for
a word.

What comes in: an order and who gave it. What goes out: moved rows, each with the reason on record, and how
many they were; an order that fits nothing changes nothing and says 0. Owns: an order bends no rule of the
table of moves, and what is superseded stays so. A further run is a job of its own, so that its results
have UIDs of their own and name what they take the place of.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, exists, func, select, update

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import NewJob
from dicom_node.store.assembly import create_job
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.inputs import outdated
from dicom_node.store.tables import delivery, instance, job, job_input, job_series, result, series
from dicom_node.store.transitions import move

ENDED = (JobState.STORED, JobState.FAILED, JobState.POISON)


class Operator:
    """Orders of one person, named in every reason."""

    def __init__(self, engine: Engine, name: str = "an operator") -> None:
        self._engine = engine
        self._name = name

    def hold(self, study_uid: str, why: str = "") -> int:
        """OPEN or STABLE -> HELD for the series of a study: nothing is begun until they are released."""
        told = self._told("held", why)
        with writing(self._engine) as connection:
            waiting = (SeriesState.OPEN, SeriesState.STABLE)
            return sum(
                move(connection, series, row.id, row.state, SeriesState.HELD, told)
                for row in _series(connection, study_uid, waiting)
            )

    def release(self, study_uid: str, why: str = "") -> int:
        """HELD or NO_ROUTE -> STABLE: routed once more, whatever spoke against it."""
        told = self._told("released", why)
        with writing(self._engine) as connection:
            stopped = (SeriesState.HELD, SeriesState.NO_ROUTE)
            return sum(
                move(connection, series, row.id, row.state, SeriesState.STABLE, told)
                for row in _series(connection, study_uid, stopped)
            )

    def complete(self, study_uid: str, why: str = "") -> int:
        """OPEN -> STABLE: complete on the operator's word; what comes later makes a new revision."""
        told = self._told("called complete", why)
        with writing(self._engine) as connection:
            return sum(
                move(connection, series, row.id, SeriesState.OPEN, SeriesState.STABLE, told)
                for row in _series(connection, study_uid, (SeriesState.OPEN,))
            )

    def cancel(self, study_uid: str, why: str = "") -> int:
        """QUEUED or RUNNING -> CANCELLED for the jobs of a study; a worker notices at its next beat."""
        told = self._told("cancelled", why)
        with writing(self._engine) as connection:
            unfinished = (JobState.QUEUED, JobState.RUNNING)
            return sum(
                move(connection, job, row.id, row.state, JobState.CANCELLED, told)
                for row in _jobs(connection, job.c.state.in_(unfinished), study_uid)
            )

    def retry(self, study_uid: str, why: str = "") -> dict[str, int]:
        """Try again what of a study was given up: dead deliveries, and jobs that failed or were cancelled.

        Returns:
            How many jobs and how many deliveries.
        """
        told = self._told("tried again", why)
        with writing(self._engine) as connection:
            deliveries = _revive(connection, told, series.c.study_uid == study_uid)
            jobs = 0
            for row in _jobs(connection, job.c.state == JobState.CANCELLED, study_uid):
                jobs += move(
                    connection,
                    job,
                    row.id,
                    JobState.CANCELLED,
                    JobState.QUEUED,
                    told,
                    deaths=0,
                    ended_at=None,
                )
            given_up = job.c.state.in_((JobState.FAILED, JobState.POISON))
            for row in _jobs(connection, given_up, study_uid):
                if row.id == _last_run(connection, row):
                    jobs += _run_again(connection, row, told)
            return {"jobs": jobs, "deliveries": deliveries}

    def rerun(self, study_uid: str, model: str, digest: str | None = None, why: str = "") -> int:
        """Run a model once more on the series of a study that it ran on, whatever came of it.

        Args:
            study_uid: the study.
            model: the model's name.
            digest: the model as it is now; None leaves it at what ran.
            why: for the record.
        """
        told = self._told("run again", why)
        with writing(self._engine) as connection:
            rows = _jobs(connection, job.c.state.in_(ENDED) & (job.c.model == model), study_uid)
            newest = {row.series_id: row for row in rows}
            return sum(_run_again(connection, row, told, digest) for row in newest.values())

    def resend(self, study_uid: str, destination: str | None = None, why: str = "") -> int:
        """SENT, CONFIRMED or DEAD -> PENDING: send once more what a destination has lost.

        Only what counts: results of the last run on the last revision, while their files are kept. They are
        the same objects, so a destination that has them keeps the ones it has.

        Args:
            study_uid: the study.
            destination: only to this one.
            why: for the record.

        Returns:
            How many deliveries.
        """
        told = self._told("sent again", why)
        with writing(self._engine) as connection:
            # who purges takes the same rows first, and deletes the files of what it purged
            kept = [row.id for row in _series(connection, study_uid, (SeriesState.QUEUED,))]
            last = (
                select(func.max(job.c.id))
                .where(job.c.series_id.in_(kept), job.c.state.in_(ENDED))
                .group_by(job.c.series_id, job.c.model)
            )
            ended = (DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.DEAD)
            rows = connection.execute(
                select(delivery.c.id, delivery.c.state)
                .join(result, result.c.id == delivery.c.result_id)
                .join(job, job.c.id == result.c.job_id)
                .join(series, series.c.id == job.c.series_id)
                .where(
                    job.c.id.in_(last),
                    ~outdated(),
                    delivery.c.state.in_(ended),
                    _not_purged(),
                    *([] if destination is None else [delivery.c.destination == destination]),
                )
                .order_by(delivery.c.id)
                .with_for_update(of=delivery)
            ).all()
            return sum(_send_again(connection, row.id, row.state, told) for row in rows)

    def dead(self) -> list[dict[str, Any]]:
        """Every delivery that was given up, with what it is and why, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    delivery.c.id,
                    delivery.c.destination,
                    delivery.c.reason,
                    delivery.c.attempts,
                    result.c.kind,
                    result.c.description,
                    result.c.study_uid,
                    result.c.sop_instance_uid,
                    series.c.patient_id,
                )
                .join(result, result.c.id == delivery.c.result_id)
                .join(job, job.c.id == result.c.job_id)
                .join(series, series.c.id == job.c.series_id)
                .where(delivery.c.state == DeliveryState.DEAD)
                .order_by(delivery.c.id)
            )
            return [dict(row._mapping) for row in rows]

    def revive(self, destination: str | None = None, why: str = "") -> int:
        """DEAD -> PENDING for every delivery, or those of one destination."""
        told = self._told("tried again", why)
        with writing(self._engine) as connection:
            only = [] if destination is None else [delivery.c.destination == destination]
            return _revive(connection, told, *only)

    def stuck(self) -> Mapping[str, int]:
        """What waits for a word: series held, jobs failed, deliveries dead. For an alarm."""
        with reading(self._engine) as connection:
            held = connection.execute(
                select(func.count()).where(series.c.state == SeriesState.HELD)
            ).scalar_one()
            failed = connection.execute(
                select(func.count())
                .select_from(job)
                .join(series, series.c.id == job.c.series_id)
                .where(
                    job.c.state.in_((JobState.FAILED, JobState.POISON)),
                    series.c.state != SeriesState.SUPERSEDED,
                )
            ).scalar_one()
            dead = connection.execute(
                select(func.count()).where(delivery.c.state == DeliveryState.DEAD)
            ).scalar_one()
            return {"series": held, "job": failed, "delivery": dead}

    def _told(self, what: str, why: str) -> str:
        return f"{what} by {self._name}" + (f": {why}" if why else "")


def _series(connection: Connection, study_uid: str, states: Sequence[SeriesState]) -> Sequence[Any]:
    return connection.execute(
        select(series.c.id, series.c.state)
        .where(series.c.study_uid == study_uid, series.c.state.in_(states))
        .order_by(series.c.id)
        .with_for_update()
    ).all()


def _jobs(connection: Connection, condition: ColumnElement[bool], study_uid: str) -> Sequence[Any]:
    """Jobs of the revisions of a study that count, oldest first."""
    return connection.execute(
        select(job)
        .join(series, series.c.id == job.c.series_id)
        .where(
            condition,
            series.c.study_uid == study_uid,
            series.c.state != SeriesState.SUPERSEDED,
            ~outdated(),
        )
        .order_by(job.c.id)
        .with_for_update(of=job)
    ).all()


def _same_work(row: Any) -> tuple[ColumnElement[bool], ...]:
    return (job.c.series_id == row.series_id, job.c.model == row.model)


def _last_run(connection: Connection, row: Any) -> int:
    return int(connection.execute(select(func.max(job.c.id)).where(*_same_work(row))).scalar_one())


def _run_again(connection: Connection, row: Any, told: str, digest: str | None = None) -> bool:
    """A new job like this one; False while one like it has not ended."""
    unfinished = connection.execute(
        select(job.c.id).where(
            *_same_work(row), job.c.state.in_((JobState.QUEUED, JobState.RUNNING))
        )
    ).first()
    if unfinished is not None:
        return False
    runs = connection.execute(select(func.max(job.c.run)).where(*_same_work(row))).scalar_one()
    new = NewJob(
        model=row.model,
        model_digest=digest or row.model_digest,
        settings_digest=row.settings_digest,
        route=row.route,
        destinations=tuple(row.destinations),
        priority=row.priority,
        members=_members(connection, row.id),
    )
    created = create_job(connection, row.series_id, new, run=runs + 1, reason=told)
    if created is None:
        return False
    _freeze_as(connection, created, row.id)
    return True


def _members(connection: Connection, job_id: int) -> tuple[tuple[str, int], ...]:
    rows = connection.execute(
        select(job_series.c.name, job_series.c.series_id)
        .where(job_series.c.job_id == job_id)
        .order_by(job_series.c.position)
    )
    return tuple((row.name, row.series_id) for row in rows)


def _freeze_as(connection: Connection, job_id: int, earlier: int) -> None:
    """The input of a further run is that of the earlier one, and not what lies in the spool now."""
    connection.execute(job_input.delete().where(job_input.c.job_id == job_id))
    same = select(job_input.c.job_id * 0 + job_id, job_input.c.instance_id).where(
        job_input.c.job_id == earlier
    )
    connection.execute(job_input.insert().from_select(["job_id", "instance_id"], same))


def _revive(connection: Connection, told: str, *conditions: ColumnElement[bool]) -> int:
    rows = connection.execute(
        select(delivery.c.id)
        .join(result, result.c.id == delivery.c.result_id)
        .join(job, job.c.id == result.c.job_id)
        .join(series, series.c.id == job.c.series_id)
        .where(
            delivery.c.state == DeliveryState.DEAD,
            series.c.state != SeriesState.SUPERSEDED,
            ~outdated(),
            *conditions,
        )
        .with_for_update(of=delivery)
    )
    return sum(
        _send_again(connection, row_id, DeliveryState.DEAD, told) for row_id in rows.scalars().all()
    )


def _send_again(connection: Connection, row_id: int, old: DeliveryState, told: str) -> bool:
    # not 0 where it was tried: it may have arrived, and a later result must name it
    connection.execute(
        update(delivery).where(delivery.c.id == row_id, delivery.c.attempts > 1).values(attempts=1)
    )
    pending = DeliveryState.PENDING
    return move(connection, delivery, row_id, old, pending, told, due_at=utc_now())


def _not_purged() -> ColumnElement[bool]:
    """Of the series' images one is kept, and so are the files of its results."""
    return exists().where(
        instance.c.study_uid == series.c.study_uid,
        instance.c.series_uid == series.c.series_uid,
        instance.c.state == InstanceState.RECEIVED,
    )
