"""How quickly the page answers with 20,000 studies and 20 people, and what it costs the intake.

    python -m benchmarks.web.worklist [--studies 20000] [--people 20] [--seconds 20] [--database URL]

Fills a database through raw inserts (the store's own doors would take an hour), serves the page from it in a
process of its own, and lets people look at the worklist, filter, search, open studies. Two ways of looking:
`as people` waits 4 s between two looks, as the page's own refresh does; `back to back` never waits.
Prints medians and 95th percentiles in ms by kind of request.
"""

import argparse
import json
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, Table, insert

from dicom_node.app.page import page_parts
from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import Ending, Outcome
from dicom_node.settings import Settings
from dicom_node.store.accounts import Accounts, UserRole
from dicom_node.store.database import open_database, utc_now
from dicom_node.store.tables import association, delivery, instance, job, result, series, transition
from dicom_node.web.listen import bind, url_of
from dicom_node.web.passwords import hash_password
from dicom_node.web.server import serve_page

PASSWORD = "for a benchmark alone"
CHUNK = 2000
IMAGES = 4  # rows of instances a study: the page asks for none of them


def fill(engine: Engine, studies: int) -> None:
    """So many studies, each with a series, a job, two results and their deliveries."""
    now = utc_now()
    with engine.begin() as connection:
        connection.execute(
            insert(association).values(
                id="a",
                calling_ae="CT1",
                called_ae="NODE",
                host="10.0.0.1",
                segment="a",
                indexed_to=0,
                opened_at=now,
                ended_at=now,
                ending=Ending.RELEASED,
            )
        )
    for first in range(1, studies + 1, CHUNK):
        numbers = range(first, min(first + CHUNK, studies + 1))
        rows = [row for number in numbers for row in _rows(number, now)]
        by_table = defaultdict(list)
        for table, values in rows:
            by_table[table].append(values)
        with engine.begin() as connection:
            for table in (instance, series, job, result, delivery, transition):
                connection.execute(insert(table), by_table[table])


def _rows(number: int, now: datetime) -> Iterator[tuple[Table, dict[str, Any]]]:
    study, rng = f"1.2.826.0.1.{number}", random.Random(number)
    held, dead = rng.random() < 0.01, rng.random() < 0.01
    attributes = {
        "modality": "CT",
        "patient_name": f"Name{number}^Given",
        "accession_number": f"A{number}",
        "study_description": "CT chest",
        "series_description": "lung",
        "study_date": "20260105",
        "orientation": [1, 0, 0, 0, 1, 0],
        "position": [0, 0, 0],
        "image_type": ["ORIGINAL"],
    }
    yield (
        series,
        {
            "id": number,
            "state": SeriesState.HELD if held else SeriesState.QUEUED,
            "reason": "",
            "study_uid": study,
            "series_uid": f"{study}.1",
            "revision": 1,
            "patient_id": f"PID{number}",
            "calling_ae": f"CT{number % 5}",
            "called_ae": "NODE",
            "instances": 300,
            "attributes": attributes,
            "first_received_at": now,
            "last_received_at": now,
        },
    )
    for image in range(IMAGES):
        yield (
            instance,
            {
                "state": InstanceState.RECEIVED,
                "association_id": "a",
                "segment": "a",
                "offset": 0,
                "length": 1,
                "sha256": f"{number}.{image}",
                "sop_class_uid": "1",
                "sop_instance_uid": f"{study}.1.{image}",
                "transfer_syntax_uid": "1",
                "study_uid": study,
                "series_uid": f"{study}.1",
                "patient_id": f"PID{number}",
                "attributes": attributes,
                "quarantine": None,
                "received_at": now,
            },
        )
    yield (
        transition,
        {
            "entity": "series",
            "entity_id": number,
            "old": None,
            "new": "OPEN",
            "reason": "",
            "at": now,
        },
    )
    if held:
        return
    yield (
        job,
        {
            "id": number,
            "state": JobState.STORED,
            "outcome": Outcome.SUCCEEDED,
            "reason": "",
            "series_id": number,
            "model": "ct_structures",
            "model_digest": "d",
            "settings_digest": "s",
            "run": 0,
            "route": "ct",
            "destinations": ["pacs"],
            "priority": 0,
            "attempts": 1,
            "deaths": 0,
            "token": 1,
            "owner": "w",
            "beat": 0,
            "created_at": now,
            "started_at": now,
            "ended_at": now,
        },
    )
    for which in (0, 1):
        row = number * 2 + which
        yield (
            result,
            {
                "id": row,
                "job_id": number,
                "kind": ("seg", "sr")[which],
                "description": "AI",
                "path": "/x",
                "sha256": "x",
                "sop_class_uid": "1",
                "sop_instance_uid": f"{study}.9.{which}",
                "series_uid": f"{study}.9",
                "study_uid": study,
                "created_at": now,
            },
        )
        yield (
            delivery,
            {
                "id": row,
                "state": DeliveryState.DEAD if dead else DeliveryState.CONFIRMED,
                "reason": "",
                "result_id": row,
                "destination": "pacs",
                "attempts": 1,
                "asks": 0,
                "due_at": now,
                "sent_at": now,
                "confirmed_at": now,
            },
        )


