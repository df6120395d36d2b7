"""What a role is, and what it has from its start until it is told to stop or to take over other settings."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dicom_node.errors import ConfigurationError
from dicom_node.settings import Settings
from dicom_node.store.database import Engine


class Role(Enum):
    """What a process of the node does. Each may run alone, on a host of its own."""

    RECEIVE = "receive"
    ASSEMBLE = "assemble"
    INFER = "infer"
    DELIVER = "deliver"
    SHARE = "share"
    WEB = "web"


@dataclass(slots=True)
class Adoption:
    """How a role that runs takes over other settings; empty where it has to begin again."""

    act: Callable[[Settings], None] | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a role has from here until it is told to stop, or to go on with other settings."""

    settings: Settings
    engine: Engine
    stop: threading.Event
    listen_socket: socket.socket | None
    adoption: Adoption
    ask_reload: Callable[[], None]


def nobody_reloads() -> None:
    raise ConfigurationError("this process does not reload its configuration")
