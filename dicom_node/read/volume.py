"""A series' instances in, an image in modality values out: `read_image`.

What comes in: `RawInstance`s of one series, in any order. What goes out: a `Volume` (CT, MR, PET, single-
or multi-frame) or a `ProjectionImage`. It owns the invariant that every slice knows its source frame and
its true place. It reads no files, and it refuses what it cannot place rather than guess.
"""

import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import overload

import numpy as np
from pydicom import Dataset
from pydicom.pixels.processing import apply_modality_lut

from dicom_node.catalogue import StackAttribute
from dicom_node.errors import GeometryError, ReadError
from dicom_node.read import pixels
from dicom_node.read.elements import RawHeader, data_set, spans, walk
from dicom_node.read.multiframe import frame_planes
from dicom_node.read.stack import Plane, Stack
from dicom_node.read.stacks import Part, choose, split
from dicom_node.records import (
    Float32,
    Float64,
    Image,
    Mask,
    ProjectionImage,
    RawInstance,
    SourceFrame,
    Volume,
)

MODALITY, PATIENT_ID = 0x00080060, 0x00100020
STUDY_UID, SERIES_UID, FRAME_OF_REFERENCE = 0x0020000D, 0x0020000E, 0x00200052
POSITION, ORIENTATION, PIXEL_SPACING = 0x00200032, 0x00200037, 0x00280030
THICKNESS, BETWEEN_SLICES = 0x00180050, 0x00180088
INTERCEPT, SLOPE, MODALITY_LUT = 0x00281052, 0x00281053, 0x00283000
PER_FRAME = 0x52009230
TELLS_STACKS_APART = {
    0x00180081: "echo_time",
    0x00180086: "echo_number",
    0x00189087: "b_value",
    0x00180082: "inversion_time",
    0x00181314: "flip_angle",
    0x00200100: "temporal_position",
    0x00541300: "frame_reference_time",
    0x00181060: "trigger_time",
    0x00200012: "acquisition_number",
    0x00180010: "contrast_agent",
    0x00180060: "kvp",
    0x00181210: "kernel",
    0x00080008: "image_type",
    0x00189089: "diffusion_direction",
    0x00080032: "acquisition_time",
}
"""Attributes that may tell stacks of one series apart, the likeliest first."""
BINARY = (0x00189087, 0x00189089)
"""Those of VR FD."""
AIR = {"CT": -1000.0}
"""The modality value of nothing at all; in MR and PET it is 0."""
WANTED = frozenset(
    {
        MODALITY,
        PATIENT_ID,
        STUDY_UID,
        SERIES_UID,
        FRAME_OF_REFERENCE,
        POSITION,
        ORIENTATION,
        PIXEL_SPACING,
        THICKNESS,
        BETWEEN_SLICES,
        INTERCEPT,
        SLOPE,
        MODALITY_LUT,
        PER_FRAME,
    }
    | set(TELLS_STACKS_APART)
    | pixels.WANTED
)

