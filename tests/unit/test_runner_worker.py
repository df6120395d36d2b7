"""The worker on a real queue and a real spool: an answer to every job, whatever came."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from sqlalchemy import Engine

from dicom_node.catalogue import ModelDescription
from dicom_node.infer.worker import EXIT_OVERDUE, Worker
from dicom_node.read.header import read_header
from dicom_node.records import (
    Ending,
    Lease,
    NewJob,
    Outcome,
    Peer,
    RawInstance,
    ReceivedInstance,
)
from dicom_node.settings import (
    DestinationSettings,
    InferSettings,
    RouteSettings,
    Settings,
)
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.overview import Overview
from dicom_node.store.spool import SegmentOwner, SegmentWriter, digest
from tests.builders import images
from tests.builders.bundles import configuration, write_bundle
from tests.builders.volumes import asymmetric_block


class Bench:
    """A data folder with a queue, a spool and one model, as the other stages would leave them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = write_bundle(folder / "models/model_a")
        destination = DestinationSettings(ae_title="PACS", host="127.0.0.1", port=104)
        self.settings = Settings(
            data_dir=folder / "data",
            infer=InferSettings(device="cpu", threads=1),
            destination={"pacs": destination},
            route=(RouteSettings(name="ct", models=("model_a",), destinations=("pacs",)),),
        )
        self.settings.spool_dir.mkdir(parents=True)
        self.engine: Engine = open_database(self.settings.effective_database_url)
        self.queue = JobQueue(self.engine)

    def received(self, instances: Sequence[RawInstance]) -> None:
        """Put instances into the spool and the index, and queue the model's job."""
        peer, now = Peer("SCANNER", "NODE", "127.0.0.1"), datetime.now(UTC)
        segment = SegmentWriter.open(self.settings.spool_dir, SegmentOwner("a1", peer, now))
        intake = Intake(self.engine)
        intake.association_opened("a1", peer, segment.name, now)
        for one in instances:
            _, address = segment.append(
                one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, bytes(one.data)
            )
            header = read_header(one.data, one.transfer_syntax_uid)
            known = ReceivedInstance(
                association_id="a1",
                address=address,
                sha256=digest(self.settings.spool_dir, address),
                sop_class_uid=one.sop_class_uid,
                sop_instance_uid=one.sop_instance_uid,
                transfer_syntax_uid=one.transfer_syntax_uid,
                study_uid=header.study_uid,
                series_uid=header.series_uid,
                patient_id="P-1",
                attributes=header.attributes,
                received_at=now,
            )
            intake.index("a1", [known], address.offset + address.length)
        segment.close(sealed=True)
        intake.association_ended("a1", Ending.RELEASED)
        assembly = Assembly(self.engine)
        (revision,) = assembly.waiting()
        assembly.stable(revision.id, revision.instances, "for the test")
        job = NewJob("model_a", self.model.digest, "settings", "ct", ("pacs",))
        assembly.queue(revision.id, [job], "for the test")

    def worked(self, model: ModelDescription | None = None) -> dict[str, Any]:
        """Claim the job, work on it, and give back what `status` shows of it."""
        models = {"model_a": model or self.model}
        worker = Worker(self.settings, models, self.queue, owner="test")
        claimed = self.queue.claim("test")
        assert claimed is not None
        worker.work(claimed)
        return self.shown()

    def shown(self) -> dict[str, Any]:
        (series,) = Overview(self.engine).studies()
        (job,) = series["jobs"]
        return dict(job)

    def files(self) -> dict[str, Dataset]:
        """What was written, by modality."""
        found = (dcmread(path) for path in self.settings.results_dir.rglob("*.dcm"))
        return {str(ds.Modality): ds for ds in found}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def ct(array: Any = None) -> list[RawInstance]:
    stored = (asymmetric_block((12, 24, 30)) if array is None else array) + 1024
    made = images.series(stored.astype(np.int16), images.affine("axial"))
    return [images.raw(dataset) for dataset in made]


def report_text(report: Dataset) -> str:
    return report.to_json()


def test_a_job_ends_with_a_segmentation_and_a_report(bench: Bench) -> None:
    bench.received(ct())
    job = bench.worked()
    assert (job["state"], job["outcome"]) == ("STORED", "succeeded")
    assert {"seg", "sr"} <= {result["kind"] for result in job["results"]}
    files = bench.files()
    truth = asymmetric_block((12, 24, 30)) > 100
    assert files["SEG"].pixel_array.sum() == truth.sum()
    assert "SR" in files


