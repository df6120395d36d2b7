"""The job queue: claim, beat, finish, fail, and give back what a dead worker held.

What comes in: claims of workers and what they made. What goes out: leases, and rows for results and
their deliveries, committed together with the job's end. Owns: a job is worked on under one lease at a
time; a lease that was lost commits nothing (`StaleLease`). No wall clock decides anything: a worker
raises `beat`, and whoever watches compares beats by a monotonic clock of its own.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, func, select, update

from dicom_node.errors import StaleLease
from dicom_node.lifecycle import MAX_WORKER_DEATHS, DeliveryState, JobState
from dicom_node.records import (
    ClaimedJob,
    EarlierResult,
    Lease,
    Outcome,
    ResultObject,
    SegmentAddress,
    SeriesKey,
    StoredInstance,
)
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.deliveries import add_result
from dicom_node.store.dialect import one_claim_at_a_time
from dicom_node.store.tables import (
    association,
    delivery,
    instance,
    job,
    job_input,
    job_series,
    result,
    series,
)
from dicom_node.store.transitions import move

FAIR_SHARE = 5
"""One claim in so many goes to the oldest job, however urgent others are."""


class JobQueue:
    """The queue as a worker and a watcher see it."""

    def __init__(self, engine: Engine, folder_id: str = "") -> None:
        """
        Args:
            engine: the store.
            folder_id: the data folder in which this process writes results.
        """
        self._engine = engine
        self._folder_id = folder_id
        self._claims = 0

    def claim(self, owner: str, limits: Mapping[str, int] | None = None) -> ClaimedJob | None:
        """Take the most urgent job, oldest first among equals; None if there is none.

        Every `FAIR_SHARE`-th claim takes the oldest job whatever its priority, so that none waits for ever.

        Args:
            owner: who claims, for people.
            limits: model -> how many of its jobs may run at once; a model without one has no limit.
        """
        with writing(self._engine) as connection:
            self._claims += 1
            urgency = () if self._claims % FAIR_SHARE == 0 else (job.c.priority.desc(),)
            row = connection.execute(
                select(job, series.c.study_uid, series.c.series_uid, series.c.revision)
                .join(series, series.c.id == job.c.series_id)
                .where(
                    job.c.state == JobState.QUEUED,
                    job.c.model.not_in(_at_their_limit(connection, limits or {})),
                )
                .order_by(*urgency, job.c.id)
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
            return _claimed(connection, row, lease)

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
        """RUNNING -> FAILED, with the report that says why. Arguments and errors as in `finish`.

        A job whose workers died too often is POISON instead.
        """
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

        After `MAX_WORKER_DEATHS` there is one claim more, for the report alone (`ClaimedJob.report_only`).

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
            new = JobState.POISON if deaths > MAX_WORKER_DEATHS else JobState.QUEUED
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
                ended_at=utc_now() if new is JobState.POISON else None,
            )
            return new

    def give_back(self, lease: Lease, reason: str) -> None:
        """RUNNING -> QUEUED where the worker lives and cannot go on just now; no death is counted.

        Raises:
            StaleLease: the lease was lost.
        """
        with writing(self._engine) as connection:
            held = connection.execute(
                select(job.c.id).where(*_held(lease)).with_for_update()
            ).scalar()
            if held is None:
                raise StaleLease(f"job {lease.job_id}")
            running, queued = JobState.RUNNING, JobState.QUEUED
            move(connection, job, held, running, queued, reason, token=lease.token + 1)

    def _end(
        self,
        lease: Lease,
        state: JobState,
        outcome: Outcome,
        reason: str,
        results: Mapping[str, Sequence[ResultObject]],
    ) -> None:
        with writing(self._engine) as connection:
            deaths = connection.execute(
                select(job.c.deaths).where(*_held(lease)).with_for_update()
            ).scalar()
            if deaths is None:
                raise StaleLease(f"job {lease.job_id}")
            if state is JobState.FAILED and deaths >= MAX_WORKER_DEATHS:
                state = JobState.POISON
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
                    add_result(connection, lease.job_id, destination, made, self._folder_id)


def _held(lease: Lease) -> tuple[ColumnElement[bool], ...]:
    return (
        job.c.id == lease.job_id,
        job.c.token == lease.token,
        job.c.state == JobState.RUNNING,
    )


def _at_their_limit(connection: Connection, limits: Mapping[str, int]) -> list[str]:
    """Models of which as many jobs run as may."""
    if not limits:
        return []
    one_claim_at_a_time(connection)
    running = connection.execute(
        select(job.c.model, func.count())
        .where(job.c.state == JobState.RUNNING)
        .group_by(job.c.model)
    )
    return [model for model, count in running if count >= limits.get(model, count + 1)]


def _claimed(connection: Connection, row: Any, lease: Lease) -> ClaimedJob:
    instances = _frozen_input(connection, row.id)
    poisoned = row.deaths >= MAX_WORKER_DEATHS
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
        job_key=_job_key(instances, row),
        destinations=tuple(row.destinations),
        supersedes=_left_the_node(connection, row),
        members=_members(connection, row.id),
        report_only=f"the inference worker died {row.deaths} times on it" if poisoned else None,
    )


def _left_the_node(connection: Connection, row: Any) -> tuple[EarlierResult, ...]:
    """Results of the same model on this series, of earlier revisions or runs, that may be at a PACS."""
    rows = connection.execute(
        select(
            result.c.kind,
            result.c.sop_class_uid,
            result.c.sop_instance_uid,
            result.c.series_uid,
            result.c.study_uid,
        )
        .distinct()
        .join(job, job.c.id == result.c.job_id)
        .join(series, series.c.id == job.c.series_id)
        .join(delivery, delivery.c.result_id == result.c.id)
        .where(
            series.c.study_uid == row.study_uid,
            series.c.series_uid == row.series_uid,
            job.c.model == row.model,
            job.c.id < row.id,
            # an unanswered C-STORE may have arrived
            delivery.c.attempts > 0,
            delivery.c.state != DeliveryState.DEAD,
        )
        .order_by(result.c.sop_instance_uid)
    )
    return tuple(EarlierResult(*earlier) for earlier in rows)


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
            instance.c.series_uid,
            association.c.folder_id,
        )
        .join(job_input, job_input.c.instance_id == instance.c.id)
        .join(association, association.c.id == instance.c.association_id)
        .where(job_input.c.job_id == job_id)
        .order_by(instance.c.sop_instance_uid, instance.c.id)
    )
    return tuple(
        StoredInstance(SegmentAddress(segment, offset, length, folder), *rest)
        for segment, offset, length, *rest, folder in rows
    )


def _members(connection: Connection, job_id: int) -> tuple[tuple[str, str], ...]:
    rows = connection.execute(
        select(job_series.c.name, series.c.series_uid)
        .join(series, series.c.id == job_series.c.series_id)
        .where(job_series.c.job_id == job_id)
        .order_by(job_series.c.position)
    )
    return tuple((row.name, row.series_uid) for row in rows)


def _job_key(instances: Sequence[StoredInstance], row: Any) -> str:
    digest = hashlib.sha256()
    further_run = [f"run {row.run}"] if row.run else []
    parts = [row.model, row.model_digest, row.settings_digest, *further_run]
    for part in (*parts, *sorted(i.sha256 for i in instances)):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
