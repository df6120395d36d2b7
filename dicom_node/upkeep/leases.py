"""Leases whose worker is silent: the job goes back to the queue.

What comes in: the beats of running jobs, a monotonic clock. What goes out: jobs taken back. A beat that
this process has not seen change for `lease_seconds` is a dead worker's; the wall clock plays no part. Time
in which nobody could look, because the database was away, is no worker's silence.
"""

import socket
import time
from collections.abc import Callable

from dicom_node.errors import DatabaseAway
from dicom_node.observe.logging import get_logger
from dicom_node.records import Lease
from dicom_node.store.jobs import JobQueue

log = get_logger(__name__)

BLIND_SECONDS = 2.0
"""A question that took longer waited for the database, and workers' beats with it."""


class LeaseWatch:
    """Watches every lease that is out."""

    def __init__(
        self,
        queue: JobQueue,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._seen: dict[Lease, tuple[int, float]] = {}

    def sweep(self) -> None:
        """Compare every beat with the last one seen, and take back what is overdue."""
        asked = self._clock()
        try:
            running = self._queue.running()
        except DatabaseAway:
            self._seen = {}
            raise
        now = self._clock()
        if now - asked > BLIND_SECONDS:
            self._seen = {}
        self._seen = {
            lease: self._seen[lease]
            if lease in self._seen and self._seen[lease][0] == beat
            else (beat, now)
            for lease, beat in running.items()
        }
        for lease, (_, since) in self._seen.items():
            if now - since > self._lease_seconds:
                state = self._queue.take_back(
                    lease, f"worker {lease.owner} was silent for {self._lease_seconds:g} s"
                )
                if state is not None:
                    log.warning("job taken back", job=lease.job_id, state=state.value)


def worker_name(pid: int) -> str:
    """How a worker process of this host signs the leases that it holds."""
    return f"{socket.gethostname()}/{pid}"


def take_back_from(queue: JobQueue, owner: str, reason: str) -> None:
    """Take back at once what a worker held that is known to be dead; nobody need wait for its silence."""
    for lease in queue.running():
        if lease.owner == owner:
            state = queue.take_back(lease, reason)
            if state is not None:
                log.warning("job taken back", job=lease.job_id, state=state.value, reason=reason)
