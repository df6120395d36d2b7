"""Is a series complete? A pure decision from what is known of it and how long it has been quiet.

What comes in: the facts of a revision's instances, whether anybody still sends, seconds of silence on a
monotonic clock. What goes out: `Wait`, `Complete` or `Hold`, with the reason. First proof wins:

1. the number of instances that the sender knows is reached;
2. the geometry is free of gaps, every association that carried the series was released, and nothing
   came for `settle_seconds`;
3. nothing came for `idle_seconds`, and nobody is sending the study;
4. nothing came for `ceiling_seconds`, whoever still holds an association open.

A release alone proves nothing, and an abort never does. What contradicts itself is held, not guessed at.
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
    if contradiction := _contradiction(series.instances):
        return Hold(contradiction)
    return Complete(proof)


def _proof(series: OpenSeries, quiet: float, settings: AssembleSettings) -> str | None:
    expected = _expected(series.instances)
    if expected is not None and len(series.instances) >= expected:
        return f"all {expected} instances that the sender announced are here"
    if quiet >= settings.ceiling_seconds:
        return f"nothing came for {settings.ceiling_seconds:g} s"
    if series.sending:
        return None
    if (
        series.released
        and quiet >= settings.settle_seconds
        and geometry_gap(series.instances) is None
    ):
        return f"geometry free of gaps, released, quiet for {settings.settle_seconds:g} s"
    if quiet >= settings.idle_seconds:
        return f"nothing came for {settings.idle_seconds:g} s"
    return None


def _expected(instances: Sequence[InstanceFacts]) -> int | None:
    announced = {
        int(value)
        for fact in instances
        if (value := fact.attributes.get("expected_instances")) is not None
    }
    return max(announced) if announced else None


def _contradiction(instances: Sequence[InstanceFacts]) -> str | None:
    """What an operator must look at before anything is computed from these instances."""
    quarantined = sorted({fact.quarantine for fact in instances if fact.quarantine})
    if quarantined:
        affected = sum(1 for fact in instances if fact.quarantine)
        return f"{affected} of {len(instances)} instances quarantined: {'; '.join(quarantined)}"
    if len({fact.patient_id for fact in instances}) > 1:
        return "instances of one series name different patients"
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
    if position is None or orientation is None or len(position) != 3 or len(orientation) != 6:
        return None
    return np.asarray(position, dtype=np.float64), np.asarray(orientation, dtype=np.float64)
