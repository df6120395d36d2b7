"""One connection with a peer: bytes in, bytes out, and the patience that we have with it.

What comes in: a connected socket. What goes out: bytes on request, or `PeerGone` / `PeerSilent`. Owns the
deadlines, all on the monotonic clock: a peer that is silent, or that drips bytes to look alive, loses its
connection and never anybody else's. It must not know what the bytes mean.
"""

import contextlib
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import Any

AHEAD = 4096
_SMALL = 1024
_TIMEVAL = struct.Struct("@ll")
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)
_KEEPALIVE = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 60_000),
)


class PeerGone(Exception):
    """The connection is closed or broken."""


class PeerSilent(Exception):
    """The peer sent nothing, or too little, for longer than we wait."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a peer may take, in seconds."""

    negotiation: float = 15.0
    """From the connection to the last byte of the association request, TLS handshake included (ARTIM)."""
    idle: float = 60.0
    """Between two messages."""
    silence: float = 20.0
    """Inside a message, until the next byte."""
    credit: float = 25.0
    """Inside a message, how far it may fall behind `bytes_per_second` before it is cut off."""
    bytes_per_second: float = 2048.0
    closing: float = 2.0
    """Until the peer closes, after it was told that all is over."""


@dataclass(slots=True)
class Pace:
    """A leaky bucket: time drains the credit, bytes refill it, and it never holds more than `credit`."""

    credit: float
    bytes_per_second: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.credit

    def spend(self, seconds: float, received: int) -> bool:
        """Account for some bytes that took some seconds; False when the credit is used up."""
        self.left = min(self.credit, self.left - seconds + received / self.bytes_per_second)
        return self.left > 0


