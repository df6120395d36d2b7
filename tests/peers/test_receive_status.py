"""What the wire sees: each situation of the status table, and that the next message is served after it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.builders.datasets import ct_slice, encoded
from tests.builders.raw_peer import (
    ABORT,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    RawPeer,
    associate_rq,
    command_set,
    p_data,
    pdu,
    store_pdus,
)
from tests.receiving import Listening, eventually, listening, rows

MR = "1.2.840.10008.5.1.4.1.1.4"
LOCKS = {"associations.lock", "receiving.lock"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path, max_instance_mb=2) as running:
        yield running


@pytest.fixture
def peer(node: Listening) -> Iterator[RawPeer]:
    with RawPeer(node.address) as connected:
        connected.associate()
        yield connected


def _good(peer: RawPeer) -> int:
    ds = ct_slice()
    return peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID))


def test_command_and_data_set_disagree(peer: RawPeer) -> None:
    ds = ct_slice()
    assert peer.store(1, encoded(ds), sop_instance="1.2.3") == 0xA900
    ds.SOPClassUID = MR
    assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0xA900
    assert _good(peer) == 0


def test_the_class_is_not_that_of_the_context(peer: RawPeer) -> None:
    ds = ct_slice()
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    assert peer.store(1, data, sop_class=MR, sop_instance=uid) == 0x0122
    assert _good(peer) == 0


@pytest.mark.parametrize("data", [b"", b"rubbish" * 1000, bytes(100_000)])
def test_what_cannot_be_understood(peer: RawPeer, data: bytes) -> None:
    assert peer.store(1, data, sop_instance="1.2.3") == 0xC000
    assert _good(peer) == 0


def test_no_instance_uid_or_no_data_set(peer: RawPeer) -> None:
    assert peer.store(1, encoded(ct_slice()), sop_instance="") == 0xC000
    peer.send(p_data(1, 3, command_set(0x0001, sop_instance="1.2.3")))
    assert peer.status() == 0xC000
    assert _good(peer) == 0


def test_other_operations_are_not_recognised(peer: RawPeer) -> None:
    peer.send(p_data(1, 3, command_set(0x0020, data_set=True)) + p_data(1, 2, b"identifier"))
    assert peer.status() == 0x0211
    peer.send(p_data(1, 3, command_set(0x0150, sop_instance="1.2")))
    assert peer.status() == 0x0211
    assert _good(peer) == 0


def test_echo(peer: RawPeer) -> None:
    peer.send(p_data(3, 3, command_set(0x0030, sop_class=VERIFICATION)))
    assert peer.status() == 0


def test_an_odd_instance_is_kept_in_quarantine(node: Listening, peer: RawPeer) -> None:
    ds = ct_slice(series="../../etc/passwd")
    del ds.Rows
    assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0
    (row,) = node.instances(1)
    assert "rows and columns" in row["quarantine"]
    assert "Series Instance UID" in row["quarantine"]
    assert node.data_set(row) == encoded(ds)
    names = {path.name for path in node.settings.spool_dir.iterdir()}
    assert names == {*LOCKS, row["segment"]}


def test_an_instance_over_the_limit_is_refused_and_leaves_nothing(
    node: Listening, peer: RawPeer
) -> None:
    assert peer.store(1, bytes(5 << 20), sop_instance="1.2.3", fragment=100_000) == 0xA700
    assert _good(peer) == 0
    peer.release()
    assert node.endings() == ["RELEASED"]
    assert sum(path.stat().st_size for path in node.settings.spool_dir.iterdir()) < 4096


def test_pipelined_messages_are_answered_in_order(peer: RawPeer) -> None:
    slices = [ct_slice() for _ in range(5)]
    peer.send(
        b"".join(
            store_pdus(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID), message_id=n)
            for n, ds in enumerate(slices)
        )
    )
    assert [peer.status() for _ in slices] == [0] * 5


def test_fragments_of_any_size(node: Listening, peer: RawPeer) -> None:
    ds = ct_slice()
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    assert peer.store(1, data, sop_instance=uid, fragment=7) == 0
    assert node.data_set(node.instances(1)[0]) == data


def test_an_abort_is_no_release(node: Listening, peer: RawPeer) -> None:
    assert _good(peer) == 0
    peer.send(ABORT)
    assert node.endings() == ["ABORTED"]


def test_a_half_sent_instance_is_forgotten(node: Listening, peer: RawPeer) -> None:
    assert _good(peer) == 0
    peer.send(store_pdus(1, encoded(ct_slice()), sop_instance="1.2")[:-100])
    peer.socket.close()
    assert node.endings() == ["LOST"]
    assert len(node.instances(1)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        pdu(0x09, b"1234"),
        pdu(0x02, b"1234"),
        associate_rq([(1, CT, (EXPLICIT,))]),
        p_data(5, 3, command_set(0x0030)),
        p_data(1, 2, b"a data set without a command"),
        p_data(1, 3, b"no command set"),
        p_data(1, 3, command_set(0x8001)),
        p_data(1, 3, command_set(0x0001, data_set=True, sop_instance="1")) + RELEASE_RQ,
        p_data(1, 1, b"") + RELEASE_RQ + p_data(1, 1, bytes(8)) + RELEASE_RQ,
        pdu(0x04, b"\0\0\0\1\1"),
        pdu(0x04, b"\0\0\1\0\1\3abc"),
        b"\4\0\xff\xff\xff\xff",
        b"".join(p_data(1, 1, bytes(16000)) for _ in range(5)),
    ],
)
def test_a_broken_protocol_is_aborted(peer: RawPeer, node: Listening, wrong: bytes) -> None:
    peer.send(wrong)
    kind, body = peer.read_pdu()
    while kind == 6:  # the first of two release requests was in order
        kind, body = peer.read_pdu()
    assert (kind, body[2:3]) in ((7, b"\2"), (0, b""))
    with RawPeer(node.address) as another:
        another.associate()
        assert _good(another) == 0


def test_what_comes_first_must_be_an_association_request(node: Listening) -> None:
    for first, reason in (
        (RELEASE_RQ, 2),
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (b"\1\0\xff\xff\xff\xff", 6),
        (pdu(1, bytes(50)), 6),
        (pdu(1, bytes(68) + b"\x10\0\xff\xff"), 6),
    ):
        with RawPeer(node.address) as peer:
            peer.send(first)
            assert peer.abort_reason() == reason


def test_associations_that_are_rejected(node: Listening) -> None:
    for options, expected in (({"version": 2}, (1, 2, 2)), ({"application": "1.2"}, (1, 1, 2))):
        with RawPeer(node.address) as peer:
            assert tuple(peer.rejection(**options)) == expected


def test_a_full_disk_is_told_and_forgiven(node: Listening, peer: RawPeer) -> None:
    spool = node.settings.spool_dir
    hidden = spool.with_name("hidden")
    assert _good(peer) == 0
    spool.rename(hidden)
    assert _good(peer) == 0xA700
    with RawPeer(node.address) as another:
        assert tuple(another.rejection()) == (2, 3, 1)
    hidden.rename(spool)
    assert _good(peer) == 0
    assert len(node.instances(2)) == 2


def test_a_disk_below_its_reserve_takes_nothing(tmp_path: Path) -> None:
    with (
        listening(tmp_path, disk_reserve_mb=1 << 40) as node,
        RawPeer(node.address) as peer,
    ):
        assert tuple(peer.rejection()) == (2, 3, 1)


def test_a_failed_sync_stops_intake_for_good(
    node: Listening, peer: RawPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _good(peer) == 0
    with monkeypatch.context() as broken:

        def fail(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        broken.setattr(os, "fdatasync", fail)
        assert _good(peer) == 0xA700
    assert _good(peer) == 0xA700
    peer.release()
    with RawPeer(node.address) as another:
        assert tuple(another.rejection()) == (2, 3, 1)
    assert len(node.instances(1)) == 1


def test_a_failing_database_pauses_intake(node: Listening, peer: RawPeer) -> None:
    database = node.settings.data_dir / "node.sqlite"
    assert _good(peer) == 0
    node.instances(1)
    _execute(database, "ALTER TABLE instance RENAME TO away")
    statuses = [_good(peer)]
    while statuses[-1] == 0 and len(statuses) < 10_000:
        statuses.append(_good(peer))
    assert statuses[-1] == 0xA700
    _execute(database, "ALTER TABLE away RENAME TO instance")
    acknowledged = 1 + statuses.count(0)
    while _good(peer) != 0:
        pass
    assert len(node.instances(acknowledged + 1)) == acknowledged + 1


def _execute(database: Path, statement: str) -> None:
    """Change the database behind the receiver's back, whose connections stay open."""
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        connection.execute(statement)


def test_private_classes_where_configured(tmp_path: Path) -> None:
    private = "1.2.840.113619.4.27"
    with listening(tmp_path, private_sop_classes=[private]) as node, RawPeer(node.address) as peer:
        assert peer.associate([(1, private, (IMPLICIT,)), (3, "1.2.3", (IMPLICIT,))]) == {
            1: 0,
            3: 3,
        }


def test_an_association_that_stores_nothing_leaves_nothing(node: Listening, peer: RawPeer) -> None:
    assert peer.store(1, b"rubbish" * 1000, sop_instance="1.2.3") == 0xC000
    peer.release()
    eventually(lambda: {p.name for p in node.settings.spool_dir.iterdir()} == LOCKS)
    assert rows(node.engine, "association") == []
