"""Hostile and careless peers: each can only harm itself, and a good sender never notices."""

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from dicom_node.receive import scp
from dicom_node.receive.transport import Patience
from dicom_node.store import spool
from tests.builders.datasets import ct_slice, encoded
from tests.builders.raw_peer import CT, EXPLICIT, RawPeer, associate_rq, command_set, p_data
from tests.receiver_process import start
from tests.receiving import Listening, eventually, listening

QUICK = Patience(negotiation=1.0, idle=1.0, silence=1.0, credit=2.0, closing=0.5)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path) as running:
        yield running


def _send_some(address: tuple[str, int], count: int = 20) -> float:
    """Send some instances; the seconds that it took."""
    began = time.monotonic()
    with RawPeer(address) as peer:
        peer.associate()
        for _ in range(count):
            ds = ct_slice()
            assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0
        peer.release()
    return time.monotonic() - began


def test_silent_peers_do_not_slow_a_good_one(node: Listening) -> None:
    normal = _send_some(node.address)
    with contextlib.ExitStack() as silent:
        for number in range(76):
            peer = silent.enter_context(socket.create_connection(node.address))
            if number < 12:
                peer.sendall(b"\1\0\0")
        assert _send_some(node.address) < normal + 2


def test_stalled_senders_do_not_slow_a_good_one(node: Listening) -> None:
    normal = _send_some(node.address)
    with contextlib.ExitStack() as stalled:
        for _ in range(20):
            peer = stalled.enter_context(RawPeer(node.address))
            peer.associate()
            peer.send(p_data(1, 3, command_set(0x0001, sop_instance="1.2", data_set=True))[:-9])
        assert _send_some(node.address) < normal + 2


def test_too_many_half_open_connections_close_the_oldest(
    node: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scp, "MAX_HALF_OPEN", 10)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(node.address)) for _ in range(11)]
        assert peers[0].read_pdu()[0] == 0
        peers[-1].associate()


def test_slots_are_given_up_by_those_who_are_silent(tmp_path: Path) -> None:
    with listening(tmp_path, QUICK, max_associations=1) as node, contextlib.ExitStack() as stack:
        assert stack.enter_context(RawPeer(node.address)).read_pdu()[0] == 0  # never asks
        idle = stack.enter_context(RawPeer(node.address))
        idle.associate()
        with RawPeer(node.address) as another:
            assert tuple(another.rejection()) == (2, 3, 1)
        assert idle.read_pdu()[0] == 0  # asks, and says no more
        stalled = stack.enter_context(RawPeer(node.address))
        eventually(lambda: _associates(node.address))
        eventually(lambda: _tries(stalled))
        stalled.send(p_data(1, 3, command_set(0x0001, sop_instance="1.2", data_set=True))[:-5])
        assert stalled.read_pdu()[0] == 0  # stops inside a message
        eventually(lambda: _associates(node.address))


def _tries(peer: RawPeer) -> bool:
    peer.associate()
    return True


def _associates(address: tuple[str, int]) -> bool:
    with RawPeer(address) as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
        accepted = peer.read_pdu()[0] == 2
        if accepted:
            peer.release()
        return accepted


