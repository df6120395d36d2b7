"""Waking whoever waits for work: PostgreSQL's LISTEN and NOTIFY, polling elsewhere.

What comes in: the moves of rows, in their own transactions (`ring` in `dialect`). What goes out: a pause that
ends when there may be work. A bell that was not heard costs time and nothing else: whoever waits looks by
itself after a while, more often while nothing listens.
"""

import threading
from typing import Any, Self

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.store.dialect import channel

SLICE_SECONDS = 0.2
"""How soon a pause sees that the process is to stop."""
RECONNECT_SECONDS = 1.0
LISTEN_SECONDS = 1.0


class Bell:
    """A pause that a NOTIFY ends. For one waiting thread."""

    def __init__(self, engine: Engine, name: str, heard_seconds: float) -> None:
        """
        Args:
            engine: the store; on SQLite every pause is simply a pause.
            name: `job`, `delivery` or `series`.
            heard_seconds: the pause while the bell can be heard, where it is longer than the one asked for.
        """
        self._engine = engine
        self._channel = channel(name)
        self._heard_seconds = heard_seconds
        self._rung = threading.Event()
        self._listening = False
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._engine.dialect.name == "postgresql":
            self._thread = threading.Thread(target=self._listen, name="bell", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def pause(self, stop: threading.Event, seconds: float) -> bool:
        """Wait for the bell, for `stop`, or for so many seconds; True if it is time to stop."""
        if self._thread is None:
            return stop.wait(seconds)
        left = max(seconds, self._heard_seconds) if self._listening else seconds
        while left > 0 and not stop.is_set():
            if self._rung.wait(min(SLICE_SECONDS, left)):
                break
            left -= SLICE_SECONDS
        self._rung.clear()
        return stop.is_set()

    def _listen(self) -> None:
        while not self._closed.is_set():
            try:
                raw = self._engine.raw_connection()
                try:
                    self._hear(raw.driver_connection)
                finally:
                    raw.invalidate()  # it is in another mode than those of the pool
            except (SQLAlchemyError, self._engine.dialect.loaded_dbapi.Error):
                pass
            self._listening = False
            self._rung.set()  # what was rung meanwhile was not heard
            self._closed.wait(RECONNECT_SECONDS)

    def _hear(self, connection: Any) -> None:
        connection.rollback()
        connection.autocommit = True
        connection.execute(f"LISTEN {self._channel}")
        self._listening = True
        self._rung.set()
        while not self._closed.is_set():
            for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                self._rung.set()
