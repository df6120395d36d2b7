"""What goes over DICOM is on record (PS3.15 A.5.3): received, refused, asked, about to be sent, sent."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.deliver import scu
from dicom_node.errors import PeerRefused, PeerUnreachable
from dicom_node.observe.exchange import Throttle
from dicom_node.observe.recording import recording
from tests.builders.datasets import ct_slice
from tests.builders.pacs import pacs_that
from tests.builders.store import result_file
from tests.peers.test_deliver_courier import Desk
from tests.receiving import eventually, listening


class Trail(list[Xml.Element]):
    """What was put on record."""

    def events(self) -> list[tuple[str, str, str]]:
        """Event, action, outcome of each."""
        found = []
        for root in self:
            head = root.find("EventIdentification")
            assert head is not None
            event = head.find("EventID")
            assert event is not None
            outcome = head.attrib["EventOutcomeIndicator"]
            found.append((event.attrib["originalText"], head.attrib["EventActionCode"], outcome))
        return found


@contextmanager
def on_record() -> Iterator[Trail]:
    trail = Trail()
    with recording(lambda text: trail.append(Xml.fromstring(text)), "NODE"):
        yield trail


def objects(root: Xml.Element) -> list[str]:
    return [o.attrib["ParticipantObjectID"] for o in root.iter("ParticipantObjectIdentification")]


def roles(root: Xml.Element) -> list[tuple[str, str]]:
    return [
        (one.attrib["UserID"], code.attrib["originalText"])
        for one in root.findall("ActiveParticipant")
        for code in one.findall("RoleIDCode")
    ]


def test_what_came_in_is_told_once_for_each_study_when_the_association_is_over(
    tmp_path: Path,
) -> None:
    files = []
    for number, (study, patient) in enumerate((("1.2.1", "P1"), ("1.2.1", "P1"), ("1.2.2", "P2"))):
        made = ct_slice(study=study, series=f"{study}.1", number=number)
        made.PatientID = patient
        files.append(tmp_path / f"{number}.dcm")
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.save_as(files[-1], enforce_file_format=True)
    with on_record() as trail, listening(tmp_path / "data") as node:
        address = scu.Address(*node.address, "DICOM_NODE", "CT1")
        assert [answer.status for _, answer in scu.store(address, files)] == [0, 0, 0]
        eventually(lambda: len(trail) == 2)
    assert trail.events() == [("DICOM Instances Transferred", "C", "0")] * 2
    assert sorted(map(tuple, map(objects, trail))) == [("1.2.1", "P1"), ("1.2.2", "P2")]
    assert roles(trail[0]) == [
        ("CT1", "Source Role ID"),
        ("DICOM_NODE", "Destination Role ID"),
    ]
    counts = {objects(root)[0]: root.findtext(".//NumberOfInstances") for root in trail}
    assert counts == {"1.2.1": "2", "1.2.2": "1"}


def refused(address: scu.Address) -> bool:
    """Whether the rejection was heard: on a busy machine the connection may be gone before it is read."""
    try:
        with pytest.raises(PeerRefused):
            scu.echo(address)
    except PeerUnreachable:
        return False
    return True


def test_who_is_kept_out_is_told_once_a_minute(tmp_path: Path) -> None:
    with on_record() as trail, listening(tmp_path, peer=[{"ae_title": "CT1"}]) as node:
        for calling in ("EVIL", "EVIL", "OTHER"):
            eventually(partial(refused, scu.Address(*node.address, "DICOM_NODE", calling)))
        eventually(lambda: len(trail) == 2)
    assert trail.events() == [("Security Alert", "E", "4")] * 2
    told = Xml.tostring(trail[0], encoding="unicode")
    assert 'csd-code="110126"' in told
    assert 'UserID="EVIL"' in told
    detail = trail[0].find(".//ParticipantObjectDetail")
    assert detail is not None
    assert base64.b64decode(detail.attrib["value"]).decode().startswith("association rejected")


def test_what_is_sent_and_what_is_asked(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    with on_record() as trail, pacs_that() as pacs:
        desk.results(result_file(tmp_path / "results"))
        courier = desk.courier(pacs.port, confirm="query", confirm_first_seconds=0.001)
        courier.deliver_due()
        eventually(lambda: courier.confirm() or len(trail) >= 3)
    assert trail.events()[:3] == [
        ("Begin Transferring DICOM Instances", "E", "0"),
        ("DICOM Instances Transferred", "R", "0"),
        ("Query", "E", "0"),
    ]
    assert roles(trail[1]) == [
        ("DICOM_NODE", "Source Role ID"),
        ("PACS", "Destination Role ID"),
    ]
    query = trail[2].findtext(".//ParticipantObjectQuery")
    assert query is not None
    asked = dcmread(BytesIO(base64.b64decode(query)), force=True)
    assert asked.QueryRetrieveLevel == "IMAGE"
    desk.engine.dispose()


def test_a_repository_that_breaks_does_not_break_who_records(tmp_path: Path) -> None:
    def broken(_text: str) -> None:
        raise OSError

    with recording(broken, "NODE"), listening(tmp_path, peer=[{"ae_title": "CT1"}]) as node:
        for calling in ("EVIL", "WORSE"):
            with pytest.raises((PeerRefused, PeerUnreachable)):
                scu.echo(scu.Address(*node.address, "DICOM_NODE", calling))
        scu.echo(scu.Address(*node.address, "DICOM_NODE", "CT1"))


def test_a_throttle_lets_one_through_in_a_while() -> None:
    now = [0.0]
    throttle = Throttle(60, clock=lambda: now[0])
    assert [throttle.passes("a", "h"), throttle.passes("a", "h"), throttle.passes("b", "h")] == [
        True,
        False,
        True,
    ]
    now[0] = 61
    assert throttle.passes("a", "h")
