"""Whether anybody takes images, for who looks from another process of the machine.

What comes in: a receiver's life, which is a lock that ends with it; and its reason, where it stopped taking
images for good, which is a file. What goes out: whether any lives, and the reasons of those that do.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

RECEIVING = "receiving.lock"
PREFIX = "intake-stopped-"


def receiving(spool_dir: Path) -> IO[bytes]:
    """This process receives, until it closes what this gives, or dies."""
    lock = (spool_dir / RECEIVING).open("ab")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def nobody_receives(spool_dir: Path) -> bool:
    """Whether every receiver that ever was on this spool is gone; False where none ever was."""
    try:
        with (spool_dir / RECEIVING).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def note_stopped(spool_dir: Path, reason: str) -> None:
    """This process takes nothing more; where even that cannot be written, the log says it."""
    try:
        (spool_dir / f"{PREFIX}{os.getpid()}").write_text(reason)
    except OSError:
        return


def stopped_intake(spool_dir: Path) -> list[str]:
    """Why processes of this machine take nothing more; notes of those that ended are removed."""
    found = []
    for note in spool_dir.glob(f"{PREFIX}*"):
        number = note.name.removeprefix(PREFIX)
        if number.isdigit() and _lives(int(number)):
            found.append(note.read_text())
        else:
            note.unlink(missing_ok=True)
    return found


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
