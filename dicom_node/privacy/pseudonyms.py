"""Stand-ins for identities, made with a secret key: the same patient, UID or date always becomes the same.

What comes in: identities and a project's key. What goes out: pseudonyms, UIDs, days. It owns the invariant
that nobody without the key can compute a stand-in from an identity or test a guess (HMAC-SHA256). The key and
the table that leads back lie in files that only their owner can read, never among what is exported.
"""

import csv
import hashlib
import hmac
import os
import re
import secrets
import uuid
from base64 import b32encode
from pathlib import Path

from dicom_node.errors import ConfigurationError

KEY_BYTES = 32
_PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_EARLIEST, _LATEST = 365, 3650
STANDARD_ROOT = "1.2.840.10008."


class Pseudonyms:
    """What identities become under one key."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigurationError(f"a key has {KEY_BYTES} bytes; this one has {len(key)}")
        self._key = key

    def patient(self, patient_id: str, issuer: str) -> str:
        """A pseudonym of 80 bits, for Patient ID and Patient's Name."""
        return "P-" + b32encode(self._digest("patient", issuer, patient_id)[:10]).decode()

    def uid(self, uid: str) -> str:
        """A UID in place of a UID (PS3.5 B.2); those of the standard itself stay."""
        if uid.startswith(STANDARD_ROOT):
            return uid
        made = uuid.UUID(bytes=self._digest("uid", uid)[:16], version=5)
        return f"2.25.{made.int}"

    def days(self, patient_id: str, issuer: str) -> int:
        """How many days a patient's dates move back: 1 to 10 years, the same for all their studies."""
        number = int.from_bytes(self._digest("days", issuer, patient_id)[:8], "big")
        return _EARLIEST + number % (_LATEST - _EARLIEST)

    def _digest(self, *parts: str) -> bytes:
        # each part with its length, so that no two lists of parts are the same bytes
        text = "".join(f"{len(part)}:{part}" for part in parts)
        return hmac.digest(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256)


class Project:
    """The secrets of one export project: its key, and its table from pseudonyms back to people.

    Two projects have two keys, so that nobody can join what was given to two recipients.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Open a project, or begin it.

        Raises:
            ConfigurationError: the name is none, or others may read its key.
        """
        if not _PROJECT.fullmatch(name):
            raise ConfigurationError(
                f"{name!r}: a project's name has up to 32 of a-z, 0-9, - and _"
            )
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.key_file = folder / f"{name}.key"
        self.links_file = folder / f"{name}.links.csv"
        self.pseudonyms = Pseudonyms(self._key())
        self._known: set[tuple[str, str, str]] | None = None

    def _key(self) -> bytes:
        try:
            descriptor = os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            if self.key_file.stat().st_mode & 0o077:
                raise ConfigurationError(
                    f"{self.key_file}: others may read it; chmod 600"
                ) from None
            try:
                return bytes.fromhex(self.key_file.read_text("ascii").strip())
            except ValueError as error:
                raise ConfigurationError(f"{self.key_file}: this is no key") from error
        key = secrets.token_bytes(KEY_BYTES)
        with os.fdopen(descriptor, "w") as file:
            file.write(key.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        return key

    def remember(self, links: set[tuple[str, str, str]]) -> None:
        """Add to the table what it does not have: kind, stand-in, original."""
        if self._known is None:
            self._known = set()
            if self.links_file.exists():
                with self.links_file.open(newline="", encoding="utf-8") as file:
                    self._known = {(row[0], row[1], row[2]) for row in csv.reader(file)}
        new = sorted(links - self._known)
        if not new:
            return
        self._known |= links
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with os.fdopen(
            os.open(self.links_file, flags, 0o600), "a", newline="", encoding="utf-8"
        ) as to:
            csv.writer(to).writerows(new)
            to.flush()
            os.fsync(to.fileno())
