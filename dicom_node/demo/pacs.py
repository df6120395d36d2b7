"""Receiving PACS for trying the node: a folder behind a storage SCP, or Orthanc where it is installed.

What comes in: C-STOREs on the loopback. What goes out: what was received, as DICOM files. For
demonstrations and tests; it listens on a free port and ends with the block that started it.
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from pydicom import Dataset, dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from dicom_node.errors import ConfigurationError, PeerUnreachable

LOOPBACK = "127.0.0.1"
ORTHANC_PROGRAMS = ("Orthanc", "/usr/sbin/Orthanc")
START_SECONDS = 30.0


class Pacs(Protocol):
    """A PACS that can be sent to, and asked for what it has."""

    name: str
    ae_title: str
    port: int

    def received(self) -> dict[str, Path | str]:
        """SOP Instance UID -> where this PACS keeps it."""
        ...

    def read(self, sop_instance_uid: str) -> Dataset:
        """One instance, read back from the PACS."""
        ...


class FolderPacs:
    """A storage SCP that writes into a folder."""

    name = "folder"
    ae_title = "DEMO_PACS"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._kept: dict[str, Path | str] = {}

    def received(self) -> dict[str, Path | str]:
        return dict(self._kept)

    def read(self, sop_instance_uid: str) -> Dataset:
        return dcmread(self._kept[sop_instance_uid])

    def keep(self, event: evt.Event) -> int:
        """Handle a C-STORE: write the file, remember it, say 0000."""
        data_set = event.dataset
        data_set.file_meta = event.file_meta
        uid = str(data_set.SOPInstanceUID)
        path = self.folder / f"{len(self._kept) + 1:04d}-{data_set.Modality}.dcm"
        data_set.save_as(path, enforce_file_format=True)
        self._kept[uid] = path
        return 0x0000


class Orthanc:
    """A real Orthanc, asked over its REST interface."""

    name = "orthanc"
    ae_title = "ORTHANC"

    def __init__(self, port: int, http_port: int) -> None:
        self.port = port
        self.http_port = http_port

    def received(self) -> dict[str, Path | str]:
        instances = self.get("/instances?expand&requestedTags=SOPInstanceUID")
        return {
            entry["MainDicomTags"]["SOPInstanceUID"]: f"{self.url}/instances/{entry['ID']}/file"
            for entry in instances
        }

    def read(self, sop_instance_uid: str) -> Dataset:
        with urllib.request.urlopen(str(self.received()[sop_instance_uid]), timeout=30) as answer:
            return dcmread(BytesIO(answer.read()))

    def get(self, path: str) -> Any:
        """GET a JSON resource."""
        with urllib.request.urlopen(f"{self.url}{path}", timeout=30) as answer:
            return json.load(answer)

    @property
    def url(self) -> str:
        """Base of its REST interface."""
        return f"http://{LOOPBACK}:{self.http_port}"


@contextmanager
def folder_pacs(folder: Path) -> Iterator[FolderPacs]:
    """A folder PACS for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    pacs = FolderPacs(folder)
    ae = AE(ae_title=pacs.ae_title)
    ae.supported_contexts = AllStoragePresentationContexts
    ae.add_supported_context(Verification)
    server = ae.start_server(
        (LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, pacs.keep)]
    )
    pacs.port = server.server_address[1]
    try:
        yield pacs
    finally:
        server.shutdown()


@contextmanager
def orthanc_pacs(folder: Path, **further: Any) -> Iterator[Orthanc]:
    """Orthanc for the length of the block.

    Args:
        folder: its storage and its configuration go here.
        further: settings of Orthanc's own to add.

    Raises:
        ConfigurationError: Orthanc is not installed.
        PeerUnreachable: it did not start.
    """
    program = next((p for p in map(shutil.which, ORTHANC_PROGRAMS) if p), None)
    if program is None:
        raise ConfigurationError("Orthanc is not installed (Debian: apt install orthanc)")
    folder.mkdir(parents=True, exist_ok=True)
    pacs = Orthanc(free_port(), free_port())
    settings = {
        "Name": "Demonstration",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "DicomAet": pacs.ae_title,
        "DicomPort": pacs.port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True,
        "HttpPort": pacs.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": False,
        "StableAge": 2,
    } | further
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings, indent=2))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(config)], stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_for(pacs, process)
            yield pacs
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait_for(pacs: Orthanc, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            pacs.get("/system")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise PeerUnreachable("Orthanc did not start; see orthanc.log beside its configuration")
