"""The queue: one lease at a time, stale leases commit nothing, deaths, priorities, limits, runs."""

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from dicom_node.errors import StaleLease
from dicom_node.lifecycle import MAX_WORKER_DEATHS, JobState
from dicom_node.records import ClaimedJob, Lease, Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import FAIR_SHARE, JobQueue
from dicom_node.store.tables import delivery, job, result
from dicom_node.upkeep.leases import LeaseWatch
from tests.builders.store import new_job, queued_series, received, result_file, send


def claimed(queue: JobQueue, owner: str = "worker") -> ClaimedJob:
    found = queue.claim(owner)
    assert found is not None
    return found


def state(engine: Engine) -> JobState:
    with reading(engine) as connection:
        found: JobState = connection.execute(select(job.c.state)).scalar_one()
        return found


def rows(engine: Engine, table: object) -> int:
    with reading(engine) as connection:
        return len(connection.execute(select(table)).all())  # type: ignore[call-overload]


def test_the_input_is_frozen_in_the_order_of_uids(
    intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly, "1.2.3.1", new_job(destinations=("a", "b")), slices=3)
    got = claimed(queue)
    assert [one.sop_instance_uid for one in got.instances] == [
        "1.2.3.1.0",
        "1.2.3.1.1",
        "1.2.3.1.2",
    ]
    assert got.destinations == ("a", "b")
    assert got.supersedes == ()
    assert got.report_only is None
    assert queue.claim("another") is None


