"""One database's rows into another, empty one, and the proof that they are the same.

What comes in: two engines on the same schema; nobody works on the first. What goes out: a count and a
SHA-256 for each table, equal on both sides, or nothing at all: the rows are written, read back and compared
in one transaction. The hash is over values, not over how a database stores them: times in UTC, JSON sorted.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Integer,
    Table,
    func,
    insert,
    literal_column,
    select,
    text,
)
from sqlalchemy.exc import DataError

from dicom_node.errors import ConfigurationError
from dicom_node.store import page_tables  # noqa: F401 (its tables belong to the metadata)
from dicom_node.store.database import reading, schema_of, writing
from dicom_node.store.tables import metadata

ROWS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class TableCopy:
    """What was copied of one table, as read back from the copy."""

    table: str
    rows: int
    sha256: str


def copy_database(source: Engine, target: Engine) -> list[TableCopy]:
    """Copy every row, compare, and commit; the target is up to date and empty, the source stands still.

    Raises:
        ConfigurationError: the schemas differ, the target holds rows, or it cannot hold a value of the
            source; the target is then as it was.
    """
    if schema_of(source) != schema_of(target):
        raise ConfigurationError(
            "the two databases are of different schemas; run `dicom-node db upgrade` first"
        )
    with reading(source) as old, writing(target) as new:
        for table in metadata.sorted_tables:
            if new.execute(select(literal_column("1")).select_from(table).limit(1)).first():
                raise ConfigurationError(f"the target is not empty: {table.name} has rows")
        done = [_copied(old, new, table) for table in metadata.sorted_tables]
        _set_sequences(new)
        return done


def _copied(old: Connection, new: Connection, table: Table) -> TableCopy:
    try:
        for rows in _batches(old, table):
            values = [
                {name: _in_utc(value) for name, value in row._mapping.items()} for row in rows
            ]
            new.execute(insert(table), values)
    except DataError as error:
        reason = str(error.orig).splitlines()[0]
        raise ConfigurationError(
            f"{table.name}: the target cannot hold a value ({reason})"
        ) from error
    meant, found = _told(old, table), _told(new, table)
    if meant != found:
        raise ConfigurationError(f"{table.name}: what was written is not what was read")
    return found


def _batches(connection: Connection, table: Table) -> Iterator[Any]:
    """Rows by primary key, so that memory holds a batch and both sides hash in one order."""
    keys = list(table.primary_key.columns)
    # bytes, not the rules of a language: the two databases would sort text differently
    order = [_by_bytes(connection, key) for key in keys]
    query = select(table).order_by(*order)
    result = connection.execute(
        query.execution_options(stream_results=True, yield_per=ROWS_AT_ONCE)
    )
    yield from result.partitions()


def _by_bytes(connection: Connection, key: Any) -> Any:
    if isinstance(key.type, Integer):
        return key
    return key.collate("C" if connection.dialect.name == "postgresql" else "BINARY")


def _told(connection: Connection, table: Table) -> TableCopy:
    digest, count = hashlib.sha256(), 0
    for rows in _batches(connection, table):
        for row in rows:
            digest.update(json.dumps([_plain(value) for value in row], sort_keys=True).encode())
            count += 1
    return TableCopy(table.name, count, digest.hexdigest())


def _in_utc(value: Any) -> Any:
    """A time in UTC, and saying so: SQLite forgets the zone, a server gives times in its own."""
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return _in_utc(value).isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    return value


def _set_sequences(connection: Connection) -> None:
    """PostgreSQL's sequences do not follow rows that bring their own number."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        key = table.autoincrement_column
        if key is not None:
            highest = connection.execute(select(func.max(key))).scalar()
            if highest is not None:
                statement = text("SELECT setval(pg_get_serial_sequence(:table, :key), :highest)")
                connection.execute(
                    statement, {"table": table.name, "key": key.name, "highest": highest}
                )
