"""What became of the canaries: read from the same rows as every other series. Reads only.

What comes in: the AE title that canaries call from. What goes out: the last ones, each with its age and
outcome, for a metric and an alarm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Engine, select

from dicom_node.lifecycle import DeliveryState, JobState, SeriesState
from dicom_node.records import Outcome
from dicom_node.store.database import reading, utc_now
from dicom_node.store.tables import delivery, job, result, series

Fate = Literal["delivered", "under way", "late", "failed"]


@dataclass(frozen=True, slots=True)
class CanaryRun:
    """One canary."""

    study_uid: str
    age: float
    """Seconds since its first image came, by the wall clock."""
    outcome: Fate
    reason: str
    seconds: float | None
    """From its first image to the last confirmation; None unless it was delivered."""


class CanaryLog:
    """The canaries of a node."""

    def __init__(self, engine: Engine, calling_ae: str, late_seconds: float) -> None:
        self._engine = engine
        self._calling_ae = calling_ae
        self._late_seconds = late_seconds

    def last(self) -> CanaryRun | None:
        """The newest; None if there was none."""
        runs = self.runs(1)
        return runs[0] if runs else None

    def runs(self, limit: int = 24) -> list[CanaryRun]:
        """The newest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series)
                .where(
                    series.c.calling_ae == self._calling_ae,
                    series.c.state != SeriesState.SUPERSEDED,
                )
                .order_by(series.c.id.desc())
                .limit(limit)
            ).all()
            found = []
            for row in rows:
                ends = connection.execute(
                    select(
                        job.c.state.label("job"),
                        job.c.outcome,
                        job.c.reason,
                        delivery.c.state.label("delivery"),
                        delivery.c.reason.label("delivery_reason"),
                        delivery.c.confirmed_at,
                    )
                    .outerjoin(result, result.c.job_id == job.c.id)
                    .outerjoin(delivery, delivery.c.result_id == result.c.id)
                    .where(job.c.series_id == row.id)
                ).all()
                began = _utc(row.first_received_at)
                age = (utc_now() - began).total_seconds()
                outcome, reason = _fate(row, ends, age > self._late_seconds)
                confirmed = [_utc(end.confirmed_at) for end in ends if end.confirmed_at]
                seconds = (
                    (max(confirmed) - began).total_seconds()
                    if outcome == "delivered" and confirmed
                    else None
                )
                found.append(CanaryRun(row.study_uid, age, outcome, reason, seconds))
            return found


def _fate(row: Any, ends: Sequence[Any], late: bool) -> tuple[Fate, str]:
    if row.state in (SeriesState.HELD, SeriesState.NO_ROUTE):
        return "failed", row.reason
    for end in ends:
        if end.job in (JobState.FAILED, JobState.POISON, JobState.CANCELLED):
            return "failed", end.reason
        if end.job is JobState.STORED and end.outcome is not Outcome.SUCCEEDED:
            return "failed", end.reason
        if end.delivery in (DeliveryState.DEAD, DeliveryState.WITHDRAWN):
            return "failed", end.delivery_reason
    if ends and all(end.delivery is DeliveryState.CONFIRMED for end in ends):
        return "delivered", ""
    waits = next((end.delivery_reason for end in ends if end.delivery_reason), row.reason)
    return ("late" if late else "under way"), waits


def _utc(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)