@pytest.mark.parametrize(
    ("change", "state", "outcome", "told"),
    [
        ({"Modality": "MR"}, "STORED", "not applicable", "modality is MR, the model takes CT"),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            "STORED",
            "not applicable",
            "LOCALIZER",
        ),
        ({"PixelSpacing": None}, "FAILED", "failed", "spacing"),
    ],
)
def test_what_the_model_does_not_take_ends_with_a_report_that_says_why(
    change: dict[str, Any], state: str, outcome: str, told: str, bench: Bench
) -> None:
    datasets = images.series(
        (asymmetric_block((12, 24, 30)) + 1024).astype(np.int16), images.affine("axial")
    )
    for dataset in datasets:
        for name, value in change.items():
            setattr(dataset, name, value)
    bench.received([images.raw(dataset) for dataset in datasets])
    job = bench.worked()
    assert (job["state"], job["outcome"]) == (state, outcome)
    assert told.lower() in job["reason"].lower()
    assert [result["kind"] for result in job["results"]] == ["sr"]
    assert told.lower() in report_text(bench.files()["SR"]).lower()


def test_a_constant_image_is_not_called_normal(bench: Bench) -> None:
    bench.received(ct(np.zeros((12, 24, 30), np.float32)))
    job = bench.worked()
    assert (job["state"], job["outcome"]) == ("STORED", "not applicable")
    assert [result["kind"] for result in job["results"]] == ["sr"]


def test_bytes_that_changed_in_the_spool_are_not_used(bench: Bench) -> None:
    bench.received(ct())
    (segment,) = bench.settings.spool_dir.glob("*.segment")
    content = bytearray(segment.read_bytes())
    content[-1000] ^= 0xFF
    segment.chmod(0o640)
    segment.write_bytes(content)
    job = bench.worked()
    assert (job["state"], job["outcome"]) == ("FAILED", "failed")
    assert "not what was received" in job["reason"]


def test_a_model_that_changed_fails_the_job_visibly(bench: Bench) -> None:
    bench.received(ct())
    config = bench.model.folder / "configs/inference.json"
    config.write_text(config.read_text() + " ")
    job = bench.worked()
    assert (job["state"], job["outcome"]) == ("FAILED", "failed")
    assert "the files were changed" in job["reason"]
    assert [result["kind"] for result in job["results"]] == ["sr"]


def test_a_bundle_that_asks_for_too_much_fails_the_job_visibly(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    evil = configuration(preprocessing=[{"_target_": "os.system", "command": "true"}])
    bench.model = write_bundle(tmp_path / "models/model_a", evil)
    bench.received(ct())
    job = bench.worked()
    assert job["state"] == "FAILED"
    assert "preprocessing#transforms#2: os.system is not on the list" in job["reason"]


def test_the_same_job_makes_the_same_objects(bench: Bench, tmp_path: Path) -> None:
    instances = ct()
    bench.received(instances)
    first = [result["sop_instance_uid"] for result in bench.worked()["results"]]
    again = Bench(tmp_path / "again")
    again.received(instances)
    assert [result["sop_instance_uid"] for result in again.worked()["results"]] == first


def test_nothing_is_committed_under_a_lost_lease(bench: Bench) -> None:
    bench.received(ct())
    worker = Worker(bench.settings, {"model_a": bench.model}, bench.queue, owner="slow")
    claimed = bench.queue.claim("slow")
    assert claimed is not None
    bench.queue.take_back(claimed.lease, "was silent")
    worker.work(claimed)
    job = bench.shown()
    assert job["state"] == "QUEUED"
    assert job["results"] == []


def test_an_unexpected_error_is_told_by_its_type_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("Müller^Ångström")

    monkeypatch.setattr("dicom_node.infer.answer.check_grid", broken)
    bench.received(ct())
    job = bench.worked()
    assert job["state"] == "FAILED"
    assert job["reason"] == "an unexpected error (KeyError); the log of the node says where"


def test_the_worker_runs_until_it_is_told_to_stop(bench: Bench) -> None:
    bench.received(ct())
    stop = threading.Event()
    ended = threading.Event()
    queue = bench.queue

    class Told(JobQueue):
        """The real queue, which also says when a job has ended."""

        def finish(self, lease: Lease, outcome: Outcome, reason: str, results: Any) -> None:
            queue.finish(lease, outcome, reason, results)
            ended.set()

    worker = Worker(bench.settings, {"model_a": bench.model}, Told(bench.engine), owner="test")
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    assert ended.wait(60)
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert bench.shown()["state"] == "STORED"


def test_an_overdue_job_ends_the_process(bench: Bench) -> None:
    """A network that hangs cannot be stopped from outside; its process can, and the queue sees to the job."""
    bench.received(ct())
    program = f"""
import threading
from dicom_node.infer.worker import _beating
from dicom_node.settings import InferSettings, Settings
from dicom_node.store.database import open_database
from dicom_node.store.jobs import JobQueue
settings = Settings(infer=InferSettings(lease_seconds=0.2, job_seconds=0.1))
queue = JobQueue(open_database({bench.settings.effective_database_url!r}))
with _beating(queue, queue.claim("slow").lease, settings):
    threading.Event().wait(60)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        timeout=60,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == EXIT_OVERDUE, done.stderr.decode()
    assert bench.shown()["state"] == "RUNNING", "until the watcher of leases takes it back"
