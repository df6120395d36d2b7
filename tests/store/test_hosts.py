"""Several hosts on one database: what belongs to whom, who may do what, and bytes that lie elsewhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from dicom_node.errors import HostAway, StaleLease
from dicom_node.lifecycle import DeliveryState
from dicom_node.receive import share
from dicom_node.receive.certificates import make_test_certificates
from dicom_node.receive.index import recover
from dicom_node.records import Outcome, Peer, SegmentAddress
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database, reading
from dicom_node.store.deliveries import Outbox
from dicom_node.store.duties import Duty
from dicom_node.store.folders import Credentials, Folders, Reach, folder_id
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.spool import SegmentOwner, SegmentWriter
from dicom_node.store.tables import association, delivery
from tests.builders.postgresql import PostgreSQL, postgresql_server
from tests.builders.store import SCANNER, queued_series, received, result_file, send

A, B = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"


def test_a_folder_keeps_its_number_however_many_ask_for_it_at_once(tmp_path: Path) -> None:
    found: set[str] = set()
    threads = [threading.Thread(target=lambda: found.add(folder_id(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {folder_id(tmp_path)}
    assert [path.name for path in tmp_path.iterdir()] == ["folder.id"]
    assert folder_id(tmp_path / "other") not in found


def test_recovery_on_one_host_never_touches_the_others_associations(
    engine: Engine, tmp_path: Path
) -> None:
    a, b = Intake(engine, A), Intake(engine, B)
    at = datetime(2026, 1, 2, tzinfo=UTC)
    a.association_opened("at-a", SCANNER, "at-a.segment", at)
    b.association_opened("at-b", SCANNER, "at-b.segment", at)
    recover(tmp_path, b)  # neither segment lies here
    with reading(engine) as connection:
        endings = {
            row[0]: row[1]
            for row in connection.execute(select(association.c.id, association.c.ending))
        }
    assert endings["at-a"] is None
    assert endings["at-b"] is not None


def test_rows_from_before_belong_to_the_folder_that_has_their_segments(
    engine: Engine, tmp_path: Path
) -> None:
    send(Intake(engine), "here", [received("here")])
    send(Intake(engine), "gone", [received("gone", "1.2.3.7")])
    (tmp_path / "here.segment").touch()
    Folders(engine).register(A, "a")
    Folders(engine).adopt(A, tmp_path)
    with reading(engine) as connection:
        owners = {
            row[0]: row[1]
            for row in connection.execute(select(association.c.id, association.c.folder_id))
        }
    assert owners == {"here": A, "gone": ""}


def test_a_courier_takes_only_what_lies_in_its_folder(engine: Engine, tmp_path: Path) -> None:
    intake, assembly = Intake(engine), Assembly(engine)
    for number, where in enumerate((A, B)):
        queued_series(intake, assembly, f"1.2.3.{number}")
        queue = JobQueue(engine, where)
        claimed = queue.claim("w")
        assert claimed is not None
        made = {"pacs": [result_file(tmp_path / where)]}
        queue.finish(claimed.lease, Outcome.SUCCEEDED, "", made)
    (mine,) = Outbox(engine, A).due("pacs", 600)
    assert A in mine.path
    assert len(Outbox(engine).due("pacs", 600)) == 2
    # a destination that only the other host knows is not given up here
    assert Outbox(engine, A).abandon_unknown([]) == 1
    with reading(engine) as connection:
        states = set(connection.execute(select(delivery.c.state)).scalars())
    assert states == {DeliveryState.DEAD, DeliveryState.PENDING}


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql_server() as running:
        yield running


def until(condition: object, seconds: float = 20.0) -> None:
    """Wait for a condition."""
    tick = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():  # type: ignore[operator]
            return
        tick.wait(0.05)
    raise AssertionError("it never came to be")


@pytest.mark.peer("postgresql")
def test_a_duty_has_one_holder_and_passes_on_when_that_one_ends(server: PostgreSQL) -> None:
    url = server.new_database()
    first_engine, second_engine = open_database(url), open_database(url)
    with Duty(first_engine, "deliver pacs", "first") as first:
        until(lambda: first.held)
        with Duty(second_engine, "deliver pacs", "second") as second:
            with Duty(second_engine, "deliver other", "second") as other:
                until(lambda: other.held)
            assert not second.held
            first.__exit__()
            until(lambda: second.held)
            assert not first.held
    for engine in (first_engine, second_engine):
        engine.dispose()


@pytest.mark.peer("postgresql")
def test_a_courier_that_lost_its_duty_begins_nothing_and_writes_down_what_it_knows(
    server: PostgreSQL, tmp_path: Path
) -> None:
    engine = open_database(server.new_database())
    queued_series(Intake(engine), Assembly(engine), "1.2.3.1")
    claimed = JobQueue(engine).claim("w")
    assert claimed is not None
    made = {"pacs": [result_file(tmp_path / str(n)) for n in range(2)]}
    JobQueue(engine).finish(claimed.lease, Outcome.SUCCEEDED, "", made)
    with Duty(engine, "deliver pacs", "old") as old:
        until(lambda: old.held)
        outbox = Outbox(engine, fence=old.fence)
        under_way, later = outbox.due("pacs", 600)
        under_way = outbox.begin(under_way)  # type: ignore[assignment]
        server.stop(signal.SIGQUIT)
        server.start()
        with Duty(engine, "deliver pacs", "new") as new:
            until(lambda: new.held or old.held)
            if old.held:  # it was quicker: then let it go
                old.__exit__()
                until(lambda: new.held)
            with pytest.raises(StaleLease):
                outbox.begin(later)
            outbox.accepted(under_way, "C-STORE answered 0000")
            with reading(engine) as connection:
                states = connection.execute(
                    select(delivery.c.state).order_by(delivery.c.id)
                ).scalars()
                assert list(states) == [DeliveryState.CONFIRMED, DeliveryState.PENDING]
    engine.dispose()


# --- bytes that lie elsewhere ---------------------------------------------------------------------


def written(folder: Path, data: list[bytes]) -> list[SegmentAddress]:
    owner = SegmentOwner("a-1", Peer("CT1", "N", "h"), datetime(2026, 1, 2, tzinfo=UTC))
    writer = SegmentWriter.open(folder, owner)
    made = []
    for content in data:
        _, address = writer.append("1.2", "1.2.3", "1.2.840.10008.1.2", content)
        made.append(SegmentAddress(address.segment, address.offset, address.length, A))
    writer.close(sealed=True)
    return made


def certificates(folder: Path) -> dict[str, Path]:
    """An authority of its own, and a certificate for this host."""
    made = make_test_certificates(folder, ("127.0.0.1",))["127.0.0.1"]
    return {"certificate": made.certificate, "key": made.key, "ca": folder / "ca.pem"}


@contextmanager
def sharing(spool: Path, tls: dict[str, Path] | None = None) -> Iterator[str]:
    """A host that serves its segments; the value is its address."""
    settings = Settings(share={"port": 0, "tls": tls}).share  # type: ignore[arg-type]
    stop = threading.Event()
    listener = share.bind(settings)
    address = share.address_of(settings, listener)
    thread = threading.Thread(
        target=share.serve_segments, args=(spool, "s3cret", settings, listener, stop)
    )
    thread.start()
    try:
        yield address
    finally:
        stop.set()
        thread.join()


def reach(address: str, spool: Path, **values: object) -> Reach:
    hosts = lambda: {A: ("a", address)}  # noqa: E731
    given = {"credentials": Credentials("s3cret"), **values}
    return Reach(spool, B, hosts, **given)  # type: ignore[arg-type]


def test_what_another_host_received_is_read_byte_for_byte(tmp_path: Path) -> None:
    data = [bytes([n]) * (n * 700 + 1) for n in range(5)] + [b"x" * 3_000_000]
    addresses = written(tmp_path, data)
    with sharing(tmp_path) as at:
        far = reach(at, tmp_path / "none")
        assert [bytes(far.open(address)) for address in addresses] == data
        with pytest.raises(FileNotFoundError):
            far.open(SegmentAddress("b-2.segment", 512, 10, A))
        with pytest.raises(HostAway, match="416"):
            far.open(SegmentAddress(addresses[0].segment, 1 << 40, 10, A))
        for name in ("../../etc/passwd", "folder.id", "%2e%2e/x.segment", ""):
            with pytest.raises(FileNotFoundError):
                far.open(SegmentAddress(name, 0, 10, A))
        stranger = reach(at, tmp_path, credentials=Credentials("guess"))
        with pytest.raises(HostAway, match="401"):
            stranger.open(addresses[0])


def test_a_host_that_is_away_is_waited_for_and_then_told_of(tmp_path: Path) -> None:
    (address,) = written(tmp_path, [b"abc"])
    with sharing(tmp_path) as at:
        pass
    with pytest.raises(HostAway, match="host a, which has the images, does not answer"):
        reach(at, tmp_path / "none", patience_seconds=0.6).open(address)
    with pytest.raises(HostAway, match="serves them to nobody"):
        reach("", tmp_path / "none").open(address)


def test_images_go_over_mutual_tls_between_hosts(tmp_path: Path) -> None:
    ours = certificates(tmp_path / "ca")
    other = certificates(tmp_path / "other")
    (address,) = written(tmp_path, [b"abc" * 1000])
    with sharing(tmp_path, ours) as at:
        assert at.startswith("https://")
        good = Credentials("s3cret", ours["certificate"], ours["key"], ours["ca"])
        assert bytes(reach(at, tmp_path / "n", credentials=good).open(address)) == b"abc" * 1000
        for bad in (
            Credentials("s3cret", other["certificate"], other["key"], ours["ca"]),
            Credentials("s3cret", ours["certificate"], ours["key"], other["ca"]),
        ):
            with pytest.raises(HostAway):
                reach(at, tmp_path / "n", credentials=bad).open(address)


def test_images_do_not_leave_the_host_in_the_clear_unless_somebody_says_so() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        Settings(share={"port": 9000, "host": "0.0.0.0"})  # type: ignore[arg-type]
    assert Settings(share={"port": 9000, "host": "0.0.0.0", "plain_http": True})  # type: ignore[arg-type]
