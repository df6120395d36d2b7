"""Opening the database: engine, durability pragmas, migrations.

What comes in: a SQLAlchemy URL. What goes out: an `Engine` whose transactions are durable when they
commit, on a schema that is up to date. `writing` opens a transaction that is meant to write: on SQLite
it takes the write lock at once, so that two writers wait for each other instead of failing half-way.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, inspect, make_url, text
from sqlalchemy import Engine as Engine
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import QueuePool

from dicom_node.errors import ConfigurationError, DatabaseAway
from dicom_node.store.dialect import one_upgrade_at_a_time

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 30.0
POSTGRESQL_PATIENCE = {
    "connect_timeout": 5,
    # a host that vanishes answers nothing: without these a statement would wait for it for hours
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "application_name": "dicom-node",
}


_SQLITE_PASSES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY)
"""The disk is full, or another process holds the file for longer than `BUSY_SECONDS`: it passes."""


def utc_now() -> datetime:
    """The wall clock, for people; nothing times out by it."""
    return datetime.now(UTC)


def open_database(url: str) -> Engine:
    """Connect and bring the schema up to date.

    Raises:
        ConfigurationError: the URL is not one of SQLite or PostgreSQL, or the schema is newer than this
            program.
    """
    engine = connect(url)
    upgrade(engine)
    return engine


def connect(url: str) -> Engine:
    """An engine without touching the schema."""
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite":
            return _sqlite(url)
        if backend == "postgresql":
            driven = parsed.set(drivername="postgresql+psycopg")
            return create_engine(driven, pool_pre_ping=True, connect_args=POSTGRESQL_PATIENCE)
    except ArgumentError as error:
        raise ConfigurationError("database_url: it is no URL of a database") from error
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"database_url: {error.name} is not installed; pip install 'dicom-node[postgresql]'"
        ) from error
    raise ConfigurationError(f"database_url: {backend!r} is not supported (sqlite or postgresql)")


def _sqlite(url: str) -> Engine:
    file = make_url(url).database
    if file:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    # connections are kept: a new one begins with a cold cache, which a large database makes dear
    arguments = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    engine = create_engine(url, connect_args=arguments, poolclass=QueuePool, max_overflow=-1)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, see below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes: it commits at the end of the block, or leaves nothing behind.

    Raises:
        DatabaseAway: PostgreSQL cannot be reached, or gave the transaction up; SQLite's disk is full. Where
            it was lost while it committed nobody knows whether it did: what is tried again must bear being
            done twice.
    """
    with _told(engine), _to_write(engine) as connection, connection.begin():
        yield connection


def _to_write(engine: Engine) -> Connection:
    return engine.connect().execution_options(writes=True)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads one consistent state; errors as in `writing`."""
    with _told(engine), engine.connect() as connection, connection.begin():
        yield connection


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    """Errors that pass, under our own name: a server that is away or resolves a deadlock, a full disk."""
    try:
        yield
    except (OperationalError, InterfaceError, NoConnectionFree) as error:
        cause = getattr(error, "orig", None) or error
        if engine.dialect.name != "postgresql":
            if getattr(cause, "sqlite_errorcode", 0) in _SQLITE_PASSES:
                raise DatabaseAway(f"the database cannot be written to ({cause})") from error
            raise
        state = getattr(cause, "sqlstate", None)
        raise DatabaseAway(
            f"the database is away ({type(cause).__name__}{f', {state}' if state else ''})"
        ) from error


def schema_of(engine: Engine) -> str | None:
    """The schema that the database is of; None where it has no tables of ours."""
    with reading(engine) as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def head_schema() -> str:
    """The schema that this program works on."""
    return max(_known_schemas())


def _known_schemas() -> set[str]:
    """Migrations are numbered, and their files are called so; Alembic takes 11 MB to say the same."""
    return {file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py")}


def upgrade(engine: Engine) -> None:
    """Run the migrations that are missing; several processes may call it at once."""
    current = schema_of(engine)
    if current == head_schema():
        return
    if current is not None and current not in _known_schemas():
        raise ConfigurationError(
            f"the database is of schema {current}, which this version does not know; "
            "it was made by a newer one"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with writing(engine) as connection:
        one_upgrade_at_a_time(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
