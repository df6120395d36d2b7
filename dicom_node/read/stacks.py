"""Several stacks in one series: told apart by what differs, and one chosen by rule. Pure.

What comes in: the planes of a series. What goes out: its stacks, and which of them is meant. It owns the
invariant that slices of different stacks (echoes, b-values, phases, directions) never become one volume, and
that nothing is left out of a stack unsaid.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dicom_node.catalogue import StackAttribute
from dicom_node.errors import GeometryError, NotApplicable
from dicom_node.read.stack import DOUBLED, Plane, Stack, alike, arrange, check

LOWEST, HIGHEST = "lowest", "highest"
_FORM = ("direction", "size")
MOST_ATTRIBUTES = 3
"""Attributes that may together tell stacks apart: echo, b-value and direction."""


@dataclass(frozen=True, slots=True)
class Part:
    """One stack of a series.

    Attributes:
        stack: its planes in order; `order` counts in the planes of the whole series.
        apart: name and value of what tells it from the others; empty where it is alone.
    """

    stack: Stack
    apart: tuple[tuple[str, str], ...] = ()

    @property
    def named(self) -> str:
        """What it is, for people."""
        count = len(self.stack.order)
        told = [
            value if name in _FORM else f"{shown(name)} {value or 'none'}"
            for name, value in self.apart
        ]
        return f"{', '.join(told)} ({count} slice{'s' * (count != 1)})"


def shown(name: str) -> str:
    """An attribute's name for people: `echo_time` is "echo time"."""
    return name.replace("_", " ")


def split(planes: Sequence[Plane]) -> list[Part]:
    """The stacks of a series: one where its planes make one, else as many as attributes tell apart.

    A series that has to be split is so only into stacks without gaps: a slice of another size, or at a
    position that is taken, may as well be a missing slice of the stack that it interrupts.

    Raises:
        GeometryError: they cannot be told apart; the message says why they are no single stack.
    """
    check(planes)
    groups = alike(planes)
    if len(groups) == 1:
        return _of_alike(planes, range(len(planes)), whole=True)
    parts: list[Part] = []
    try:
        for group in groups:
            parts += _of_alike(planes, group, whole=False)
    except GeometryError:
        arrange(planes)  # says how they differ
        raise
    named = [replace(part, apart=(*_form(planes, part), *part.apart)) for part in parts]
    return sorted(named, key=lambda part: (-len(part.stack.order), part.apart))


def choose(
    parts: Sequence[Part], wanted: Mapping[StackAttribute, str]
) -> tuple[Part, tuple[str, ...]]:
    """The stack that is meant, and what to say of it.

    By `wanted`: a value, "lowest" or "highest" for an attribute. Among what is left the stack of most slices,
    among equals the one of the lowest values.

    Raises:
        NotApplicable: no stack has a wanted value.
    """
    if len(parts) == 1:
        return parts[0], ()
    left = list(parts)
    for name, value in wanted.items():
        left = _having(left, name, value)
    most = max(len(part.stack.order) for part in left)
    left = [part for part in left if len(part.stack.order) == most]
    chosen = min(left, key=lambda part: tuple(_sortable(value) for _, value in part.apart))
    how = "as the model asks for it" if wanted else "the largest" if len(left) == 1 else "the first"
    others = ", ".join(part.named for part in parts if part is not chosen)
    note = (
        f"the series holds {len(parts)} stacks: the result is of {chosen.named}, "
        f"{how}, not of {others}"
    )
    return chosen, (note if len(note) <= 400 else note[:397] + "...",)


def _of_alike(planes: Sequence[Plane], group: Sequence[int], *, whole: bool) -> list[Part]:
    """The stacks of planes that are cut alike."""
    members = [planes[i] for i in group]
    try:
        found = arrange(members)
        if whole or found.even:
            return [Part(_counted(found, group))]
        reason: GeometryError = GeometryError(found.notes[-1])
    except GeometryError as error:
        reason = error
    told = _told_apart(members)
    if told is None:
        raise reason
    return [
        Part(_counted(stack, [group[i] for i in indices]), apart) for indices, stack, apart in told
    ]


_Told = list[tuple[list[int], Stack, tuple[tuple[str, str], ...]]]


def _told_apart(planes: Sequence[Plane]) -> _Told | None:
    """The fewest even stacks that some attributes divide the planes into; None where none do."""
    values = [dict(plane.stack) for plane in planes]
    names = list(dict.fromkeys(name for plane in planes for name, _ in plane.stack))
    varying = [name for name in names if len({value.get(name, "") for value in values}) > 1]
    doubled = _multiplicity(planes)
    most, fewest_slices = (2 * doubled, 1) if doubled > 1 else (4, 2)
    best: _Told | None = None
    for size in range(1, MOST_ATTRIBUTES + 1):
        for chosen in itertools.combinations(varying, size):
            by_value: dict[tuple[str, ...], list[int]] = {}
            for i, value in enumerate(values):
                by_value.setdefault(tuple(value.get(name, "") for name in chosen), []).append(i)
            limit = most if best is None else len(best) - 1
            if not 1 < len(by_value) <= limit:
                continue
            if min(map(len, by_value.values())) < fewest_slices:
                continue
            best = _arranged(planes, chosen, by_value) or best
        if best is not None:
            break
    return best


def _arranged(
    planes: Sequence[Plane], names: Sequence[str], by_value: Mapping[tuple[str, ...], list[int]]
) -> _Told | None:
    told: _Told = []
    for value in sorted(by_value, key=lambda one: tuple(map(_sortable, one))):
        indices = by_value[value]
        try:
            stack = arrange([planes[i] for i in indices])
        except GeometryError:
            return None
        if not stack.even:
            return None
        told.append((indices, stack, tuple(zip(names, value, strict=True))))
    return told


def _multiplicity(planes: Sequence[Plane]) -> int:
    """How many planes at most lie at one position."""
    cells = np.round(np.array([plane.position for plane in planes]) / DOUBLED / 10).astype(np.int64)
    return max(Counter(map(tuple, cells.tolist())).values())


def _counted(stack: Stack, group: Sequence[int]) -> Stack:
    return replace(stack, order=tuple(group[i] for i in stack.order))


def _form(planes: Sequence[Plane], part: Part) -> tuple[tuple[str, str], ...]:
    """What a stack of another form than its neighbours looks like."""
    plane = planes[part.stack.order[0]]
    normal = np.cross(plane.orientation[:3], plane.orientation[3:])
    way = ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]
    size = f"{plane.columns} x {plane.rows} of {plane.spacing[1]:g} mm"
    return (("direction", way), ("size", size))


def _having(parts: Sequence[Part], name: str, value: str) -> list[Part]:
    """The parts with a wanted value of an attribute; all where it tells none apart."""
    found = [(part, dict(part.apart)[name]) for part in parts if name in dict(part.apart)]
    if not found:
        return list(parts)
    ordered = sorted({one for _, one in found if one}, key=_sortable)
    if value in (LOWEST, HIGHEST) and ordered:
        value = ordered[0 if value == LOWEST else -1]
    kept = [part for part, one in found if _sortable(one) == _sortable(value)]
    if not kept:
        there = ", ".join(ordered) or "none"
        raise NotApplicable(f"no stack of {shown(name)} {value}; the series has {there}")
    return kept


def _sortable(value: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letter."""
    try:
        return 0, float(value), ""
    except ValueError:
        return 1, 0.0, value.lower()
