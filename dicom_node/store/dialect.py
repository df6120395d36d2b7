"""What SQLite and PostgreSQL do differently, in one place."""

from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, Connection, String, Table, and_, cast, func, select
from sqlalchemy.dialects import postgresql, sqlite


def insert_or_ignore(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """`INSERT ... ON CONFLICT DO NOTHING`; with RETURNING, no row means that nothing was inserted."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def one_claim_at_a_time(connection: Connection) -> None:
    """Until the transaction ends no other may count what runs; SQLite has one writer anyway."""
    _advisory_lock(connection, 1)


def one_upgrade_at_a_time(connection: Connection) -> None:
    """Until the transaction ends no other process upgrades the schema."""
    _advisory_lock(connection, 2)


def one_alarm_at_a_time(connection: Connection) -> None:
    """Until the transaction ends no other process decides what to tell."""
    _advisory_lock(connection, 3)


def _advisory_lock(connection: Connection, number: int) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(0x0D1C0300 + number)))


def channel(name: str) -> str:
    """The NOTIFY channel of a kind of work."""
    return f"dicom_node_{name}"


def ring(connection: Connection, name: str) -> None:
    """Wake who waits for this kind of work, when the transaction commits; nothing on SQLite."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_notify(channel(name), "")))


def begins(connection: Connection, column: ColumnElement[str], word: str) -> ColumnElement[bool]:
    """Whether a UID begins so, by the column's index where the database's order allows that."""
    starts = column.startswith(word, autoescape=True)
    if connection.dialect.name == "sqlite":  # compares bytes; LIKE would read every row
        return and_(column >= word, column < word + "\x7f", starts)
    return starts


def version_of(connection: Connection) -> str:
    """Changes whenever another transaction's writes become visible; nothing on SQLite, whose one writer
    commits in the order of its row numbers."""
    if connection.dialect.name == "postgresql":
        return str(connection.execute(select(cast(func.pg_current_snapshot(), String))).scalar())
    return ""


def batched(values: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """Slices of a list that is to stand in an `IN (...)`: older SQLite binds 999 values at most."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
