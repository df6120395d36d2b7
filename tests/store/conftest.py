"""Every test of the store runs on a real SQLite file and, where it is installed, on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text

from dicom_node.demo.pacs import free_port
from dicom_node.store.assembly import Assembly
from dicom_node.store.database import open_database
from dicom_node.store.deliveries import Outbox
from dicom_node.store.intake import Intake
from dicom_node.store.jobs import JobQueue
from tests.conftest import program


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of this test run's own."""
    if program("postgres") is None or program("initdb") is None:
        told = "postgresql is not installed (postgres, initdb not found)"
        if os.environ.get("DICOM_NODE_REQUIRE_PEERS"):
            pytest.fail(told)
        pytest.skip(told)
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    # it refuses to run as root
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    as_user = user if os.geteuid() == 0 else []
    if as_user:
        shutil.chown(folder, "postgres")
    port = free_port()
    data = folder / "data"
    init = [
        str(program("initdb")),
        "--no-sync",
        "--auth=trust",
        "--username=node",
        f"--pgdata={data}",
    ]
    subprocess.run([*as_user, *init], check=True, capture_output=True, cwd=folder)
    options = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-F"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*as_user, str(program("postgres")), *options], stdout=log, stderr=log, cwd=folder
        )
    url = f"postgresql+psycopg://node@127.0.0.1:{port}"
    try:
        _wait_until_it_answers(f"{url}/postgres", process)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # does not wait for connections that a test left open
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    engine = create_engine(url, connect_args={"connect_timeout": 5})
    for _ in range(200):
        assert process.poll() is None, "PostgreSQL ended"
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
                engine.dispose()
                return
        except Exception:
            subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError("PostgreSQL did not start")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.sqlite'}"
    server = request.getfixturevalue("postgresql")
    name = f"n{uuid.uuid4().hex[:12]}"
    engine = create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


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
