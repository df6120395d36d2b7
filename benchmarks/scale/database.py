"""A full database beside an empty one: claim, ingest of a row, the list of studies.

    python -m benchmarks.scale.database --instances 1000000
    python -m benchmarks.scale.database --url postgresql+psycopg://node@localhost/scale --instances 1000000

The bar: with 1,000,000 instances, 20,000 series and 50,000 jobs each takes at most twice as long as on an
empty database. Printed as JSON: milliseconds (median of many) on either, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select, text

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import Ending, Outcome
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import Engine, open_database, writing
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from dicom_node.store.metering import Metering
from dicom_node.store.overview import Overview
from dicom_node.store.retention import Retention
from dicom_node.store.tables import (
    association,
    carriage,
    delivery,
    instance,
    job,
    job_input,
    metadata,
    result,
    series,
    transition,
)
from dicom_node.store.tally import note
from tests.builders.store import BEGINNING, LENGTH, queued_series, received, send, slice_attributes

SLICES = 50
JOBS_A_SERIES = 2.5
ROWS_AT_ONCE = 20_000


def fill(engine: Engine, instances: int) -> None:
    """Rows of a node that has run for a long time: everything delivered."""
    count = max(1, instances // SLICES)
    rows: dict[Any, list[dict[str, Any]]] = {}

    def add(table: Any, **values: Any) -> None:
        rows.setdefault(table, []).append(values)

    for n in range(1, count + 1):
        _one_series(add, n)
        if sum(map(len, rows.values())) > ROWS_AT_ONCE or n == count:
            with writing(engine) as connection:
                for table in metadata.sorted_tables:
                    if rows.get(table):
                        connection.execute(insert(table), rows[table])
            rows.clear()
    _count(engine)
    _set_sequences(engine)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _one_series(add: Callable[..., None], n: int) -> None:
    at = BEGINNING + timedelta(seconds=30 * n)
    name, study, uid = f"old{n}", f"1.9.{n // 4}", f"1.9.{n // 4}.{n}"
    add(association, id=name, calling_ae="CT1", called_ae="N", host="h", segment=f"{name}.segment",
        indexed_to=1, opened_at=at, ended_at=at, ending=Ending.RELEASED)  # fmt: skip
    add(carriage, association_id=name, study_uid=study, series_uid=uid)
    for k in range(SLICES):
        add(instance, id=n * SLICES + k, state=InstanceState.RECEIVED, association_id=name,
            segment=f"{name}.segment", offset=k, length=524288, sha256=f"{n:032d}{k:032d}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid=f"{uid}.{k}",
            transfer_syntax_uid="1.2.840.10008.1.2.1", study_uid=study, series_uid=uid,
            patient_id=f"P{n // 8}", attributes=slice_attributes(k), received_at=at)  # fmt: skip
    add(series, id=n, state=SeriesState.QUEUED, study_uid=study, series_uid=uid, revision=1,
        patient_id=f"P{n // 8}", calling_ae="CT1", called_ae="N", instances=SLICES,
        attributes=slice_attributes(0), first_received_at=at, last_received_at=at)  # fmt: skip
    for state in ("OPEN", "STABLE", "QUEUED"):
        add(transition, entity="series", entity_id=n, new=state, reason="because", at=at)
    for k in range(int(n * JOBS_A_SERIES) - int((n - 1) * JOBS_A_SERIES)):
        _one_job(add, n * 10 + k, n, k, at, study, uid)


def _one_job(
    add: Callable[..., None], job_id: int, n: int, k: int, at: Any, study: str, uid: str
) -> None:
    add(job, id=job_id, state=JobState.STORED, outcome=Outcome.SUCCEEDED, series_id=n,
        model=f"m{k}", model_digest="d" * 64, settings_digest="s" * 64, run=0, route="r",
        destinations=["pacs"], priority=0, attempts=1, deaths=0, token=1, beat=3,
        created_at=at, started_at=at, ended_at=at)  # fmt: skip
    for index in range(SLICES):
        add(job_input, job_id=job_id, instance_id=n * SLICES + index)
    for state in ("QUEUED", "RUNNING", "STORED"):
        add(transition, entity="job", entity_id=job_id, new=state, reason="because", at=at)
    for part, kind in enumerate(("seg", "sr")):
        row_id = job_id * 2 + part
        add(result, id=row_id, job_id=job_id, kind=kind, description="AI", path="/r/x",
            sha256="0" * 64, sop_class_uid="1.2", sop_instance_uid=f"{uid}.9.{k}.{part}",
            series_uid=f"{uid}.9", study_uid=study, created_at=at)  # fmt: skip
        add(delivery, id=row_id, state=DeliveryState.CONFIRMED, result_id=row_id,
            destination="pacs", attempts=1, asks=0, due_at=at, sent_at=at, confirmed_at=at)  # fmt: skip
        for state in ("PENDING", "SENT", "CONFIRMED"):
            add(transition, entity="delivery", entity_id=row_id, new=state, reason="b", at=at)


def _count(engine: Engine) -> None:
    """What the store would have counted while these rows came."""
    with writing(engine) as connection:
        for table in (instance, series, job, delivery):
            states = select(table.c.state, func.count()).group_by(table.c.state)
            for state, count in connection.execute(states).all():
                note(connection, table.name, {state.value: count})


def _set_sequences(engine: Engine) -> None:
    """PostgreSQL's identity columns do not follow rows that name their own id."""
    if engine.dialect.name != "postgresql":
        return
    with writing(engine) as connection:
        for name in ("instance", "series", "job", "result", "delivery"):
            connection.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{name}', 'id'),"
                    f" (SELECT coalesce(max(id), 0) + 1 FROM {name}))"
                )
            )


