"""Strange bytes at the listener: from a grammar of PDUs, and real traffic that was damaged.

Each case is a connection of its own to one receiver that runs all the time. After all of them it has the
memory, the threads and the slots that it had before, and serves a good sender. `DICOM_NODE_SOAK_CASES` sets
how many cases there are; the default is for CI.
"""

import contextlib
import gc
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from dicom_node.receive import pdu
from dicom_node.receive.command import parse_command
from dicom_node.receive.pdu import ProtocolError
from dicom_node.receive.transport import Patience
from dicom_node.store.spool import unsealed
from tests.builders.datasets import ct_slice, encoded
from tests.builders.raw_peer import (
    ABORT,
    CT,
    EXPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    RawPeer,
    associate_rq,
    command_set,
    element,
    item,
    p_data,
    pdv,
    store_pdus,
)
from tests.receiver_process import start
from tests.receiving import eventually, listening

CASES = int(os.environ.get("DICOM_NODE_SOAK_CASES", "20000"))
NETWORK_CASES = max(300, CASES // 40)
CONTEXTS = [(1, CT, (EXPLICIT,)), (3, VERIFICATION, (EXPLICIT,))]
QUICK = {"negotiation": 2.0, "idle": 2.0, "silence": 1.0, "credit": 2.0, "closing": 0.2}


@cache
def _conversation() -> tuple[bytes, ...]:
    """What a good sender says, PDU by PDU."""
    ds = ct_slice()
    return (
        associate_rq(CONTEXTS),
        p_data(3, 3, command_set(0x0030, sop_class=VERIFICATION)),
        store_pdus(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID), fragment=500),
        RELEASE_RQ,
    )


def _from_grammar(chosen: random.Random) -> bytes:
    """A sequence of PDUs, each of them right or wrong in its own way."""
    size = chosen.choice([0, 1, 2, 6, 100, 5000])
    noise = chosen.randbytes(size)
    makers: list[Callable[[], bytes]] = [
        lambda: associate_rq(CONTEXTS, extra=item(chosen.randrange(0x50, 0x60), noise)),
        lambda: associate_rq(
            [(chosen.randrange(256), chosen.choice([CT, "", "1.2" * 30]), (EXPLICIT,))]
            * chosen.choice((0, 1, 2, 3, 5, 8, 129, 200))
        ),
        lambda: p_data(chosen.choice([1, 2, 3]), chosen.randrange(256), noise),
        lambda: p_data(1, 3, command_set(chosen.choice([1, 0x20, 0x30, 0xFFF, 0x8001]))),
        lambda: p_data(1, 3, element(0, b"1234") + element(chosen.randrange(0x1100), noise[:500])),
        lambda: p_data(1, 3, command_set(1, sop_instance="1.2", data_set=True)),
        lambda: struct.pack(">BxI", 4, chosen.choice([0, 1, 6, 1 << 17, 0xFFFFFFFF])) + noise,
        lambda: b"\4\0" + struct.pack(">I", len(noise) * 2 + 12) + pdv(1, 0, noise) * 2,
        lambda: struct.pack(">BxI", chosen.randrange(256), size) + noise,
        lambda: chosen.choice([RELEASE_RQ, ABORT, RELEASE_RQ[:5], ABORT + RELEASE_RQ]),
        lambda: _conversation()[2],
    ]
    first = [_conversation()[0]] if chosen.random() < 0.8 else []
    return b"".join([*first, *(chosen.choice(makers)() for _ in range(chosen.randrange(1, 6)))])


def _damaged(chosen: random.Random) -> bytes:
    """Real traffic with bytes changed, cut out, doubled or inserted."""
    parts = _conversation()
    keep = parts[0] if chosen.random() < 0.7 else b""
    data = bytearray(b"".join(parts[1:] if keep else parts))
    for _ in range(chosen.randrange(1, 6)):
        at = chosen.randrange(len(data) + 1)
        kind = chosen.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = chosen.randrange(256)
        elif kind == 1:
            del data[at : at + chosen.randrange(20)]
        elif kind == 2:
            data[at:at] = data[at : at + chosen.randrange(200)]
        else:
            data[at:at] = chosen.randbytes(chosen.randrange(12))
    return keep + bytes(data)


