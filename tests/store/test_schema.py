"""The schema: migrations make what `tables` says, on either database, also when several start at once."""

import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from dicom_node.errors import ConfigurationError
from dicom_node.store import page_tables  # noqa: F401 (its tables belong to the metadata)
from dicom_node.store.database import (
    MIGRATIONS,
    connect,
    head_schema,
    open_database,
    reading,
    schema_of,
    writing,
)
from dicom_node.store.tables import metadata


def test_migrations_make_what_the_tables_say(engine: Engine) -> None:
    with reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_migrations_are_one_chain_and_numbered_as_their_files_are(engine: Engine) -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))
    for one in scripts.walk_revisions():
        assert Path(one.path).name.startswith(f"{one.revision}_")
    assert scripts.get_heads() == [head_schema()] == [schema_of(engine)]


def test_opening_twice_changes_nothing(url: str) -> None:
    open_database(url).dispose()
    open_database(url).dispose()


def test_several_processes_may_open_a_new_database_at_once(url: str) -> None:
    script = "import sys; from dicom_node.store.database import open_database; open_database(sys.argv[1])"
    started = [
        subprocess.Popen([sys.executable, "-c", script, url], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in started:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said.decode()


def test_a_database_of_a_newer_version_is_refused(url: str, engine: Engine) -> None:
    with writing(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigurationError, match="newer"):
        open_database(url)


def test_other_databases_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not supported"):
        connect("mysql://localhost/node")


def test_sqlite_commits_are_durable(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'n.sqlite'}")
    with reading(engine) as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_block_that_raises_leaves_nothing_behind(engine: Engine) -> None:
    def half_done() -> None:
        with writing(engine) as connection:
            connection.execute(
                text("INSERT INTO source (calling_ae, series, longest_pause) VALUES ('A', 1, 1)")
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half_done()
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM source")).scalar() == 0
