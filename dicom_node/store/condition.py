"""The database itself, as a check sees it: its schema, its clock, the newest thing that it was told.

What comes in: a URL. What goes out: plain values. Nothing is changed, and no schema is brought up to date.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import func, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import ConfigurationError, DatabaseAway
from dicom_node.store.database import MIGRATIONS, connect, reading, utc_now
from dicom_node.store.tables import transition
from dicom_node.store.worklist import as_utc


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """What was seen of a database."""

    backend: str
    schema: str | None
    """None where there is none yet."""
    head: str
    """The schema of this program."""
    known: bool
    """Whether this program knows the schema, and could bring it up to date."""
    ahead_seconds: float | None
    """How far the server's clock is ahead of ours; None where it has none of its own."""
    newest: datetime | None
    """When the last state was entered."""


def look_at(url: str) -> DatabaseState | None:
    """The database as it is; None where there is none yet.

    Raises:
        ConfigurationError: it does not answer, or is of a kind that is not supported.
    """
    address = make_url(url)
    if address.get_backend_name() == "sqlite" and not Path(address.database or "").exists():
        return None
    engine = connect(url)
    scripts = ScriptDirectory(str(MIGRATIONS))
    try:
        with reading(engine) as connection:
            schema = MigrationContext.configure(connection).get_current_revision()
            head = scripts.get_current_head() or ""
            ahead, newest = None, None
            if engine.dialect.name == "postgresql":
                there = connection.execute(select(func.clock_timestamp())).scalar_one()
                ahead = (there - utc_now()).total_seconds()
            if schema is not None:
                newest = as_utc(connection.execute(_LAST_MOVE).scalar())
        known = schema in {one.revision for one in scripts.walk_revisions()}
        return DatabaseState(engine.dialect.name, schema, head, known, ahead, newest)
    except (SQLAlchemyError, DatabaseAway) as error:
        raise ConfigurationError(
            f"the database does not answer ({type(error).__name__})"
        ) from error
    finally:
        engine.dispose()


_LAST_MOVE = select(transition.c.at).order_by(transition.c.id.desc()).limit(1)
