"""A real PostgreSQL server of a test's own, which can be restarted and killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from dicom_node.demo.pacs import free_port
from tests.conftest import program

START_SECONDS = 30.0


class PostgreSQL:
    """A server on a free port, in a folder of its own."""

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._port = free_port()
        self._options = [] if durable else ["-F"]
        # it refuses to run as root
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        self._as_user = user if os.geteuid() == 0 else []
        if self._as_user:
            shutil.chown(folder, "postgres")
        init = [str(program("initdb")), "--no-sync", "--auth=trust", "--username=node"]
        subprocess.run(
            [*self._as_user, *init, f"--pgdata={folder / 'data'}"],
            check=True,
            capture_output=True,
            cwd=folder,
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the server, without a database."""
        return f"postgresql+psycopg://node@127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        data, port = str(self._folder / "data"), str(self._port)
        options = ["-D", data, "-p", port, "-h", "127.0.0.1", "-k", str(self._folder)]
        options += ["-c", "timezone=Asia/Tokyo"]  # a server's zone must not matter
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user, str(program("postgres")), *options, *self._options],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        engine = create_engine(f"{self.url}/postgres", connect_args={"connect_timeout": 5})
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "PostgreSQL ended"
            try:
                with engine.connect() as connection:
                    connection.execute(text("SELECT 1"))
                    engine.dispose()
                    return
            except OperationalError:
                time.sleep(0.05)
        raise AssertionError("PostgreSQL did not start")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it without waiting for its clients; SIGQUIT is a crash, which it recovers from."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"n{uuid.uuid4().hex[:12]}"
        engine = create_engine(f"{self.url}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"{self.url}/{name}"


@contextmanager
def postgresql_server(*, durable: bool = False) -> Iterator[PostgreSQL]:
    """A server for the length of the block.

    Args:
        durable: sync to the disk, for measurements; tests do without.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    try:
        server = PostgreSQL(folder, durable=durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
