"""What a study's state is, in one word and one sentence. Pure; from rows as the worklist gives them.

A series is as far as the furthest behind of what is to be done with it; a study is as its worst series
is. So a study reads "delivered" only where everything that it owes has reached its destination.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Stage(Enum):
    """How a study stands; the order is that in which a person wants to hear of it."""

    FAILED = "failed"
    HELD = "held"
    RUNNING = "running"
    QUEUED = "queued"
    RECEIVING = "receiving"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"
    NO_ROUTE = "no route"

    @property
    def tone(self) -> str:
        """How it looks: bad, warn, busy, good or quiet."""
        return _TONES[self]


_TONES = {
    Stage.FAILED: "bad",
    Stage.HELD: "warn",
    Stage.RUNNING: "busy",
    Stage.QUEUED: "busy",
    Stage.RECEIVING: "busy",
    Stage.DELIVERING: "busy",
    Stage.DELIVERED: "good",
    Stage.CANCELLED: "quiet",
    Stage.NO_ROUTE: "quiet",
}

TONES_OF_STATES = {
    "HELD": "warn",
    "RETRYING": "warn",
    "FAILED": "bad",
    "POISON": "bad",
    "DEAD": "bad",
    "OPEN": "busy",
    "STABLE": "busy",
    "RUNNING": "busy",
    "PENDING": "busy",
    "SENT": "busy",
    "STORED": "good",
    "CONFIRMED": "good",
}
"""How a single state looks; what stands not here is quiet."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A stage with its reason, in words for people."""

    stage: Stage
    reason: str


def standing_of_study(series: Iterable[dict[str, Any]]) -> Standing:
    """The worst of its series' standings, by the order of `Stage`."""
    order = list(Stage)
    found = [standing_of_series(one) for one in series if one["current"]]
    return min(found, key=lambda one: order.index(one.stage))


def standing_of_series(series: dict[str, Any]) -> Standing:
    """How one revision of a series stands."""
    state = series["state"]
    if state in ("OPEN", "STABLE"):
        return Standing(Stage.RECEIVING, series["reason"])
    if state == "HELD":
        return Standing(Stage.HELD, series["reason"])
    if state == "NO_ROUTE" or not series["jobs"]:
        return Standing(Stage.NO_ROUTE, series["reason"])
    order = list(Stage)
    # an earlier run of a model is history once it was run again
    last_runs = {job["model"]: job for job in series["jobs"]}
    return min(map(_of_job, last_runs.values()), key=lambda one: order.index(one.stage))


def _of_job(job: dict[str, Any]) -> Standing:
    state = job["state"]
    told = f"{job['model']}: {job['reason']}" if job["reason"] else job["model"]
    if state in ("FAILED", "POISON"):
        return Standing(Stage.FAILED, told)
    if state == "CANCELLED":
        return Standing(Stage.CANCELLED, told)
    if state in ("QUEUED", "RUNNING"):
        return Standing(Stage[state], told)
    deliveries = [one for result in job["results"] for one in result["deliveries"]]
    if worst := _first(deliveries, ("DEAD",)):
        return Standing(Stage.FAILED, f"not delivered to {_where(worst)}")
    if under_way := _first(deliveries, ("RETRYING", "PENDING", "SENT")):
        return Standing(Stage.DELIVERING, f"to {_where(under_way)}")
    outcome = job["outcome"] or ""
    return Standing(Stage.DELIVERED, told if outcome != "succeeded" else job["model"])


def _first(deliveries: Sequence[dict[str, Any]], states: Sequence[str]) -> dict[str, Any] | None:
    for state in states:
        for delivery in deliveries:
            if delivery["state"] == state:
                return delivery
    return None


def _where(delivery: dict[str, Any]) -> str:
    reason = delivery["reason"]
    return f"{delivery['destination']}: {reason}" if reason else str(delivery["destination"])
