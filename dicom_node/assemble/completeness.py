"""Is a series complete? A pure decision from what is known of it and how long it has been quiet.

What comes in: the facts of a revision's instances, whether anybody still sends, seconds of silence on a
monotonic clock. What goes out: `Wait`, `Complete` or `Hold`, with the reason. First proof wins:

1. the number of instances that the sender knows is reached;
2. the geometry and the instance numbers are free of gaps, every association that carried the series was
   released, and nothing came for `settle_seconds`, or for as long as a sender that is known to send
   series in parts takes to come back;
3. nothing came for as long as this sender's habits say, or else `idle_seconds`, and nobody is sending
   the study;
4. nothing came for `ceiling_seconds`, whoever still holds an association open.

Where the sender was asked and says that more is to come, 2 and 3 prove nothing, and at the ceiling the
series is held as incomplete. A release alone proves nothing, and an abort never does. What contradicts
itself is held, not guessed at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicom_node.records import InstanceFacts, OpenSeries
from dicom_node.settings import AssembleSettings

POSITION_TOLERANCE = 0.02
"""Of the slice distance: how far a slice may lie from its place in an evenly spaced stack."""
SAME_DIRECTION = 1e-4
"""How far a component of two direction cosines may differ and still be the same orientation."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: no proof so far."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Complete, and the proof."""

    reason: str


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator must look at it, and why."""

    reason: str


Verdict = Wait | Complete | Hold


def judge(series: OpenSeries, quiet: float, settings: AssembleSettings) -> Verdict:
    """Decide on one revision.

    Args:
        series: the revision and what is known of its instances.
        quiet: seconds since its last instance, on a monotonic clock.
        settings: how long to wait.
    """
    proof = _proof(series, quiet, settings)
    if proof is None:
        return Wait()
    if contradiction := _contradiction(series):
        return Hold(contradiction)
    if series.expected is not None and len(series.instances) < series.expected:
        return Hold(f"{len(series.instances)} of {series.expected} instances came, then {proof}")
    return Complete(proof)


def _proof(series: OpenSeries, quiet: float, settings: AssembleSettings) -> str | None:
    count = len(series.instances)
    expected = series.expected or _announced(series.instances)
    if expected is not None and count >= expected:
        return f"all {expected} instances that the sender knows of are here"
    if quiet >= settings.ceiling_seconds:
        return f"nothing came for {settings.ceiling_seconds:g} s"
    if series.sending or (series.expected is not None and count < series.expected):
        return None
    settle = settle_seconds(series, settings)
    if series.released and quiet >= settle and gap(series.instances) is None:
        return f"geometry free of gaps, released, quiet for {settle:.3g} s"
    idle = idle_seconds(series, settings)
    if quiet >= idle:
        return f"nothing came for {idle:.3g} s"
    return None


def idle_seconds(series: OpenSeries, settings: AssembleSettings) -> float:
    """Silence that says "complete": as learned of the sender, within `settle` and `ceiling`."""
    if series.idle_seconds is None or not settings.learn_idle_seconds:
        return settings.idle_seconds
    return min(settings.ceiling_seconds, max(settings.settle_seconds, series.idle_seconds))


def settle_seconds(series: OpenSeries, settings: AssembleSettings) -> float:
    """Silence after a release that suffices where nothing is missing, within `settle` and `ceiling`."""
    if series.return_seconds is None or not settings.learn_idle_seconds:
        return settings.settle_seconds
    return min(settings.ceiling_seconds, max(settings.settle_seconds, series.return_seconds))


def _announced(instances: Sequence[InstanceFacts]) -> int | None:
    """Number of Series Related Instances where the images carry it; no reason to wait for more."""
    announced = {
        int(value)
        for fact in instances
        if (value := fact.attributes.get("expected_instances")) is not None
    }
    return max(announced) if announced else None


def _contradiction(series: OpenSeries) -> str | None:
    """What an operator must look at before anything is computed from these instances."""
    instances = series.instances
    if not instances:
        return "none of its instances is in the spool any more"
    quarantined = sorted({fact.quarantine for fact in instances if fact.quarantine})
    if quarantined:
        affected = sum(1 for fact in instances if fact.quarantine)
        return f"{affected} of {len(instances)} instances quarantined: {'; '.join(quarantined)}"
    if len({fact.patient_id for fact in instances}) > 1:
        return "instances of one series name different patients"
    if len(set(series.study_patient_ids)) > 1:
        return "series of one study name different patients"
    return None


def gap(instances: Sequence[InstanceFacts]) -> str | None:
    """Why these instances do not look like all of a series; None if they do."""
    return geometry_gap(instances) or numbering_gap(instances)


def numbering_gap(instances: Sequence[InstanceFacts]) -> str | None:
    """Why the Instance Numbers (0020,0013) say that images are missing; None if they do not.

    Half of a stack, or every second slice of it, is a stack too; but scanners number from 0 or 1 without
    gaps. Numbers that are absent, or not each another's, say nothing.
    """
    given = [fact.attributes.get("instance_number") for fact in instances]
    numbers = {int(number) for number in given if number is not None}
    if len(numbers) < len(instances) or len(instances) < 2:
        return None
    first, last = min(numbers), max(numbers)
    if first > 1:
        return f"the lowest instance number is {first}"
    if last - first >= len(numbers):
        return f"{len(numbers)} instances are numbered from {first} to {last}"
    return None


def geometry_gap(instances: Sequence[InstanceFacts]) -> str | None:
    """Why these instances are not a gap-free stack of slices; None if they are.

    A stack needs one orientation, one slice at each position along the normal, and one distance between
    neighbours (PS3.3 C.7.6.2.1.1). A single multi-frame instance is complete in itself.
    """
    if len(instances) == 1 and int(instances[0].attributes.get("frames") or 1) > 1:
        return None
    if len(instances) < 2:
        return "a single slice has no neighbours"
    geometry = [_plane(fact.attributes) for fact in instances]
    planes = [plane for plane in geometry if plane is not None]
    if len(planes) < len(geometry):
        return "an instance has no position or no orientation"
    if not all(np.isfinite(np.concatenate(plane)).all() for plane in planes):
        return "an instance has a position or an orientation that is no number"
    first = planes[0][1]
    if any(float(np.abs(cosines - first).max()) > SAME_DIRECTION for _, cosines in planes):
        return "slices differ in orientation"
    normal = np.cross(first[:3], first[3:])
    along = np.sort([float(np.dot(position, normal)) for position, _ in planes])
    return _uneven(np.diff(along))


def _uneven(distances: "np.typing.NDArray[np.float64]") -> str | None:
    usual = float(np.median(distances))
    if float(distances.min()) < 1e-3:
        return "two slices lie at one position"
    if float(np.abs(distances - usual).max()) > POSITION_TOLERANCE * usual + 1e-3:
        return f"slices are not evenly spaced (usual distance {usual:.2f} mm)"
    return None


def _plane(attributes: Any) -> "tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None":
    position, orientation = attributes.get("position"), attributes.get("orientation")
    if attributes.get("frames", 1) not in (None, 1):
        return None
    if position is None or orientation is None or len(position) != 3 or len(orientation) != 6:
        return None
    return np.asarray(position, dtype=np.float64), np.asarray(orientation, dtype=np.float64)
