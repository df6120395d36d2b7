"""An answer that is dear and may be a moment old: asked once for all who look at the same time."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
