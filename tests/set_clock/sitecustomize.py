"""Another wall clock for a process that is started with this folder on its path.

The file that `TEST_CLOCK` names holds the seconds by which the clock is wrong; it is looked at all the time.
The monotonic clock stays as it is, as when an administrator or NTP sets a machine's clock.
"""

import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import time_machine

_begin = datetime.now(UTC)
_since = time.monotonic()


def _follow(file: Path) -> None:
    wrong_by, traveller = 0.0, None
    while True:
        wanted = float(file.read_text())
        if wanted != wrong_by:
            if traveller is not None:
                traveller.stop()
            true = _begin + timedelta(seconds=time.monotonic() - _since)
            traveller = time_machine.travel(true + timedelta(seconds=wanted), tick=True)
            traveller.start()
            wrong_by = wanted
        time.sleep(0.05)


if "TEST_CLOCK" in os.environ:
    threading.Thread(target=_follow, args=(Path(os.environ["TEST_CLOCK"]),), daemon=True).start()