def test_bytes_that_drip_are_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path, QUICK) as node, RawPeer(node.address) as peer:
        peer.associate()
        peer.send(p_data(1, 3, command_set(0x0001, sop_instance="1.2", data_set=True)))
        peer.send(b"\4\0\0\1\0\6\0\1\0\2\1\0")
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    peer.send(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            began = time.monotonic()
            assert peer.read_pdu()[0] == 0, "the connection was not closed"
            assert time.monotonic() - began < 10
        finally:
            stop.set()
            dripping.join()


def test_two_hundred_at_once_lose_nobody_below_the_cap(tmp_path: Path) -> None:
    cap = 100
    limits = {"max_associations": cap, "max_associations_per_peer": 200}
    with listening(tmp_path, **limits) as node:
        everyone = threading.Barrier(200)
        answers: list[int] = []

        def one(_number: int) -> None:
            with RawPeer(node.address, timeout=60) as peer:
                peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
                kind, body = peer.read_pdu()
                answers.append(kind)
                everyone.wait(60)
                if kind == 2:
                    ds = ct_slice()
                    assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0
                    peer.release()
                else:
                    assert tuple(body[1:]) == (2, 3, 1)

        with ThreadPoolExecutor(200) as pool:
            list(pool.map(one, range(200)))
        assert sorted(answers) == [2] * cap + [3] * (200 - cap)
        assert len(node.instances(cap)) == cap


def test_no_address_takes_every_slot(tmp_path: Path) -> None:
    with (
        listening(tmp_path, max_associations_per_peer=2) as node,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(2):
            stack.enter_context(RawPeer(node.address)).associate()
        assert tuple(stack.enter_context(RawPeer(node.address)).rejection()) == (2, 3, 1)


def test_processes_share_a_socket_and_the_cap(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        limits = {"max_associations": 6}
        processes = [start(tmp_path, listen_socket=listener, receive=limits) for _ in range(2)]
        try:
            address = listener.getsockname()
            accepted = rejected = 0
            for _ in range(12):
                peer = stack.enter_context(RawPeer(address))
                peer.send(associate_rq([(1, CT, (EXPLICIT,))]))
                kind, _ = peer.read_pdu()
                accepted += kind == 2
                rejected += kind == 3
            assert (accepted, rejected) == (6, 6)
            processes[0].kill()  # its slots are free again, and the other one goes on
            stack.close()
            assert _send_some(address) < 10
        finally:
            for process in processes:
                process.kill()


def test_an_endless_data_set_takes_no_memory(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        with RawPeer(process.address) as peer:
            peer.associate()
            measured = psutil.Process(process.process.pid)
            before = measured.memory_info().rss
            peer.send(p_data(1, 3, command_set(0x0001, sop_instance="1.2", data_set=True)))
            fragment = p_data(1, 0, bytes(130_000))
            for _ in range(1500):
                peer.send(fragment)
            assert measured.memory_info().rss - before < 20 << 20
            assert measured.memory_info().rss < 150 << 20
    finally:
        process.kill()


def test_a_full_file_system_pauses_and_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        with RawPeer(process.address) as peer:
            peer.associate()
            ds = ct_slice(shape=(512, 512))
            data, uid = encoded(ds), str(ds.SOPInstanceUID)
            assert peer.store(1, data, sop_instance=uid) == 0
            measured = psutil.Process(process.process.pid)
            measured.rlimit(psutil.RLIMIT_FSIZE, (1 << 20, psutil.RLIM_INFINITY))
            another = ct_slice(shape=(512, 512))
            data, uid = encoded(another), str(another.SOPInstanceUID)
            assert peer.store(1, data, sop_instance=uid) == 0xA700
            assert peer.store(1, data * 4, sop_instance=uid) == 0xA700
            measured.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            assert peer.store(1, data, sop_instance=uid) == 0
            peer.release()
    finally:
        process.kill()


def test_a_disk_that_is_full_at_any_byte_of_an_instance(tmp_path: Path) -> None:
    """The head of a segment, a record's first page, what is written ahead, and its end."""
    ds = ct_slice(shape=(512, 512))
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    limits = (100, 600, 5000, 140_000, 400_000, len(data), len(data) + 600)
    process = start(tmp_path)
    try:
        measured = psutil.Process(process.process.pid)
        with contextlib.ExitStack() as stack:
            peers = [stack.enter_context(RawPeer(process.address)) for _ in limits]
            for peer in peers:
                peer.associate()
            for peer, limit in zip(peers, limits, strict=True):
                measured.rlimit(psutil.RLIMIT_FSIZE, (limit, psutil.RLIM_INFINITY))
                assert peer.store(1, data, sop_instance=uid) == 0xA700
            measured.rlimit(psutil.RLIMIT_FSIZE, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            for peer in peers[:-1]:
                peer.release()
            eventually(lambda: len(list((tmp_path / "spool").glob("*.segment"))) < 2)
            assert peers[-1].store(1, data, sop_instance=uid) == 0
            peers[-1].release()
        (path,) = (tmp_path / "spool").glob("*.segment")
        eventually(lambda: not list(spool.unsealed(tmp_path / "spool")))
        ((meta, address),) = spool.records(path)
        assert meta.sop_instance_uid == uid
        with spool.open_data_set(path.parent, address) as view:
            assert view == data
    finally:
        process.kill()


def test_a_spool_that_went_away_pauses_intake_until_it_is_back(node: Listening) -> None:
    ds = ct_slice()
    data, uid = encoded(ds), str(ds.SOPInstanceUID)
    folder = node.settings.spool_dir
    with RawPeer(node.address) as peer:
        peer.associate()
        folder.rename(folder.with_name("unmounted"))
        assert peer.store(1, data, sop_instance=uid) == 0xA700
        with RawPeer(node.address) as another:
            assert tuple(another.rejection()) == (2, 3, 1)
        folder.with_name("unmounted").rename(folder)
        assert peer.store(1, data, sop_instance=uid) == 0
        peer.release()
    (row,) = node.instances(1)
    assert node.data_set(row) == data


def test_a_slow_sync_holds_up_nobody_else(node: Listening, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, entered = threading.Event(), threading.Event()
    sync, first = os.fdatasync, iter([True])

    def slowed(descriptor: int) -> None:
        if next(first, False):
            entered.set()
            slow.wait(30)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", slowed)
    ds = ct_slice()
    with RawPeer(node.address) as stuck, ThreadPoolExecutor(1) as pool:
        stuck.associate()
        waiting = pool.submit(stuck.store, 1, encoded(ds), sop_instance=str(ds.SOPInstanceUID))
        assert entered.wait(10)
        _send_some(node.address)
        assert not waiting.done()
        slow.set()
        assert waiting.result() == 0


def test_a_peer_that_takes_no_answers_is_cut_off(tmp_path: Path) -> None:
    with listening(tmp_path, QUICK) as node:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        sock.connect(node.address)
        sock.settimeout(5)
        with sock, contextlib.suppress(OSError, ssl.SSLError):
            sock.sendall(associate_rq([(1, "1.2.840.10008.1.1", (EXPLICIT,))]))
            echo = p_data(1, 3, command_set(0x0030, sop_class="1.2.840.10008.1.1"))
            while True:  # never reads
                sock.sendall(echo * 100)
        assert _send_some(node.address) < 10
