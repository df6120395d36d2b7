"""States, the one table of legal moves, and the retry policy. No I/O.

    Instance   RECEIVED -> PURGED
    Series     OPEN -> STABLE -> QUEUED, or HELD, or NO_ROUTE (each is one revision of a series)
    Job        QUEUED -> RUNNING -> STORED, or FAILED, POISON, CANCELLED
    Delivery   PENDING -> SENT -> CONFIRMED, or RETRYING, DEAD

Rules: a state changes only through `check_move`; a move that is not in `MOVES` is a bug and raises
`IllegalMove`. The store writes one `transition` row for each move, in the same transaction.
"""

import random
from enum import Enum

from dicom_node.errors import DimseStatus, IllegalMove


class InstanceState(Enum):
    RECEIVED = "RECEIVED"
    PURGED = "PURGED"


class SeriesState(Enum):
    """A revision of a series. A late instance opens the next revision, never an old one."""

    OPEN = "OPEN"
    STABLE = "STABLE"
    QUEUED = "QUEUED"
    HELD = "HELD"
    NO_ROUTE = "NO_ROUTE"


class JobState(Enum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    STORED = "STORED"
    FAILED = "FAILED"
    POISON = "POISON"
    CANCELLED = "CANCELLED"


class DeliveryState(Enum):
    PENDING = "PENDING"
    SENT = "SENT"
    CONFIRMED = "CONFIRMED"
    RETRYING = "RETRYING"
    DEAD = "DEAD"
    WITHDRAWN = "WITHDRAWN"


State = InstanceState | SeriesState | JobState | DeliveryState

MOVES: dict[State, frozenset[State]] = {
    InstanceState.RECEIVED: frozenset({InstanceState.PURGED}),
    InstanceState.PURGED: frozenset(),
    SeriesState.OPEN: frozenset({SeriesState.STABLE, SeriesState.HELD}),
    SeriesState.STABLE: frozenset({SeriesState.QUEUED, SeriesState.NO_ROUTE, SeriesState.HELD}),
    SeriesState.QUEUED: frozenset(),
    # an operator's word: try it all the same, or after the routes were changed
    SeriesState.HELD: frozenset({SeriesState.STABLE}),
    SeriesState.NO_ROUTE: frozenset({SeriesState.STABLE}),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.STORED, JobState.FAILED, JobState.QUEUED, JobState.POISON, JobState.CANCELLED}
    ),
    JobState.STORED: frozenset(),
    # an operator's word: run it again
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.POISON: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    DeliveryState.PENDING: frozenset(
        {DeliveryState.SENT, DeliveryState.RETRYING, DeliveryState.DEAD, DeliveryState.WITHDRAWN}
    ),
    DeliveryState.RETRYING: frozenset(
        {DeliveryState.SENT, DeliveryState.RETRYING, DeliveryState.DEAD, DeliveryState.WITHDRAWN}
    ),
    DeliveryState.SENT: frozenset({DeliveryState.CONFIRMED, DeliveryState.RETRYING}),
    DeliveryState.CONFIRMED: frozenset(),
    DeliveryState.DEAD: frozenset({DeliveryState.PENDING, DeliveryState.WITHDRAWN}),
    DeliveryState.WITHDRAWN: frozenset(),
}


def check_move(old: State, new: State) -> None:
    """Pass if `old -> new` is a legal move.

    Raises:
        IllegalMove: it is not.
    """
    if new not in MOVES[old]:
        raise IllegalMove(f"{type(old).__name__}: {old.value} -> {new.value}")


MAX_WORKER_DEATHS = 3
"""A job whose worker died so often is POISON: it is not tried again without an operator's word."""


class Verdict(Enum):
    """What a DIMSE answer to our C-STORE means for the delivery."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    DEAD = "dead"


_RETRIED = frozenset({DimseStatus.PROCESSING_FAILURE, DimseStatus.RESOURCE_LIMITATION})


def judge_store_status(status: int) -> Verdict:
    """Tell what to do after a C-STORE answer (PS3.4 Table B.2-1, PS3.7 Annex C).

    0000 and warnings (Bxxx, 0001, 0107, 0116) are accepted; A7xx, 0110 and 0213 are worth another try;
    everything else says that the same object will be refused again.
    """
    if status == DimseStatus.SUCCESS or status in (0x0001, 0x0107, 0x0116):
        return Verdict.ACCEPTED
    if status >> 12 == 0xB:
        return Verdict.ACCEPTED
    if status >> 8 == 0xA7 or status in _RETRIED:
        return Verdict.RETRY
    return Verdict.DEAD


def backoff_seconds(attempt: int, *, first: float, longest: float, rng: random.Random) -> float:
    """Seconds to wait after the `attempt`-th failure (1 is the first): doubling, capped, with jitter.

    The jitter is between half and all of the delay, so that couriers do not return in step.
    """
    delay = min(longest, first * 2.0 ** min(attempt - 1, 32))
    return delay * (0.5 + 0.5 * rng.random())