def measure(engine: Engine, times: int, turn: int) -> dict[str, float]:
    """Milliseconds, the median, of what happens all the time and what people look at."""
    intake, assembly, queue = Intake(engine), Assembly(engine), JobQueue(engine)
    for n in range(times + 1):
        queued_series(intake, assembly, f"1.2.3{turn}.{n}", slices=2)
    number = iter(range(turn * 10**5, 10**6))

    def ingest() -> None:
        n = next(number)
        intake.index("live", [received("live", "1.5.1", n, study="1.5")], LENGTH * n)

    send(intake, "live", [received("live", "1.5.1", 10**7, study="1.5")], ending=None)
    view, outbox, retention = Overview(engine), Outbox(engine), Retention(engine)
    old = BEGINNING - timedelta(days=1)
    return {
        "claim": _median(lambda: queue.claim("bench"), times),
        "ingest_one": _median(ingest, times),
        "waiting": _median(assembly.waiting, times),
        "due": _median(lambda: outbox.due("pacs", 600.0), times),
        "running": _median(queue.running, times),
        "studies": _median(lambda: view.studies(limit=50), times),
        "counts": _median(view.counts, times),
        "metrics": _median(Metering(engine).states, times),
        "purgeable": _median(lambda: retention.purgeable(old), 3),
    }


def _median(call: Callable[[], Any], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return round(1000 * statistics.median(taken), 3)


def compare(empty: Engine, full: Engine, instances: int, times: int = 50) -> dict[str, Any]:
    """Fill one of two databases, and measure both."""
    began = time.perf_counter()
    fill(full, instances)
    filled = round(time.perf_counter() - began, 1)
    # in turns, and the better of two: others use the machine too
    turns = [(measure(empty, times, turn), measure(full, times, turn)) for turn in range(2)]
    bare = {name: min(one[name] for one, _ in turns) for name in turns[0][0]}
    laden = {name: min(one[name] for _, one in turns) for name in turns[0][1]}
    return {
        "database": full.dialect.name,
        "instances": instances,
        "fill_s": filled,
        "ms": {
            name: {
                "empty": bare[name],
                "full": laden[name],
                "ratio": round(laden[name] / bare[name], 2),
            }
            for name in bare
        },
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--url", help="an empty database to fill; default: SQLite in a new folder")
    parser.add_argument("--empty-url", help="with --url: another empty database")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        urls = [
            given.empty_url or f"sqlite:///{Path(folder) / 'empty.sqlite'}",
            given.url or f"sqlite:///{Path(folder) / 'full.sqlite'}",
        ]
        empty, full = (open_database(url) for url in urls)
        print(json.dumps(compare(empty, full, given.instances), indent=2))


if __name__ == "__main__":
    main()
