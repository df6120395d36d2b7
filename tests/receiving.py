"""A receiver in this process on a free port, with a real spool and a real database, for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from dicom_node.receive.scp import Receiver
from dicom_node.receive.transport import Patience
from dicom_node.records import SegmentAddress
from dicom_node.settings import Settings
from dicom_node.store import spool
from dicom_node.store.database import open_database
from dicom_node.store.intake import Intake


def eventually(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """Wait until a condition holds, and return its value; fail where it never does."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {condition}"
        time.sleep(0.01)
    return value


def rows(engine: Engine, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]


@dataclass(frozen=True)
class Listening:
    """A receiver that runs."""

    receiver: Receiver
    settings: Settings
    engine: Engine

    @property
    def address(self) -> tuple[str, int]:
        return self.receiver.address

    def instances(self, count: int) -> list[dict[str, Any]]:
        """The instance rows, as soon as there are so many."""
        return eventually(  # type: ignore[no-any-return]
            lambda: found if len(found := rows(self.engine, "instance")) >= count else None
        )

    def endings(self, count: int = 1) -> list[str]:
        """How associations ended, as soon as so many have."""

        def ended() -> list[str] | None:
            found = [r["ending"] for r in rows(self.engine, "association") if r["ending"]]
            return found if len(found) >= count else None

        return eventually(ended)  # type: ignore[no-any-return]

    def data_set(self, row: dict[str, Any]) -> bytes:
        """The bytes in the spool that a row points to."""
        address = SegmentAddress(row["segment"], row["offset"], row["length"])
        with spool.open_data_set(self.settings.spool_dir, address) as data:
            return bytes(data)


def receive_settings(folder: Path, **receive: Any) -> Settings:
    """Settings of a listener on a free port, open to everybody unless told otherwise."""
    peers = receive.pop("peer", ())
    values = {"port": 0, "accept_any_peer": not peers, "disk_reserve_mb": 1, **receive}
    return Settings(data_dir=folder, receive=values, peer=peers)  # type: ignore[arg-type]


@contextmanager
def listening(
    folder: Path, patience: Patience | None = None, **receive: Any
) -> Iterator[Listening]:
    """Run a receiver for the length of the block."""
    settings = receive_settings(folder, **receive)
    engine = open_database(settings.effective_database_url)
    receiver = Receiver(settings, Intake(engine), patience=patience)
    receiver.start()
    try:
        yield Listening(receiver, settings, engine)
    finally:
        receiver.stop(5.0)
        engine.dispose()
