"""Every test of the store runs on a real SQLite file and, where it is installed, on a real PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from tests.builders.postgresql import PostgreSQL, postgresql_server
from tests.conftest import program


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server of this test run's own."""
    if program("postgres") is None or program("initdb") is None:
        told = "postgresql is not installed (postgres, initdb not found)"
        if os.environ.get("DICOM_NODE_REQUIRE_PEERS"):
            pytest.fail(told)
        pytest.skip(told)
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.sqlite'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_database()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """The database, up to date."""
    opened = open_database(url)
    yield opened
    opened.dispose()


@pytest.fixture
def intake(engine: Engine) -> Intake:
    return Intake(engine)


@pytest.fixture
def assembly(engine: Engine) -> Assembly:
    return Assembly(engine)


@pytest.fixture
def queue(engine: Engine) -> JobQueue:
    return JobQueue(engine)


@pytest.fixture
def outbox(engine: Engine) -> Outbox:
    return Outbox(engine)
