"""The job queue: claim, beat, finish, fail, and give back what a dead worker held.

What comes in: claims of workers and what they made. What goes out: leases, and rows for results and
their deliveries, committed together with the job's end. Owns: a job is worked on under one lease at a
time; a lease that was lost commits nothing (`StaleLease`). No wall clock decides anything: a worker
raises `beat`, and whoever watches compares beats by a monotonic clock of its own.
"""

import hashlib
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Connection, Engine, insert, select, update

from dicom_node.errors import StaleLease
from dicom_node.lifecycle import MAX_WORKER_DEATHS, DeliveryState, JobState
from dicom_node.records import (
    ClaimedJob,
    Lease,
    Outcome,
    ResultObject,
    SegmentAddress,
    SeriesKey,
    StoredInstance,
)
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.tables import delivery, instance, job, job_input, result, series
from dicom_node.store.transitions import began, move


class JobQueue:
    """The queue as a worker and a watcher see it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def claim(self, owner: str) -> ClaimedJob | None:
        """Take the most urgent job, oldest first among equals; None if there is none.

        Args:
            owner: who claims, for people.
        """
        with writing(self._engine) as connection:
            row = connection.execute(
                select(job, series.c.study_uid, series.c.series_uid, series.c.revision)
                .join(series, series.c.id == job.c.series_id)
                .where(job.c.state == JobState.QUEUED)
                .order_by(job.c.priority.desc(), job.c.id)
                .limit(1)
                .with_for_update(skip_locked=True, of=job)
            ).one_or_none()
            if row is None:
                return None
            lease = Lease(job_id=row.id, token=row.token + 1, owner=owner)
            move(
                connection,
                job,
                row.id,
                JobState.QUEUED,
                JobState.RUNNING,
                f"claimed by {owner}",
                token=lease.token,
                owner=owner,
                beat=0,
                attempts=row.attempts + 1,
                started_at=utc_now(),
            )
            instances = _frozen_input(connection, row.id)
            return ClaimedJob(
                lease=lease,
                key=SeriesKey(row.study_uid, row.series_uid),
                revision=row.revision,
                model=row.model,
                model_digest=row.model_digest,
                settings_digest=row.settings_digest,
                route=row.route,
                attempt=row.attempts + 1,
                instances=instances,
                job_key=_job_key(instances, row.model, row.model_digest, row.settings_digest),
            )

    def beat(self, lease: Lease) -> None:
        """Say that the worker lives.

        Raises:
            StaleLease: the lease was lost.
        """
        with writing(self._engine) as connection:
            beaten = connection.execute(
                update(job).where(*_held(lease)).values(beat=job.c.beat + 1)
            )
            if beaten.rowcount != 1:
                raise StaleLease(f"job {lease.job_id}")

    def finish(
        self,
        lease: Lease,
        outcome: Outcome,
        reason: str,
        results: Mapping[str, Sequence[ResultObject]],
    ) -> None:
        """RUNNING -> STORED, with results and deliveries in the same transaction.

        Args:
            lease: the lease under which the results were made.
            outcome: what the report says.
            reason: one sentence for people.
            results: destination -> objects for it, each fsynced; an object may go to several.

        Raises:
            StaleLease: the lease was lost; nothing is written.
        """
        self._end(lease, JobState.STORED, outcome, reason, results)

    def fail(
        self,
        lease: Lease,
        reason: str,
        results: Mapping[str, Sequence[ResultObject]],
    ) -> None:
        """RUNNING -> FAILED, with the report that says why. Arguments and errors as in `finish`."""
        self._end(lease, JobState.FAILED, Outcome.FAILED, reason, results)

    def running(self) -> dict[Lease, int]:
        """Every lease that is out, with its beat."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(job.c.id, job.c.token, job.c.owner, job.c.beat).where(
                    job.c.state == JobState.RUNNING
                )
            )
            return {Lease(row.id, row.token, row.owner): row.beat for row in rows}

    def take_back(self, lease: Lease, reason: str) -> JobState | None:
        """RUNNING -> QUEUED after a worker's death, or -> POISON after too many.

        Returns:
            The new state; None if the lease was not out any more.
        """
        with writing(self._engine) as connection:
            deaths = connection.execute(
                select(job.c.deaths).where(*_held(lease)).with_for_update()
            ).scalar()
            if deaths is None:
                return None
            deaths += 1
            new = JobState.POISON if deaths >= MAX_WORKER_DEATHS else JobState.QUEUED
            # the token moves on here too, so that a worker that was only slow finds its lease gone
            move(
                connection,
                job,
                lease.job_id,
                JobState.RUNNING,
                new,
                reason,
                deaths=deaths,
                token=lease.token + 1,
            )
            return new

    def _end(
        self,
        lease: Lease,
        state: JobState,
        outcome: Outcome,
        reason: str,
        results: Mapping[str, Sequence[ResultObject]],
    ) -> None:
        with writing(self._engine) as connection:
            held = connection.execute(
                select(job.c.id).where(*_held(lease)).with_for_update()
            ).first()
            if held is None:
                raise StaleLease(f"job {lease.job_id}")
            move(
                connection,
                job,
                lease.job_id,
                JobState.RUNNING,
                state,
                reason,
                outcome=outcome,
                ended_at=utc_now(),
            )
            for destination, objects in results.items():
                for made in objects:
                    _insert_result(connection, lease.job_id, destination, made)


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        job.c.id == lease.job_id,
        job.c.token == lease.token,
        job.c.state == JobState.RUNNING,
    )


def _frozen_input(connection: Connection, job_id: int) -> tuple[StoredInstance, ...]:
    rows = connection.execute(
        select(
            instance.c.segment,
            instance.c.offset,
            instance.c.length,
            instance.c.sha256,
            instance.c.sop_class_uid,
            instance.c.sop_instance_uid,
            instance.c.transfer_syntax_uid,
        )
        .join(job_input, job_input.c.instance_id == instance.c.id)
        .where(job_input.c.job_id == job_id)
        .order_by(instance.c.sop_instance_uid, instance.c.id)
    )
    return tuple(
        StoredInstance(SegmentAddress(segment, offset, length), *rest)
        for segment, offset, length, *rest in rows
    )


def _job_key(
    instances: Sequence[StoredInstance], model: str, model_digest: str, settings_digest: str
) -> str:
    digest = hashlib.sha256()
    for part in (model, model_digest, settings_digest, *sorted(i.sha256 for i in instances)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _insert_result(
    connection: Connection, job_id: int, destination: str, made: ResultObject
) -> None:
    """One row for the object, however many destinations it has, and one delivery for this one."""
    connection.execute(
        insert_or_ignore(connection, result).values(
            job_id=job_id,
            kind=made.kind,
            description=made.description,
            path=str(made.path),
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
            due_at=utc_now(),
        )
        .returning(delivery.c.id)
    ).scalar_one()
    began(connection, delivery, delivery_id, DeliveryState.PENDING, f"to {destination}")
