"""States, the one table of legal moves, the retry policy and what pauses teach. No I/O.

    Instance   RECEIVED -> PURGED, and back when it is sent again
    Series     OPEN -> STABLE -> QUEUED, or HELD, or NO_ROUTE (each is one revision of a series);
               any but OPEN -> SUPERSEDED when the next revision opens: only the last one counts
    Job        QUEUED -> RUNNING -> STORED, or FAILED, POISON, CANCELLED
    Delivery   PENDING -> SENT -> CONFIRMED, or RETRYING, DEAD, WITHDRAWN

Rules: a state changes only through `check_move`; a move that is not in `MOVES` is a bug and raises
`IllegalMove`. The store writes one `transition` row for each move, in the same transaction.
"""

import random
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import Enum
from itertools import pairwise

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
    SUPERSEDED = "SUPERSEDED"


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
    # the sender sent it once more
    InstanceState.PURGED: frozenset({InstanceState.RECEIVED}),
    SeriesState.OPEN: frozenset({SeriesState.STABLE, SeriesState.HELD}),
    SeriesState.STABLE: frozenset(
        {SeriesState.QUEUED, SeriesState.NO_ROUTE, SeriesState.HELD, SeriesState.SUPERSEDED}
    ),
    SeriesState.QUEUED: frozenset({SeriesState.SUPERSEDED}),
    # an operator's word: try it all the same, or after the routes were changed
    SeriesState.HELD: frozenset({SeriesState.STABLE, SeriesState.SUPERSEDED}),
    SeriesState.NO_ROUTE: frozenset({SeriesState.STABLE, SeriesState.SUPERSEDED}),
    SeriesState.SUPERSEDED: frozenset(),
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset(
        {JobState.STORED, JobState.FAILED, JobState.QUEUED, JobState.POISON, JobState.CANCELLED}
    ),
    JobState.STORED: frozenset(),
    # a further run is a job of its own: its report may not have the UID of the one that failed
    JobState.FAILED: frozenset(),
    JobState.POISON: frozenset(),
    # an operator's word; a cancelled job has made nothing yet
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    DeliveryState.PENDING: frozenset(
        {DeliveryState.SENT, DeliveryState.RETRYING, DeliveryState.DEAD, DeliveryState.WITHDRAWN}
    ),
    DeliveryState.RETRYING: frozenset(
        {DeliveryState.SENT, DeliveryState.RETRYING, DeliveryState.DEAD, DeliveryState.WITHDRAWN}
    ),
    DeliveryState.SENT: frozenset(
        {
            DeliveryState.CONFIRMED,
            DeliveryState.RETRYING,
            DeliveryState.DEAD,
            # an operator's word: it is not to be waited for
            DeliveryState.PENDING,
        }
    ),
    # an operator's word: the destination has lost it
    DeliveryState.CONFIRMED: frozenset({DeliveryState.PENDING}),
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
"""A job whose worker died so often is not tried again: it gets one claim more, for the report that says
so, and is POISON."""


class Verdict(Enum):
    """What a DIMSE answer to our C-STORE means for the delivery."""

    ACCEPTED = "accepted"
    RETRY = "retry"
    DEAD = "dead"


_ACCEPTED = frozenset(
    {DimseStatus.SUCCESS, DimseStatus.DUPLICATE_SOP_INSTANCE, 0x0001, 0x0107, 0x0116}
)
_RETRIED = frozenset({DimseStatus.PROCESSING_FAILURE, DimseStatus.RESOURCE_LIMITATION})


def judge_store_status(status: int) -> Verdict:
    """Tell what to do after a C-STORE answer (PS3.4 Table B.2-1, PS3.7 Annex C).

    0000 and warnings (Bxxx, 0001, 0107, 0116) are accepted, and so is 0111: the object is there, an earlier
    answer was lost. A7xx, 0110 and 0213 are worth another try; everything else says that the same object
    will be refused again.
    """
    if status in _ACCEPTED:
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


def ask_wait_seconds(asks: int, *, first: float, longest: float) -> float:
    """Seconds until a destination is asked again for what it took, after `asks` questions: doubling."""
    return min(longest, first * 2.0 ** min(asks, 32))


def waited_seconds(asks: int, *, first: float, longest: float) -> float:
    """Seconds that passed between the answer to a C-STORE and the `asks`-th question, by the policy."""
    return sum(ask_wait_seconds(n, first=first, longest=longest) for n in range(asks))


# --- what a sender's habits say ------------------------------------------------------------------

ENOUGH_SERIES = 10
"""So many series of a sender must have been seen before its pauses say anything."""
PAUSE_MARGIN = 3.0
"""Silence this many times the longest pause seen says that a series is complete."""
LONGEST_CREDIBLE_PAUSE = 120.0
"""A longer pause is a sender that came back, or a clock that was set, not a habit."""
FORGETTING = 0.98
"""What remains of the longest pause with each further series, so that one bad day is forgotten."""


MET_BY_SETTLING = 3.0
"""A return this soon after a release finds the series still open; it needs no habit."""
LONGEST_WORTH_WAITING = 30.0
"""Nobody waits for a return that takes longer; what comes then opens a new revision."""
RETURN_MARGIN = 1.5
"""Silence this many times the longest return seen says that a sender does not come back."""
RETURNS_FROM = 0.2
"""A sender of which this share of series was sent in parts, lately, has the habit."""
LATEST_SHARE = 0.1
"""The weight of the newest series in that share."""


def longest_pause(arrivals: Sequence[datetime]) -> float | None:
    """The longest credible pause between two arrivals, in seconds; None for fewer than two."""
    if len(arrivals) < 2:
        return None
    pauses = ((b - a).total_seconds() for a, b in pairwise(arrivals))
    return max((pause for pause in pauses if 0 <= pause <= LONGEST_CREDIBLE_PAUSE), default=0.0)


def remembered_pause(known: float, pause: float) -> float:
    """The longest pause to remember of a sender after one more series."""
    return max(known * FORGETTING, pause)


def learned_idle_seconds(series: int, pause: float) -> float | None:
    """Silence after which a series of this sender counts as complete; None while too little is known."""
    return PAUSE_MARGIN * pause if series >= ENOUGH_SERIES else None


def longest_return(arrivals: Sequence[tuple[str, datetime]], released: Collection[str]) -> float:
    """The longest silence after which a sender came back with more of a series, in seconds; 0 for none.

    Args:
        arrivals: association and time of each instance, in the order of arrival.
        released: associations that ended by release; who comes back after an abort has no habit.
    """
    last = dict(arrivals)
    silences = (
        (at - before).total_seconds()
        for (earlier, before), (name, at) in pairwise(arrivals)
        if name != earlier and earlier in released and last[earlier] == before
    )
    return max((one for one in silences if 0 < one <= LONGEST_WORTH_WAITING), default=0.0)


def remembered_share(known: float, came_back: float) -> float:
    """The share of a sender's series that are sent in parts, after one more with this longest return."""
    return (1.0 - LATEST_SHARE) * known + LATEST_SHARE * (came_back > MET_BY_SETTLING)


def learned_return_seconds(share: float, came_back: float) -> float | None:
    """Silence after a release in which this sender may yet come back; None if that is not its habit."""
    return RETURN_MARGIN * came_back if share >= RETURNS_FROM else None
