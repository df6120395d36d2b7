"""Data folders: which host holds which bytes, and how another host reads them.

What comes in: a data folder, and addresses under which hosts serve theirs. What goes out: the bytes of a data
set, mapped where the folder is ours and fetched from its host where it is not. A folder is known by a number
that lies in it (`folder.id`), not by a host's name, so that a folder on shared storage is one folder whoever
mounts it. Owns: what is read has the length that the row says; its hash is the caller's to check.
"""

import hmac
import http.client
import os
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import Column, Engine, Select, Table, select, update

from dicom_node.errors import HostAway
from dicom_node.records import SegmentAddress
from dicom_node.store.database import reading, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.spool import open_data_set, sync_folder
from dicom_node.store.tables import association, folder, result

ID_FILE = "folder.id"
SEGMENTS = "/segments/"
TIMEOUT_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_ROWS_AT_ONCE = 500


def folder_id(data_dir: Path) -> str:
    """The number of a data folder; given to it when it is first asked for."""
    path = data_dir / ID_FILE
    while True:
        try:
            found = path.read_text().strip()
            return str(uuid.UUID(found))
        except FileNotFoundError:
            _number(path)


def _number(path: Path) -> None:
    """Write a number under another name, and give it the right one where there is none yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f"{ID_FILE}.{os.getpid()}.{threading.get_ident()}")
    with made.open("w") as file:
        file.write(f"{uuid.uuid4()}\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(made, path)
    except FileExistsError:
        pass  # another process was quicker
    finally:
        made.unlink()
    sync_folder(path.parent)


class Folders:
    """The folders that the database knows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def register(self, number: str, host: str, address: str | None = None) -> None:
        """A host works on a folder; with an address, others may read it there."""
        with writing(self._engine) as connection:
            connection.execute(
                insert_or_ignore(connection, folder).values(id=number, host=host, address="")
            )
            values = {"host": host} | ({} if address is None else {"address": address})
            connection.execute(update(folder).where(folder.c.id == number).values(**values))

    def adopt(self, number: str, spool_dir: Path) -> None:
        """Rows from before folders had numbers belong to the one that has their segments, or their files."""
        with reading(self._engine) as connection:
            segments = connection.execute(_ownerless(association, association.c.segment)).all()
            results = connection.execute(_ownerless(result, result.c.path)).all()
        ours = [row.id for row in segments if (spool_dir / Path(row.segment).name).exists()]
        made = [row.id for row in results if Path(row.path).exists()]
        with writing(self._engine) as connection:
            for table, ids in ((association, ours), (result, made)):
                for start in range(0, len(ids), _ROWS_AT_ONCE):
                    some = ids[start : start + _ROWS_AT_ONCE]
                    connection.execute(
                        update(table).where(table.c.id.in_(some)).values(folder_id=number)
                    )

    def hosts(self) -> dict[str, tuple[str, str]]:
        """Folder -> its host, and the address that serves it or an empty string."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(folder.c.id, folder.c.host, folder.c.address))
            return {row.id: (row.host, row.address) for row in rows}


def _ownerless(table: Table, place: Column[str]) -> Select[Any]:
    return select(table.c.id, place).where(table.c.folder_id == "")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What proves to a host that we belong to its node: the node's secret, and our certificate under TLS."""

    token: str
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def token_of(secret: bytes) -> str:
    """What a request for bytes must bear; made from a secret that lies in the shared database."""
    return hmac.digest(secret, b"read segments", "sha256").hex()


@dataclass(frozen=True)
class Reach:
    """Reads data sets wherever they lie. Safe to use from several threads."""

    spool_dir: Path
    here: str = ""
    hosts: Callable[[], Mapping[str, tuple[str, str]]] = dict
    credentials: Credentials | None = None
    patience_seconds: float = 0.0
    """How long a host that does not answer is asked again."""
    _local: threading.local = field(default_factory=threading.local)

    def open(self, address: SegmentAddress) -> memoryview:
        """The raw bytes of a data set.

        Raises:
            FileNotFoundError: the segment was removed.
            ValueError: the segment is shorter than the address says.
            HostAway: the host that has it does not answer, or serves nothing.
        """
        if address.folder in ("", self.here):
            return open_data_set(self.spool_dir, address)
        until = time.monotonic() + self.patience_seconds
        while True:
            try:
                return self._fetched(address)
            except HostAway:
                if time.monotonic() >= until:
                    raise
                time.sleep(_RETRY_SECONDS)

    def _fetched(self, address: SegmentAddress) -> memoryview:
        host, base = self.hosts().get(address.folder, ("unknown", ""))
        if not base or self.credentials is None:
            raise HostAway(f"the images lie on host {host}, which serves them to nobody")
        try:
            status, data = self._asked(base, self.credentials, address)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            self._local.__dict__.pop(base, None)
            reason = type(error).__name__
            raise HostAway(
                f"host {host}, which has the images, does not answer ({reason})"
            ) from error
        if status == 404:
            raise FileNotFoundError(address.segment)
        if status != 206:
            raise HostAway(f"host {host}, which has the images, answers {status}")
        if len(data) != address.length:
            raise ValueError(f"{address.segment} is shorter than its rows say")
        return memoryview(data)

    def _asked(
        self, base: str, credentials: Credentials, address: SegmentAddress
    ) -> tuple[int, bytes]:
        connection = self._local.__dict__.get(base)
        if connection is None:
            connection = self._local.__dict__[base] = _connection(base, credentials)
        last = address.offset + address.length - 1
        headers = {
            "Authorization": f"Bearer {credentials.token}",
            "Range": f"bytes={address.offset}-{last}",
        }
        connection.request("GET", f"{SEGMENTS}{address.segment}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(address.length + 1)


def _connection(base: str, credentials: Credentials) -> http.client.HTTPConnection:
    parts = urlsplit(base)
    host, port = parts.hostname or "", parts.port
    if parts.scheme != "https":
        return http.client.HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    context = ssl.create_default_context(cafile=credentials.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if credentials.certificate is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
