"""What each inference worker says of its device, so that the page of another process, or host, can show it.

What comes in: the device as the worker sees it. What goes out: the devices of workers that spoke lately, by
the wall clock: this is for people, and gives or takes no job.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, insert, select, update

from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.page_tables import worker
from dicom_node.store.worklist import as_utc

ALIVE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class WorkerDevice:
    """A worker's device."""

    owner: str
    device: str
    kind: str
    """cuda or cpu."""
    total_bytes: int
    free_bytes: int
    seen_at: datetime


class Workers:
    """The workers of a node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def seen(self, owner: str, device: str, kind: str, total_bytes: int, free_bytes: int) -> None:
        """A worker is there; those that are long gone are forgotten."""
        now = utc_now()
        values = {
            "device": device[:128],
            "kind": kind,
            "total_bytes": total_bytes,
            "free_bytes": free_bytes,
            "seen_at": now,
        }
        with writing(self._engine) as connection:
            mine = update(worker).where(worker.c.owner == owner).values(**values)
            if not connection.execute(mine).rowcount:
                connection.execute(insert(worker).values(owner=owner, **values))
            connection.execute(delete(worker).where(worker.c.seen_at < now - 2 * ALIVE))

    def alive(self) -> list[WorkerDevice]:
        """Workers that spoke within the last minute, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(worker).where(worker.c.seen_at > utc_now() - ALIVE).order_by(worker.c.owner)
            )
            return [
                WorkerDevice(
                    row.owner,
                    row.device,
                    row.kind,
                    row.total_bytes,
                    row.free_bytes,
                    as_utc(row.seen_at) or utc_now(),
                )
                for row in rows
            ]
