"""A node whose disk fills up at each stage: it waits, dies of nothing, and goes on when there is room."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_node.deliver import scu
from dicom_node.errors import PeerRefused, PeerUnreachable
from tests.black_box.test_killed_node import scans
from tests.builders.bundles import write_bundle
from tests.builders.pacs import TestPacs, pacs_that
from tests.harness import Node, node, settled

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed_node")]

TOML = """
models_dir = "{models}"
[receive]
port = 0
accept_any_peer = true
disk_reserve_mb = 4
[assemble]
settle_seconds = 0.3
[infer]
device = "cpu"
threads = 1
[deliver]
retry_first_seconds = 0.2
[web]
enabled = false
[destination.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
[[route]]
name = "ct"
models = ["bright"]
destinations = ["pacs"]
"""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own for a folder."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not one octet is left for the length of the block."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
        try:
            while True:
                file.write(b"\0" * 512)
        except OSError:
            pass
    try:
        yield
    finally:
        ballast.unlink()


def log_has(running: Node, what: str) -> Callable[[object], bool]:
    return lambda _: what in running.log.read_text()


def sent(to: Node, files: list[Path]) -> set[int | str | None]:
    address = scu.Address(to.address.host, to.address.port, to.address.ae_title, "SCANNER")
    try:
        return {answer.status for _, answer in scu.store(address, files)}
    except (PeerRefused, PeerUnreachable) as error:
        return {str(error)}


def children(of: Node) -> set[int]:
    return {child.pid for child in psutil.Process(of.process.pid).children()}


def test_a_full_disk_at_each_stage_loses_nothing_and_kills_nobody(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "bright")
    (tmp_path / "scans").mkdir()
    studies = scans(tmp_path / "scans", 3)
    pacs = TestPacs()
    data = tmp_path / "node" / "data"
    with (
        small_disk(data, 48),
        small_disk(data / "results", 2),
        pacs_that(pacs, takes=[SegmentationStorage, Comprehensive3DSRStorage]) as pacs,
    ):
        toml = TOML.format(models=tmp_path / "models", port=pacs.port)
        with node(tmp_path / "node", toml) as running:
            running.wait_for(log_has(running, "model loaded"))
            processes = children(running)
            with full(data):  # the spool: nothing is acknowledged, the scanner keeps it
                (told,) = sent(running, studies[0])
                assert "rejected the association: Temporary congestion" in str(told)
            assert sent(running, studies[0]) == {0}
            running.wait_for(settled(1))
            # the database, before anything is judged, computed or delivered
            assert sent(running, studies[1]) == {0}
            with full(data):
                running.wait_for(log_has(running, "database away"))
            running.wait_for(settled(2))
            # the results alone
            with full(data / "results"):
                assert sent(running, studies[2]) == {0}
                running.wait_for(log_has(running, "job postponed"))
            rows = running.wait_for(settled(3))
            assert children(running) == processes
    jobs = [job for row in rows for job in row["jobs"]]
    assert [job["state"] for job in jobs] == ["STORED"] * 3
    assert [job["attempts"] for job in jobs] == [1, 1, 2]
    assert len(pacs.stores) == len(set(pacs.stores)) == 6
    assert list(data.iterdir()) == []  # it was the small disk's indeed
