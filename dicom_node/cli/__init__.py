"""The command line: parses, calls, prints. Every error becomes one sentence and an exit code.

One module for each kind of command; `main` runs them all. It starts quickly: what a command alone needs is
imported inside it.
"""

import sys
from typing import Annotated

import typer
from rich.text import Text

from dicom_node import __version__
from dicom_node.cli import (
    database,
    doctor,
    export,
    models,
    node,
    orders,
    peers,
    routes,
    show,
    spool,
)
from dicom_node.cli.common import err, out
from dicom_node.errors import NodeError
from dicom_node.web.commands import users_app

app = typer.Typer(
    name="dicom-node",
    help="A PACS-integrated DICOM AI node: receives studies, runs MONAI models, returns SEG and SR.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for commands in (
    *(node.commands, doctor.commands, show.commands, peers.commands, orders.commands),
    export.commands,
):
    app.add_typer(commands)
app.add_typer(models.commands, name="models")
app.add_typer(routes.commands, name="route")
app.add_typer(database.commands, name="db")
app.add_typer(spool.commands, name="spool")
app.add_typer(users_app, name="users")

__all__ = ["app", "main"]


def main() -> None:
    """Run the program; end with the exit code of what went wrong, if anything did."""
    try:
        app()
    except NodeError as error:
        # Text, since a message may hold what looks like markup
        told = Text.assemble((type(error).__name__, "red"), f": {error}")
        err.print(told, soft_wrap=True)
        sys.exit(int(error.exit_code))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        out.print(__version__, highlight=False)
        raise typer.Exit()
