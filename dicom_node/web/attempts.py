"""Wrong passwords slow down who types them. A pure decision on counts and an injected clock.

What comes in: tries, with the address they came from and the account they were for. What goes out: how
long to wait before the next. The address and the account together count strictly, the address alone less
so, and the account alone not at all: whoever could lock an account from afar could lock out the admin.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE_TRIES = 5
FREE_TRIES_OF_AN_ADDRESS = 20
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 900.0
FORGOTTEN_AFTER_SECONDS = 3600.0
REMEMBERED = 10_000
"""The most pairs that are kept in mind; the oldest go first."""


@dataclass(slots=True)
class _Failures:
    count: int = 0
    last: float = 0.0


class Attempts:
    """What is known of wrong passwords, in this process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], _Failures] = OrderedDict()

    def wait(self, address: str, name: str) -> float:
        """Seconds until the next try is heard; 0 if it is heard now."""
        return max(
            self._wait((address, name), FREE_TRIES),
            self._wait((address, ""), FREE_TRIES_OF_AN_ADDRESS),
        )

    def failed(self, address: str, name: str) -> None:
        """A wrong password was typed."""
        for key in ((address, name), (address, "")):
            found = self._recall(key) or _Failures()
            found.count += 1
            found.last = self._clock()
            self._failures[key] = found
            self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)

    def succeeded(self, address: str, name: str) -> None:
        """The right password was typed: this pair starts afresh."""
        self._failures.pop((address, name), None)

    def _wait(self, key: tuple[str, str], free: int) -> float:
        found = self._recall(key)
        if found is None or found.count < free:
            return 0.0
        penalty = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(found.count - free, 32))
        return max(0.0, found.last + penalty - self._clock())

    def _recall(self, key: tuple[str, str]) -> _Failures | None:
        found = self._failures.get(key)
        if found is not None and self._clock() - found.last > FORGOTTEN_AFTER_SECONDS:
            del self._failures[key]
            return None
        return found
