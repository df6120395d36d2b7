"""A node that is killed at every boundary of a transaction loses nothing and makes nothing twice.

One process does what all roles do, one step after the other: it indexes what the spool holds, judges,
routes, works and delivers to a PACS in another process. It is killed before its n-th commit, or before
its n-th transaction begins, for every n; then it is started again and must come to the same end.
"""

import multiprocessing
import os
import random
import signal
from pathlib import Path

import pytest
from pydicom import Dataset
from sqlalchemy import Engine, event, select

from dicom_node.assemble.loop import Assembler
from dicom_node.catalogue import catalogue
from dicom_node.deliver.loop import Courier
from dicom_node.lifecycle import DeliveryState, JobState, SeriesState
from dicom_node.records import ClaimedJob, Ending, Outcome, ResultObject
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database, reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.tables import delivery, job, result, series
from tests.builders.pacs import TestPacs, pacs_that
from tests.builders.store import SCANNER, received, result_file
from tests.unit.test_route import SIDECAR

FORK = multiprocessing.get_context("fork")
SERIES = ("1.2.3.1", "1.2.3.2")


def live(folder: Path, port: int, kill_before: tuple[str, int] | None) -> None:
    """One life of a node: everything, until nothing is left to do."""
    engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
    if kill_before is not None:
        _kill_before(engine, *kill_before)
    settings = _settings(folder, port)
    now = 0.0
    assembler = Assembler(settings, catalogue(folder / "models"), Assembly(engine), lambda: now)
    outbox, queue = Outbox(engine), JobQueue(engine)
    courier = Courier("pacs", settings.destination["pacs"], settings, outbox, random.Random(1))
    _receive(Intake(engine))
    for lease in queue.running():  # the supervisor knows that their worker is dead
        queue.take_back(lease, "died")
    for _ in range(50):
        assembler.sweep()
        now += 100.0
        while (claimed := queue.claim("worker")) is not None:
            made = _work(folder, claimed)
            queue.finish(claimed.lease, Outcome.SUCCEEDED, "", {"pacs": made})
        courier.deliver_due()
        courier.confirm()
        if _at_its_end(engine):
            return
    raise AssertionError("the node did not come to an end")


def _kill_before(engine: Engine, what: str, number: int) -> None:
    seen = [0]

    def count(_: object) -> None:
        seen[0] += 1
        if seen[0] == number:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, what, count)


def _settings(folder: Path, port: int) -> Settings:
    pacs = {"ae_title": "PACS", "host": "127.0.0.1", "port": port, "confirm": "query"}
    quick = {"retry_first_seconds": 0.01, "retry_longest_seconds": 0.01}
    return Settings(
        data_dir=folder,
        destination={"pacs": pacs},  # type: ignore[dict-item]
        deliver=quick | {"confirm_first_seconds": 0.001},  # type: ignore[arg-type]
        route=({"name": "r", "models": ["alpha"], "destinations": ["pacs"]},),  # type: ignore[arg-type]
    )


def _receive(intake: Intake) -> None:
    """What a receiver does after its start too: everything that the spool holds is indexed once more."""
    for uid in SERIES:
        name = f"a-{uid}"
        instances = [received(name, uid, number) for number in range(3)]
        intake.association_opened(name, SCANNER, f"{name}.segment", instances[0].received_at)
        intake.index(name, instances[:2], 2000)
        intake.index(name, instances, 3000)
        intake.association_ended(name, Ending.RELEASED)


def _work(folder: Path, claimed: ClaimedJob) -> list[ResultObject]:
    """The same job makes objects with the same UIDs, whoever works on it and how often."""
    lease = claimed.lease
    place = folder / "results" / f"{lease.job_id}-{lease.token}"
    base = f"1.2.9.{int(claimed.job_key[:12], 16)}"
    return [result_file(place, uid=f"{base}.{n}") for n in (1, 2)]


def _at_its_end(engine: Engine) -> bool:
    with reading(engine) as connection:
        revisions = connection.execute(select(series.c.state)).scalars().all()
        states = connection.execute(select(delivery.c.state)).scalars().all()
    return (
        len(revisions) == len(SERIES)
        and set(revisions) == {SeriesState.QUEUED}
        and len(states) == 2 * len(SERIES)
        and set(states) == {DeliveryState.CONFIRMED}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "models" / "alpha"
    model.mkdir(parents=True)
    (model / "dicom.toml").write_text(SIDECAR.format(name="alpha"))
    return tmp_path


def run(folder: Path, port: int, kill_before: tuple[str, int] | None) -> int:
    """One life in a process of its own; returns its exit code."""
    process = FORK.Process(target=live, args=(folder, port, kill_before))
    process.start()
    process.join(60)
    assert process.exitcode is not None, "the node hangs"
    return process.exitcode


def transactions(folder: Path, port: int) -> int:
    """How many transactions an undisturbed life has, at most."""
    low, high = 1, 400
    while low < high:  # it is killed before the n-th if it has one
        middle = (low + high + 1) // 2
        place = folder / f"probe{middle}"
        place.mkdir()
        (place / "models").symlink_to(folder / "models")
        killed = run(place, port, ("begin", middle)) == -signal.SIGKILL
        low, high = (middle, high) if killed else (low, middle - 1)
    return low


def check(folder: Path, pacs: TestPacs) -> None:
    engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
    assert _at_its_end(engine)
    with reading(engine) as connection:
        assert connection.execute(select(job.c.state)).scalars().all() == [JobState.STORED] * 2
        made = set(connection.execute(select(result.c.sop_instance_uid)).scalars())
    engine.dispose()
    assert len(made) == 4
    assert made == set(pacs.kept)


@pytest.mark.parametrize("what", ["begin", "commit"])
def test_killed_at_every_boundary(folder: Path, what: str) -> None:
    with pacs_that() as pacs:
        last = transactions(folder, pacs.port)
        assert last > 30
        # every boundary in `make soak`; here some of each kind
        step = 1 if os.environ.get("DICOM_NODE_SOAK") else 5
        for number in range(1 + 2 * (what == "commit"), last + 1, step):
            pacs.kept.clear()
            place = folder / f"{what}{number}"
            place.mkdir()
            (place / "models").symlink_to(folder / "models")
            code = run(place, pacs.port, (what, number))
            assert code in (-signal.SIGKILL, 0)
            if code != 0:
                assert run(place, pacs.port, None) == 0
            check(place, pacs)


def test_killed_again_and_again(folder: Path) -> None:
    """A life that ends after ever more transactions: the node must still come to its end."""
    with pacs_that() as pacs:
        for number in range(3, 60, 9):
            if run(folder, pacs.port, ("commit", number)) == 0:
                break
        assert run(folder, pacs.port, None) == 0
        check(folder, pacs)


def test_a_pacs_that_refuses_every_other_object_gets_all_in_the_end(folder: Path) -> None:
    turn = [0]

    def every_other(_: Dataset) -> int:
        turn[0] += 1
        return 0xA700 if turn[0] % 2 else 0x0000

    with pacs_that(TestPacs(status=every_other)) as pacs:
        assert run(folder, pacs.port, None) == 0
        check(folder, pacs)
