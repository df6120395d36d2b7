"""Senders are asked how many images a series has: Orthanc as the PACS that forwards, and worse ones."""

import socket
from pathlib import Path

import pytest

from dicom_node.deliver import scu
from dicom_node.deliver.census import Census
from dicom_node.demo.pacs import orthanc_pacs
from dicom_node.records import Peer
from dicom_node.settings import Settings
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database
from dicom_node.store.intake import Intake
from tests.builders.store import received, result_file, send


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Desk:
    def __init__(self, folder: Path, port: int) -> None:
        engine = open_database(f"sqlite:///{folder / 'node.sqlite'}")
        self.intake, self.assembly, self.clock = Intake(engine), Assembly(engine), Clock()
        peer = {"ae_title": "PACS1", "query_host": "127.0.0.1", "query_port": port}
        settings = Settings(
            peer=(peer,),  # type: ignore[arg-type]
            deliver={"network_timeout": 1.0},  # type: ignore[arg-type]
        )
        self.census = Census(settings, self.assembly, self.clock)

    def expected(self) -> list[int | None]:
        return [one.expected for one in self.assembly.waiting()]

    def sweep(self, seconds: float) -> list[int | None]:
        self.clock.now += seconds
        self.census.sweep()
        return self.expected()


@pytest.mark.peer("orthanc")
@pytest.mark.xdist_group("orthanc_census")
def test_the_sender_knows_how_many_are_to_come(tmp_path: Path) -> None:
    with orthanc_pacs(tmp_path / "orthanc") as orthanc:
        address = scu.Address("127.0.0.1", orthanc.port, "ORTHANC", "SCANNER", 10.0)
        made = [result_file(tmp_path, series="1.2.3.1").path for _ in range(3)]
        assert [answer.status for _, answer in scu.store(address, made)] == [0, 0, 0]
        assert scu.related_instances(address, "1.2.3", "1.2.3.1") == 3
        assert scu.related_instances(address, "1.2.3", "1.2.3.77") is None
        desk = Desk(tmp_path, orthanc.port)
        send(desk.intake, "a", [received("a", number=0)], peer=Peer("PACS1", "N", "h"))
        assert desk.sweep(0.0) == [None]
        assert desk.sweep(0.5) == [None]  # it may be sending just now
        assert desk.sweep(0.6) == [3]


def test_a_sender_that_cannot_be_asked_changes_nothing(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        desk = Desk(tmp_path, nobody.getsockname()[1])
        send(desk.intake, "a", [received("a")], peer=Peer("PACS1", "N", "h"))
        assert desk.sweep(0.0) == [None]
        assert desk.sweep(2.0) == [None]


def test_others_are_not_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path, 1)
    send(desk.intake, "a", [received("a")], peer=Peer("CT1", "N", "h"))
    assert desk.sweep(0.0) == [None]
    assert desk.sweep(9.0) == [None]
