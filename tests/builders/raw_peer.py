"""A peer that says exactly what a test tells it to, right or wrong, over a plain socket.

Its encodings are written here from PS3.8 and PS3.7, and share nothing with the node's own.
"""

import socket
import ssl
import struct
from types import TracebackType
from typing import Self

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
IMPLEMENTATION_ITEM = 0x52
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"

Context = tuple[int, str, tuple[str, ...]]


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBI", kind, 0, len(body)) + body


def item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


def associate_rq(
    contexts: list[Context],
    *,
    calling: str = "RAW",
    called: str = "DICOM_NODE",
    max_pdu: int = 16384,
    version: int = 1,
    application: str = "1.2.840.10008.3.1.1.1",
    extra: bytes = b"",
) -> bytes:
    body = struct.pack(">HH", version, 0) + called.encode().ljust(16) + calling.encode().ljust(16)
    body += bytes(32) + item(0x10, application.encode())
    for number, abstract, syntaxes in contexts:
        inner = item(0x30, abstract.encode()) + b"".join(item(0x40, s.encode()) for s in syntaxes)
        body += item(0x20, bytes((number, 0, 0, 0)) + inner)
    user = item(0x51, struct.pack(">I", max_pdu)) + item(0x52, b"1.2.3") + item(0x55, b"RAW")
    return pdu(0x01, body + item(0x50, user + extra))


def element(tag: int, value: bytes) -> bytes:
    value += b"\0" if len(value) % 2 else b""
    return struct.pack("<HHI", 0, tag, len(value)) + value


def command_set(
    field: int,
    *,
    message_id: int = 1,
    sop_class: str = CT,
    sop_instance: str | None = None,
    data_set: bool = False,
) -> bytes:
    body = element(0x0002, sop_class.encode()) + element(0x0100, struct.pack("<H", field))
    body += element(0x0110, struct.pack("<H", message_id))
    body += element(0x0700, struct.pack("<H", 0))
    body += element(0x0800, struct.pack("<H", 1 if data_set else 0x0101))
    if sop_instance is not None:
        body += element(0x1000, sop_instance.encode())
    return element(0x0000, struct.pack("<I", len(body))) + body


def pdv(context: int, control: int, data: bytes) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context, control) + data


def p_data(context: int, control: int, data: bytes) -> bytes:
    return pdu(0x04, pdv(context, control, data))


def store_pdus(
    context: int,
    data: bytes,
    *,
    sop_class: str = CT,
    sop_instance: str,
    message_id: int = 1,
    fragment: int = 16000,
) -> bytes:
    """A whole C-STORE-RQ."""
    command = command_set(
        0x0001, message_id=message_id, sop_class=sop_class, sop_instance=sop_instance, data_set=True
    )
    parts = [data[i : i + fragment] for i in range(0, len(data), fragment)] or [b""]
    return p_data(context, 3, command) + b"".join(
        p_data(context, 2 if i == len(parts) - 1 else 0, part) for i, part in enumerate(parts)
    )


RELEASE_RQ = pdu(0x05, bytes(4))
ABORT = pdu(0x07, bytes(4))


class RawPeer:
    """A connection to a listener."""

    def __init__(
        self,
        address: tuple[str, int],
        *,
        timeout: float = 30.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.create_connection(address, timeout=timeout)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU; type 0 where the connection was closed."""
        head = self._read(6)
        if len(head) < 6:
            return 0, b""
        kind, _, length = struct.unpack(">BBI", head)
        return kind, self._read(length)

    def associate(self, contexts: list[Context] | None = None, **options: object) -> dict[int, int]:
        """Ask for an association; the result of each context. Fails where it is not accepted."""
        proposed = contexts or [(1, CT, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,))]
        self.send(associate_rq(proposed, **options))  # type: ignore[arg-type]
        kind, body = self.read_pdu()
        assert kind == 2, f"no A-ASSOCIATE-AC but PDU {kind}: {body.hex()}"
        return dict(_results(body))

    def rejection(self, contexts: list[Context] | None = None, **options: object) -> bytes:
        """Ask for an association; result, source and reason of its rejection."""
        self.send(associate_rq(contexts or [(1, CT, (EXPLICIT,))], **options))  # type: ignore[arg-type]
        kind, body = self.read_pdu()
        assert kind == 3, f"no A-ASSOCIATE-RJ but PDU {kind}: {body.hex()}"
        return body[1:]

    def abort_reason(self) -> int:
        """The reason of the A-ABORT by the service provider that comes next."""
        kind, body = self.read_pdu()
        assert kind == 7, f"no A-ABORT but PDU {kind}: {body.hex()}"
        assert body[2] == 2
        return body[3]

    def status(self) -> int:
        """The status of the next response."""
        kind, body = self.read_pdu()
        assert kind == 4, f"no P-DATA-TF but PDU {kind}: {body.hex()}"
        return struct.unpack("<H", _elements(body[6:])[0x0900])[0]  # type: ignore[no-any-return]

    def store(self, context: int, data: bytes, **options: object) -> int:
        """Store one data set; the status."""
        self.send(store_pdus(context, data, **options))  # type: ignore[arg-type]
        return self.status()

    def release(self) -> None:
        self.send(RELEASE_RQ)
        kind, _ = self.read_pdu()
        assert kind == 6, f"no A-RELEASE-RP but PDU {kind}"

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                part = self.socket.recv(count - len(data))
            except ConnectionResetError:
                part = b""
            if not part:
                return data
            data += part
        return data


def _results(body: bytes) -> list[tuple[int, int]]:
    found, position = [], 68
    while position < len(body):
        kind, _, length = struct.unpack_from(">BBH", body, position)
        if kind == 0x21:
            found.append((body[position + 4], body[position + 6]))
        position += 4 + length
    return found


def _elements(data: bytes) -> dict[int, bytes]:
    found, position = {}, 0
    while position < len(data):
        _, tag, length = struct.unpack_from("<HHI", data, position)
        found[tag] = data[position + 8 : position + 8 + length]
        position += 8 + length
    return found
