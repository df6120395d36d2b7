"""A job on several series: frozen together, and outdated as soon as one of them is."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from dicom_node.lifecycle import JobState, SeriesState
from dicom_node.records import NewJob, Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.retention import Retention
from dicom_node.store.tables import job, series
from tests.builders.store import BEGINNING, new_job, received, result_file, send

SOFT, SHARP = "1.2.3.1", "1.2.3.2"


def stable(intake: Intake, assembly: Assembly, uid: str, slices: int = 3) -> int:
    name = f"a-{uid}-{slices}"
    send(intake, name, [received(name, uid, n) for n in range(slices)])
    (revision,) = assembly.waiting()
    assert assembly.stable(revision.id, revision.instances, "complete")
    return revision.id


def both(soft: int, sharp: int, digest: str = "s") -> NewJob:
    return new_job(members=(("soft", soft), ("sharp", sharp)), settings_digest=digest)


@pytest.fixture
def pair(intake: Intake, assembly: Assembly) -> tuple[int, int]:
    """The first waited, the second came and brought the job."""
    soft = stable(intake, assembly, SOFT)
    assert assembly.no_route(soft, "waits for sharp")
    sharp = stable(intake, assembly, SHARP, 2)
    assert assembly.queue(sharp, [both(soft, sharp)], "route pair")
    return soft, sharp


def states(engine: Engine) -> list[SeriesState]:
    with reading(engine) as connection:
        return list(connection.execute(select(series.c.state).order_by(series.c.id)).scalars())


def test_a_job_has_the_images_of_all_its_series(
    engine: Engine, pair: tuple[int, int], queue: JobQueue
) -> None:
    assert states(engine) == [SeriesState.QUEUED] * 2
    got = queue.claim("w")
    assert got is not None
    assert (got.key.series_uid, got.members) == (SOFT, (("soft", SOFT), ("sharp", SHARP)))
    assert sorted(one.series_uid for one in got.instances) == [SOFT] * 3 + [SHARP] * 2
    shown = {row["series_uid"]: row["jobs"] for row in Overview(engine).studies()}
    assert [job["state"] for job in shown[SOFT]] == ["RUNNING"]
    assert [job["state"] for job in shown[SHARP]] == ["RUNNING"]
    assert queue.claim("w") is None


def test_the_same_job_from_both_sides_is_one(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    soft = stable(intake, assembly, SOFT)
    name = "b"
    send(intake, name, [received(name, SHARP, n) for n in range(2)])
    sharp = next(one.id for one in assembly.waiting() if one.state is SeriesState.OPEN)
    # not while one is still coming
    assert not assembly.queue(soft, [both(soft, sharp)], "route pair")
    assert assembly.stable(sharp, 2, "complete")
    assert assembly.queue(soft, [both(soft, sharp)], "route pair")
    assert assembly.queue(sharp, [both(soft, sharp)], "route pair")
    with reading(engine) as connection:
        assert len(connection.execute(select(job.c.id)).all()) == 1


@pytest.mark.parametrize("late", [SOFT, SHARP])
def test_a_late_image_of_either_cancels_the_job(
    engine: Engine, pair: tuple[int, int], queue: JobQueue, intake: Intake, late: str
) -> None:
    assert queue.claim("w") is not None
    send(intake, "late", [received("late", late, 9)])
    with reading(engine) as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == [JobState.CANCELLED]
    # and no order wakes it
    assert Operator(engine).retry("1.2.3") == {"jobs": 0, "deliveries": 0}


def test_the_result_of_an_outdated_pair_is_withdrawn_and_named_by_the_next(
    engine: Engine,
    pair: tuple[int, int],
    queue: JobQueue,
    intake: Intake,
    assembly: Assembly,
    outbox: Outbox,
    tmp_path: Path,
) -> None:
    got = queue.claim("w")
    assert got is not None
    sent, unsent = result_file(tmp_path), result_file(tmp_path)
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [sent, unsent]})
    first, second = outbox.due("pacs", 600)
    begun = outbox.begin(first)
    assert begun is not None
    outbox.accepted(begun, "0000")
    sharp = stable(intake, assembly, SHARP, 4)
    assert outbox.begin(second) is None
    assert Operator(engine).resend("1.2.3") == 0
    assert assembly.queue(sharp, [both(pair[0], sharp, "t")], "route pair")
    again = queue.claim("w")
    assert again is not None
    assert [one.sop_instance_uid for one in again.supersedes] == [first.sop_instance_uid]
    assert again.job_key != got.job_key
    queue.finish(again.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    assert Operator(engine).rerun("1.2.3", "m") == 1
    further = queue.claim("w")
    assert further is not None
    assert (further.members, further.instances) == (again.members, again.instances)


def test_neither_is_purged_before_the_result_arrived(
    engine: Engine, pair: tuple[int, int], queue: JobQueue, outbox: Outbox, tmp_path: Path
) -> None:
    retention = Retention(engine)
    later = BEGINNING + timedelta(days=30)
    assert retention.purgeable(later) == []
    got = queue.claim("w")
    assert got is not None
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    assert retention.purgeable(later) == []
    begun = outbox.begin(outbox.due("pacs", 600)[0])
    assert begun is not None
    outbox.accepted(begun, "0000")
    assert {one.key.series_uid for one in retention.purgeable(later)} == {SOFT, SHARP}
