"""Sends the audit trail: to a file, or by syslog over TLS (PS3.15 A.6, RFC 5425).

What comes in: the outbox. What goes out: each message at least once, in order; what the repository does not
take stays and is tried again. Syslog over TLS has no answer, so a message counts as sent once the
connection took it and was still there afterwards: it may arrive twice, and does not get lost silently with
a connection that was dead already.
"""

import os
import socket
import ssl
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from dicom_node.observe.audit import syslog_frame
from dicom_node.observe.logging import get_logger
from dicom_node.settings import AuditSettings
from dicom_node.store.audit import AuditOutbox

log = get_logger(__name__)

Message = tuple[int, datetime, str]
KEPT = timedelta(days=30)
"""How long a message stays in the database after it was sent."""
TIMEOUT_SECONDS = 10.0


class Sink(Protocol):
    """Where messages go."""

    def send(self, messages: Sequence[Message]) -> None:
        """Send them all.

        Raises:
            OSError: they did not all arrive.
        """


class FileSink:
    """A file of our own, a message a line; only we may read it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, messages: Sequence[Message]) -> None:
        """Append, and be sure of it; errors as in `Sink`."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            for _, _, message in messages:
                file.write(message.replace("\n", " ").encode() + b"\n")
            file.flush()
            os.fsync(descriptor)


class SyslogSink:
    """An audit repository that takes syslog over TLS."""

    def __init__(self, settings: AuditSettings) -> None:
        self._address = (settings.syslog_host, settings.syslog_port)
        self._context = ssl.create_default_context(cafile=settings.ca_file)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.certificate is not None:
            self._context.load_cert_chain(settings.certificate, settings.private_key)

    def send(self, messages: Sequence[Message]) -> None:
        """One connection for them all; errors as in `Sink`."""
        here = socket.gethostname()
        with (
            socket.create_connection(self._address, TIMEOUT_SECONDS) as plain,
            self._context.wrap_socket(plain, server_hostname=self._address[0]) as secure,
        ):
            for _, at, message in messages:
                secure.sendall(syslog_frame(message, at, here))
            secure.unwrap()  # the other side says goodbye: it was there to the end


class AuditCourier:
    """Empties the outbox."""

    def __init__(self, outbox: AuditOutbox, sink: Sink) -> None:
        self._outbox = outbox
        self._sink = sink

    def send(self) -> None:
        """Send what waits; what fails is tried again the next time."""
        while messages := self._outbox.unsent():
            try:
                self._sink.send(messages)
            except OSError as error:
                log.error("audit trail waits", reason=error.strerror or type(error).__name__)
                return
            self._outbox.sent([number for number, _, _ in messages])
        self._outbox.forget(KEPT)


def sink_of(settings: AuditSettings, data_dir: Path) -> Sink:
    """Where the settings say that the trail goes."""
    if settings.syslog_host:
        return SyslogSink(settings)
    return FileSink(settings.file or data_dir / "audit.log")
