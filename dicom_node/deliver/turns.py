"""Who reads from an association: its own thread, or the one that waits for an answer.

pynetdicom's association thread looks for messages of its own accord, and pauses while a request is out. It
says that it pauses a moment before it does, so that on a busy machine it can pass once more, take the answer
for an unasked-for message, and leave the request unanswered. What comes in: an association. What goes out:
the same one, which pauses when it says so. Owns: an answer goes to whoever asked.
"""

import threading
from typing import Any

SECONDS = 5.0
"""It looks for messages a thousand times a second; who does not come in this time has ended."""


class Checkpoint:
    """What the association's thread waits at; in the place of pynetdicom's `Event`, and used like one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._held = False

    def set(self) -> None:
        """Let the thread pass."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def clear(self) -> None:
        """Let it pass no more."""
        with self._changed:
            self._open = False

    def wait(self) -> None:
        """Of the association's thread: pass when it may."""
        with self._changed:
            while not self._open:
                self._held = True
                self._changed.notify_all()
                self._changed.wait()
            self._held = False

    def hold(self, seconds: float) -> bool:
        """Let it pass no more; True when it stands here, False where it did not come in so many seconds."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: self._held, seconds)


def taking_turns(association: Any) -> Any:
    """The association, with a checkpoint that can be relied upon."""
    association._reactor_checkpoint = Checkpoint()
    return association


def my_turn(association: Any) -> None:
    """Before a request: wait until the association's own thread reads no more.

    An association that has ended comes to no checkpoint; the request then fails as it would without this.
    """
    if association.is_established:
        association._reactor_checkpoint.hold(SECONDS)
