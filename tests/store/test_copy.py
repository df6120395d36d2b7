"""SQLite to PostgreSQL and back: every row, or none; and a check that sees what is wrong."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, select, update

from dicom_node.errors import ConfigurationError
from dicom_node.lifecycle import InstanceState, JobState
from dicom_node.records import Outcome, Peer
from dicom_node.store.accounts import Accounts
from dicom_node.store.assembly import Assembly
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.checking import problems
from dicom_node.store.copying import copy_database
from dicom_node.store.database import connect, open_database, reading, writing
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.overview import Overview
from dicom_node.store.spool import SegmentOwner, SegmentWriter, digest
from dicom_node.store.tables import instance, job, result, transition
from tests.builders.postgresql import PostgreSQL
from tests.builders.store import new_job, queued_series, received, result_file, send


def work_on(engine: Engine, folder: Path) -> None:
    """Something in every table, with values that two databases store differently."""
    intake, assembly, queue, outbox = (
        Intake(engine),
        Assembly(engine),
        JobQueue(engine),
        Outbox(engine),
    )
    for number in range(4):
        queued_series(intake, assembly, f"1.2.3.{number}", new_job("a"), new_job("b"))
    claimed = [queue.claim("w") for _ in range(3)]
    assert claimed[0] is not None
    assert claimed[1] is not None
    made = [result_file(folder / str(n)) for n in range(2)]
    queue.finish(claimed[0].lease, Outcome.SUCCEEDED, "Größe ≥ 4 mm · 結節", {"pacs": made})
    queue.fail(claimed[1].lease, "out of memory", {})
    outbox.accepted(outbox.due("pacs", 600)[0], "C-STORE answered 0000")
    odd = received("odd", "1.2.3.99", attributes={"patient_name": "Müller^Ünal", "x": [0.1, 1e-9]})
    send(intake, "odd", [odd], ending=None)
    Accounts(engine).secret("pseudonym")
    AuditOutbox(engine).add("<AuditMessage/>")


def test_a_copy_holds_every_row_and_work_goes_on_in_it(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    source = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    work_on(source, tmp_path)
    target = open_database(postgresql.new_database())
    told = {one.table: one.rows for one in copy_database(source, target)}
    assert told["instance"] == 13
    assert told["job"] == 8
    assert told["result"] == told["delivery"] == 2
    assert told["secret"] == told["audit_event"] == 1
    # and back again, to the same rows
    back = open_database(f"sqlite:///{tmp_path / 'back.sqlite'}")
    copy_database(target, back)
    assert Overview(back).studies() == Overview(source).studies()
    assert Overview(back).story("1.2.3") == Overview(source).story("1.2.3")
    # work goes on: sequences, leases, due deliveries
    queue = JobQueue(target)
    (lease,) = queue.running()
    queue.finish(lease, Outcome.SUCCEEDED, "", {"pacs": [result_file(tmp_path / "later")]})
    assert len(Outbox(target).due("pacs", 600)) == 2
    queued_series(Intake(target), Assembly(target), "1.2.3.50")
    for engine in (source, target, back):
        engine.dispose()


def test_a_target_with_rows_is_refused_and_left_alone(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    source = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    work_on(source, tmp_path)
    target = open_database(postgresql.new_database())
    AuditOutbox(target).add("<AuditMessage/>")
    with pytest.raises(ConfigurationError, match="audit_event has rows"):
        copy_database(source, target)
    assert Overview(target).counts()["instance"] == {}
    target.dispose()


def test_a_value_that_cannot_be_held_leaves_nothing_behind(
    postgresql: PostgreSQL, tmp_path: Path
) -> None:
    source = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    work_on(source, tmp_path)
    with writing(source) as connection:  # SQLite keeps no limit of length
        connection.execute(update(transition).where(transition.c.id == 20).values(new="X" * 99))
    target = open_database(postgresql.new_database())
    with pytest.raises(ConfigurationError, match="transition: the target cannot hold a value"):
        copy_database(source, target)
    assert Overview(target).counts()["instance"] == {}
    target.dispose()


def spooled(engine: Engine, folder: Path) -> Path:
    """An association whose three instances lie in a real segment."""
    owner = SegmentOwner("a-1", Peer("CT1", "N", "h"), datetime(2026, 1, 2, tzinfo=UTC))
    writer = SegmentWriter.open(folder, owner)
    rows = []
    for number in range(3):
        _, address = writer.append("1.2", f"1.2.3.1.{number}", "1.2.840.10008.1.2", b"x" * 900)
        one = received("a-1", number=number)
        sha256 = digest(folder, address)
        rows.append(type(one)(**{**_fields(one), "address": address, "sha256": sha256}))
    send(Intake(engine), "a-1", rows)
    writer.close(sealed=True)
    return folder / writer.name


def _fields(one: object) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}  # type: ignore[attr-defined]


def test_a_sound_database_passes_the_check(url: str, tmp_path: Path) -> None:
    engine = open_database(url)
    spooled(engine, tmp_path)
    found = [one for one in problems(engine, tmp_path, content=True) if "fsync" not in one]
    assert found == []
    engine.dispose()


def break_byte(engine: Engine, segment: Path) -> None:
    segment.chmod(0o640)
    content = bytearray(segment.read_bytes())
    content[-200] ^= 1
    segment.write_bytes(content)


def forget_input(engine: Engine, _: Path) -> None:
    with writing(engine) as connection:
        connection.execute(update(job).values(state=JobState.STORED))
        connection.execute(delete(result))


def lose_row(engine: Engine, segment: Path) -> None:
    segment.rename(segment.with_name("other.segment"))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (break_byte, "are not what was received"),
        (lose_row, "is missing, with 3 instances"),
        (lose_row, "has no row"),
        (lambda _, segment: segment.write_bytes(segment.read_bytes()[:1000]), "its rows at"),
    ],
)
def test_what_is_wrong_is_told(
    harm: Callable[[Engine, Path], None], told: str, url: str, tmp_path: Path
) -> None:
    engine = open_database(url)
    segment = spooled(engine, tmp_path)
    segment.chmod(0o640)
    harm(engine, segment)
    assert any(told in problem for problem in problems(engine, tmp_path, content=True))
    engine.dispose()


def test_jobs_that_made_nothing_are_told(
    engine: Engine, intake: Intake, assembly: Assembly, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    assert not any("STORED" in one for one in problems(engine, tmp_path))
    forget_input(engine, tmp_path)
    assert "1 jobs that are STORED and made no result" in list(problems(engine, tmp_path))


def test_results_that_are_waited_for_and_gone_are_told(
    engine: Engine, intake: Intake, assembly: Assembly, queue: JobQueue, tmp_path: Path
) -> None:
    queued_series(intake, assembly)
    claimed = queue.claim("w")
    assert claimed is not None
    made = result_file(tmp_path)
    queue.finish(claimed.lease, Outcome.SUCCEEDED, "", {"pacs": [made]})
    made.path.unlink()
    assert "1 results for pacs are missing" in list(problems(engine, tmp_path))


def test_a_database_of_another_schema_is_told(url: str, tmp_path: Path) -> None:
    engine = connect(url)
    (told,) = problems(engine, tmp_path)
    assert "missing" in told
    engine.dispose()


def test_a_row_that_names_nothing_is_told(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    spooled(engine, tmp_path)
    with sqlite3.connect(tmp_path / "node.sqlite") as other:  # without foreign_keys=ON
        other.execute("DELETE FROM association")
    assert any("of association that is not there" in one for one in problems(engine, tmp_path))
    with reading(engine) as connection:
        states = connection.execute(select(instance.c.state)).scalars().all()
    assert states == [InstanceState.RECEIVED] * 3