_IMAGE = "1.2.840.10008.5.1.4.1.1."
SINGLE_FRAME = frozenset({_IMAGE + "2", _IMAGE + "4", _IMAGE + "128"})
"""CT, MR and PET Image Storage."""
MULTI_FRAME = frozenset(_IMAGE + end for end in ("2.1", "2.2", "4.1", "4.4", "130", "128.1"))
"""Enhanced and Legacy Converted Enhanced CT, MR and PET Image Storage."""
PROJECTION = frozenset(
    _IMAGE + end
    for end in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "7", "12.1", "12.2")
)
"""CR, DX, mammography and intra-oral X-ray, secondary capture, XA and XRF."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """An instance whose header was walked."""

    instance: RawInstance
    header: RawHeader

    def data_set(self) -> Dataset:
        return data_set(
            self.instance.data, self.instance.transfer_syntax_uid, self.header.header_length
        )


class LazyHeaders(Sequence[Dataset]):
    """Source headers, parsed when they are asked for: most jobs need one of hundreds."""

    def __init__(self, opened: Sequence[_Opened]) -> None:
        self._opened = tuple(opened)
        self._parsed: dict[int, Dataset] = {}

    def __len__(self) -> int:
        return len(self._opened)

    @overload
    def __getitem__(self, index: int) -> Dataset: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Dataset]: ...
    def __getitem__(self, index: int | slice) -> Dataset | Sequence[Dataset]:
        if isinstance(index, slice):
            return LazyHeaders(self._opened[index])
        at = range(len(self))[index]
        if at not in self._parsed:
            self._parsed[at] = self._opened[at].data_set()
        return self._parsed[at]

    def elements(self, index: int) -> Iterator[tuple[int, bytes]] | None:
        """Tag and bytes of each element of a header; None where it is not Explicit VR Little Endian."""
        one = self._opened[index]
        if one.header.implicit or one.header.big_endian:
            return None
        view = memoryview(one.instance.data)[: one.header.header_length]
        found = spans(view, one.instance.transfer_syntax_uid)
        return ((tag, bytes(view[start:end])) for tag, start, end in found)

    def __iter__(self) -> Iterator[Dataset]:
        return (self[i] for i in range(len(self)))


def read_image(
    instances: Sequence[RawInstance],
    workers: int | None = None,
    wanted: Mapping[StackAttribute, str] = MappingProxyType({}),
) -> Image:
    """Read the instances of one series, in any order.

    Args:
        instances: all of one series; a multi-frame instance may be several.
        workers: threads that decode; default one a core.
        wanted: of several stacks in the series the one to read, by `stacks.choose`.

    Returns:
        A `Volume`, `(z, y, x)` float32 in modality values (HU for CT), or for a projection or secondary
        capture a `ProjectionImage`.

    Raises:
        GeometryError: positions, orientations or sizes contradict each other or cannot be handled.
        ReadError: no pixels, unknown encoding, several patients, an SOP class that is no image.
        NotApplicable: the series holds no stack as it is wanted.
    """
    if {instance.sop_class_uid for instance in instances} <= PROJECTION and instances:
        return _read_projection(instances)
    slices = _slices(instances)
    part, notes = choose(split(slices.planes), wanted)
    return _read_stack(slices, part.stack, notes, workers)


def read_stacks(instances: Sequence[RawInstance], workers: int | None = None) -> list[Volume]:
    """Every stack of a series as a volume of its own; arguments and errors as of `read_image`."""
    slices = _slices(instances)
    return [
        _read_stack(slices, part.stack, (part.named,) if part.apart else (), workers)
        for part in split(slices.planes)
    ]


def read_referenced(
    instances: Sequence[RawInstance],
    referenced: Collection[tuple[str, int | None]],
    workers: int | None = None,
) -> Volume:
    """The stack of a series that a result was made from.

    Args:
        referenced: SOP instance and frame number (None for a single-frame one) of what the result refers to.

    Raises:
        ReadError: as of `read_image`; or nothing of the series is referred to.
    """
    slices = _slices(instances)
    parts = split(slices.planes)

    def held(part: Part) -> int:
        sources = (slices.planes[i].source for i in part.stack.order)
        return sum((one.sop_instance_uid, one.frame_number) in referenced for one in sources)

    part = max(parts, key=held)
    if not held(part):
        raise ReadError("the result was made from none of these images")
    return _read_stack(slices, part.stack, (), workers)


@dataclass(frozen=True, slots=True)
class _Slices:
    """The slices of a series in the order in which they came, nothing decoded.

    Attributes:
        opened, headers: one for each instance, which is a slice, or of several frames.
        frames: where the pixels of each slice are: an instance's frames, and which of them.
        padding: first and last stored value of padding, of each slice.
    """

    planes: list[Plane]
    rescale: list[tuple[float, float]]
    frames: list[tuple[pixels.Frames, int]]
    padding: list[tuple[int, int] | None]
    opened: list[_Opened]
    headers: LazyHeaders
    multi_frame: bool


def _slices(instances: Sequence[RawInstance]) -> _Slices:
    if not instances:
        raise ReadError("the series has no instances")
    classes = {instance.sop_class_uid for instance in instances}
    if not (classes <= SINGLE_FRAME or classes <= MULTI_FRAME):
        raise ReadError(f"no image that this node reads: SOP class {', '.join(sorted(classes))}")
    opened = [_open(instance) for instance in instances]
    _check_one_series(opened)
    headers = LazyHeaders(opened)
    found = _Slices([], [], [], [], opened, headers, classes <= MULTI_FRAME)
    for number, one in enumerate(opened):
        of = pixels.pixel_format(one.header)
        source = pixels.Frames(one.header, one.instance.transfer_syntax_uid, of)
        if found.multi_frame:
            planes, scales = frame_planes(headers[number])
        else:
            planes, scales = [_plane(one)], [_rescale(one.header)]
        found.planes.extend(planes)
        found.rescale.extend(scales)
        found.frames.extend((source, index) for index in range(len(planes)))
        found.padding.extend([pixels.padding_of(one.header, of)] * len(planes))
    return found


def _read_stack(slices: _Slices, stack: Stack, notes: Sequence[str], workers: int | None) -> Volume:
    """Decode the slices of one stack."""
    first = slices.planes[stack.order[0]]
    rescale: Float64 = np.array([slices.rescale[i] for i in stack.order], dtype=np.float64)
    shape = (len(stack.order), first.rows, first.columns)
    padded = any(slices.padding[i] is not None for i in stack.order)
    padding: Mask | None = np.zeros(shape, dtype=np.bool_) if padded else None
    air = AIR.get(slices.opened[0].header.text(MODALITY), 0.0)

    def into(z: int, out: Float32) -> None:
        source, index = slices.frames[stack.order[z]]
        values = slices.padding[stack.order[z]]
        blank = None
        if values is not None and padding is not None:
            blank = pixels.Blank(values, air, padding[z])
        source.modality_values(index, rescale[z, 0], rescale[z, 1], out, blank)

    array = _decode(shape, into, workers)
    planes = [slices.planes[i] for i in stack.order]
    headers = slices.headers
    if not slices.multi_frame:
        headers = LazyHeaders([slices.opened[i] for i in stack.order])
    return Volume(
        array,
        stack.affine,
        tuple(plane.source for plane in planes),
        headers,
        rescale,
        (*notes, *stack.notes),
        np.array([plane.position for plane in planes], dtype=np.float64),
        stack.even,
        padding if padding is not None and padding.any() else None,
    )


def _open(instance: RawInstance) -> _Opened:
    return _Opened(instance, walk(instance.data, instance.transfer_syntax_uid, WANTED))


def _check_one_series(opened: Sequence[_Opened]) -> None:
    for tag, error, what in (
        (PATIENT_ID, ReadError, "Patient ID"),
        (STUDY_UID, ReadError, "Study Instance UID"),
        (SERIES_UID, ReadError, "Series Instance UID"),
        (FRAME_OF_REFERENCE, GeometryError, "Frame of Reference UID"),
    ):
        found = {one.header.text(tag) for one in opened}
        if len(found) > 1:
            raise error(f"the instances have {len(found)} different values of {what}")
    if not opened[0].header.text(FRAME_OF_REFERENCE):
        raise GeometryError("the series has no Frame of Reference UID")
    seen = {one.instance.sop_instance_uid for one in opened}
    if len(seen) != len(opened):
        raise ReadError("an instance was given twice")


def _plane(one: _Opened) -> Plane:
    header = one.header
    return Plane(
        source=SourceFrame(one.instance.sop_class_uid, one.instance.sop_instance_uid),
        position=header.decimals(POSITION),
        orientation=header.decimals(ORIENTATION),
        spacing=header.decimals(PIXEL_SPACING),
        rows=header.unsigned(pixels.ROWS) or 0,
        columns=header.unsigned(pixels.COLUMNS) or 0,
        thickness=_thickness(header),
        stack=tuple(
            (name, _told(header, tag))
            for tag, name in TELLS_STACKS_APART.items()
            if tag in header.values
        ),
    )


def _told(header: RawHeader, tag: int) -> str:
    """The value of an attribute that may tell stacks apart."""
    if tag not in BINARY:
        return header.text(tag)
    raw, order = header.values[tag], ">" if header.big_endian else "<"
    numbers = struct.unpack(f"{order}{len(raw) // 8}d", raw[: len(raw) // 8 * 8])
    return "\\".join(f"{number:g}" for number in numbers)


def _thickness(header: RawHeader) -> float | None:
    """Needed for a lone slice only, so that nonsense in it is no reason to refuse a series."""
    for tag in (BETWEEN_SLICES, THICKNESS):
        try:
            if found := header.decimals(tag):
                return abs(found[0])
        except ReadError:
            continue
    return None


def _rescale(header: RawHeader) -> tuple[float, float]:
    if MODALITY_LUT in header.values:
        raise ReadError("a slice has a Modality LUT, which is not handled for volumes")
    slope, intercept = header.decimals(SLOPE), header.decimals(INTERCEPT)
    return slope[0] if slope else 1.0, intercept[0] if intercept else 0.0


def _decode(
    shape: tuple[int, int, int],
    into: Callable[[int, Float32], None],
    workers: int | None,
) -> Float32:
    array = np.empty(shape, dtype=np.float32)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for _ in pool.map(lambda z: into(z, array[z]), range(shape[0])):
            pass
    return array


def _read_projection(instances: Sequence[RawInstance]) -> ProjectionImage:
    if len(instances) != 1:
        raise ReadError(f"{len(instances)} projection images in one series; one is handled")
    one = _open(instances[0])
    of = pixels.pixel_format(one.header)
    if of.frames != 1:
        raise ReadError(f"the image has {of.frames} frames; one is handled")
    header, array = one.data_set(), np.empty((of.rows, of.columns), dtype=np.float32)
    frames = pixels.Frames(one.header, one.instance.transfer_syntax_uid, of)
    padding: Mask = np.zeros(array.shape, dtype=np.bool_)
    values = pixels.padding_of(one.header, of)
    blank = None if values is None else pixels.Blank(values, 0.0, padding)
    notes: tuple[str, ...] = ()
    if MODALITY_LUT in one.header.values:
        frames.modality_values(0, 1.0, 0.0, array, blank)
        array = apply_modality_lut(array.astype(np.int64), header).astype(np.float32)
        seen = array[~padding] if not padding.all() else array
        ends = float(seen.min()) + float(seen.max())
    else:
        slope, intercept = _rescale(one.header)
        frames.modality_values(0, slope, intercept, array, blank)
        ends = (-1 if of.signed else 2**of.bits_stored - 1) * slope + 2 * intercept
    if of.photometric == "MONOCHROME1":
        array = np.float32(ends) - array
        notes = ("MONOCHROME1: inverted, so that bright is dense",)
    if padding.any() and not padding.all():
        array[padding] = array[~padding].min()
    source = SourceFrame(one.instance.sop_class_uid, one.instance.sop_instance_uid)
    return ProjectionImage(array, header, source, notes)
