"""A whole node under kill -9: every series once delivered to Orthanc, none lost, no object twice.

The node runs in its own processes; while scanners send, its processes are killed at random. Here a few
times; `DICOM_NODE_SOAK=1` makes it 300.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from pydicom import dcmread

from dicom_node.deliver import scu
from dicom_node.demo.pacs import Orthanc, orthanc_pacs
from dicom_node.errors import NodeError
from tests.builders import images
from tests.builders.bundles import write_bundle
from tests.harness import Node, node, settled

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.xdist_group("killed_node"),
    pytest.mark.slow,
    pytest.mark.timeout(3600 if os.environ.get("DICOM_NODE_SOAK") else 600),
]

KILLS = 300 if os.environ.get("DICOM_NODE_SOAK") else 6
STUDIES = 60 if os.environ.get("DICOM_NODE_SOAK") else 6

PAUSE = 2.0
"""Seconds between two studies of a scanner."""

TOML = """
models_dir = "{models}"
[receive]
port = 0
accept_any_peer = true
[assemble]
settle_seconds = 0.5
idle_seconds = 2.0
[infer]
device = "cpu"
threads = 1
[deliver]
retry_first_seconds = 0.2
retry_longest_seconds = 2.0
confirm_first_seconds = 0.2
[web]
enabled = false
[destination.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = {port}
confirm = "query"
[[route]]
name = "ct"
models = ["bright"]
destinations = ["pacs"]
[route.match]
modality = ["CT"]
"""


def scans(folder: Path, count: int) -> list[list[Path]]:
    """Small CT series, each of a patient and study of its own."""
    made = []
    for number in range(count):
        stack = images.series(images.pattern((6, 20, 24)), images.affine(), intercept=0.0)
        paths = []
        for index, data_set in enumerate(stack):
            path = folder / f"{number}-{index}.dcm"
            path.write_bytes(images.part10(images.raw(data_set)))
            paths.append(path)
        made.append(paths)
    return made


def send_until_accepted(to: Node, files: list[Path], stop: threading.Event) -> None:
    """What a scanner does: send, and send again what was not acknowledged."""
    address = scu.Address(
        to.address.host, to.address.port, to.address.ae_title, "SCANNER", timeout=15.0
    )
    left = list(files)
    while left and not stop.is_set():
        try:
            for path, answer in scu.store(address, list(left)):
                if answer.status == 0:
                    left.remove(path)
        except NodeError:
            pass
        stop.wait(0.2)


@contextmanager
def sending(to: Node, studies: list[list[Path]], at_once: int = 2) -> Iterator[None]:
    stop = threading.Event()

    def scanner(part: int) -> None:
        for files in studies[part::at_once]:
            send_until_accepted(to, files, stop)
            stop.wait(PAUSE)  # so that some are sent, some judged, some delivered when a kill comes

    threads = [threading.Thread(target=scanner, args=(part,)) for part in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        yield
        for thread in threads:
            thread.join(300)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


def kill_at_random(of: Node, kills: int, rng: random.Random) -> Counter[str]:
    """Kill -9 a process of the node, and wait until the supervisor has started another, again and again."""
    killed: Counter[str] = Counter()
    supervisor = psutil.Process(of.process.pid)
    while sum(killed.values()) < kills:
        children = [child for child in supervisor.children() if child.is_running()]
        if children:
            victim = rng.choice(children)
            try:
                command = victim.cmdline()
                role = command[command.index("--role") + 1]
                os.kill(victim.pid, signal.SIGKILL)
                killed[role] += 1
            except (psutil.Error, ProcessLookupError, ValueError):
                continue
        threading.Event().wait(rng.uniform(0.1, 2.0))
    return killed


def test_every_series_is_delivered_once(tmp_path: Path) -> None:
    rng = random.Random(time.time_ns() if os.environ.get("DICOM_NODE_SOAK") else 4)
    write_bundle(tmp_path / "models" / "bright")
    (tmp_path / "scans").mkdir()
    studies = scans(tmp_path / "scans", STUDIES)
    with orthanc_pacs(tmp_path / "orthanc") as orthanc:
        toml = TOML.format(models=tmp_path / "models", port=orthanc.port)
        with node(tmp_path / "node", toml) as running:
            with sending(running, studies):
                killed = kill_at_random(running, KILLS, rng)
            running.wait_for(settled(len(studies)), 300.0)
            _check(running, orthanc, studies, killed)


def _check(
    running: Node, orthanc: Orthanc, studies: list[list[Path]], killed: Counter[str]
) -> None:
    rows = running.series()
    told = f"killed {dict(killed)}; {rows}"
    last = {row["series_uid"]: row for row in rows}
    assert len(last) == len(studies), told
    wanted: set[str] = set()
    for row in rows:
        if row is not last[row["series_uid"]]:
            assert row["state"] == "SUPERSEDED", told
            continue
        assert (row["state"], row["instances"]) == ("QUEUED", 6), told
        (job,) = row["jobs"]
        assert (job["state"], job["outcome"]) == ("STORED", "succeeded"), told
        assert {one["delivery"] for one in job["results"]} == {"CONFIRMED"}, told
        assert {one["kind"] for one in job["results"]} == {"seg", "sr"}, told
        wanted |= {one["sop_instance_uid"] for one in job["results"]}
    kept = orthanc.received()
    assert wanted <= set(kept), told
    # a revision that was judged too early, and delivered, is there beside the one that took its place
    early = {
        one["sop_instance_uid"]
        for row in rows
        if row["state"] == "SUPERSEDED"
        for job in row["jobs"]
        for one in job["results"]
    }
    assert set(kept) - wanted <= early, told
    patients = {str(dcmread(files[0]).StudyInstanceUID): files for files in studies}
    for uid in wanted:
        result = orthanc.read(uid)
        assert str(result.StudyInstanceUID) in patients
        assert result.PatientID == dcmread(patients[str(result.StudyInstanceUID)][0]).PatientID
    assert sum(killed.values()) == KILLS
