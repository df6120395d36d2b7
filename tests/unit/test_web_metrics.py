"""`/metrics`: what the database and the processes know, in Prometheus' own words, without patients."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicom_node.observe.metrics import FOLDER_VARIABLE, prepare
from tests.builders.worklist import Site
from tests.page import Page, served


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with served(tmp_path / "data") as running:
        yield running


def scraped(page: Page) -> dict[str, float]:
    """Name and labels -> value."""
    with page.client(None) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        sample.name + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_what_happens_is_counted_once(page: Page, tmp_path: Path) -> None:
    assert not any(name.startswith("dicom_node_moves") for name in scraped(page))
    site = Site(page.engine, tmp_path)
    site.delivered(1)
    for _ in range(2):
        found = scraped(page)
        assert found["dicom_node_moves_total,entity=job,state=STORED"] == 1
        assert found["dicom_node_moves_total,entity=delivery,state=CONFIRMED"] == 1
        assert found["dicom_node_instances_total,calling_ae=CT1"] == 3
        assert found["dicom_node_received_bytes_total,calling_ae=CT1"] == 3000
        for stage in ("assemble", "queue", "infer", "deliver", "last_image_to_pacs"):
            name = f"dicom_node_stage_seconds_count,model=ct_structures,stage={stage}"
            assert found[name] == 1
    site.delivered(2)
    assert scraped(page)["dicom_node_moves_total,entity=job,state=STORED"] == 2


def test_what_waits_for_a_person_is_told(page: Page, tmp_path: Path) -> None:
    Site(page.engine, tmp_path).one_of_each()
    found = scraped(page)
    assert found["dicom_node_studies,state=attention"] == 3
    assert found["dicom_node_studies,state=receiving"] == 1
    assert found["dicom_node_entities,entity=series,state=HELD"] == 1
    assert found["dicom_node_oldest_waiting_seconds,entity=job"] >= 0
    assert found["dicom_node_associations,ending=OPEN"] == 1
    assert found["dicom_node_disk_free_bytes"] > 0


def test_no_patient_is_in_the_metrics(page: Page, tmp_path: Path) -> None:
    Site(page.engine, tmp_path).one_of_each()
    with page.client(None) as client:
        text = client.get("/metrics").text
    for told in ("Meier", "PID0", "ACC0", "1.2.826"):
        assert told not in text


def test_the_peers_page_says_who_sent_how_much(page: Page, tmp_path: Path) -> None:
    site = Site(page.engine, tmp_path)
    site.study(1, slices=3)
    site.study(4, slices=2)
    with page.client() as client:
        shown = client.get("/peers").text
    row = shown[shown.index("CT1") :]
    assert '<td data-label="Images" class="number">5</td>' in row[: row.index("</tr>")]


def test_two_threads_that_log_first_are_both_counted(tmp_path: Path) -> None:
    program = """
import sys, threading, time
from dicom_node.observe.metrics import count_event
import prometheus_client.multiprocess
made = prometheus_client.Counter
def slowly(*arguments):
    time.sleep(0.05)  # what a scheduler may do here
    return made(*arguments)
prometheus_client.Counter = slowly
threads = [
    threading.Thread(target=count_event, args=(None, "info", {"event": "e", "module": "m"}))
    for _ in range(8)
]
for t in threads: t.start()
for t in threads: t.join()
registry = prometheus_client.CollectorRegistry()
prometheus_client.multiprocess.MultiProcessCollector(registry)
print(prometheus_client.generate_latest(registry).decode())
"""
    environment = os.environ | {FOLDER_VARIABLE: str(prepare(tmp_path / "metrics"))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        'dicom_node_log_events_total{event="e",level="info",module="m",reason=""} 8.0'
        in done.stdout
    )
    assert done.stderr == ""
