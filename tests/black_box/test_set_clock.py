"""A node whose wall clock is set by an hour, both ways, while it works: nothing waits for the clock."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from dicom_node.app.opened import opened_database
from dicom_node.store.jobs import JobQueue
from tests.black_box.test_full_disk import log_has, sent
from tests.black_box.test_killed_node import scans
from tests.builders.bundles import write_bundle
from tests.builders.pacs import TestPacs, pacs_that
from tests.harness import Node, node, settled

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("killed_node")]

HOUR = 3600
SET_CLOCK = Path(__file__).parent.parent / "set_clock"

TOML = """
models_dir = "{models}"
[assemble]
settle_seconds = 0.3
[infer]
device = "cpu"
threads = 1
lease_seconds = 3.0
[deliver]
retry_first_seconds = 1.0
retry_longest_seconds = 2.0
confirm_first_seconds = 1.0
[web]
enabled = false
[destination.pacs]
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
confirm = "query"
[[route]]
name = "ct"
models = ["bright"]
destinations = ["pacs"]
"""


class Clock:
    """The wall clock of a node's processes; the monotonic one stays."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        path = os.pathsep.join([str(SET_CLOCK), os.environ.get("PYTHONPATH", "")])
        self.environment = {"PYTHONPATH": path, "TEST_CLOCK": str(self._file)}

    def set(self, wrong_by: int) -> None:
        """Seconds from the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(str(wrong_by))
        new.replace(self._file)


def worker_of(running: Node) -> psutil.Process:
    (found,) = (
        child
        for child in psutil.Process(running.process.pid).children()
        if "infer" in child.cmdline()
    )
    return found


def test_a_clock_that_is_set_both_ways_holds_up_nothing(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models" / "bright")
    (tmp_path / "scans").mkdir()
    studies = scans(tmp_path / "scans", 3)
    clock, pacs = Clock(tmp_path), TestPacs()
    with pacs_that(pacs, takes=[SegmentationStorage, Comprehensive3DSRStorage]) as pacs:
        toml = TOML.format(models=tmp_path / "models", port=pacs.port)
        with node(tmp_path / "node", toml, clock.environment) as running:
            running.wait_for(log_has(running, "model loaded"))
            # between the last image and the verdict
            assert sent(running, studies[0]) == {0}
            clock.set(HOUR)
            running.wait_for(settled(1), 40)
            # while a PACS is short of resources: what was to be tried again in an hour is due
            pacs.status = lambda _: 0xA700
            assert sent(running, studies[1]) == {0}
            running.wait_for(log_has(running, "delivery postponed"))
            clock.set(-HOUR)
            pacs.status = lambda _: 0x0000
            running.wait_for(settled(2), 40)
            # and while a worker elsewhere is silent: its lease runs out all the same
            worker = worker_of(running)
            worker.suspend()
            assert sent(running, studies[2]) == {0}
            running.wait_for(lambda rows: [j["state"] for j in rows[-1]["jobs"]] == ["QUEUED"])
            with opened_database(running.settings) as engine:
                assert JobQueue(engine).claim("elsewhere") is not None
                clock.set(-3 * HOUR)
                running.wait_for(log_has(running, "job taken back"), 40)
            worker.send_signal(signal.SIGCONT)
            rows = running.wait_for(settled(3), 60)
            assert running.log.read_text().count("the wall clock was set") >= 3
    jobs = [job for row in rows for job in row["jobs"]]
    assert [(row["state"], len(row["jobs"])) for row in rows] == [("QUEUED", 1)] * 3
    assert [job["state"] for job in jobs] == ["STORED"] * 3
    assert [job["attempts"] for job in jobs] == [1, 1, 2]
    assert len(pacs.kept) == 6
