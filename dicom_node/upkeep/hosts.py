"""What a process has to know where a node spans several hosts: its folder, its duties, where bytes lie.

What comes in: settings and the store. What goes out: the number of our data folder, known to the database; a
reader of bytes wherever they lie; pauses that last while a duty is another's. On one host all is trivial.
"""

import socket
import threading
from collections.abc import Callable

from dicom_node.settings import Settings
from dicom_node.store.accounts import Accounts
from dicom_node.store.database import Engine
from dicom_node.store.duties import Duty
from dicom_node.store.folders import Credentials, Folders, Reach, folder_id, token_of
from dicom_node.store.patience import patient

Pause = Callable[[threading.Event, float], bool]
STANDBY_SECONDS = 0.2


def our_folder(settings: Settings, engine: Engine, stop: threading.Event) -> str:
    """The number of our data folder, registered."""
    here = folder_id(settings.data_dir)
    patient(Folders(engine), stop).register(here, socket.gethostname())
    return here


def share_token(engine: Engine, stop: threading.Event) -> str:
    """What the node's hosts show each other; made from a secret in their database."""
    return token_of(patient(Accounts(engine), stop).secret("share"))


def reach_of(settings: Settings, engine: Engine, here: str, stop: threading.Event) -> Reach:
    """A reader of received bytes, on whatever host they lie."""
    tls = settings.share.tls
    credentials = Credentials(
        share_token(engine, stop),
        certificate=tls.certificate if tls else None,
        key=tls.key if tls else None,
        ca=tls.ca if tls else None,
    )
    hosts = patient(Folders(engine), stop).hosts
    return Reach(settings.spool_dir, here, hosts, credentials, settings.share.patience_seconds)


def while_held(duty: Duty, pause: Pause) -> Pause:
    """A pause that goes on for as long as the duty is another's."""

    def wait(stop: threading.Event, seconds: float) -> bool:
        if pause(stop, seconds):
            return True
        while not duty.held:
            if stop.wait(STANDBY_SECONDS):
                return True
        return False

    return wait


def if_held(duty: Duty, call: Callable[[], None]) -> Callable[[], None]:
    """A timer's work, left to whoever has the duty."""

    def do() -> None:
        if duty.held:
            call()

    return do
