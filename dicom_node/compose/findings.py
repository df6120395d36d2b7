"""From labels to findings: each a segment of the SEG and a group of the report, under one tracking UID.

A segment of the model is one finding; one that the model calls a lesion is a finding for each connected
component. It owns the invariant that segment numbers run from 1 without gaps (PS3.3 C.8.20.2.4) and that SEG
and SR speak of a finding by the same tracking UID.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from dicom_node.catalogue import SegmentDescription
from dicom_node.compose.context import ComposeContext
from dicom_node.compose.measure import Measured, measure
from dicom_node.compose.surface import surface_mm2
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError
from dicom_node.records import Float32, Labels, Segmentation, Volume

MOST_LESIONS = 50
"""Components of one lesion segment that are reported singly; a report of thousands helps nobody."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One structure or lesion that was found.

    Attributes:
        number: Segment Number, and its value in the map of findings.
        label: the segment's label, numbered where lesions are told apart.
        tracking_id, tracking_uid: how SEG and SR refer to it.
    """

    number: int
    segment: SegmentDescription
    label: str
    tracking_id: str
    tracking_uid: str
    measured: Measured
    surface_mm2: float | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found, on the source grid.

    Attributes:
        numbers: `(z, y, x)` unsigned, the finding's number at each voxel, 0 elsewhere.
        absent: labels of the model of which no voxel was found.
        probabilities: segment value -> `(z, y, x)` uint8, 255 x probability, as the prediction has them.
    """

    found: tuple[Finding, ...]
    numbers: npt.NDArray[Any]
    absent: tuple[str, ...]
    notes: tuple[str, ...] = ()
    probabilities: Mapping[int, Labels] = field(default_factory=dict)


def find(ctx: ComposeContext, volume: Volume, segmentation: Segmentation) -> Findings:
    """Tell findings apart, number and measure them.

    Raises:
        ComposeError: the labels lie on another grid, or hold a value that the model does not name.
    """
    labels = segmentation.labels
    positions = None if volume.even else volume.positions
    if labels.shape != volume.array.shape:
        raise ComposeError(
            f"the mask is {labels.shape}, the source {volume.array.shape}: not on one grid"
        )
    labels, padded = _where_scanned(labels, volume)
    known = {segment.value: segment for segment in ctx.model.segments}
    measured = measure(labels, volume.array, volume.affine, positions)
    values = sorted(measured)
    if strange := sorted(set(values) - set(known)):
        raise ComposeError(f"the mask holds values that the model does not name: {strange}")
    plan: list[tuple[SegmentDescription, int | None]] = []
    lut = np.zeros(256, dtype=np.uint8)
    for value in values:
        if not known[value].lesion:
            plan.append((known[value], None))
            lut[value] = len(plan)
    numbers: npt.NDArray[Any] = labels if lut[values].tolist() == values else lut[labels]
    notes = padded
    if any(known[value].lesion for value in values):
        numbers = numbers.astype(np.uint16)
        for value in values:
            if known[value].lesion:
                notes += _number_lesions(labels == value, known[value], plan, numbers)
        measured = measure(numbers, volume.array, volume.affine, positions)
    else:
        measured = {int(lut[value]): one for value, one in measured.items()}
    found = tuple(
        _finding(
            ctx,
            number,
            segment,
            ordinal,
            measured[number],
            _surface(numbers, number, measured[number], volume) if segment.surface else None,
        )
        for number, (segment, ordinal) in enumerate(plan, start=1)
    )
    absent = tuple(segment.label for value, segment in known.items() if value not in values)
    return Findings(
        found, numbers, absent, tuple(notes), _shares_where_scanned(segmentation, volume)
    )


def _where_scanned(labels: Labels, volume: Volume) -> tuple[Labels, list[str]]:
    """The labels without those on padding, where the scanner saw nothing."""
    if volume.padding is None:
        return labels, []
    beyond = int(np.count_nonzero(labels[volume.padding]))
    if not beyond:
        return labels, []
    note = f"{beyond} labelled voxels lay outside of what was scanned (padding) and were left out"
    return np.where(volume.padding, np.uint8(0), labels), [note]


def _shares_where_scanned(segmentation: Segmentation, volume: Volume) -> dict[int, Labels]:
    """The probabilities without those on padding."""
    shares = dict(segmentation.probabilities)
    if volume.padding is None:
        return shares
    return {value: np.where(volume.padding, np.uint8(0), one) for value, one in shares.items()}


def _number_lesions(
    mask: npt.NDArray[np.bool_],
    segment: SegmentDescription,
    plan: list[tuple[SegmentDescription, int | None]],
    numbers: npt.NDArray[Any],
) -> list[str]:
    """Number the components of a lesion segment, the largest first; the rest stay together as one."""
    components, count = cc3d.connected_components(mask, connectivity=18, return_N=True)
    sizes = np.bincount(components.reshape(-1), minlength=count + 1)[1:]
    by_size = np.argsort(-sizes, kind="stable") + 1
    lut = np.zeros(count + 1, dtype=np.uint16)
    start = len(plan)
    for ordinal, component in enumerate(by_size, start=1):
        if ordinal <= MOST_LESIONS:
            plan.append((segment, ordinal))
        lut[component] = start + min(ordinal, MOST_LESIONS)
    np.copyto(numbers, lut[components], where=mask)
    if count > MOST_LESIONS:
        return [f"{segment.label}: {count} separate parts; the smallest are reported as one"]
    return []


def _finding(
    ctx: ComposeContext,
    number: int,
    segment: SegmentDescription,
    ordinal: int | None,
    measured: Measured,
    surface_mm2: float | None,
) -> Finding:
    label = segment.label if ordinal is None else f"{segment.label} {ordinal}"
    uid = derived_uid(ctx.job_key, "tracking", segment.value, ordinal or 0)
    tracking_id = f"{ctx.model.name} {label}"[:64]
    return Finding(number, segment, label[:64], tracking_id, uid, measured, surface_mm2)


def _surface(numbers: npt.NDArray[Any], number: int, measured: Measured, volume: Volume) -> float:
    """Of the box around it alone, since a mesh of the whole volume would cost seconds."""
    (z, z_end), (y, y_end), (x, x_end) = measured.box
    mask = numbers[z : z_end + 1, y : y_end + 1, x : x_end + 1] == number
    positions = None
    if not volume.even and volume.positions is not None and z_end > z:
        positions = volume.positions[z : z_end + 1]
    return surface_mm2(mask, volume.affine, positions)


def doubts(findings: Findings, uncertainty: Float32 | None) -> tuple[str, ...]:
    """How sure the model is of each finding, in words; nothing where it does not say.

    Args:
        uncertainty: `(z, y, x)` in 0 to 1.

    Raises:
        ComposeError: it lies on another grid.
    """
    if uncertainty is None:
        return ()
    if uncertainty.shape != findings.numbers.shape:
        raise ComposeError("the map of uncertainty does not lie on the source's grid")
    counts = np.bincount(findings.numbers.ravel(), minlength=len(findings.found) + 1)
    sums = np.bincount(findings.numbers.ravel(), uncertainty.ravel(), len(findings.found) + 1)
    said = [f"{one.label} {sums[one.number] / counts[one.number]:.2f}" for one in findings.found]
    return (f"Mean uncertainty (0 sure, 1 a guess): {', '.join(said)}",) if said else ()
