"""Slots for associations, counted over all receiver processes of a machine.

What comes in: requests for a slot under a cap. What goes out: a slot or None. Owns the invariant that no
more associations are open than the caps allow, also when a process dies: a slot is a lock on a byte of a
file, which the kernel gives back with the process. Nothing is ever written to the file.
"""

import errno
import fcntl
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path

_EVERYBODY = 0
_PEER_SPAN = 1 << 12


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to one association."""

    bytes: tuple[int, ...]


class Slots:
    """Takes and gives back slots; safe to use from several threads."""

    def __init__(self, file: Path, *, total: int, per_peer: int) -> None:
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self.allow(total, per_peer)
        self._held: set[int] = set()
        self._lock = threading.Lock()

    def allow(self, total: int, per_peer: int) -> None:
        """Other caps; what is open above them stays open."""
        self._total = total
        self._per_peer = min(per_peer, _PEER_SPAN)

    def take(self, peer: str) -> Slot | None:
        """A slot for an association of this peer; None where it, or everybody, has too many."""
        with self._lock:
            mine = self._lock_one(_span_of(peer), self._per_peer)
            if mine is None:
                return None
            common = self._lock_one(_EVERYBODY, self._total)
            if common is None:
                self._unlock(mine)
                return None
            return Slot((mine, common))

    def give_back(self, slot: Slot) -> None:
        """End of the association."""
        with self._lock:
            for byte in slot.bytes:
                self._unlock(byte)

    def close(self) -> None:
        """Give everything back."""
        with self._lock:
            os.close(self._descriptor)
            self._held.clear()

    def _lock_one(self, start: int, count: int) -> int | None:
        for byte in range(start, start + count):
            # locks of one process do not exclude each other, so it keeps its own account
            if byte in self._held:
                continue
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                continue
            self._held.add(byte)
            return byte
        return None

    def _unlock(self, byte: int) -> None:
        self._held.discard(byte)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, byte)


def _span_of(peer: str) -> int:
    """A range of bytes of a peer's own, behind that of everybody."""
    number = int.from_bytes(hashlib.sha256(peer.encode()).digest()[:5], "big")
    return (number + 1) * _PEER_SPAN
