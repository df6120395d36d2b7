"""What came in: idempotent, revisions, conflicts, associations."""

import threading

from sqlalchemy import Engine, select

from dicom_node.lifecycle import InstanceState, JobState, SeriesState
from dicom_node.records import Ending
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading, writing
from dicom_node.store.intake import CONFLICT, Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.overview import Overview
from dicom_node.store.tables import instance, job, series
from dicom_node.store.transitions import move
from tests.builders.store import SCANNER, queued_series, received, send


def states(engine: Engine) -> list[tuple[int, SeriesState, int]]:
    with reading(engine) as connection:
        rows = connection.execute(
            select(series.c.revision, series.c.state, series.c.instances).order_by(series.c.id)
        )
        return [tuple(row) for row in rows]  # type: ignore[misc]


def test_indexing_the_same_records_twice_changes_nothing(engine: Engine, intake: Intake) -> None:
    instances = [received("a", number=n) for n in range(4)]
    send(intake, "a", instances[:2], ending=None)
    for _ in range(2):  # a receiver that was killed indexes the tail once more
        intake.index("a", instances, 4000)
    assert states(engine) == [(1, SeriesState.OPEN, 4)]
    assert [one.indexed_to for one in intake.open_associations()] == [4000]


def test_an_identical_duplicate_makes_no_new_work(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    queued_series(intake, assembly, slices=3)
    send(intake, "again", [received("again", number=n) for n in range(3)])
    assert states(engine) == [(1, SeriesState.QUEUED, 3)]


def test_a_record_that_comes_twice_in_one_batch_counts_once(engine: Engine, intake: Intake) -> None:
    send(intake, "a", [received("a"), received("a")])
    assert states(engine) == [(1, SeriesState.OPEN, 1)]


def test_a_late_instance_opens_the_next_revision_and_stops_the_jobs_of_the_last(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue
) -> None:
    queued_series(intake, assembly, slices=3)
    held = queue.claim("worker")
    assert held is not None
    send(intake, "late", [received("late", number=7)])
    assert states(engine) == [(1, SeriesState.SUPERSEDED, 3), (2, SeriesState.OPEN, 4)]
    with reading(engine) as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == [JobState.CANCELLED]
    assert queue.claim("worker") is None


def test_a_revision_that_waits_for_its_route_is_superseded_too(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    send(intake, "a", [received("a", number=n) for n in range(3)])
    revision = assembly.waiting()[0]
    assert assembly.stable(revision.id, 3, "complete")
    send(intake, "late", [received("late", number=3)])
    assert not assembly.queue(revision.id, [], "too late")
    assert states(engine) == [(1, SeriesState.SUPERSEDED, 3), (2, SeriesState.OPEN, 4)]


def test_the_next_revision_keeps_what_the_first_instance_said(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    queued_series(intake, assembly)
    send(intake, "late", [received("late", number=7, attributes={"modality": "OT"})])
    revision = assembly.load(assembly.waiting()[0].id)
    assert revision.attributes["modality"] == "CT"


def test_one_uid_with_two_contents_quarantines_both(engine: Engine, intake: Intake) -> None:
    send(intake, "a", [received("a", number=n) for n in range(2)])
    send(intake, "b", [received("b", number=1, content="other")])
    with reading(engine) as connection:
        rows = connection.execute(
            select(instance.c.sop_instance_uid, instance.c.quarantine).order_by(instance.c.id)
        ).all()
    assert [(row[0], row[1]) for row in rows] == [
        ("1.2.3.1.0", None),
        ("1.2.3.1.1", CONFLICT),
        ("1.2.3.1.1", CONFLICT),
    ]
    assert Overview(engine).quarantined("1.2.3.1") == [CONFLICT]


def test_two_contents_in_one_batch_are_both_kept(engine: Engine, intake: Intake) -> None:
    send(intake, "a", [received("a"), received("a", content="other")])
    assert states(engine) == [(1, SeriesState.OPEN, 2)]
    assert Overview(engine).quarantined("1.2.3.1") == [CONFLICT]


def test_what_was_purged_and_is_sent_again_is_there_again(
    engine: Engine, intake: Intake, assembly: Assembly
) -> None:
    queued_series(intake, assembly, slices=2)
    with writing(engine) as connection:
        for row_id in connection.execute(select(instance.c.id)).scalars().all():
            move(connection, instance, row_id, InstanceState.RECEIVED, InstanceState.PURGED, "old")
    send(intake, "again", [received("again", number=n) for n in range(2)])
    assert states(engine) == [(1, SeriesState.SUPERSEDED, 2), (2, SeriesState.OPEN, 2)]
    with reading(engine) as connection:
        assert set(connection.execute(select(instance.c.segment)).scalars()) == {"again.segment"}


def test_the_first_word_on_an_ending_counts(intake: Intake, assembly: Assembly) -> None:
    send(intake, "a", [received("a")], Ending.ABORTED)
    intake.association_ended("a", Ending.RELEASED)
    assert not assembly.load(assembly.waiting()[0].id).released


def test_an_association_that_broke_is_made_good_by_one_that_sent_again(
    intake: Intake, assembly: Assembly
) -> None:
    instances = [received("a", number=n) for n in range(3)]
    send(intake, "a", instances, Ending.LOST)
    # only duplicates, and still it says that the sender got through
    intake.association_opened("b", SCANNER, "b.segment", received("b").received_at.max)
    intake.index("b", [received("b", number=n) for n in range(3)], 3000)
    revision = assembly.waiting()[0].id
    assert assembly.load(revision).sending
    intake.association_ended("b", Ending.RELEASED)
    assert assembly.load(revision).released
    assert not assembly.load(revision).sending


def test_an_association_of_the_same_study_is_still_sending(
    intake: Intake, assembly: Assembly
) -> None:
    send(intake, "a", [received("a", "1.2.3.1")])
    send(intake, "b", [received("b", "1.2.3.2")], ending=None)
    by_series = {
        assembly.load(one.id).key.series_uid: assembly.load(one.id) for one in assembly.waiting()
    }
    assert by_series["1.2.3.1"].sending
    assert by_series["1.2.3.1"].released
    assert not by_series["1.2.3.2"].released


def test_a_sender_that_sends_in_parts_is_known_after_a_while(
    intake: Intake, assembly: Assembly
) -> None:
    for number in range(6):
        series, at = f"1.2.3.{number}", 100.0 * number
        first = [received(f"a{number}", series, n, at=at + n) for n in range(3)]
        send(intake, f"a{number}", first, at=at)
        rest = [received(f"b{number}", series, n, at=at + 4 + n) for n in range(3, 6)]
        send(intake, f"b{number}", rest, at=at + 7)
        (revision,) = assembly.waiting()
        known = assembly.load(revision.id)
        assert known.return_seconds == (None if number < 3 else 7.5)
        assert known.idle_seconds is None  # too few series for that
        assert assembly.stable(revision.id, revision.instances, "complete")
        assert assembly.no_route(revision.id, "none")


def test_receivers_that_index_one_series_at_once_lose_nothing(
    engine: Engine, intake: Intake
) -> None:
    """Eight associations send interleaved and overlapping parts of three series, each in its own order."""
    failures: list[BaseException] = []

    def receive(part: int) -> None:
        try:
            intake.association_opened(
                f"a{part}", SCANNER, f"a{part}.segment", received("x").received_at
            )
            numbers = list(range(part, 40, 4)) + list(range(part + 1, 40, 8))
            if part % 2:
                numbers.reverse()
            for number in numbers:
                batch = [received(f"a{part}", f"1.2.3.{n}", number) for n in (1, 2, 3)]
                intake.index(f"a{part}", batch, number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=receive, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with reading(engine) as connection:
        counted = connection.execute(
            select(series.c.series_uid, series.c.instances).order_by(series.c.series_uid)
        ).all()
        kept = connection.execute(select(instance.c.id)).all()
    assert [tuple(row) for row in counted] == [(f"1.2.3.{n}", 40) for n in (1, 2, 3)]
    assert len(kept) == 120
