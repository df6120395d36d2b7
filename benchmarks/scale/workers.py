"""Many workers on one PostgreSQL: how long a claim takes, what a second worker brings, what Ray costs.

    python -m benchmarks.scale.workers claims --workers 64 --work-seconds 5.7 --seconds 60
    python -m benchmarks.scale.workers throughput --jobs 24 --wait 2
    python -m benchmarks.scale.workers ray --slices 300 --times 5

Each starts a PostgreSQL of its own that syncs to the disk (or, for `ray`, a cluster of one node) and prints
JSON. `claims`: workers that wait instead of computing, several a process; the latency of claims that got a
job. `throughput`: real workers that read, compose and store, with an engine that waits; one against
two. `ray`: one study through `RayEngine` beside the same call in this process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine

from dicom_node.catalogue import ModelDescription, describe
from dicom_node.observe.logging import configure
from dicom_node.records import (
    Image,
    Outcome,
    Peer,
    Prediction,
    ReceivedInstance,
    Segmentation,
)
from dicom_node.settings import InferSettings, LogSettings, Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.bell import Bell
from dicom_node.store.database import POSTGRESQL_PATIENCE, Engine, open_database
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.overview import Overview
from dicom_node.store.spool import SegmentOwner, SegmentWriter
from tests.builders.postgresql import postgresql_server
from tests.builders.store import new_job, queued_series

SPAWN = multiprocessing.get_context("spawn")
PROCESSES = 4
JOBS_A_SERIES = 10
UNSYNCED = "?options=-csynchronous_commit%3Doff"
"""For preparing; what is measured is synced."""


# --- claims ---------------------------------------------------------------------------------------


def claims(workers: int, work_seconds: float, seconds: float) -> dict[str, Any]:
    """Latency of claims while so many workers each work for so long."""
    with postgresql_server(durable=True) as server:
        url = server.new_database()
        engine = open_database(url + UNSYNCED)
        intake, assembly = Intake(engine), Assembly(engine)
        wanted = int(1.3 * seconds * workers / work_seconds) + workers
        for number in range(wanted // JOBS_A_SERIES + 1):
            jobs = [new_job(f"m{n}") for n in range(JOBS_A_SERIES)]
            queued_series(intake, assembly, f"1.2.{number}", *jobs, slices=3)
        answers: Any = SPAWN.Queue()
        ready = SPAWN.Barrier(PROCESSES)
        share = workers // PROCESSES
        processes = [
            SPAWN.Process(
                target=_claimers, args=(url, share, work_seconds, seconds, ready, answers)
            )
            for _ in range(PROCESSES)
        ]
        for process in processes:
            process.start()
        took = sorted(one for _ in processes for one in answers.get())
        for process in processes:
            process.join()
        engine.dispose()
    return {
        "workers": share * PROCESSES,
        "claims": len(took),
        "claims_per_second": round(len(took) / seconds, 1),
        "ms": {
            "p50": round(1000 * statistics.median(took), 2),
            "p95": round(1000 * took[int(0.95 * len(took))], 2),
            "p99": round(1000 * took[int(0.99 * len(took))], 2),
            "max": round(1000 * took[-1], 2),
        },
    }


def _claimers(
    url: str, count: int, work_seconds: float, seconds: float, ready: Any, answers: Any
) -> None:
    # a worker is a process of its own with a few connections; here many share one
    engine = create_engine(url, pool_size=2 * count + 2, connect_args=POSTGRESQL_PATIENCE)
    ready.wait()
    took: list[float] = []
    stop = threading.Event()

    def work(number: int) -> None:
        queue, rng = JobQueue(engine), random.Random(number)
        stop.wait(rng.uniform(0, work_seconds))  # they do not begin in step
        with Bell(engine, "job", 2.0) as bell:
            while not stop.is_set():
                began = time.perf_counter()
                claimed = queue.claim(f"worker-{number}")
                if claimed is None:
                    bell.pause(stop, 0.2)
                    continue
                took.append(time.perf_counter() - began)
                stop.wait(work_seconds * rng.uniform(0.5, 1.5))
                queue.finish(claimed.lease, Outcome.SUCCEEDED, "", {})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    answers.put(took)


# --- throughput -----------------------------------------------------------------------------------


class Waits:
    """An engine that waits instead of computing, and finds one block."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def load(self, *_: Any) -> None:
        pass

    def predict(self, _: ModelDescription, image: Image, *__: Any) -> Prediction:
        time.sleep(self._seconds)
        labels = np.zeros(image.array.shape, np.uint8)
        labels[..., 2:6, 2:6] = 1
        return Segmentation(labels)

    def accelerate(self) -> bool:
        return False


