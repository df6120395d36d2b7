"""Receivers to compare: each starts on a port and a folder of its own, and is ended by the caller.

`python benchmarks/ingest/receivers.py node|pynetdicom FOLDER PORT` runs one of the two Python ones.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve()
FLOOR = Path(tempfile.gettempdir()) / f"ingest-floor-{os.getpid()}"
"""The C program of `floor.c`, built by whoever measures."""
FULL = "node, full index"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _dcmtk(program: str) -> str:
    """pynetdicom brings a program of the same name into the environment's own folder."""
    own = str(Path(sys.executable).parent)
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != own)
    return shutil.which(program, path=path) or program


def _storescp(*more: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        return [_dcmtk("storescp"), "+B", "-pdu", "131072", "-od", str(folder), *more, str(port)]

    return command


def _floor(folder: Path, port: int) -> list[str]:
    return [str(FLOOR), str(folder), str(port)]


def _python(name: str) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        return [sys.executable, str(HERE), name, str(folder), str(port)]

    return command


def _orthanc(sync: bool) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "DicomPort": port,
            "DicomAet": "DICOM_NODE",
            "DicomAlwaysAllowStore": True,
            "MaximumPduLength": 131072,
            "HttpServerEnabled": False,
            "StorageCompression": False,
            "StoreMD5ForAttachments": False,
            "SyncStorageArea": sync,
            "OverwriteInstances": True,
            "SaveJobs": False,
            "Plugins": [],
        }
        file = folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        return [shutil.which("Orthanc", path="/usr/sbin:/usr/bin") or "Orthanc", str(file)]

    return command


RECEIVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "storescp": _storescp(),
    "storescp --fork": _storescp("--fork"),
    "floor": _floor,
    "node": _python("node"),
    FULL: _python("node"),
    "pynetdicom, fsync": _python("pynetdicom"),
    "Orthanc": _orthanc(sync=False),
    "Orthanc, sync": _orthanc(sync=True),
}


def start(
    name: str, folder: Path, database: Path | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a receiver and wait until it accepts; its process group is its own.

    Args:
        name: which of `RECEIVERS`.
        folder: where it may write; made here.
        database: what a node's index is at first; without it, empty.
    """
    folder.mkdir(parents=True)
    if name == FULL and database is not None:
        shutil.copy(database, folder / database.name)
    port = free_port()
    process = subprocess.Popen(
        RECEIVERS[name](folder, port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process, port
        except OSError:
            assert process.poll() is None, f"{name} did not start"
            time.sleep(0.05)
    raise AssertionError(f"{name} does not listen")


def _run_node(folder: Path, port: int) -> None:
    from dicom_node.observe.logging import configure
    from dicom_node.receive.scp import Receiver
    from dicom_node.settings import LogSettings, ReceiveSettings, Settings
    from dicom_node.store.database import open_database
    from dicom_node.store.intake import Intake

    configure(LogSettings(level="ERROR"))
    receive = ReceiveSettings(port=port, accept_any_peer=True)
    settings = Settings(data_dir=folder, receive=receive)
    receiver = Receiver(settings, Intake(open_database(settings.effective_database_url)))
    receiver.start()
    signal.sigwait({signal.SIGTERM})
    receiver.stop()


def _run_pynetdicom(folder: Path, port: int) -> None:
    """As its documentation shows it, with the file synced before the answer."""
    from pynetdicom import AE, AllStoragePresentationContexts, _config, evt

    _config.LOG_HANDLER_LEVEL = "none"

    def store(event: evt.Event) -> int:
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        with path.open("wb") as file:
            file.write(event.encoded_dataset())
            file.flush()
            os.fsync(file.fileno())
        return 0x0000

    ae = AE("DICOM_NODE")
    ae.maximum_pdu_size = 131072
    ae.supported_contexts = AllStoragePresentationContexts
    ae.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM} if sys.argv[1] == "node" else set())
    run = {"node": _run_node, "pynetdicom": _run_pynetdicom}[sys.argv[1]]
    run(Path(sys.argv[2]), int(sys.argv[3]))
