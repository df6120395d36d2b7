"""Where slices lie: planes in any order in, one sorted stack with an affine out. Pure.

It owns the invariant that a `Volume`'s affine says truly where each voxel is: a stack that one affine
cannot describe is refused with the reason, never averaged. Positions are LPS in mm (PS3.3 C.7.6.2.1.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dicom_node.errors import GeometryError
from dicom_node.records import Float64, SourceFrame

SAME_DIRECTION = 1e-3
"""Largest difference between direction cosines of slices that are cut alike."""
SAME_SPACING = 1e-3
"""Largest relative difference between pixel spacings that count as equal."""
OFF_GRID = 0.1
"""Largest distance of a slice from its place on the even grid, in slice spacings. Headers round
positions: 1.25 mm apart becomes 1.2 and 1.3."""
DOUBLED = 0.01
"""Slices closer than this, in mm, lie at one position."""
TILT_NOTED = 0.5
"""Degrees between the line of slices and the normal above which the gantry counts as tilted."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice: where it came from, where it lies, and what tells its stack from others."""

    source: SourceFrame
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    rows: int
    columns: int
    thickness: float | None = None
    stack: tuple[tuple[str, str], ...] = ()
    """Name and value of each attribute that may tell stacks apart: echo time, b-value, phase."""


@dataclass(frozen=True, slots=True)
class Stack:
    """Planes in order.

    Attributes:
        order: indices into the planes that were given, along the normal.
        affine: `(4, 4)`, `(z, y, x, 1)` -> LPS mm.
        notes: what was unusual and handled.
    """

    order: tuple[int, ...]
    affine: Float64
    notes: tuple[str, ...]


def arrange(planes: Sequence[Plane]) -> Stack:
    """Sort planes along their normal and find the affine.

    Raises:
        GeometryError: they make no single, gap-free, evenly spaced stack; the message says why.
    """
    if not planes:
        raise GeometryError("the series has no slices")
    _check_alike(planes)
    row, column = _directions(planes)
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_doubled(planes, along[order], order)
    step, notes = _step(planes, positions[order], normal)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * planes[0].spacing[0]
    affine[:3, 2] = row * planes[0].spacing[1]
    affine[:3, 3] = positions[order[0]]
    return Stack(tuple(int(i) for i in order), affine, tuple(notes))


def _check_alike(planes: Sequence[Plane]) -> None:
    first = planes[0]
    for plane in planes:
        if len(plane.position) != 3 or len(plane.orientation) != 6:
            raise GeometryError(
                "a slice has no Image Position (Patient) or no Image Orientation (Patient)"
            )
        if len(plane.spacing) != 2 or min(plane.spacing) <= 0:
            raise GeometryError("a slice has no Pixel Spacing")
        if not np.isfinite((*plane.position, *plane.orientation, *plane.spacing)).all():
            raise GeometryError("a position, direction or spacing is not a finite number")
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise GeometryError(
                f"slices differ in size: {first.columns} x {first.rows} "
                f"and {plane.columns} x {plane.rows} pixels"
            )
        apart = np.abs(np.subtract(plane.orientation, first.orientation)).max()
        if apart > SAME_DIRECTION:
            raise GeometryError(
                "slices are cut in different directions; the series is no single stack"
            )
        if not np.allclose(plane.spacing, first.spacing, rtol=SAME_SPACING, atol=0):
            raise GeometryError(
                f"slices differ in Pixel Spacing: {first.spacing[0]:g} x {first.spacing[1]:g} "
                f"and {plane.spacing[0]:g} x {plane.spacing[1]:g} mm"
            )


def _directions(planes: Sequence[Plane]) -> tuple[Float64, Float64]:
    """Unit vectors along a row and along a column."""
    row = np.array(planes[0].orientation[:3], dtype=np.float64)
    column = np.array(planes[0].orientation[3:], dtype=np.float64)
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.allclose(lengths, 1.0, atol=0.01) or abs(row @ column) > 0.01:
        raise GeometryError("Image Orientation (Patient) is not two perpendicular unit vectors")
    return row / lengths[0], column / lengths[1]


def _check_doubled(planes: Sequence[Plane], along: Float64, order: npt.NDArray[np.intp]) -> None:
    close = np.flatnonzero(np.diff(along) < DOUBLED)
    if not len(close):
        return
    differing = sorted(
        {
            name
            for i in close
            for name, value in planes[order[i]].stack
            if dict(planes[order[i + 1]].stack).get(name) != value
        }
    )
    positions = len(along) - len(close)
    why = f"; they differ in {', '.join(differing)}" if differing else ""
    raise GeometryError(
        f"{len(along)} slices lie at {positions} positions: several stacks or doubled slices "
        f"in one series{why}"
    )


def _step(
    planes: Sequence[Plane], sorted_positions: Float64, normal: Float64
) -> tuple[Float64, list[str]]:
    """The vector from slice to slice."""
    count = len(sorted_positions)
    if count == 1:
        thickness = planes[0].thickness
        if thickness and thickness > 0:
            return normal * thickness, []
        return normal, ["a single slice without Slice Thickness: 1 mm is assumed"]
    along = (sorted_positions - sorted_positions[0]) @ normal
    _check_even(along)
    step = (sorted_positions[-1] - sorted_positions[0]) / (count - 1)
    off = sorted_positions - (sorted_positions[0] + np.arange(count)[:, None] * step)
    in_plane = off - (off @ normal)[:, None] * normal
    if np.linalg.norm(in_plane, axis=1).max() > max(planes[0].spacing) / 2:
        raise GeometryError("slices are shifted sideways against each other unevenly")
    height = float(step @ normal)
    tilt = float(np.degrees(np.arccos(np.clip(height / np.linalg.norm(step), -1, 1))))
    if tilt < TILT_NOTED:
        return normal * height, []
    return step, [f"the slices are sheared by {tilt:.1f} degrees (gantry tilt)"]


def _check_even(along: Float64) -> None:
    distances = np.diff(along)
    spacing = float(np.median(distances))
    ratios = distances / spacing
    gaps = np.flatnonzero(np.round(ratios) >= 2)
    if len(gaps) and np.abs(ratios - np.round(ratios)).max() < 2 * OFF_GRID:
        missing = int(np.sum(np.round(ratios[gaps]) - 1))
        raise GeometryError(
            f"{missing} slice{'s' * (missing != 1)} missing: {len(gaps)} "
            f"gap{'s' * (len(gaps) != 1)} in slices {spacing:.2f} mm apart"
        )
    even = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - even).max() > OFF_GRID * spacing:
        raise GeometryError(
            f"slices are spaced unevenly, between {distances.min():.2f} and {distances.max():.2f} mm"
        )
