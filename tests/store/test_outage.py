"""PostgreSQL that goes away under work: who waits for it, who is woken, and that nothing happens twice."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.errors import DatabaseAway, StaleLease
from dicom_node.lifecycle import JobState
from dicom_node.records import Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.bell import Bell
from dicom_node.store.database import connect, open_database, reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.patience import patient
from dicom_node.store.tables import job, result
from dicom_node.upkeep.leases import LeaseWatch
from tests.builders.postgresql import PostgreSQL, postgresql_server
from tests.builders.store import queued_series, result_file

pytestmark = [pytest.mark.peer("postgresql"), pytest.mark.xdist_group("outage")]

HEARD_SECONDS = 30.0
"""A pause that long ends in time only where the bell is heard."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """A server that these tests may stop."""
    with postgresql_server() as running:
        yield running


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_work_goes_on_where_it_was_when_the_server_is_back(
    server: PostgreSQL, tmp_path: Path
) -> None:
    engine = open_database(server.new_database())
    queue = patient(JobQueue(engine), threading.Event())
    queued_series(Intake(engine), Assembly(engine), "1.2.3.1")
    claimed = queue.claim("worker")
    assert claimed is not None
    server.stop(signal.SIGQUIT)  # as a crash
    made = {"pacs": [result_file(tmp_path)]}
    with pytest.raises(DatabaseAway, match="away"):
        JobQueue(engine).finish(claimed.lease, Outcome.SUCCEEDED, "", made)
    waits = in_thread(lambda: queue.finish(claimed.lease, Outcome.SUCCEEDED, "", made))
    server.start()
    waits.join(20)
    assert not waits.is_alive()
    with reading(engine) as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == [JobState.STORED]
        assert len(connection.execute(select(result)).all()) == 1
    # the answer to that commit might have been lost: done once more it changes nothing, and says so
    with pytest.raises(StaleLease):
        queue.finish(claimed.lease, Outcome.SUCCEEDED, "", made)
    assert len(Outbox(engine).due("pacs", 600)) == 1
    engine.dispose()


def test_who_is_told_to_stop_does_not_wait_for_the_server(server: PostgreSQL) -> None:
    engine = open_database(server.new_database())
    stop = threading.Event()
    stop.set()
    server.stop()
    try:
        with pytest.raises(DatabaseAway):
            patient(JobQueue(engine), stop).claim("worker")
    finally:
        server.start()
        engine.dispose()


def test_an_outage_is_no_silence_of_a_worker(server: PostgreSQL) -> None:
    engine = open_database(server.new_database())
    queue = JobQueue(engine)
    queued_series(Intake(engine), Assembly(engine), "1.2.3.1")
    claimed = queue.claim("worker")
    assert claimed is not None
    now = 0.0
    watch = LeaseWatch(queue, 30.0, lambda: now)
    watch.sweep()
    server.stop()
    now = 100.0
    with pytest.raises(DatabaseAway):
        watch.sweep()
    server.start()
    watch.sweep()
    assert list(queue.running()) == [claimed.lease]
    now = 131.0  # now it was silent while it was watched
    watch.sweep()
    assert queue.running() == {}
    engine.dispose()


def test_a_job_wakes_a_worker_also_after_an_outage(server: PostgreSQL) -> None:
    engine = open_database(server.new_database())
    intake, assembly = Intake(engine), Assembly(engine)
    for series in ("1.2.3.1", "1.2.3.2"):
        woken = threading.Event()
        with Bell(engine, "job", HEARD_SECONDS) as bell:

            def wait(bell: Bell = bell, woken: threading.Event = woken) -> None:
                while JobQueue(engine).claim("worker") is None:
                    bell.pause(threading.Event(), HEARD_SECONDS)
                woken.set()

            in_thread(wait)
            assert not woken.wait(0.3)
            began = time.monotonic()
            queued_series(intake, assembly, series)
            assert woken.wait(10)
            assert time.monotonic() - began < HEARD_SECONDS / 3
        server.stop()
        server.start()
    engine.dispose()


def test_a_url_that_names_no_driver_means_psycopg(server: PostgreSQL) -> None:
    plain = server.new_database().replace("postgresql+psycopg", "postgresql")
    engine = connect(plain)
    assert engine.dialect.driver == "psycopg"
    engine.dispose()
