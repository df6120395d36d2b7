"""What only one process may do at a time, on whatever host: a courier's destination, the audit trail.

What comes in: the name of a duty. What goes out: whether this process has it, and a token that grows with
every holder. On PostgreSQL a duty is a session's advisory lock, so that it is free as soon as its holder's
process or connection ends, at the latest when the server misses the holder's host (`MISSING_SECONDS`). The
token fences a holder that lost its connection and does not know it yet: `fence` in a transaction that begins
something. SQLite has one host, where the supervisor runs one of each, so there the duty is always held.
"""

import threading
import zlib
from typing import Any, Self

from sqlalchemy import Connection, Engine, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import StaleLease
from dicom_node.observe.logging import get_logger
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.tables import duty

log = get_logger(__name__)

LOOK_SECONDS = 1.0
MISSING_SECONDS = 25
_SPACE = 0x0D1C0D
"""The first of the two numbers of our advisory locks."""


class Duty:
    """One process's claim to a duty, tended by a thread of its own."""

    def __init__(self, engine: Engine, name: str, holder: str) -> None:
        """
        Args:
            engine: the store.
            name: what is to be done, at most 255 characters.
            holder: who we are, for people.
        """
        self._engine = engine
        self._name = name
        self._holder = holder
        self._token: int | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="duty", daemon=True)

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as we know."""
        return self._engine.dialect.name == "sqlite" or self._token is not None

    def fence(self, connection: Connection) -> None:
        """Pass if it is ours, and stays so until the transaction ends.

        Raises:
            StaleLease: another has it, or nobody.
        """
        if self._engine.dialect.name == "sqlite":
            return
        now = connection.execute(
            select(duty.c.token).where(duty.c.name == self._name).with_for_update(read=True)
        ).scalar()
        if now is None or now != self._token:
            raise StaleLease(f"duty {self._name}")

    def __enter__(self) -> Self:
        if self._engine.dialect.name != "sqlite":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                with self._engine.connect() as connection:
                    session = connection.execution_options(isolation_level="AUTOCOMMIT")
                    try:
                        self._tend(session)
                    finally:
                        self._token = None
                        connection.invalidate()  # ends the session, and with it the lock
            except SQLAlchemyError:
                pass
            self._closed.wait(LOOK_SECONDS)

    def _tend(self, session: Connection) -> None:
        for setting, value in (("idle", MISSING_SECONDS - 15), ("interval", 5), ("count", 3)):
            # how soon the server misses us, if our host vanishes
            session.execute(text(f"SET tcp_keepalives_{setting} = {value}"))
        key = {"space": _SPACE, "name": zlib.crc32(self._name.encode()) - (1 << 31)}
        while not self._closed.is_set():
            if self._token is None:
                wanted = text("SELECT pg_try_advisory_lock(:space, :name)")
                if session.execute(wanted, key).scalar():
                    self._token = self._begun(session)
                    log.info("duty taken", duty=self._name, token=self._token)
            else:
                session.execute(text("SELECT 1"))
            self._closed.wait(LOOK_SECONDS)

    def _begun(self, session: Connection) -> int:
        values: dict[str, Any] = {"name": self._name, "token": 0, "holder": ""}
        session.execute(insert_or_ignore(session, duty).values(**values))
        taken = session.execute(
            update(duty)
            .where(duty.c.name == self._name)
            .values(token=duty.c.token + 1, holder=self._holder)
            .returning(duty.c.token)
        )
        return int(taken.scalar_one())
