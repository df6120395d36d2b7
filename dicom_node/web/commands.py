"""`dicom-node users`: accounts from the command line, whether the node runs or not.

Whoever may write the database is an admin already; so these commands ask for no password but the new one.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from dicom_node.errors import ConfigurationError
from dicom_node.settings import load_settings

if TYPE_CHECKING:
    from dicom_node.store.accounts import Accounts

users_app = typer.Typer(help="Who may log in to the page and the API.", no_args_is_help=True)
out = Console()

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file.")]
Role = Literal["viewer", "operator", "admin"]
NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
Name = Annotated[str, typer.Argument(help="The account's name.")]
Stdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]


@contextmanager
def _accounts(config: Path | None) -> "Iterator[Accounts]":
    # what only these commands need is imported here: the program starts without it
    from dicom_node.store.accounts import Accounts
    from dicom_node.store.database import open_database

    settings = load_settings(config)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = open_database(settings.effective_database_url)
    try:
        yield Accounts(engine)
    finally:
        engine.dispose()


def _password(name: str, from_stdin: bool) -> tuple[str, bool]:
    """The new password, and whether it was made up here."""
    from dicom_node.web import passwords

    if not from_stdin:
        return passwords.made_up(), True
    typed = sys.stdin.readline().rstrip("\n")
    if told := passwords.objection(typed, name):
        raise ConfigurationError(told)
    return typed, False


def _tell(name: str, password: str, made_up: bool) -> None:
    if made_up:
        out.print(f"Password of {name}, to be changed at the first login:", highlight=False)
        out.print(password, highlight=False, markup=False)


@users_app.command(name="list")
def list_users(config: ConfigOption = None) -> None:
    """List the accounts."""
    table = Table("Name", "Role", "State")
    with _accounts(config) as accounts:
        for one in accounts.all():
            state = "first password" if one.must_change else "in use"
            table.add_row(one.name, one.role.value, "shut out" if one.disabled else state)
    out.print(table)


@users_app.command()
def add(
    name: Name,
    role: Annotated[Role, typer.Option(help="What it may do.")] = "viewer",
    password_stdin: Stdin = False,
    config: ConfigOption = None,
) -> None:
    """Make an account; without --password-stdin its first password is made up and printed."""
    from dicom_node.store.accounts import UserRole
    from dicom_node.web import passwords

    if not NAME.fullmatch(name):
        raise ConfigurationError("a name has 1 to 64 letters, digits or any of . _ @ -")
    password, made_up = _password(name, password_stdin)
    with _accounts(config) as accounts:
        accounts.add(name, UserRole(role), passwords.hash_password(password), must_change=made_up)
    _tell(name, password, made_up)


@users_app.command()
def password(name: Name, password_stdin: Stdin = False, config: ConfigOption = None) -> None:
    """Give an account another password; its logins end."""
    from dicom_node.web import passwords

    given, made_up = _password(name, password_stdin)
    with _accounts(config) as accounts:
        accounts.set_password(name, passwords.hash_password(given), must_change=made_up)
    _tell(name, given, made_up)


@users_app.command()
def remove(name: Name, config: ConfigOption = None) -> None:
    """Remove an account."""
    with _accounts(config) as accounts:
        accounts.remove(name)


@users_app.command()
def token(
    name: Name,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it holds.")] = 90,
    config: ConfigOption = None,
) -> None:
    """Print a token for a program: `Authorization: Bearer TOKEN`. It may do what the account may."""
    with _accounts(config) as accounts:
        found = accounts.find(name)
        if found is None or found.disabled or found.must_change:
            raise ConfigurationError(f"there is no account {name!r} in use")
        given = accounts.open_login(name, timedelta(days=days), "token")
    out.print(given, highlight=False, markup=False, soft_wrap=True)
