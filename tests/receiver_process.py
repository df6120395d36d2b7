"""A receiver in a process of its own that can be told to die, at once or at a given step."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from dicom_node.observe.logging import configure
from dicom_node.receive.scp import Receiver
from dicom_node.receive.transport import Patience
from dicom_node.settings import LogSettings
from dicom_node.store.database import open_database
from dicom_node.store.intake import Intake
from tests.receiving import receive_settings

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.receiver_process"])

STEPS = {
    # what is counted, and where it stands in the life of an instance
    "before sync": (os, "fdatasync", "before"),
    "after sync": (os, "fdatasync", "after"),
    "before naming": (os, "fsync", "before"),
    "after naming": (os, "fsync", "after"),
    "before opening row": (Intake, "association_opened", "before"),
    "after opening row": (Intake, "association_opened", "after"),
    "before rows": (Intake, "index", "before"),
    "after rows": (Intake, "index", "after"),
    "before ending row": (Intake, "association_ended", "before"),
    "after ending row": (Intake, "association_ended", "after"),
    "before sealing": (os, "fchmod", "before"),
    "after sealing": (os, "fchmod", "after"),
}


@dataclass
class Process:
    """A receiver that runs elsewhere."""

    process: BaseProcess
    address: tuple[str, int]

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.join()


def start(
    folder: Path,
    die_at: tuple[str, int] | None = None,
    *,
    listen_socket: socket.socket | None = None,
    receive: dict[str, Any] | None = None,
    patience: Patience | None = None,
) -> Process:
    """Start a receiver; `die_at` names a step and how often it is survived."""
    ours, theirs = _context.Pipe()
    arguments = (folder, theirs, die_at, listen_socket, receive or {}, patience)
    process = _context.Process(target=_main, args=arguments, daemon=True)
    process.start()
    theirs.close()
    address = ours.recv() if ours.poll(60) else None
    assert address is not None, "the receiver did not start"
    return Process(process, address)


def _main(
    folder: Path,
    pipe: Connection,
    die_at: tuple[str, int] | None,
    listen_socket: socket.socket | None,
    receive: dict[str, Any],
    patience: Patience | None,
) -> None:
    configure(LogSettings())
    settings = receive_settings(folder, **receive)
    engine = open_database(settings.effective_database_url)
    receiver = Receiver(settings, Intake(engine), listen_socket=listen_socket, patience=patience)
    if die_at is not None:
        _arm(*die_at)
    receiver.start()
    pipe.send(receiver.address)
    signal.pause()


def _arm(step: str, survived: int) -> None:
    owner, name, when = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)
    count = 0

    def deadly(*args: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if when == "before" and count > survived:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **named)
        if when == "after" and count > survived:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
