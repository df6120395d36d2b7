"""When people are told of what waits for them. Pure decisions.

What comes in: what is wrong now, what they were told before, the time. What goes out: what to tell them: that
something began, got worse, lasts, or is over; and what to remember. Owns: nothing is told twice without a
reason, and everything that was told is called off when it is over. No text here names a patient.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

What = Literal["began", "worse", "lasts", "over"]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now."""

    key: str
    """Stays the same while it lasts: `held`, `dead.pacs`, `quiet.CT1`."""
    told: str
    """In a sentence."""
    hint: str
    level: int = 1
    """Grows when it gets worse: how many."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What people were told of."""

    level: int
    told: str
    since: datetime
    told_at: datetime


@dataclass(frozen=True, slots=True)
class Notice:
    """What to tell them."""

    what: What
    key: str
    told: str
    hint: str
    since: datetime


def decide(
    conditions: Iterable[Condition],
    remembered: Mapping[str, Remembered],
    now: datetime,
    remind: timedelta,
) -> tuple[list[Notice], dict[str, Remembered]]:
    """What to tell now, and what to remember instead.

    A condition that got better without being over is no news; should it grow again beyond what was told,
    it is.
    """
    notices: list[Notice] = []
    kept: dict[str, Remembered] = {}
    for one in conditions:
        before = remembered.get(one.key)
        what = _news(one, before, now, remind)
        since = before.since if before else now
        if what is None and before is not None:
            kept[one.key] = before
        elif what is not None:
            kept[one.key] = Remembered(one.level, one.told, since, now)
            notices.append(Notice(what, one.key, one.told, one.hint, since))
    for key, gone in remembered.items():
        if key not in kept:
            notices.append(Notice("over", key, gone.told, "", gone.since))
    return notices, kept


def _news(
    one: Condition, before: Remembered | None, now: datetime, remind: timedelta
) -> What | None:
    if before is None:
        return "began"
    if one.level > before.level:
        return "worse"
    return "lasts" if now - before.told_at >= remind else None
