"""Waiting for a database that is away: one policy for every role.

What comes in: a part of the store (`JobQueue`, `Outbox`, ...). What goes out: the same part, whose calls wait
while the database cannot be reached and are then made once more. Owns: an outage of the database ends no
process, and nothing that was done in the world is forgotten for it. A call may be made twice, where the
answer to its commit was lost; every method of the store bears that, because moves are compare-and-set,
inserts are unique and a lease that ended commits nothing.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

from dicom_node.errors import DatabaseAway
from dicom_node.observe.logging import get_logger

log = get_logger(__name__)

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0

_Part = TypeVar("_Part")
_Answer = TypeVar("_Answer")


def patient(part: _Part, stop: threading.Event) -> _Part:
    """The same part of the store, patient until `stop` is set; then `DatabaseAway` goes through."""
    return cast(_Part, _Patient(part, stop))


def patiently(call: Callable[[], _Answer], stop: threading.Event) -> _Answer:
    """What a call gives, made again and again while the database is away and `stop` is not set.

    Raises:
        DatabaseAway: it is time to stop.
    """
    wait = FIRST_SECONDS
    while True:
        try:
            answer = call()
        except DatabaseAway as error:
            if wait == FIRST_SECONDS:
                log.warning("database away, waits", reason=str(error))
            if stop.wait(wait):
                raise
            wait = min(LONGEST_SECONDS, 2 * wait)
            continue
        if wait > FIRST_SECONDS:
            log.info("database is back")
        return answer


class _Patient:
    def __init__(self, part: object, stop: threading.Event) -> None:
        self._part = part
        self._stop = stop

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        if not callable(found):
            return found

        @functools.wraps(found)
        def persist(*args: Any, **named: Any) -> Any:
            return patiently(lambda: found(*args, **named), self._stop)

        return persist