def throughput(jobs: int, wait: float, slices: int) -> dict[str, Any]:
    """Jobs a second with one worker, and with two."""
    with tempfile.TemporaryDirectory() as name, postgresql_server(durable=True) as server:
        found = {}
        for workers in (1, 2):
            folder = Path(name) / str(workers)
            found[workers] = _throughput(folder, server.new_database(), workers, jobs, wait, slices)
    return {
        "jobs": jobs,
        "wait_s": wait,
        "slices": slices,
        "jobs_per_second": {str(n): round(rate, 3) for n, rate in found.items()},
        "ratio": round(found[2] / found[1], 2),
    }


def _throughput(folder: Path, url: str, workers: int, jobs: int, wait: float, slices: int) -> float:
    from tests.builders.bundles import write_bundle

    write_bundle(folder / "models" / "bright")
    settings = {"data_dir": str(folder), "database_url": url, "models_dir": str(folder / "models")}
    settings |= {
        "destination": {"pacs": {"ae_title": "P", "host": "h", "port": 1}},  # type: ignore[dict-item]
        "infer": {"device": "cpu", "threads": 1},  # type: ignore[dict-item]
    }
    ready, go = SPAWN.Semaphore(0), SPAWN.Event()
    processes = [
        SPAWN.Process(target=_works, args=(settings, wait, ready, go), daemon=True)
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    engine = open_database(url + UNSYNCED)
    model = describe(folder / "models" / "bright")
    assembly = Assembly(engine)
    revisions = [_spooled(settings, engine, number, slices) for number in range(jobs + workers)]

    def work_on(some: list[int]) -> float:
        for revision in some:
            assembly.queue(revision, [new_job("bright", model_digest=model.digest)], "route")
        began, wanted = time.perf_counter(), _stored(engine) + len(some)
        go.set()
        while _stored(engine) < wanted:
            time.sleep(0.02)
        return time.perf_counter() - began

    work_on(revisions[:workers])  # each compiles its kernels once
    took = work_on(revisions[workers:])
    for process in processes:
        process.terminate()
        process.join()
    engine.dispose()
    return jobs / took


def _stored(engine: Engine) -> int:
    counts = Overview(engine).counts()["job"]
    assert not counts.get("FAILED"), "a job failed"
    return counts.get("STORED", 0)


def _works(values: dict[str, Any], wait: float, ready: Any, go: Any) -> None:
    from dicom_node.app.checks import check
    from dicom_node.infer.worker import Worker

    configure(LogSettings(level="ERROR"))
    settings = Settings(**values)
    engine = open_database(settings.effective_database_url)
    worker = Worker(
        settings,
        check(settings),
        JobQueue(engine),
        owner=f"worker-{multiprocessing.current_process().pid}",
        engine=Waits(wait),
    )
    ready.release()
    go.wait()
    worker.run(threading.Event())


def _spooled(values: dict[str, Any], engine: Engine, number: int, slices: int) -> int:
    """A series in the spool that is complete; its number."""
    from dicom_node.read.header import read_header
    from tests.builders import images

    settings = Settings(**values)
    settings.spool_dir.mkdir(parents=True, exist_ok=True)
    name = f"a-{number}"
    owner = SegmentOwner(name, Peer("CT1", "N", "h"), datetime.now(UTC))
    writer = SegmentWriter.open(settings.spool_dir, owner)
    rows = []
    stack = images.series(images.pattern((slices, 64, 64)), images.affine(), intercept=0.0)
    for data_set in stack:
        raw = images.raw(data_set)
        data = bytes(raw.data)
        meta, address = writer.append(
            raw.sop_class_uid, raw.sop_instance_uid, raw.transfer_syntax_uid, data
        )
        header = read_header(memoryview(data), raw.transfer_syntax_uid)
        rows.append(
            ReceivedInstance(
                name,
                address,
                hashlib.sha256(data).hexdigest(),
                meta.sop_class_uid,
                meta.sop_instance_uid,
                meta.transfer_syntax_uid,
                header.study_uid,
                header.series_uid,
                header.patient_id,
                header.attributes,
                meta.received_at,
            )
        )
    writer.close(sealed=True)
    intake, assembly = Intake(engine), Assembly(engine)
    intake.association_opened(name, owner.peer, writer.name, owner.opened_at)
    intake.index(name, rows, 1)
    revision = assembly.waiting()[-1]
    assert assembly.stable(revision.id, revision.instances, "complete")
    return revision.id


# --- Ray ------------------------------------------------------------------------------------------


class Thresholds:
    """An engine whose work is a comparison, so that what is left is the way there and back."""

    def __init__(self, settings: InferSettings | None = None, _: Path | None = None) -> None:
        pass

    def load(self, *_: Any) -> None:
        pass

    def predict(self, _: ModelDescription, image: Image, *__: Any) -> Prediction:
        return Segmentation((image.array > 100).view(np.uint8))

    def accelerate(self) -> bool:
        return False


def over_ray(slices: int, times: int) -> dict[str, Any]:
    """One study of so many slices of 512 x 512 through Ray, and without it."""
    import ray
    from ray.cluster_utils import Cluster

    from dicom_node.infer.cluster import RayEngine

    with tempfile.TemporaryDirectory() as folder:
        from tests.builders.bundles import write_bundle
        from tests.builders.volumes import volume

        model = write_bundle(Path(folder) / "bright")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "include_dashboard": False,
                "object_store_memory": 2 << 30,
            },
        )
        try:
            where = {"address": cluster.address, "gpus": 0}
            engine = RayEngine(InferSettings(engine="ray", ray=where), inner=Thresholds)  # type: ignore[arg-type]
            engine.load(model, model.digest)
            values = np.random.default_rng(0).integers(-1000, 1000, (slices, 512, 512))
            study = volume(values.astype(np.float32))
            far = _timed(lambda: engine.predict(model, study, model.digest), times)
            near = _timed(lambda: Thresholds().predict(model, study, model.digest), times)
        finally:
            ray.shutdown()
            cluster.shutdown()
    return {
        "slices": slices,
        "image_mb": round(study.array.nbytes / 1e6),
        "ray_s": round(far, 3),
        "here_s": round(near, 3),
        "overhead_s": round(far - near, 3),
    }


def _timed(call: Any, times: int) -> float:
    call()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def main() -> None:
    """Run one of the three and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    which = parser.add_subparsers(dest="which", required=True)
    of_claims = which.add_parser("claims")
    of_claims.add_argument("--workers", type=int, default=64)
    of_claims.add_argument("--work-seconds", type=float, default=5.7)
    of_claims.add_argument("--seconds", type=float, default=60.0)
    of_throughput = which.add_parser("throughput")
    of_throughput.add_argument("--jobs", type=int, default=24)
    of_throughput.add_argument("--wait", type=float, default=2.0)
    of_throughput.add_argument("--slices", type=int, default=20)
    of_ray = which.add_parser("ray")
    of_ray.add_argument("--slices", type=int, default=300)
    of_ray.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    if given.which == "claims":
        found = claims(given.workers, given.work_seconds, given.seconds)
    elif given.which == "throughput":
        found = throughput(given.jobs, given.wait, given.slices)
    else:
        found = over_ray(given.slices, given.times)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
