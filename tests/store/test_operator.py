"""Orders of an operator: what they move, and what they may not."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from dicom_node.lifecycle import MAX_WORKER_DEATHS, DeliveryState, JobState, SeriesState
from dicom_node.records import Outcome, ResultObject
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.metering import Metering
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.retention import Retention
from dicom_node.store.tables import delivery, job, series
from tests.builders.store import BEGINNING, new_job, queued_series, received, result_file, send

STUDY = "1.2.3"


@pytest.fixture
def operator(engine: Engine) -> Operator:
    return Operator(engine, "mia")


def states(engine: Engine, table: object) -> list[object]:
    with reading(engine) as connection:
        return list(
            connection.execute(select(table.c.state).order_by(table.c.id)).scalars()  # type: ignore[attr-defined]
        )


def test_hold_release_complete(
    engine: Engine, intake: Intake, assembly: Assembly, operator: Operator
) -> None:
    send(intake, "a", [received("a")], ending=None)
    assert operator.hold("9.9") == 0
    assert operator.hold(STUDY, "wrong patient?") == 1
    assert states(engine, series) == [SeriesState.HELD]
    assert assembly.waiting() == []
    assert operator.complete(STUDY) == 0
    assert operator.release(STUDY) == 1
    assert states(engine, series) == [SeriesState.STABLE]
    told = [move["reason"] for move in Overview(engine).story(STUDY)]
    assert told == ["first instance", "held by mia: wrong patient?", "released by mia"]


def test_complete_does_not_wait_for_proof(
    engine: Engine, intake: Intake, operator: Operator
) -> None:
    send(intake, "a", [received("a")], ending=None)
    assert operator.complete(STUDY) == 1
    assert states(engine, series) == [SeriesState.STABLE]


def test_cancel_and_retry_of_what_made_nothing(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, operator: Operator
) -> None:
    queued_series(intake, assembly, "1.2.3.1", new_job("a"), new_job("b"))
    assert queue.claim("w") is not None
    assert operator.cancel(STUDY) == 2
    assert states(engine, job) == [JobState.CANCELLED] * 2
    assert operator.retry(STUDY) == {"jobs": 2, "deliveries": 0}
    assert states(engine, job) == [JobState.QUEUED] * 2


def test_retry_of_a_failed_job_is_a_run_with_uids_of_its_own(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    operator: Operator,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly, slices=3)
    first = queue.claim("w")
    assert first is not None
    report = result_file(tmp_path)
    queue.fail(first.lease, "broken", {"pacs": [report]})
    begun = outbox.begin(outbox.due("pacs", 600)[0])
    assert begun is not None
    outbox.accepted(begun, "0000")
    assert operator.retry(STUDY) == {"jobs": 1, "deliveries": 0}
    assert operator.retry(STUDY) == {"jobs": 0, "deliveries": 0}
    second = queue.claim("w")
    assert second is not None
    assert second.job_key != first.job_key
    assert second.instances == first.instances
    assert [one.sop_instance_uid for one in second.supersedes] == [report.sop_instance_uid]
    queue.finish(second.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    assert states(engine, job) == [JobState.FAILED, JobState.STORED]
    assert operator.retry(STUDY) == {"jobs": 0, "deliveries": 0}


def test_retry_of_poison_begins_with_no_deaths(
    intake: Intake, assembly: Assembly, queue: JobQueue, operator: Operator
) -> None:
    queued_series(intake, assembly)
    for _ in range(MAX_WORKER_DEATHS + 1):
        got = queue.claim("w")
        assert got is not None
        queue.take_back(got.lease, "died")
    assert operator.retry(STUDY)["jobs"] == 1
    again = queue.claim("w")
    assert again is not None
    assert again.report_only is None


def test_rerun_uses_the_frozen_input_and_the_model_as_it_is_now(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, operator: Operator
) -> None:
    queued_series(intake, assembly, slices=3)
    first = queue.claim("w")
    assert first is not None
    assert operator.rerun(STUDY, "m") == 0  # it still runs
    queue.finish(first.lease, Outcome.SUCCEEDED, "", {})
    assert operator.rerun(STUDY, "other") == 0
    assert operator.rerun(STUDY, "m", digest="e" * 64) == 1
    second = queue.claim("w")
    assert second is not None
    assert second.model_digest == "e" * 64
    assert second.instances == first.instances
    assert second.job_key != first.job_key


def test_nothing_of_a_superseded_revision_moves(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    operator: Operator,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly, "1.2.3.1", new_job("a"), new_job("b"))
    got = queue.claim("w")
    assert got is not None
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    begun = outbox.begin(outbox.due("pacs", 600)[0])
    assert begun is not None
    outbox.dead(begun, "C000")
    send(intake, "late", [received("late", number=9)])
    assert operator.retry(STUDY) == {"jobs": 0, "deliveries": 0}
    assert operator.rerun(STUDY, "a") == 0
    assert operator.revive() == 0
    assert operator.cancel(STUDY) == 0
    assert states(engine, delivery) == [DeliveryState.DEAD]


def test_dead_letters_are_listed_and_revived(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    operator: Operator,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly)
    got = queue.claim("w")
    assert got is not None
    made = result_file(tmp_path)
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"p": [made], "q": [made]})
    for destination in "pq":
        begun = outbox.begin(outbox.due(destination, 600)[0])
        assert begun is not None
        outbox.dead(begun, "C-STORE answered C000")
    assert [(row["destination"], row["reason"]) for row in operator.dead()] == [
        ("p", "C-STORE answered C000"),
        ("q", "C-STORE answered C000"),
    ]
    assert operator.stuck() == {"series": 0, "job": 0, "delivery": 2}
    assert operator.revive("q") == 1
    assert states(engine, delivery) == [DeliveryState.DEAD, DeliveryState.PENDING]
    assert operator.retry(STUDY) == {"jobs": 0, "deliveries": 1}
    assert operator.dead() == []


def delivered(
    queue: JobQueue, outbox: Outbox, folder: Path, destinations: str = "p"
) -> ResultObject:
    """The next job's only result, delivered and confirmed everywhere."""
    got = queue.claim("w")
    assert got is not None
    made = result_file(folder)
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {name: [made] for name in destinations})
    for name in destinations:
        begun = outbox.begin(outbox.due(name, 600)[0])
        assert begun is not None
        outbox.accepted(begun, "0000")
    return made


