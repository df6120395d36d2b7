"""Delivery by STOW-RS: Orthanc's DICOMweb service, and a service in the test's hand."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from dicom_node.deliver.loop import Courier
from dicom_node.demo.pacs import Orthanc, orthanc_pacs
from dicom_node.lifecycle import DeliveryState
from dicom_node.settings import Settings
from tests.builders.store import result_file
from tests.peers.test_deliver_courier import Desk

CONFIRMED, DEAD = DeliveryState.CONFIRMED, DeliveryState.DEAD
RETRYING, SENT = DeliveryState.RETRYING, DeliveryState.SENT
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc")


def courier(desk: Desk, url: str, confirm: str = "response", **more: object) -> Courier:
    destination = {"ae_title": "P", "host": "h", "port": 104, "stow_url": url, "confirm": confirm}
    settings = Settings(
        data_dir=desk.folder,
        destination={"pacs": destination | more},  # type: ignore[dict-item]
        deliver={"network_timeout": 5.0},  # type: ignore[arg-type]
    )
    return Courier("pacs", settings.destination["pacs"], settings, desk.outbox)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    plugin = next((p for p in PLUGINS if list(Path(p).glob("libOrthancDicomWeb.so*"))), None)
    if plugin is None:
        pytest.skip("Orthanc's DICOMweb plug-in is not installed")
    plugins = [str(next(iter(sorted(Path(plugin).glob("libOrthancDicomWeb.so*")))))]
    web = {"Enable": True, "Root": "/dicom-web/"}
    folder = tmp_path_factory.mktemp("orthanc")
    with orthanc_pacs(folder, Plugins=plugins, DicomWeb=web) as running:
        yield running


@pytest.mark.peer("orthanc")
@pytest.mark.xdist_group("orthanc_stow")
@pytest.mark.parametrize("confirm", ["response", "query"])
def test_orthanc(tmp_path: Path, orthanc: Orthanc, confirm: str) -> None:
    desk = Desk(tmp_path)
    made = [result_file(tmp_path, study=f"1.2.4.{len(confirm)}") for _ in range(3)]
    desk.results(*made)
    sending = courier(desk, f"{orthanc.url}/dicom-web", confirm)
    sending.deliver_due()
    if confirm == "query":
        assert desk.states() == [SENT] * 3
        desk.all_due()
        sending.confirm()
    assert desk.states() == [CONFIRMED] * 3
    assert {one.sop_instance_uid for one in made} <= set(orthanc.received())


class Service(BaseHTTPRequestHandler):
    """Answers as it is told."""

    status = 200
    body = b"{}"
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        kind = self.headers["Content-Type"]
        self.seen.append((kind.split(";")[0], self.headers.get("Authorization")))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def service(status: int, body: str) -> Iterator[str]:
    told = type("Told", (Service,), {"status": status, "body": body.encode(), "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), told)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Service.seen = told.seen  # type: ignore[attr-defined]
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def failed(reason: int) -> str:
    return f'{{"00081198": {{"vr": "SQ", "Value": [{{"00081197": {{"vr": "US", "Value": [{reason}]}}}}]}}}}'


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (200, "{}", CONFIRMED),
        (200, "no JSON at all", CONFIRMED),
        (202, failed(0xA700), RETRYING),
        (202, failed(0x0110), RETRYING),
        (409, failed(0xC000), DEAD),
        (409, failed(0x0122), DEAD),
        (409, "", RETRYING),
        (503, "", RETRYING),
        (500, "", RETRYING),
        (429, "", RETRYING),
        (401, "", RETRYING),
        (400, "", DEAD),
        (415, "", DEAD),
    ],
)
def test_every_answer_of_a_service(
    tmp_path: Path, status: int, body: str, state: DeliveryState
) -> None:
    desk = Desk(tmp_path)
    desk.results(result_file(tmp_path))
    with service(status, body) as url:
        courier(desk, url).deliver_due()
    assert desk.states() == [state]
    assert Service.seen[0][0] == "multipart/related"


def test_the_authorization_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer abc\n")
    desk = Desk(tmp_path)
    desk.results(result_file(tmp_path))
    with service(200, "{}") as url:
        courier(desk, url, authorization_file=secret).deliver_due()
    assert Service.seen == [("multipart/related", "Bearer abc")]


def test_nobody_there(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.results(result_file(tmp_path))
    with service(200, "{}") as url:
        pass
    courier(desk, url).deliver_due()
    assert desk.states() == [RETRYING]
