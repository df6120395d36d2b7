"""A full disk and an upgrade in the middle of work: nothing half-done, nothing lost."""

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, event, select, text

from dicom_node.errors import DatabaseAway
from dicom_node.lifecycle import DeliveryState, JobState
from dicom_node.records import Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import MIGRATIONS, open_database, reading, writing
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.tables import instance, job, result, series
from tests.builders.store import new_job, queued_series, received, result_file, send


class Disk:
    """A database whose disk can be filled."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        self.full = False

        @event.listens_for(self.engine, "begin")
        def _limit(connection: object) -> None:
            pages = "page_count" if self.full else "1073741823"
            now = connection.exec_driver_sql("PRAGMA page_count").scalar()  # type: ignore[attr-defined]
            limit = now if pages == "page_count" else pages
            connection.exec_driver_sql(f"PRAGMA max_page_count={limit}")  # type: ignore[attr-defined]


def count(engine: Engine, table: object) -> int:
    with reading(engine) as connection:
        return len(connection.execute(select(table)).all())  # type: ignore[call-overload]


def test_a_full_disk_leaves_nothing_half_done_and_work_goes_on_after_it(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    engine = disk.engine
    intake, assembly, queue = Intake(engine), Assembly(engine), JobQueue(engine)
    many = [received("a", number=n) for n in range(400)]
    send(intake, "a", many[:1], ending=None)
    disk.full = True
    with pytest.raises(DatabaseAway, match="full"):
        intake.index("a", many, 400_000)
    assert (count(engine, instance), intake.open_associations()[0].indexed_to) == (1, 1000)
    disk.full = False
    intake.index("a", many, 400_000)
    assert count(engine, instance) == 400
    revision = assembly.waiting()[0]
    assert assembly.stable(revision.id, 400, "complete")
    disk.full = True
    with pytest.raises(DatabaseAway, match="full"):
        assembly.queue(revision.id, [new_job(f"m{n}") for n in range(60)], "route")
    assert count(engine, job) == 0
    disk.full = False
    assert assembly.queue(revision.id, [new_job()], "route")
    got = queue.claim("w")
    assert got is not None
    results = [result_file(tmp_path) for _ in range(100)]
    disk.full = True
    with pytest.raises(DatabaseAway, match="full"):
        queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": results})
    assert count(engine, result) == 0
    assert list(queue.running()) == [got.lease]
    disk.full = False
    queue.finish(got.lease, Outcome.SUCCEEDED, "", {"pacs": results})
    assert len(Outbox(engine).due("pacs", 600)) == 100


def test_an_upgrade_with_a_full_queue_keeps_all_of_it(url: str, tmp_path: Path) -> None:
    """From the first schema to the present one, with work in every state."""
    engine = open_database(url)
    intake, assembly, queue = Intake(engine), Assembly(engine), JobQueue(engine)
    for number in range(1, 6):
        queued_series(intake, assembly, f"1.2.3.{number}")
    running, stored = queue.claim("w"), queue.claim("w")
    assert running is not None
    assert stored is not None
    queue.finish(stored.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    send(intake, "open", [received("open", "1.2.3.9")], ending=None)
    _downgrade(engine, "0001")
    engine.dispose()

    engine = open_database(url)
    with reading(engine) as connection:
        newest = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
        states = connection.execute(select(job.c.state).order_by(job.c.id)).scalars().all()
        assert len(connection.execute(select(series.c.id)).all()) == 6
    assert newest != "0001"
    assert states == [JobState.RUNNING, JobState.STORED, *[JobState.QUEUED] * 3]
    queue, outbox = JobQueue(engine), Outbox(engine)
    queue.finish(running.lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path)]})
    assert [one.state for one in outbox.due("pacs", 600)] == [DeliveryState.PENDING] * 2
    assert queue.claim("w") is not None
    assert len(Assembly(engine).waiting()) == 1
    engine.dispose()


def _downgrade(engine: Engine, schema: str) -> None:
    """Leave the rows as a node of an older version would have left them."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, schema)
    with reading(engine) as connection:
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    assert found == schema
