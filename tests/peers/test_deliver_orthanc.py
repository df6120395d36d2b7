"""Delivery to Orthanc, confirmed in each way that it offers."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicom_node.deliver.loop import listening_for_reports
from dicom_node.demo.pacs import Orthanc, free_port, orthanc_pacs
from dicom_node.lifecycle import DeliveryState
from tests.builders.store import result_file
from tests.peers.test_deliver_courier import Desk, wait_until

pytestmark = [pytest.mark.peer("orthanc"), pytest.mark.xdist_group("orthanc_deliver")]

REPORT_PORT = free_port()


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    known = {"node": ["DICOM_NODE", "127.0.0.1", REPORT_PORT]}
    with orthanc_pacs(tmp_path_factory.mktemp("orthanc"), DicomModalities=known) as running:
        yield running


@pytest.mark.parametrize("confirm", ["response", "query", "commitment"])
def test_confirmed(tmp_path: Path, orthanc: Orthanc, confirm: str) -> None:
    desk = Desk(tmp_path)
    study = f"1.2.3.{len(confirm)}"
    made = [result_file(tmp_path, study=study) for _ in range(3)]
    desk.results(*made)
    courier = desk.courier(orthanc.port, confirm=confirm, report_port=REPORT_PORT)
    with listening_for_reports(desk.settings, desk.outbox):
        courier.deliver_due()
        if confirm != "response":
            assert desk.states() == [DeliveryState.SENT] * 3
        desk.all_due()
        courier.confirm()
        wait_until(lambda: desk.states() == [DeliveryState.CONFIRMED] * 3, 20.0)
    assert {one.sop_instance_uid for one in made} <= set(orthanc.received())


def test_what_orthanc_lost_is_sent_again(tmp_path: Path, orthanc: Orthanc) -> None:
    desk = Desk(tmp_path)
    made = result_file(tmp_path, study="1.2.3.99")
    desk.results(made)
    courier = desk.courier(orthanc.port, confirm="commitment", report_port=REPORT_PORT)
    with listening_for_reports(desk.settings, desk.outbox):
        courier.deliver_due()
        url = str(orthanc.received()[made.sop_instance_uid]).removesuffix("/file")
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=10).close()
        desk.all_due()
        courier.confirm()
        wait_until(lambda: desk.states() == [DeliveryState.RETRYING], 20.0)
        for step in (courier.deliver_due, courier.confirm):
            desk.all_due()
            step()
        wait_until(lambda: desk.states() == [DeliveryState.CONFIRMED], 20.0)
    assert made.sop_instance_uid in orthanc.received()


def test_sent_twice_is_there_once(tmp_path: Path, orthanc: Orthanc) -> None:
    """A courier that was killed between the answer and its note sends once more."""
    made = result_file(tmp_path, study="1.2.3.98")
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        desk = Desk(folder)
        desk.results(made)
        desk.courier(orthanc.port).deliver_due()
        assert desk.states() == [DeliveryState.CONFIRMED]
    found = [uid for uid in orthanc.received() if uid == made.sop_instance_uid]
    assert len(found) == 1