def test_job_and_results_and_deliveries_commit_together(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    got = claimed(queue)
    sr = result_file(tmp_path)
    queue.finish(got.lease, Outcome.SUCCEEDED, "done", {"a": [sr], "b": [sr]})
    assert state(engine) is JobState.STORED
    assert (rows(engine, result), rows(engine, delivery)) == (1, 2)


def test_a_lost_lease_commits_nothing(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    slow = claimed(queue, "slow")
    assert queue.take_back(slow.lease, "silent") is JobState.QUEUED
    for attempt in (queue.finish, queue.finish):
        with pytest.raises(StaleLease):
            attempt(slow.lease, Outcome.SUCCEEDED, "late", {"a": [result_file(tmp_path)]})
    with pytest.raises(StaleLease):
        queue.fail(slow.lease, "late", {})
    with pytest.raises(StaleLease):
        queue.beat(slow.lease)
    assert rows(engine, result) == 0
    quick = claimed(queue, "quick")
    assert quick.job_key == slow.job_key
    assert quick.lease.token > slow.lease.token
    assert queue.take_back(slow.lease, "again") is None


def test_a_superseded_job_that_runs_commits_nothing(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    got = claimed(queue)
    send(intake, "late", [received("late", number=9)])
    with pytest.raises(StaleLease):
        queue.finish(got.lease, Outcome.SUCCEEDED, "late", {"a": [result_file(tmp_path)]})
    assert state(engine) is JobState.CANCELLED


def test_after_too_many_deaths_there_is_a_report_and_then_poison(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    for _ in range(MAX_WORKER_DEATHS):
        got = claimed(queue)
        assert got.report_only is None
        assert queue.take_back(got.lease, "died") is JobState.QUEUED
    last = claimed(queue)
    assert last.report_only == "the inference worker died 3 times on it"
    queue.fail(last.lease, last.report_only, {"a": [result_file(tmp_path)]})
    assert state(engine) is JobState.POISON
    assert rows(engine, delivery) == 1


def test_a_worker_that_dies_over_the_report_too_ends_it(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly)
    for _ in range(MAX_WORKER_DEATHS + 1):
        queue.take_back(claimed(queue).lease, "died")
    assert state(engine) is JobState.POISON
    assert queue.claim("worker") is None


def test_urgent_jobs_first_and_none_waits_for_ever(
    intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly, "1.2.3.1", new_job("old"))
    for n in range(2, 2 + FAIR_SHARE):
        queued_series(intake, assembly, f"1.2.3.{n}", new_job(f"urgent{n}", priority=5))
    order = [claimed(queue).model for _ in range(FAIR_SHARE)]
    assert order == [f"urgent{n}" for n in range(2, 1 + FAIR_SHARE)] + ["old"]


def test_a_model_runs_no_more_often_at_once_than_it_may(
    intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    for n in range(1, 4):
        queued_series(intake, assembly, f"1.2.3.{n}", new_job("big"))
    queued_series(intake, assembly, "1.2.3.9", new_job("small"))
    limits = {"big": 1}
    models = [queue.claim("w", limits) for _ in range(3)]
    assert [one.model if one else None for one in models] == ["big", "small", None]
    assert models[0] is not None
    queue.take_back(models[0].lease, "died")
    assert claimed(queue).model == "big"


def test_the_same_job_is_created_once(engine: Engine, intake: Intake, assembly: Assembly) -> None:
    queued_series(intake, assembly, "1.2.3.1", new_job(), new_job(), new_job("other"))
    assert rows(engine, job) == 2


def test_the_key_follows_input_model_and_settings(
    intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    variants = [
        new_job(),
        new_job("other"),
        new_job(model_digest="e" * 64),
        new_job(settings_digest="t" * 64),
    ]
    queued_series(intake, assembly, "1.2.3.1", *variants)
    queued_series(intake, assembly, "1.2.3.2", new_job(), slices=4)
    assert len({claimed(queue).job_key for _ in range(5)}) == 5


def test_a_new_result_knows_what_it_takes_the_place_of(
    intake: Intake, assembly: Assembly, queue: JobQueue, outbox: Outbox, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    left, stayed = result_file(tmp_path), result_file(tmp_path)
    queue.finish(claimed(queue).lease, Outcome.SUCCEEDED, "", {"pacs": [left, stayed]})
    first = outbox.due("pacs", 600)[0]
    begun = outbox.begin(first)
    assert begun is not None
    outbox.accepted(begun, "C-STORE answered 0000")
    send(intake, "late", [received("late", number=9)])
    revision = assembly.waiting()[0]
    assembly.stable(revision.id, revision.instances, "complete")
    assembly.queue(revision.id, [new_job(), new_job("other")], "route")
    jobs = {one.model: one for one in (claimed(queue), claimed(queue))}
    assert [one.sop_instance_uid for one in jobs["m"].supersedes] == [left.sop_instance_uid]
    assert jobs["m"].revision == 2
    assert jobs["other"].supersedes == ()


def test_workers_that_claim_at_once_never_share_a_job(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    for n in range(1, 31):
        queued_series(intake, assembly, f"1.2.3.{n}", slices=1)
    taken: list[Lease] = []
    failures: list[BaseException] = []

    def work(owner: str) -> None:
        try:
            queue = JobQueue(engine)
            while (got := queue.claim(owner)) is not None:
                taken.append(got.lease)
                queue.beat(got.lease)
                queue.finish(got.lease, Outcome.SUCCEEDED, "", {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(taken) == 30
    assert set(Counter(lease.job_id for lease in taken).values()) == {1}


class Clock:
    """A monotonic clock in a test's hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_worker_that_beats_keeps_its_job_and_a_silent_one_does_not(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly)
    got = claimed(queue)
    clock = Clock()
    watch = LeaseWatch(queue, 30.0, clock)
    for _ in range(10):
        watch.sweep()
        clock.now += 20
        queue.beat(got.lease)
    watch.sweep()
    assert state(engine) is JobState.RUNNING
    clock.now += 30.1
    watch.sweep()
    assert state(engine) is JobState.QUEUED


def test_a_watch_that_has_just_begun_gives_a_worker_its_full_time(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly)
    claimed(queue)
    clock = Clock()
    clock.now = 1e9
    watch = LeaseWatch(queue, 30.0, clock)
    watch.sweep()
    assert state(engine) is JobState.RUNNING


def test_a_lease_is_not_mistaken_for_the_next_one(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly)
    clock = Clock()
    watch = LeaseWatch(queue, 30.0, clock)
    first = claimed(queue, "w")
    watch.sweep()
    queue.take_back(first.lease, "gave up")
    second = claimed(queue, "w")
    clock.now += 30.1
    watch.sweep()
    assert state(engine) is JobState.RUNNING
    assert second.lease == replace(first.lease, token=second.lease.token)


def test_a_job_that_is_given_back_counts_no_death(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly)
    for attempt in range(1, 2 * MAX_WORKER_DEATHS):
        got = queue.claim("w")
        assert got is not None
        assert (got.attempt, got.report_only) == (attempt, None)
        queue.give_back(got.lease, "no room")
        with pytest.raises(StaleLease):
            queue.give_back(got.lease, "no room")
        with pytest.raises(StaleLease):
            queue.finish(got.lease, Outcome.SUCCEEDED, "", {})
