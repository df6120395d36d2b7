"""Where slices lie: planes in any order in, one sorted stack with an affine out. Pure.

It owns the invariant that a `Volume` says truly where each voxel is: by one affine, or, where slices are
missing or spaced unevenly along one line, by the position of each slice (`even` is false then). What neither
can describe is refused with the reason, never averaged. Positions are LPS in mm (PS3.3 C.7.6.2.1.1).
"""

import math
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
WIDEST_GAP = 4
"""Slices further apart than so many times the usual distance are no single stack: what would lie between
them would be made up."""
WIDEST_GAP_MM = 15.0
"""As WIDEST_GAP, in mm, for slices that lie further apart than most."""
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
        affine: `(4, 4)`, `(z, y, x, 1)` -> LPS mm; where slices are not evenly spaced, of their mean step.
        notes: what was unusual and handled.
        even: whether the affine says where each slice lies.
    """

    order: tuple[int, ...]
    affine: Float64
    notes: tuple[str, ...]
    even: bool = True


def arrange(planes: Sequence[Plane]) -> Stack:
    """Sort planes that are cut alike along their normal and find the affine.

    Raises:
        GeometryError: they make no single stack along one line; the message says why.
    """
    check(planes)
    if len(alike(planes)) > 1:
        raise GeometryError(_unlike(planes))
    row, column = _directions(planes)
    normal = np.cross(row, column)
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    _check_doubled(planes, along[order], order)
    step, even, notes = _step(planes, positions[order], normal)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = column * planes[0].spacing[0]
    affine[:3, 2] = row * planes[0].spacing[1]
    affine[:3, 3] = positions[order[0]]
    return Stack(tuple(int(i) for i in order), affine, tuple(notes), even)


def check(planes: Sequence[Plane]) -> None:
    """
    Raises:
        GeometryError: there are none, or one does not say where it lies.
    """
    if not planes:
        raise GeometryError("the series has no slices")
    for plane in planes:
        if len(plane.position) != 3 or len(plane.orientation) != 6:
            raise GeometryError(
                "a slice has no Image Position (Patient) or no Image Orientation (Patient)"
            )
        if len(plane.spacing) != 2 or min(plane.spacing) <= 0:
            raise GeometryError("a slice has no Pixel Spacing")
        numbers = (*plane.position, *plane.orientation, *plane.spacing)
        if not all(map(math.isfinite, numbers)):
            raise GeometryError("a position, direction or spacing is not a finite number")


def alike(planes: Sequence[Plane]) -> list[list[int]]:
    """Indices of planes of one size, pixel spacing and direction, a list for each kind."""
    groups: list[list[int]] = []
    left = list(range(len(planes)))
    directions = np.array([plane.orientation for plane in planes])
    spacings = np.array([plane.spacing for plane in planes])
    sizes = np.array([(plane.rows, plane.columns) for plane in planes])
    while left:
        first = left[0]
        same = (np.abs(directions[left] - directions[first]) <= SAME_DIRECTION).all(axis=1)
        same &= np.isclose(spacings[left], spacings[first], rtol=SAME_SPACING, atol=0).all(axis=1)
        same &= (sizes[left] == sizes[first]).all(axis=1)
        groups.append([i for i, is_same in zip(left, same, strict=True) if is_same])
        left = [i for i, is_same in zip(left, same, strict=True) if not is_same]
    return groups


def _unlike(planes: Sequence[Plane]) -> str:
    """How slices that are not alike differ."""
    first = planes[0]
    for plane in planes:
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            return (
                f"slices differ in size: {first.columns} x {first.rows} "
                f"and {plane.columns} x {plane.rows} pixels"
            )
        if np.abs(np.subtract(plane.orientation, first.orientation)).max() > SAME_DIRECTION:
            return "slices are cut in different directions; the series is no single stack"
        if not np.allclose(plane.spacing, first.spacing, rtol=SAME_SPACING, atol=0):
            return (
                f"slices differ in Pixel Spacing: {first.spacing[0]:g} x {first.spacing[1]:g} "
                f"and {plane.spacing[0]:g} x {plane.spacing[1]:g} mm"
            )
    return "slices are not alike"


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
    named = ", ".join(name.replace("_", " ") for name in differing)
    why = f"; they differ in {named}" if differing else ""
    raise GeometryError(
        f"{len(along)} slices lie at {positions} positions: several stacks or doubled slices "
        f"in one series{why}"
    )


def _step(
    planes: Sequence[Plane], sorted_positions: Float64, normal: Float64
) -> tuple[Float64, bool, list[str]]:
    """The mean vector from slice to slice, whether each is that far from the next, and notes."""
    count = len(sorted_positions)
    if count == 1:
        thickness = planes[0].thickness
        if thickness and thickness > 0:
            return normal * thickness, True, []
        return normal, True, ["a single slice without Slice Thickness: 1 mm is assumed"]
    along = (sorted_positions - sorted_positions[0]) @ normal
    even, notes = _evenness(along)
    whole = sorted_positions[-1] - sorted_positions[0]
    off = sorted_positions - (sorted_positions[0] + along[:, None] / along[-1] * whole)
    if np.linalg.norm(off, axis=1).max() > max(planes[0].spacing) / 2:
        raise GeometryError("slices are shifted sideways against each other unevenly")
    step = whole / (count - 1)
    height = float(step @ normal)
    tilt = float(np.degrees(np.arccos(np.clip(height / np.linalg.norm(step), -1, 1))))
    if tilt < TILT_NOTED:
        return normal * height, even, notes
    return step, even, [f"the slices are sheared by {tilt:.1f} degrees (gantry tilt)", *notes]


def _evenness(along: Float64) -> tuple[bool, list[str]]:
    """Whether slices at these distances are evenly spaced, and what to say where they are not."""
    distances = np.diff(along)
    spacing = float(np.median(distances))
    even = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - even).max() <= OFF_GRID * spacing:
        return True, []
    ratios = distances / spacing
    gaps = np.flatnonzero(np.round(ratios) >= 2)
    widest = float(distances.max())
    too_wide = widest > 1.5 * spacing and (
        widest > (WIDEST_GAP + OFF_GRID) * spacing or widest > WIDEST_GAP_MM
    )
    if len(gaps) and np.abs(ratios - np.round(ratios)).max() < 2 * OFF_GRID:
        missing = int(np.sum(np.round(ratios[gaps]) - 1))
        said = (
            f"{missing} slice{'s' * (missing != 1)} missing: {len(gaps)} "
            f"gap{'s' * (len(gaps) != 1)} in slices {spacing:.2f} mm apart"
        )
        how = "the model saw interpolated slices there, results lie on the slices that there are"
    else:
        said = f"slices are spaced unevenly, between {distances.min():.2f} and {widest:.2f} mm"
        how = "the model saw them evenly resampled, results lie on the slices as they were scanned"
    if too_wide:
        raise GeometryError(said)
    return False, [f"{said}; {how}"]
