"""Serves this host's segments to the node's other hosts.

What comes in: `GET /segments/NAME` with one byte range and the node's own token. What goes out: those bytes,
as they lie in the spool. It reads nothing else, lists nothing, and knows nothing of DICOM. Whoever holds the
token may read every image, so it goes over TLS unless the network is declared safe.
"""

import hmac
import os
import re
import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dicom_node.observe.logging import get_logger
from dicom_node.receive.tls import server_context
from dicom_node.settings import ShareSettings
from dicom_node.store.folders import SEGMENTS
from dicom_node.store.spool import SUFFIX

log = get_logger(__name__)

MOST_BYTES = 16 << 30
_NAME = re.compile(rf"[0-9A-Za-z-]{{1,64}}{re.escape(SUFFIX)}")
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{1,15})")
IDLE_SECONDS = 60.0


def bind(settings: ShareSettings) -> socket.socket:
    """The listening socket; errors as those of `socket.bind`."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((settings.host, settings.port or 0))
    listener.listen()
    return listener


def address_of(settings: ShareSettings, listener: socket.socket) -> str:
    """Where other hosts reach it."""
    if settings.address:
        return settings.address.rstrip("/")
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls else "http"
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}"


def serve_segments(
    spool_dir: Path,
    token: str,
    settings: ShareSettings,
    listener: socket.socket,
    stop: threading.Event,
) -> None:
    """Answer requests until `stop` is set.

    Raises:
        ConfigurationError: the certificates cannot be used.
    """
    context = server_context(settings.tls) if settings.tls else None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            request.settimeout(IDLE_SECONDS)
            if context is not None:
                # in the connection's own thread: a client that is silent blocks nobody
                request = context.wrap_socket(request, server_side=True)
            try:
                super().finish_request(request, client_address)
            finally:
                request.close()

        def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
            log.info("reader gone", host=str(client_address[0]))

    class Handler(_Handler):
        folder = spool_dir
        expected = f"Bearer {token}"

    server = Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
    thread.start()
    stop.wait()
    server.shutdown()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "dicom-node"
    sys_version = ""
    folder: Path
    expected: str

    def do_GET(self) -> None:
        """One range of one segment."""
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), self.expected.encode()):
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        name = self.path.removeprefix(SEGMENTS)
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not self.path.startswith(SEGMENTS) or not _NAME.fullmatch(name):
            self._refuse(HTTPStatus.NOT_FOUND)
        elif wanted is None or not 0 <= int(wanted[2]) - int(wanted[1]) < MOST_BYTES:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        else:
            self._send(self.folder / name, int(wanted[1]), int(wanted[2]) + 1)

    def _send(self, path: Path, start: int, stop: int) -> None:
        try:
            file = path.open("rb")
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with file:
            if os.fstat(file.fileno()).st_size < stop:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Length", str(stop - start))
            self.send_header("Content-Type", "application/octet-stream")
            self.end_headers()
            # sendfile where the connection is plain, copies under TLS
            self.connection.sendfile(file, start, stop - start)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: one line a slice would drown the log."""