class Connection:
    """A connected socket with deadlines. For one thread; only `cut` may be called from another."""

    def __init__(self, sock: socket.socket, host: str, patience: Patience) -> None:
        self.host = host
        self._socket = sock
        self._patience = patience
        self._pace = Pace(patience.credit, patience.bytes_per_second)
        self._ahead = memoryview(bytearray(AHEAD))
        self._start = self._stop = 0
        self._small = False
        self._wait: float | None = None
        self._clock = time.monotonic()
        self._expiry: float | None = self._clock + patience.negotiation
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(patience.silence))
        self._wait_at_most(patience.silence)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if (option := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def secure(self, context: ssl.SSLContext) -> None:
        """TLS handshake, within the time of the negotiation.

        Raises:
            PeerGone, PeerSilent: it failed.
        """
        self._socket.settimeout(self._left())
        try:
            self._socket = context.wrap_socket(
                self._socket, server_side=True, suppress_ragged_eofs=True
            )
            self._wait = None
        except TimeoutError as error:
            raise PeerSilent("no TLS handshake") from error
        except OSError as error:
            reason = getattr(error, "reason", None) or error.strerror
            raise PeerGone(f"TLS handshake failed: {reason}") from error

    @property
    def socket(self) -> socket.socket:
        """The socket itself."""
        return self._socket

    @property
    def certificate_names(self) -> frozenset[str]:
        """Common name and DNS names of the peer's certificate; empty without TLS or certificate."""
        if not isinstance(self._socket, ssl.SSLSocket):
            return frozenset()
        shown: Any = self._socket.getpeercert() or {}
        common = (
            value
            for pairs in shown.get("subject", ())
            for name, value in pairs
            if name == "commonName"
        )
        other = (value for kind, value in shown.get("subjectAltName", ()) if kind == "DNS")
        return frozenset((*common, *other))

    def negotiated(self) -> None:
        """The association stands: from now on the deadlines are those of messages."""
        self._expiry = None
        self._wait_at_most(self._patience.silence)

    def wait_idle(self) -> None:
        """Wait between messages for the first byte of the next one."""
        if self._start < self._stop or self._expiry is not None:
            return
        self._wait_at_most(self._patience.idle)
        try:
            self._refill()
        finally:
            self._wait_at_most(self._patience.silence)
        self._clock = time.monotonic()
        self._pace.left = self._pace.credit

    def take(self, count: int) -> memoryview:
        """The next `count` bytes, at most `AHEAD`; the view is good until the next call.

        Raises:
            PeerGone, PeerSilent: they did not come.
        """
        if self._stop - self._start < count and self._start:
            rest = self._stop - self._start
            self._ahead[:rest] = bytes(self._ahead[self._start : self._stop])
            self._start, self._stop = 0, rest
        while self._stop - self._start < count:
            self._refill()
        self._start += count
        return self._ahead[self._start - count : self._start]

    def read(self, count: int) -> bytes:
        """The next `count` bytes as they come, for small things of bounded size."""
        result = bytearray(count)
        view = memoryview(result)
        while view:
            view = view[self.read_into(view) :]
        return bytes(result)

    def read_into(self, room: memoryview) -> int:
        """Some of the next bytes, at least one and at most as many as there is room for."""
        ready = self._stop - self._start
        if ready:
            count = min(ready, len(room))
            room[:count] = self._ahead[self._start : self._start + count]
            self._start += count
            return count
        if isinstance(self._socket, ssl.SSLSocket):
            return self._receive(room)
        # one call for the rest of a fragment and the head of the next one
        self._start = self._stop = 0
        count = self._receive(room, self._ahead)
        self._stop = max(0, count - len(room))
        return count - self._stop

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            PeerGone, PeerSilent: the peer does not take it.
        """
        try:
            self._socket.sendall(data)
        except (TimeoutError, BlockingIOError) as error:
            raise PeerSilent("the peer takes no answer") from error
        except OSError as error:
            raise PeerGone(_reason(error)) from error

    def finish(self) -> None:
        """Close so that the peer can read what was sent last: wait a little until it closes too."""
        until = time.monotonic() + self._patience.closing
        with contextlib.suppress(OSError, ValueError):
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket.shutdown(socket.SHUT_WR)
            while (left := until - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(AHEAD):
                    break
        self.close()

    def close(self) -> None:
        """Close at once."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def cut(self) -> None:
        """Make every call on this connection fail; for another thread than the one that reads."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _refill(self) -> None:
        if self._start == self._stop:
            self._start = self._stop = 0
        self._stop += self._receive(self._ahead[self._stop :])

    def _receive(self, *rooms: memoryview) -> int:
        if self._expiry is not None:
            self._wait_at_most(self._left())
        try:
            if self._small and _QUICKACK is not None:
                # a sender with Nagle's algorithm, such as DCMTK's, writes a PDU's head, and holds its
                # body back until that is acknowledged: the kernel would wait 40 ms with it
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
            if len(rooms) == 1:
                count = self._socket.recv_into(rooms[0])
            else:
                count = self._socket.recvmsg_into(rooms)[0]
        except (TimeoutError, BlockingIOError) as error:
            raise PeerSilent("nothing came") from error
        except (OSError, ValueError) as error:
            raise PeerGone(_reason(error)) from error
        if count == 0:
            raise PeerGone("the connection was closed")
        self._small = count < _SMALL
        now = time.monotonic()
        if self._expiry is None and not self._pace.spend(now - self._clock, count):
            raise PeerSilent("bytes came too slowly")
        self._clock = now
        return count

    def _left(self) -> float:
        """Seconds that are left for the negotiation."""
        left = (self._expiry or 0.0) - time.monotonic()
        if left <= 0:
            raise PeerSilent("no association request in time")
        return left

    def _wait_at_most(self, seconds: float) -> None:
        """How long one call may wait for the peer.

        The kernel counts the time: Python's own time-outs cost one more system call for each, and the
        interpreter's lock twice. OpenSSL would not see the kernel's, so TLS has Python's.
        """
        if self._wait == seconds:
            return
        self._wait = seconds
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(seconds)
        else:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))


def _timeval(seconds: float) -> bytes:
    # nothing would be for ever
    return _TIMEVAL.pack(*divmod(max(1, round(seconds * 1e6)), 1_000_000))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
