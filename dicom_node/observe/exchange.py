"""The audit events of DICOM itself: what came, what went, what was asked, who was refused. Pure.

What comes in: who and what. What goes out: events of PS3.15 A.5.3, with source and destination in the
roles that the standard gives them.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from dicom_node.observe.audit import (
    APPLICATION,
    DESTINATION,
    SOURCE,
    Action,
    Actor,
    AuditEvent,
    Event,
    Kind,
    Result,
)

THROTTLE_SECONDS = 60.0
MOST_REMEMBERED = 10_000


def application(ae_title: str, kind: Kind) -> AuditEvent:
    """The node, or a role of it, started or stopped (A.5.3.1)."""
    actor = Actor(ae_title, requestor=False, role=APPLICATION)
    return AuditEvent(Event.APPLICATION, Action.EXECUTE, _now(), (actor,), kind=kind)


def received(
    peer: str, host: str, ours: str, study_uid: str, patient_id: str, instances: int
) -> AuditEvent:
    """Instances of a study came in by an association that is over (A.5.3.7)."""
    return AuditEvent(
        Event.TRANSFERRED,
        Action.CREATE,
        _now(),
        _between(peer, ours, host),
        study_uid=study_uid,
        patient_id=patient_id,
        instances=instances,
    )


def begin_sending(ours: str, destination: str, study_uid: str, patient_id: str) -> AuditEvent:
    """Results of a study are about to be sent (A.5.3.3, Begin Transferring DICOM Instances)."""
    actors = _between(ours, destination)
    return AuditEvent(
        Event.BEGIN_TRANSFERRING,
        Action.EXECUTE,
        _now(),
        actors,
        study_uid=study_uid,
        patient_id=patient_id,
    )


def sent(
    ours: str, destination: str, study_uid: str, patient_id: str, instances: int, failed: int
) -> AuditEvent:
    """Results of a study were sent, or were not taken (A.5.3.7)."""
    actors = _between(ours, destination)
    return AuditEvent(
        Event.TRANSFERRED,
        Action.READ,
        _now(),
        actors,
        result=Result.SERIOUS_FAILURE if failed else Result.SUCCESS,
        study_uid=study_uid,
        patient_id=patient_id,
        instances=instances,
    )


def asked(ours: str, peer: str, sop_class_uid: str, query: bytes) -> AuditEvent:
    """A peer was queried (A.5.3.10); `query` is the identifier as it was sent."""
    actors = _between(ours, peer)
    return AuditEvent(
        Event.QUERY, Action.EXECUTE, _now(), actors, sop_class_uid=sop_class_uid, query=query
    )


def refused(ours: str, peer: str, host: str, why: str) -> AuditEvent:
    """Somebody was kept out (A.5.3.11, Security Alert: Node Authentication)."""
    actors = (
        Actor(ours, requestor=True),
        Actor(peer or "unknown", requestor=False, address=host),
    )
    return AuditEvent(
        Event.ALERT,
        Action.EXECUTE,
        _now(),
        actors,
        result=Result.MINOR_FAILURE,
        kind=Kind.NODE,
        alert=why,
    )


class Throttle:
    """Lets one of a kind through in a while: who knocks all day fills no audit repository."""

    def __init__(
        self,
        seconds: float = THROTTLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._last: dict[tuple[str, ...], float] = {}

    def passes(self, *key: str) -> bool:
        """Whether this one is let through."""
        now = self._clock()
        with self._lock:
            last = self._last.get(key)
            if last is not None and now - last < self._seconds:
                return False
            if len(self._last) >= MOST_REMEMBERED:
                self._last.clear()
            self._last[key] = now
            return True


def _between(source: str, destination: str, address: str = "") -> tuple[Actor, Actor]:
    """Who asked, from where, and who was asked."""
    return (
        Actor(source, requestor=True, address=address, role=SOURCE),
        Actor(destination, requestor=False, role=DESTINATION),
    )


def _now() -> datetime:
    return datetime.now(UTC)
