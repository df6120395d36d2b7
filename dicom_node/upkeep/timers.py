"""What runs by itself: timers by APScheduler, and loops in threads of one process.

What comes in: calls and how often, or loops. What goes out: both running, until the end is asked for. It owns
the invariants that a run which was missed is made up for once, that a wall clock which is set stops no timer,
and that a loop which breaks ends its process instead of leaving it half alive.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler

from dicom_node.observe.logging import get_logger

log = get_logger(__name__)

CLOCK_SECONDS = 1.0
CLOCK_JUMP_SECONDS = 2.0


@contextmanager
def timers(*jobs: tuple[Callable[[], None], float]) -> Iterator[None]:
    """Call each at once and then every so many seconds; a run that was missed is made up for once."""
    scheduler = BackgroundScheduler(timezone="UTC")
    for call, seconds in jobs:
        scheduler.add_job(
            call,
            "interval",
            seconds=seconds,
            next_run_time=datetime.now(UTC),
            coalesce=True,
            misfire_grace_time=None,
            max_instances=1,
        )
    scheduler.start()
    ended = threading.Event()
    watch = threading.Thread(target=_mind_the_clock, args=(scheduler, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        scheduler.shutdown()


def _mind_the_clock(scheduler: BackgroundScheduler, ended: threading.Event) -> None:
    """Run every timer when the wall clock was set: APScheduler would wait until it is what it was."""
    known = time.time() - time.monotonic()
    while not ended.wait(CLOCK_SECONDS):
        now = time.time() - time.monotonic()
        if abs(now - known) > CLOCK_JUMP_SECONDS:
            log.warning("the wall clock was set", by_seconds=round(now - known, 1))
            for job in scheduler.get_jobs():
                job.modify(next_run_time=datetime.now(UTC))
        known = now


def run_together(loops: Iterable[Callable[[threading.Event], None]], stop: threading.Event) -> None:
    """Run loops in threads until `stop`; one that breaks ends the process, so that it is restarted."""
    failures: list[BaseException] = []

    def guarded(loop: Callable[[threading.Event], None]) -> None:
        try:
            loop(stop)
        except BaseException as error:
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(loop,)) for loop in loops]
    for thread in threads:
        thread.start()
    stop.wait()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