def test_what_a_destination_lost_is_sent_again(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    operator: Operator,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly)
    made = delivered(queue, outbox, tmp_path, "pq")
    before = Metering(engine).cursor()
    assert operator.resend("9.9") == 0
    assert operator.resend(STUDY, "q", "disk crash") == 1
    assert operator.resend(STUDY, "q") == 0  # it is on its way
    assert outbox.due("p", 600) == []
    (due,) = outbox.due("q", 600)
    assert (due.sop_instance_uid, due.attempts) == (made.sop_instance_uid, 1)
    begun = outbox.begin(due)
    assert begun is not None
    outbox.sent(begun, "0000")
    assert operator.resend(STUDY) == 2
    assert states(engine, delivery) == [DeliveryState.PENDING] * 2
    for name in "pq":
        outbox.accepted(outbox.due(name, 600)[0], "0000")
    told = [move["reason"] for move in Overview(engine).story(STUDY)]
    assert "sent again by mia: disk crash" in told
    # how long an operator waited is no time that the node took
    assert Metering(engine).news(before).durations == []


def test_only_what_counts_and_is_kept_is_sent_again(
    engine: Engine,
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    operator: Operator,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly)
    delivered(queue, outbox, tmp_path)
    assert operator.rerun(STUDY, "m") == 1
    assert operator.resend(STUDY) == 1  # the further run has made nothing yet
    outbox.accepted(outbox.due("p", 600)[0], "0000")
    second = delivered(queue, outbox, tmp_path)
    assert operator.resend(STUDY) == 1
    (due,) = outbox.due("p", 600)
    assert due.sop_instance_uid == second.sop_instance_uid
    outbox.accepted(due, "0000")
    retention = Retention(engine)
    (one,) = retention.purgeable(BEGINNING + timedelta(days=1))
    assert retention.purge(one.key, "old") == 3
    assert operator.resend(STUDY) == 0
    send(intake, "late", [received("late", number=9)])
    assert operator.resend(STUDY) == 0
