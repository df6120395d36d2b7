"""The outbox of the audit trail: messages that are to reach the audit repository, in order.

What comes in: messages. What goes out: those that were not sent yet. A message is written before anything
is sent, so that a repository that is away loses nothing.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, func, insert, select, update

from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.page_tables import audit_event
from dicom_node.store.worklist import as_utc


class AuditOutbox:
    """The audit trail of this node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, message: str) -> None:
        """Keep a message until it is sent."""
        with writing(self._engine) as connection:
            connection.execute(insert(audit_event).values(at=utc_now(), message=message))

    def unsent(self, limit: int = 100) -> list[tuple[int, datetime, str]]:
        """Number, time and text of what is to be sent, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(audit_event.c.id, audit_event.c.at, audit_event.c.message)
                .where(audit_event.c.sent_at.is_(None))
                .order_by(audit_event.c.id)
                .limit(limit)
            )
            return [(row.id, as_utc(row.at) or utc_now(), row.message) for row in rows]

    def waiting(self) -> int:
        """How many are to be sent."""
        with reading(self._engine) as connection:
            return connection.execute(
                select(func.count()).where(audit_event.c.sent_at.is_(None))
            ).scalar_one()

    def sent(self, numbers: Sequence[int]) -> None:
        """These have reached the repository."""
        with writing(self._engine) as connection:
            connection.execute(
                update(audit_event)
                .where(audit_event.c.id.in_(list(numbers)))
                .values(sent_at=utc_now())
            )

    def forget(self, older_than: timedelta) -> int:
        """Remove what was sent so long ago; returns how many."""
        with writing(self._engine) as connection:
            return connection.execute(
                delete(audit_event).where(audit_event.c.sent_at < utc_now() - older_than)
            ).rowcount
