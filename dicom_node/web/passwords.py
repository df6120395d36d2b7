"""Passwords: hashed with Argon2id, compared in constant time, never written down.

What comes in: what a person typed. What goes out: a hash for the store, or whether it fits. At most two
are hashed at once, since each takes 64 MiB.
"""

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

SHORTEST = 12
LONGEST = 1024
"""Longer ones only keep the hash busy."""
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # without what is read wrongly: l 1 o 0

_hasher = PasswordHasher()  # RFC 9106, low-memory parameters
_few = threading.Semaphore(2)
# hashed where there is no account, so that an answer takes as long as where there is one
_nobody = _hasher.hash(secrets.token_urlsafe(16))


def hash_password(password: str) -> str:
    """An Argon2id hash with its salt and parameters."""
    with _few:
        return _hasher.hash(password)


def fits(password: str, password_hash: str | None) -> bool:
    """Whether a password is the one that was hashed; takes as long where there is no hash."""
    if len(password) > LONGEST:
        return False
    with _few:
        try:
            _hasher.verify(password_hash or _nobody, password)
        except (VerificationError, InvalidHashError):
            return False
    return password_hash is not None


def made_up() -> str:
    """A random password that can be read aloud: 80 bits in four groups."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(4)) for _ in range(4))


def objection(password: str, name: str) -> str | None:
    """Why a password will not do; None if it will. Length is what counts (NIST SP 800-63B 5.1.1)."""
    if len(password) < SHORTEST:
        return f"A password has at least {SHORTEST} characters."
    if len(password) > LONGEST:
        return f"A password has at most {LONGEST} characters."
    if name.lower() in password.lower() or len(set(password)) < 5:
        return "This password is too easy to guess."
    return None