def _case(number: int) -> bytes:
    chosen = random.Random(number)
    return _from_grammar(chosen) if number % 2 else _damaged(chosen)


def _say(address: tuple[str, int], data: bytes) -> None:
    """Say it, and listen until the other side has enough."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=20) as peer:
        with contextlib.suppress(OSError):
            peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(4096):
            pass


def test_strange_bytes_harm_nobody(tmp_path: Path) -> None:
    process = start(tmp_path, patience=Patience(**QUICK))
    try:
        measured = psutil.Process(process.process.pid)
        for number in range(50):
            _say(process.address, _case(number))
        threads, memory = measured.num_threads(), measured.memory_info().rss
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(
                lambda n: _say(process.address, _case(n)), range(50, 50 + NETWORK_CASES)
            ):
                pass
        assert process.process.is_alive()
        eventually(lambda: measured.num_threads() <= threads + 1, 30)
        assert measured.memory_info().rss < memory + (100 << 20)
        with RawPeer(process.address) as peer:
            ds = ct_slice()
            peer.associate()
            assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0
            peer.release()
    finally:
        process.kill()
    left = [path for path in (tmp_path / "spool").iterdir() if path.suffix == ".segment"]
    assert all(path.name.count("-") == 4 for path in left)


def _pair(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection."""
    theirs = socket.create_connection(listener.getsockname(), timeout=20)
    ours, _ = listener.accept()
    return ours, theirs


@pytest.mark.timeout(1200)  # half a minute where nobody else computes
@pytest.mark.filterwarnings("ignore")
def test_strange_bytes_through_the_whole_path(tmp_path: Path) -> None:
    """Each case in this thread, from the socket to the spool: a bug cannot hide in a thread that dies."""
    measured = psutil.Process()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        listening(tmp_path, patience=Patience(**QUICK)) as node,
        capture_logs() as logged,
    ):
        memory = threads = 0
        for number in range(CASES):
            ours, theirs = _pair(listener)
            with theirs:
                theirs.sendall(_case(number))
                theirs.shutdown(socket.SHUT_WR)
                node.receiver.serve(ours, "127.0.0.1")
            if number == CASES // 10:
                memory, threads = measured.memory_info().rss, measured.num_threads()
        bugs = [entry for entry in logged if "bug" in entry["event"]]
        assert not bugs
        assert {entry["event"] for entry in logged} >= {"protocol error", "association ended"}
        assert measured.num_threads() <= threads
        assert measured.memory_info().rss < memory + (100 << 20)
        with RawPeer(node.address) as peer:
            ds = ct_slice()
            peer.associate()
            assert peer.store(1, encoded(ds), sop_instance=str(ds.SOPInstanceUID)) == 0
            peer.release()
    assert not list(unsealed(node.settings.spool_dir))


@pytest.fixture
def quiet_gc() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.usefixtures("quiet_gc")
def test_parsers_only_ever_raise_protocol_errors() -> None:
    for number in range(CASES):
        data = _case(number)
        for parse, content in (
            (pdu.check_associate_request, data[6:]),
            (parse_command, data[12:]),
            (parse_command, data[-200:]),
        ):
            with contextlib.suppress(ProtocolError):
                parse(content)


def test_the_largest_request_that_is_decoded_takes_bounded_time(tmp_path: Path) -> None:
    """128 contexts with as many transfer syntaxes as fit, and an item of nothing as often as it fits."""
    process = start(tmp_path)
    try:
        big = [(2 * i + 1, CT, ("1.2",) * 38) for i in range(128)]
        nothing = item(0x20, bytes(4)) * 30_000
        for wrong in (
            associate_rq(big),
            associate_rq([(2 * i + 1, CT, ("1.2",) * 80) for i in range(128)]),
            struct.pack(">BxI", 1, len(nothing) + 68) + b"\0\1" + bytes(66) + nothing,
        ):
            before = psutil.Process(process.process.pid).cpu_times()
            with RawPeer(process.address, timeout=20) as peer:
                peer.send(wrong)
                assert peer.read_pdu()[0] in (2, 7, 0)
            after = psutil.Process(process.process.pid).cpu_times()
            assert after.user - before.user < 2.0
        assert not threading.active_count() > 50
    finally:
        process.kill()
