"""kill -9 at any moment: nothing that was answered 0000 is lost, and nothing is there twice."""

import os
import random
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from dicom_node.receive.index import recover
from dicom_node.records import Peer
from dicom_node.store import spool
from dicom_node.store.database import open_database, utc_now
from dicom_node.store.intake import Intake
from tests.builders.datasets import ct_slice, encoded
from tests.builders.raw_peer import RawPeer
from tests.receiver_process import STEPS, start
from tests.receiving import eventually, listening, receive_settings, rows

KILLS = int(os.environ.get("DICOM_NODE_SOAK_KILLS", "200"))
STUDY, SERIES = "1.2.3.4", "1.2.3.4.5"


def _instances(count: int) -> list[tuple[str, bytes]]:
    """Most are small, and some so large that they are written ahead of their end."""
    sides = [400 if number % 8 == 3 else 32 for number in range(count)]
    slices = [ct_slice(STUDY, SERIES, number, (side, side)) for number, side in enumerate(sides)]
    return [(str(ds.SOPInstanceUID), encoded(ds)) for ds in slices]


def _send(address: tuple[str, int], instances: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Send until all is sent or the receiver is gone; what was acknowledged."""
    acknowledged = {}
    try:
        with RawPeer(address, timeout=10) as peer:
            peer.associate()
            for uid, data in instances:
                if peer.store(1, data, sop_instance=uid) == 0:
                    acknowledged[uid] = data  # noqa: PERF403 - kept when the loop breaks
            peer.release()
    except (OSError, AssertionError):
        pass  # the receiver died; what it said before counts
    return acknowledged


def _check(folder: Path, acknowledged: dict[str, bytes]) -> None:
    """Recover as the next start would, and compare database and spool with what was acknowledged."""
    settings = receive_settings(folder)
    engine = open_database(settings.effective_database_url)
    try:
        recover(settings.spool_dir, Intake(engine))
        assert recover(settings.spool_dir, Intake(engine)).segments == 0
        found = rows(engine, "instance")
        assert set(acknowledged) <= {row["sop_instance_uid"] for row in found}
        assert len(found) == len({row["sop_instance_uid"] for row in found})
        for row in found:
            address = spool.SegmentAddress(row["segment"], row["offset"], row["length"])
            with spool.open_data_set(settings.spool_dir, address) as data:
                expected = acknowledged.get(row["sop_instance_uid"])
                assert expected is None or data == expected
        assert all(row["ending"] for row in rows(engine, "association"))
        assert not list(spool.unsealed(settings.spool_dir))
        with engine.connect() as connection:
            assert connection.execute(text("PRAGMA integrity_check")).scalar() == "ok"
    finally:
        engine.dispose()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("survived", [0, 1])
def test_death_at_each_step(tmp_path: Path, step: str, survived: int) -> None:
    process = start(tmp_path, (step, survived))
    acknowledged = _send(process.address, _instances(5))
    acknowledged |= _send(process.address, _instances(5))
    process.process.join(5)
    process.kill()
    _check(tmp_path, acknowledged)


def test_death_at_random_moments(tmp_path: Path) -> None:
    moments = random.Random(7)
    acknowledged: dict[str, bytes] = {}
    for _ in range(KILLS):
        process = start(tmp_path)
        killer = threading.Timer(moments.uniform(0.0, 0.15), process.process.kill)
        killer.start()
        acknowledged |= _send(process.address, _instances(30))
        killer.join()
        process.kill()
    assert acknowledged
    _check(tmp_path, acknowledged)


def test_a_restarted_receiver_recovers_by_itself(tmp_path: Path) -> None:
    process = start(tmp_path, ("before rows", 0))
    acknowledged = _send(process.address, _instances(3))
    process.process.join(10)
    assert acknowledged
    with listening(tmp_path) as node:
        found = node.instances(len(acknowledged))
        assert {row["sop_instance_uid"] for row in found} >= set(acknowledged)
        assert node.endings() == ["LOST"]


def test_a_segment_of_another_version_is_left_for_it(tmp_path: Path) -> None:
    settings = receive_settings(tmp_path)
    settings.spool_dir.mkdir(parents=True)
    path = settings.spool_dir / "older.segment"
    content = b"DNSEGM01" + bytes(spool.BLOCK) + b"records as they were written then"
    path.write_bytes(content)
    engine = open_database(settings.effective_database_url)
    try:
        assert recover(settings.spool_dir, Intake(engine)).segments == 0
    finally:
        engine.dispose()
    assert path.read_bytes() == content


def test_a_segment_with_a_damaged_head_is_left_for_people(tmp_path: Path) -> None:
    settings = receive_settings(tmp_path)
    settings.spool_dir.mkdir(parents=True)
    owner = spool.SegmentOwner("a-1", Peer("CT1", "NODE", "10.0.0.1"), utc_now())
    writer = spool.SegmentWriter.open(settings.spool_dir, owner)
    (uid, data), *_ = _instances(1)
    writer.append("1.2", uid, "1.2.840.10008.1.2.1", data)
    writer.close(sealed=False)
    path = settings.spool_dir / writer.name
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)
    engine = open_database(settings.effective_database_url)
    try:
        assert recover(settings.spool_dir, Intake(engine)).segments == 0
    finally:
        engine.dispose()
    assert path.read_bytes() == content
    assert [meta.sop_instance_uid for meta, _ in spool.records(path)] == [uid]


def test_a_living_receiver_is_left_alone(tmp_path: Path) -> None:
    with listening(tmp_path) as node, RawPeer(node.address) as peer:
        peer.associate()
        uid, data = _instances(1)[0]
        assert peer.store(1, data, sop_instance=uid) == 0
        assert recover(node.settings.spool_dir, Intake(node.engine)).segments == 0
        peer.release()
        assert node.endings() == ["RELEASED"]


def test_stop_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    with listening(tmp_path) as node, RawPeer(node.address) as peer:
        peer.associate()
        sent = dict(_instances(4))
        for uid, data in sent.items():
            assert peer.store(1, data, sop_instance=uid) == 0
        node.receiver.stop(2.0)  # the association stays open: it is cut
        assert eventually(lambda: peer.read_pdu()[0] == 0)
        assert {row["sop_instance_uid"] for row in rows(node.engine, "instance")} == set(sent)
        assert node.endings() == ["LOST"]
        assert not list(spool.unsealed(node.settings.spool_dir))
