"""The audit trail: what people do is on record, and reaches a file or a repository over TLS."""

import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from dicom_node.observe.audit import Action, Actor, AuditEvent, Event, Kind, message, syslog_frame
from dicom_node.settings import AuditSettings
from dicom_node.store.accounts import UserRole
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.database import open_database
from dicom_node.upkeep.audit import AuditCourier, FileSink, SyslogSink
from tests.builders.worklist import Site
from tests.page import PASSWORD, served

AT = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)


def test_a_message_names_event_actors_study_and_patient() -> None:
    event = AuditEvent(
        Event.ACCESSED,
        Action.READ,
        AT,
        (Actor("anna", requestor=True, address="10.0.0.1"), Actor("NODE", requestor=False)),
        study_uid="1.2.3",
        patient_id='P<1>&"\x01',
        details={"order": "retry"},
    )
    root = Xml.fromstring(message(event, "NODE"))
    identification = root.find("EventIdentification")
    assert identification is not None
    assert identification.attrib == {
        "EventActionCode": "R",
        "EventDateTime": "2026-01-05T08:00:00.000+00:00",
        "EventOutcomeIndicator": "0",
    }
    event_id = identification.find("EventID")
    assert event_id is not None
    assert event_id.attrib["csd-code"] == "110103"
    assert [p.attrib["UserID"] for p in root.findall("ActiveParticipant")] == ["anna", "NODE"]
    objects = [
        o.attrib["ParticipantObjectID"] for o in root.findall("ParticipantObjectIdentification")
    ]
    assert objects == ["1.2.3", 'P<1>&"']
    order = [child.tag for child in root]
    assert order == [
        "EventIdentification",
        "ActiveParticipant",
        "ActiveParticipant",
        "AuditSourceIdentification",
        "ParticipantObjectIdentification",
        "ParticipantObjectIdentification",
    ], "the schema's order (PS3.15 A.5.1)"


def test_a_login_is_of_its_own_type() -> None:
    event = AuditEvent(
        Event.AUTHENTICATION, Action.EXECUTE, AT, (Actor("a", requestor=True),), kind=Kind.LOGIN
    )
    assert 'csd-code="110122"' in message(event, "NODE")


def test_what_people_do_at_the_page_is_on_record(tmp_path: Path) -> None:
    with served(tmp_path / "data") as page:
        Site(page.engine, tmp_path).one_of_each()
        with page.client(UserRole.OPERATOR) as client:
            client.get("/studies/1.2.826.0.1.6")
            client.get("/studies/1.2.826.0.1.6", headers={"HX-Request": "true"})
            found = re.search(r'name="csrf" value="(\w+)"', client.get("/").text)
            assert found
            client.post("/studies/1.2.826.0.1.6/release", data={"csrf": found[1]})
            client.post("/logout", data={"csrf": found[1]})
            client.post("/login", data={"name": "operator", "password": PASSWORD + "x"})
        told = [text for _, _, text in page.parts.audit.unsent()]
    events = []
    for text in told:
        root = Xml.fromstring(text)
        identification = root.find("EventIdentification")
        assert identification is not None
        events.append(
            (
                identification.find("EventID").attrib["originalText"],  # type: ignore[union-attr]
                identification.attrib["EventActionCode"],
                identification.attrib["EventOutcomeIndicator"],
            )
        )
        assert 'UserID="operator"' in text
        assert PASSWORD not in text
    assert events == [
        ("User Authentication", "E", "0"),
        ("DICOM Instances Accessed", "R", "0"),
        ("DICOM Instances Accessed", "U", "0"),
        ("User Authentication", "E", "0"),
        ("User Authentication", "E", "4"),
    ]
    assert 'ParticipantObjectID="PID0006"' in told[1]


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[AuditOutbox]:
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    yield AuditOutbox(engine)
    engine.dispose()


def test_the_file_is_ours_alone_and_in_order(outbox: AuditOutbox, tmp_path: Path) -> None:
    for number in range(250):
        outbox.add(f"<AuditMessage>{number}\n</AuditMessage>")
    AuditCourier(outbox, FileSink(tmp_path / "audit.log")).send()
    lines = (tmp_path / "audit.log").read_text().splitlines()
    assert [re.sub(r"\D", "", line) for line in lines] == [str(number) for number in range(250)]
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600
    assert outbox.waiting() == 0


def test_what_cannot_be_written_waits(outbox: AuditOutbox, tmp_path: Path) -> None:
    outbox.add("<AuditMessage/>")
    AuditCourier(outbox, FileSink(tmp_path / "no" / "such" / "folder")).send()
    assert outbox.waiting() == 1


class Repository(threading.Thread):
    """A receiver of syslog over TLS; takes one connection after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-keyout", str(key), "-out", str(self.certificate), "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self._listener = context.wrap_socket(
            socket.create_server(("127.0.0.1", 0)), server_side=True
        )
        self.port = self._listener.getsockname()[1]
        self.received = b""
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except ssl.SSLError:
                continue
            except OSError:
                return
            with connection:
                while some := connection.recv(65536):
                    self.received += some
                connection.unwrap()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    started = Repository(tmp_path)
    yield started
    started.close()


def test_syslog_over_tls_arrives_in_frames(outbox: AuditOutbox, repository: Repository) -> None:
    messages = ["<AuditMessage>eins</AuditMessage>", "<AuditMessage>Größe</AuditMessage>"]
    for text in messages:
        outbox.add(text)
    settings = AuditSettings(
        syslog_host="localhost", syslog_port=repository.port, ca_file=repository.certificate
    )
    AuditCourier(outbox, SyslogSink(settings)).send()
    assert outbox.waiting() == 0
    found, rest = [], repository.received
    while rest:
        length, _, rest = rest.partition(b" ")
        frame, rest = rest[: int(length)], rest[int(length) :]
        header, _, body = frame.decode().partition("\ufeff")
        assert re.fullmatch(r"<85>1 \S+ \S+ dicom-node - DICOM\+RFC3881 - ", header)
        found.append(body)
    assert found == messages


def test_a_repository_that_nobody_vouches_for_gets_nothing(
    outbox: AuditOutbox, repository: Repository
) -> None:
    outbox.add("<AuditMessage/>")
    settings = AuditSettings(syslog_host="localhost", syslog_port=repository.port)
    AuditCourier(outbox, SyslogSink(settings)).send()
    assert outbox.waiting() == 1
    assert repository.received == b""


def test_the_frame_counts_bytes() -> None:
    frame = syslog_frame("<ä/>", AT, "host")
    length, _, body = frame.partition(b" ")
    assert int(length) == len(body)
