"""Answers that are dear and the same for all who look: made once while nothing has changed."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Answers that hold until what they were made from has another version; the newest few are kept.

    Who asks for one that is being made waits for it instead of making it again.
    """

    def __init__(
        self, seconds: float, most: int = 64, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        seconds: the longest that an answer holds, whatever its version.
        most: answers that are kept.
        clock: monotonic.
        """
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._answers: OrderedDict[Hashable, _Answer[T]] = OrderedDict()

    def get(self, key: Hashable, version: str, make: Callable[[], T]) -> T:
        """The answer to a question at a version."""
        with self._lock:
            found = self._answers.get(key)
            now = self._clock()
            if found is None or found.version != version or now - found.made > self._seconds:
                found = self._answers[key] = _Answer(version, now)
                while len(self._answers) > self._most:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
        return found.get(make)


class _Answer(Generic[T]):
    def __init__(self, version: str, made: float) -> None:
        self.version = version
        self.made = made
        self._lock = threading.Lock()
        self._value: list[T] = []

    def get(self, make: Callable[[], T]) -> T:
        with self._lock:
            if not self._value:
                self._value.append(make())
            return self._value[0]


class Recent(Generic[T]):
    """The answer to one question, asked anew when it is older than so many seconds."""

    def __init__(
        self, ask: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._answer: T | None = None
        self._asked = -float("inf")

    def get(self) -> T:
        """The answer; who comes while it is asked waits for the same one."""
        with self._lock:
            if self._answer is None or self._clock() - self._asked > self._seconds:
                self._answer = self._ask()
                self._asked = self._clock()
            return self._answer