def serve(settings: Settings, port_is: "multiprocessing.Queue[str]") -> None:
    """The page, in a process of its own as in a node."""
    engine = open_database(settings.effective_database_url)
    listener = bind(settings.web)
    port_is.put(url_of(settings.web, listener).rstrip("/"))
    serve_page(page_parts(settings, engine), settings, listener, threading.Event())


def look(client: httpx.Client, rng: random.Random, studies: int) -> tuple[str, float]:
    """One look of one person; returns what it was and how long it took, in ms."""
    number = rng.randint(1, studies)
    kinds = {
        "worklist": ("/", {}),
        "older": ("/", {"before": number}),
        "attention": ("/", {"state": "attention"}),
        "delivered": ("/", {"state": "delivered"}),
        "search a name": ("/", {"search": f"Name{number}"}),
        "search a UID": ("/", {"search": f"1.2.826.0.1.{number}"}),
        "study": (f"/studies/1.2.826.0.1.{number}", {}),
        "queue": ("/queue", {}),
    }
    kind = rng.choices(list(kinds), weights=(40, 10, 15, 5, 8, 4, 15, 3))[0]
    path, query = kinds[kind]
    began = time.perf_counter()
    answer = client.get(path, params=query, headers={"HX-Request": "true"})
    assert answer.status_code == 200, (kind, answer.status_code)
    return kind, (time.perf_counter() - began) * 1000


def measure(
    url: str, people: int, studies: int, seconds: float, pause: float
) -> dict[str, list[float]]:
    """So many people look for so long."""
    found: dict[str, list[float]] = defaultdict(list)
    with httpx.Client(base_url=url, timeout=60) as first:
        first.post("/login", data={"name": "bench", "password": PASSWORD})
        cookies = dict(first.cookies)
    until = time.monotonic() + seconds

    def person(number: int) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=url, cookies=cookies, timeout=60) as client:
            time.sleep(rng.random() * pause)
            while time.monotonic() < until:
                kind, took = look(client, rng, studies)
                found[kind].append(took)
                time.sleep(pause)

    threads = [threading.Thread(target=person, args=(number,)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def told(found: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Count, median and 95th percentile of each kind and of all."""
    every = {"all": [took for some in found.values() for took in some], **found}
    return {
        kind: {
            "n": len(some),
            "median": round(statistics.median(some), 1),
            "p95": round(statistics.quantiles(some, n=20)[-1], 1) if len(some) > 1 else some[0],
        }
        for kind, some in every.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=20_000)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--database", help="default: a new SQLite file")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), database_url=asked.database, web={"port": 0})  # type: ignore[arg-type]
        engine = open_database(settings.effective_database_url)
        fill(engine, asked.studies)
        Accounts(engine).add("bench", UserRole.OPERATOR, hash_password(PASSWORD), must_change=False)
        context = multiprocessing.get_context("spawn")
        queue: multiprocessing.Queue[str] = context.Queue()
        server = context.Process(target=serve, args=(settings, queue), daemon=True)
        server.start()
        try:
            url = queue.get(timeout=60)
            as_people = measure(url, asked.people, asked.studies, asked.seconds, 4.0)
            back_to_back = measure(url, asked.people, asked.studies, asked.seconds, 0.0)
        finally:
            server.terminate()
            server.join()
            engine.dispose()
    print(json.dumps({"as people": told(as_people), "back to back": told(back_to_back)}, indent=1))


if __name__ == "__main__":
    main()
