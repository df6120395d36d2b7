"""The database as a whole: bring it up to date, check it, copy it to another one."""

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, out
from dicom_node.errors import ConfigurationError, ExitCode
from dicom_node.settings import load_settings

commands = typer.Typer(help="The database: upgrade, check, copy.", no_args_is_help=True)


@commands.command()
def upgrade(config: ConfigOption = None) -> None:
    """Bring the database to the schema of this version, as a node does when it starts."""
    from dicom_node.offline import upgraded

    before, after = upgraded(load_settings(config))
    out.print(f"schema {after}" + ("" if before == after else f" (was {before or 'empty'})"))


@commands.command()
def check(
    config: ConfigOption = None,
    content: Annotated[
        bool, typer.Option("--bytes", help="Also read the spool and compare every hash.")
    ] = False,
) -> None:
    """Compare schema, rows and files; exit code 1 where something is wrong. Changes nothing."""
    from dicom_node.offline import database_problems

    found = 0
    for problem in database_problems(load_settings(config), content=content):
        out.print(problem, highlight=False, soft_wrap=True, markup=False)
        found += 1
    if found:
        raise typer.Exit(int(ExitCode.FAILED))
    out.print("The database is whole, and what it names is there.")


@commands.command()
def copy(
    to: Annotated[
        str, typer.Argument(help="URL of an empty database: postgresql://user@host/name.")
    ],
    config: ConfigOption = None,
) -> None:
    """Copy every row into an empty database, SQLite to PostgreSQL or back; all of them or none.

    The node must not run. Set `database_url` to the copy afterwards.
    """
    from rich.table import Table

    from dicom_node.offline import copied
    from dicom_node.supervisor import running_node

    settings = load_settings(config)
    if running_node(settings.data_dir) is not None:
        raise ConfigurationError("a node runs on this database; stop it first")
    table = Table("Table", "Rows", "SHA-256 of both")
    for one in copied(settings, to):
        table.add_row(one.table, str(one.rows), one.sha256[:16])
    out.print(table)
    out.print("Every row was copied. Set database_url to the copy.")
