"""Accounts and logins: who may use the page, and who does.

What comes in: names, roles, hashes. What goes out: rows as frozen records. It never sees a password, and
of a login's token it keeps only the hash, so that a copy of the database opens no session. A login is
over when it was silent for too long, when its longest time has passed, or when its account was changed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Literal

from sqlalchemy import Engine, delete, func, insert, select, update

from dicom_node.errors import ConfigurationError
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.page_tables import account, login, secret

NOTED_EVERY = timedelta(seconds=60)
"""A login in use is written down this often, not at each request."""


class UserRole(Enum):
    """What an account may do; each may do what those before it may."""

    VIEWER = "viewer"
    """Sees where studies are; patients only under pseudonyms."""
    OPERATOR = "operator"
    """Sees patients; holds, releases, retries, cancels, runs again."""
    ADMIN = "admin"
    """Also accounts and the configuration."""

    def may(self, needed: "UserRole") -> bool:
        """Whether this role includes another."""
        order = list(UserRole)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody who may log in."""

    name: str
    role: UserRole
    password_hash: str
    must_change: bool
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Login:
    """A login that is in force."""

    account: Account
    kind: Literal["session", "token"]
    token_hash: str


NO_PASSWORD = "!"
"""No hash, so that nothing that is typed fits."""


class Accounts:
    """The accounts of one node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._secrets: dict[str, bytes] = {}  # they never change

    def all(self) -> list[Account]:
        """Every account, by name."""
        with reading(self._engine) as connection:
            rows = connection.execute(select(account).order_by(account.c.name))
            return [_account(row._mapping) for row in rows]

    def find(self, name: str) -> Account | None:
        """One account."""
        with reading(self._engine) as connection:
            row = connection.execute(select(account).where(account.c.name == name)).one_or_none()
            return None if row is None else _account(row._mapping)

    def add(self, name: str, role: UserRole, password_hash: str, *, must_change: bool) -> None:
        """Make an account.

        Raises:
            ConfigurationError: the name is taken.
        """
        with writing(self._engine) as connection:
            made = connection.execute(
                insert_or_ignore(connection, account)
                .values(
                    name=name,
                    role=role.value,
                    password_hash=password_hash,
                    must_change=must_change,
                    disabled=False,
                    created_at=utc_now(),
                )
                .returning(account.c.name)
            ).first()
        if made is None:
            raise ConfigurationError(f"there is an account {name!r} already")

    def admit(self, name: str, role: UserRole) -> bool:
        """Make, or find, the account of somebody whom another service vouched for, with a role of today.

        It has no password that fits. Where its role is another than before, its earlier logins end.

        Returns:
            Whether it may come in: an admin may have shut it out.
        """
        found = self.find(name)
        if found is None:
            self.add(name, role, NO_PASSWORD, must_change=False)
        elif found.disabled:
            return False
        elif found.role is not role:
            self.set_role(name, role)
        return True

    def add_first(self, name: str, password_hash: str) -> bool:
        """Make an admin where there is no account at all; whether it was made."""
        with writing(self._engine) as connection:
            if connection.execute(select(func.count()).select_from(account)).scalar_one():
                return False
            connection.execute(
                insert(account).values(
                    name=name,
                    role=UserRole.ADMIN.value,
                    password_hash=password_hash,
                    must_change=True,
                    disabled=False,
                    created_at=utc_now(),
                )
            )
            return True

    def set_password(self, name: str, password_hash: str, *, must_change: bool = False) -> None:
        """Give an account another password; every login of it ends.

        Raises:
            ConfigurationError: there is no such account.
        """
        self._change(name, password_hash=password_hash, must_change=must_change)

    def set_role(self, name: str, role: UserRole) -> None:
        """Give an account another role; every login of it ends. Errors as in `set_password`."""
        self._change(name, role=role.value)

    def set_disabled(self, name: str, disabled: bool) -> None:
        """Shut an account out, or let it in again. Errors as in `set_password`."""
        self._change(name, disabled=disabled)

    def remove(self, name: str) -> None:
        """Remove an account and its logins. Errors as in `set_password`."""
        with writing(self._engine) as connection:
            connection.execute(delete(login).where(login.c.account == name))
            if connection.execute(delete(account).where(account.c.name == name)).rowcount != 1:
                raise ConfigurationError(f"there is no account {name!r}")

    def _change(self, name: str, **values: object) -> None:
        with writing(self._engine) as connection:
            changed = connection.execute(
                update(account).where(account.c.name == name).values(**values)
            )
            if changed.rowcount != 1:
                raise ConfigurationError(f"there is no account {name!r}")
            connection.execute(delete(login).where(login.c.account == name))

    def open_login(
        self, name: str, lasts: timedelta, kind: Literal["session", "token"] = "session"
    ) -> str:
        """Begin a login; returns its token, which is shown this once."""
        token, now = secrets.token_urlsafe(32), utc_now()
        with writing(self._engine) as connection:
            connection.execute(delete(login).where(login.c.expires_at < now))
            connection.execute(
                insert(login).values(
                    token_hash=hash_of(token),
                    account=name,
                    kind=kind,
                    created_at=now,
                    seen_at=now,
                    expires_at=now + lasts,
                )
            )
        return token

    def login_of(self, token: str, idle: timedelta) -> Login | None:
        """The login that a token belongs to, if it is in force; using it keeps it so.

        Args:
            token: as `open_login` gave it.
            idle: the longest silence of a session; a token for programs knows none.
        """
        now = utc_now()
        with reading(self._engine) as connection:
            row = connection.execute(
                select(login, account)
                .join(account, account.c.name == login.c.account)
                .where(login.c.token_hash == hash_of(token), account.c.disabled.is_(False))
            ).one_or_none()
        if row is None or _utc(row.expires_at) <= now:
            return None
        silent = now - _utc(row.seen_at)
        if row.kind == "session" and silent > idle:
            self.close_login(row.token_hash)
            return None
        if silent > NOTED_EVERY:
            with writing(self._engine) as connection:
                connection.execute(
                    update(login).where(login.c.token_hash == row.token_hash).values(seen_at=now)
                )
        mapping = row._mapping
        found = {column.name: mapping[column] for column in account.c}
        return Login(_account(found), row.kind, row.token_hash)

    def close_login(self, token_hash: str) -> None:
        """End a login."""
        with writing(self._engine) as connection:
            connection.execute(delete(login).where(login.c.token_hash == token_hash))

    def secret(self, name: str) -> bytes:
        """A random secret of this node, 32 bytes; made when it is first asked for."""
        if name in self._secrets:
            return self._secrets[name]
        with reading(self._engine) as connection:
            value = connection.execute(select(secret.c.value).where(secret.c.name == name)).scalar()
        if value is not None:
            self._secrets[name] = bytes(value)
            return bytes(value)
        with writing(self._engine) as connection:
            connection.execute(
                insert_or_ignore(connection, secret).values(
                    name=name, value=secrets.token_bytes(32)
                )
            )
        return self.secret(name)


def hash_of(token: str) -> str:
    """SHA-256 (hex) of a token: it is random, so that a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).hexdigest()


def _utc(when: datetime) -> datetime:
    # SQLite gives back what it was given, without the zone
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _account(row: object) -> Account:
    values = dict(row)  # type: ignore[call-overload]
    return Account(**values | {"role": UserRole(values["role"])})
