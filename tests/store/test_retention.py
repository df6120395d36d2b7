"""What is thrown away, and above all what is not."""

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from dicom_node.lifecycle import InstanceState
from dicom_node.records import Outcome, SeriesKey
from dicom_node.settings import RetentionSettings, Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.retention import Retention
from dicom_node.store.tables import instance, transition
from dicom_node.upkeep.retention import Sweeper
from tests.builders.store import BEGINNING, LENGTH, queued_series, received, result_file, send

KEY = SeriesKey("1.2.3", "1.2.3.1")
LATER = BEGINNING + timedelta(days=30)


@pytest.fixture
def retention(engine: Engine) -> Retention:
    return Retention(engine)


def deliver(outbox: Outbox, destination: str = "pacs") -> None:
    for due in outbox.due(destination, 600):
        begun = outbox.begin(due)
        assert begun is not None
        outbox.accepted(begun, "0000")


def keys(retention: Retention) -> list[str]:
    return [one.key.series_uid for one in retention.purgeable(LATER)]


def test_nothing_goes_before_it_is_confirmed_everywhere(
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    retention: Retention,
    tmp_path: Path,
) -> None:
    send(intake, "a", [received("a")])
    assert keys(retention) == []  # open
    revision = assembly.waiting()[0]
    assembly.hold(revision.id, 1, "odd")
    assert keys(retention) == []  # held
    queued_series(intake, assembly, "1.2.3.2")
    assert keys(retention) == []  # queued
    got = queue.claim("w")
    assert got is not None
    assert keys(retention) == []  # running
    made = result_file(tmp_path)
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [made], "archive": [made]})
    deliver(outbox)
    assert keys(retention) == []  # one destination has it
    assert retention.purge(SeriesKey("1.2.3", "1.2.3.2"), "impatient") == 0
    deliver(outbox, "archive")
    assert keys(retention) == ["1.2.3.2"]
    assert retention.purgeable(BEGINNING) == []  # too young


def test_a_given_up_delivery_keeps_its_images(
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    retention: Retention,
    tmp_path: Path,
) -> None:
    queued_series(intake, assembly)
    got = queue.claim("w")
    assert got is not None
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    begun = outbox.begin(outbox.due("pacs", 600)[0])
    assert begun is not None
    outbox.dead(begun, "C000")
    assert keys(retention) == []


def test_purged_instances_are_on_record_and_free_their_segment(
    engine: Engine, intake: Intake, assembly: Assembly, retention: Retention
) -> None:
    both = [received("a", "1.2.3.1", n) for n in range(3)] + [received("a", "1.2.3.2", 0)]
    send(intake, "a", both)
    for revision in assembly.waiting():
        assembly.stable(revision.id, revision.instances, "complete")
        assembly.no_route(revision.id, "none")
    send(intake, "open", [received("open", "1.2.4.1", study="1.2.4")], ending=None)
    found = retention.purgeable(LATER)
    assert [(one.instances, one.octets) for one in found] == [(3, 3 * LENGTH), (1, LENGTH)]
    assert retention.purge(KEY, "old") == 3
    names = {"a.segment", "open.segment", "unknown.segment"}
    assert retention.needless_segments(names) == []
    assert retention.purge(SeriesKey("1.2.3", "1.2.3.2"), "old") == 1
    assert retention.needless_segments(names) == ["a.segment"]
    with reading(engine) as connection:
        told = connection.execute(
            select(transition.c.new).where(transition.c.entity == "instance")
        ).scalars()
        assert list(told) == ["PURGED"] * 4
        states = connection.execute(select(instance.c.state).order_by(instance.c.id)).scalars()
        assert list(states) == [InstanceState.PURGED] * 4 + [InstanceState.RECEIVED]
    assert keys(retention) == []


def sweeper(folder: Path, retention: Retention, free_mb: float = 1e6, **values: float) -> Sweeper:
    settings = Settings(data_dir=folder, retention=RetentionSettings(**values))  # type: ignore[arg-type]
    return Sweeper(settings, retention, lambda _: int(free_mb * (1 << 20)), lambda: LATER)


def no_route(intake: Intake, assembly: Assembly, series: str, at: float) -> None:
    name = f"a-{series}"
    send(intake, name, [received(name, series, at=at)])
    for revision in assembly.waiting():
        assembly.stable(revision.id, revision.instances, "complete")
        assembly.no_route(revision.id, "none")


def test_a_low_disk_takes_the_oldest_first_and_no_more_than_it_must(
    intake: Intake, assembly: Assembly, retention: Retention, tmp_path: Path
) -> None:
    for n in (3, 1, 2):
        no_route(intake, assembly, f"1.2.3.{n}", at=n * 60)
    assert sweeper(tmp_path, retention, days=60).due() == []
    free = 4096 - 1.5 * LENGTH / (1 << 20)
    due = sweeper(tmp_path, retention, free, days=60).due()
    assert [one.key.series_uid for one in due] == ["1.2.3.1", "1.2.3.2"]
    assert len(sweeper(tmp_path, retention, days=29).due()) == 3


def test_files_go_after_their_rows(
    intake: Intake,
    assembly: Assembly,
    queue: JobQueue,
    outbox: Outbox,
    retention: Retention,
    tmp_path: Path,
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    for name, mode in (("a-1.2.3.1", 0o440), ("being-written", 0o640)):
        (spool / f"{name}.segment").write_bytes(b"x")
        (spool / f"{name}.segment").chmod(mode)
    queued_series(intake, assembly)
    got = queue.claim("w")
    assert got is not None
    claim = f"{got.job_key[:32]}-{got.lease.job_id}-"
    made = result_file(tmp_path / "results" / f"{claim}{got.lease.token}" / "binary")
    lost = tmp_path / "results" / f"{claim}0"
    lost.mkdir(parents=True)
    for folder in (tmp_path / "results").iterdir():
        os.utime(folder, (time.time() - 7200,) * 2)
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": [made]})
    sweep = sweeper(tmp_path, retention, days=1).sweep
    sweep()
    assert not lost.exists()
    assert made.path.exists()
    assert (spool / "a-1.2.3.1.segment").exists()
    deliver(outbox)
    sweep()
    assert not (spool / "a-1.2.3.1.segment").exists()
    assert not made.path.exists()
    assert (spool / "being-written.segment").exists()
