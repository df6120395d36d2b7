"""Results as people see them: a SEG over its source as a picture, a report as a table.

What comes in: a result and, for pictures, its source. What goes out: PNG files and rows of text. It reads
results, of this node and of others; it makes no DICOM.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import PIL.Image
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from dicom_node.compose.color import rgb_of
from dicom_node.compose.picture import Outlined, Rgb, panel, sheet, windowed
from dicom_node.compose.source import numbers
from dicom_node.errors import ReadError
from dicom_node.records import ProjectionImage, Region, Volume

FEWEST_SLICES_ACROSS = 8
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.12)."""
_FALLBACK_COLORS: tuple[Rgb, ...] = (
    (230, 80, 70),
    (70, 140, 240),
    (90, 200, 110),
    (240, 200, 60),
    (180, 110, 230),
    (80, 210, 220),
)


@dataclass(frozen=True, slots=True)
class ShownSegment:
    """A segment of a SEG as it is drawn."""

    number: int
    label: str
    color: Rgb


def segments_of(seg: Dataset) -> list[ShownSegment]:
    """Number, label and display colour of each segment."""
    found = []
    for item in seg.SegmentSequence:
        lab = item.get("RecommendedDisplayCIELabValue")
        number = int(item.SegmentNumber)
        fallback = _FALLBACK_COLORS[(number - 1) % len(_FALLBACK_COLORS)]
        color = rgb_of([int(value) for value in lab]) if lab else fallback
        found.append(ShownSegment(number, str(item.SegmentLabel), color))
    return found


def referenced_frames(seg: Dataset) -> set[tuple[str, int | None]]:
    """SOP instance and frame number of the images that the frames of a SEG were made from."""
    shared = seg.get("SharedFunctionalGroupsSequence") or []
    found: set[tuple[str, int | None]] = set()
    for group in (*shared, *(seg.get("PerFrameFunctionalGroupsSequence") or [])):
        for derivation in group.get("DerivationImageSequence") or []:
            for one in derivation.get("SourceImageSequence") or []:
                numbers_of = one.get("ReferencedFrameNumber")
                many = numbers_of if isinstance(numbers_of, list | MultiValue) else [numbers_of]
                found |= {
                    (str(one.ReferencedSOPInstanceUID), None if n is None else int(n)) for n in many
                }
    return found or {(uid, None) for uid in referenced_instances(seg)}


def referenced_instances(seg: Dataset) -> set[str]:
    """SOP instances of the series that a SEG lies on, also of slices that no segment touches."""
    return {
        str(one.ReferencedSOPInstanceUID)
        for series in seg.get("ReferencedSeriesSequence") or []
        for one in series.get("ReferencedInstanceSequence") or []
    }


def label_map(seg: Dataset, volume: Volume) -> npt.NDArray[np.uint16]:
    """A SEG's segments on the grid of its source, `(z, y, x)`; where they overlap, the higher number.

    Of a FRACTIONAL one a segment is where it has half of the highest value or more.

    Raises:
        ReadError: its pixels cannot be decoded, or it lies on another grid or another series.
    """
    shape = volume.array.shape
    if (int(seg.Rows), int(seg.Columns)) != shape[1:]:
        raise ReadError(
            f"the segmentation has {seg.Columns} x {seg.Rows} pixels, its source has not"
        )
    made = np.zeros(shape, dtype=np.uint16)
    where = {(one.sop_instance_uid, one.frame_number): z for z, one in enumerate(volume.frames)}
    for frame, values, number in _frames(seg):
        z = _slice_of(frame, where, volume)
        np.maximum(made[z], values.astype(np.uint16) * number, out=made[z])
    return made


def _frames(seg: Dataset) -> Iterator[tuple[Dataset, npt.NDArray[Any], int]]:
    """Functional groups, pixel values and the number that a value of 1 stands for, frame by frame."""
    frames = _stored(seg)
    if seg.SegmentationType == "FRACTIONAL":
        frames = frames >= int(seg.get("MaximumFractionalValue") or 1) / 2
    elif seg.SegmentationType == "LABELMAP" and (nothing := seg.get("PixelPaddingValue")):
        frames = np.where(frames == nothing, 0, frames)
    shared = seg.get("SharedFunctionalGroupsSequence") or [Dataset()]
    groups = seg.PerFrameFunctionalGroupsSequence
    if len(groups) != len(frames):
        raise ReadError(
            f"the segmentation has {len(frames)} frames and says where {len(groups)} lie"
        )
    for group, values in zip(groups, frames, strict=True):
        if seg.SegmentationType == "LABELMAP":
            yield group, values, 1
            continue
        name = "SegmentIdentificationSequence"
        item = (group.get(name) or shared[0].get(name))[0]
        yield group, values, int(item.ReferencedSegmentNumber)


def _stored(seg: Dataset) -> npt.NDArray[Any]:
    """The frames of a SEG as they are stored, `(frames, y, x)`."""
    shape = int(seg.get("NumberOfFrames") or 1), int(seg.Rows), int(seg.Columns)
    syntax = getattr(getattr(seg, "file_meta", None), "TransferSyntaxUID", None)
    plain = syntax in (None, ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    try:
        if plain and seg.SegmentationType == "BINARY":
            # many times faster than a decoder that makes an array of each frame first
            raw = np.frombuffer(seg.PixelData, dtype=np.uint8)
            return np.unpackbits(raw, bitorder="little")[: int(np.prod(shape))].reshape(shape)
        if syntax in (RLELossless, DEFLATED_FRAMES) and seg.SegmentationType == "BINARY":
            return _unpacked(seg, shape)
        found: npt.NDArray[Any] = seg.pixel_array.reshape(shape)
    except Exception as error:  # each decoder raises errors of its own kind
        raise ReadError(f"the segmentation cannot be decoded ({type(error).__name__})") from error
    return found


def _unpacked(seg: Dataset, shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Compressed frames of one bit a pixel, which the usual decoders do not know."""
    count, rows, columns = shape
    size = (rows * columns + 7) // 8
    frames = np.empty(shape, dtype=np.uint8)
    for frame, data in zip(
        frames, generate_frames(seg.PixelData, number_of_frames=count), strict=True
    ):
        if seg.file_meta.TransferSyntaxUID == RLELossless:
            packed = bytes(imagecodecs.dicomrle_decode(data, dtype=np.uint8))
        else:
            packed = zlib.decompressobj(-15).decompress(data, size)
        bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8), bitorder="little")
        frame[:] = bits[: rows * columns].reshape(rows, columns)
    return frames


def _slice_of(frame: Dataset, where: dict[tuple[str, int | None], int], volume: Volume) -> int:
    """The slice a frame lies on: by its source image, else by its position."""
    for derivation in frame.get("DerivationImageSequence") or []:
        for source in derivation.get("SourceImageSequence") or []:
            number = source.get("ReferencedFrameNumber")
            key = (str(source.ReferencedSOPInstanceUID), None if number is None else int(number))
            if key in where:
                return where[key]
    position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
    origins = volume.positions
    if origins is None:
        steps = np.arange(volume.array.shape[0])[:, None]
        origins = volume.affine[:3, 3] + steps * volume.affine[:3, 0]
    z = int(np.linalg.norm(origins - position, axis=1).argmin())
    off = np.linalg.inv(volume.affine[:3, :3]) @ (position - origins[z])
    if np.abs(off).max() > 0.5:
        raise ReadError("a frame of the segmentation does not lie on a slice of this series")
    return z


def window_of(volume: Volume) -> tuple[float, float]:
    """The window that the source proposes; else soft tissue for CT, else what most voxels span."""
    header = volume.headers[0]
    centre, width = numbers(header, "WindowCenter"), numbers(header, "WindowWidth")
    if centre and width and width[0] > 1:
        return centre[0], width[0]
    if header.get("Modality") == "CT":
        return 40.0, 400.0
    low, high = (float(v) for v in np.percentile(volume.array[:, ::4, ::4], (1, 99.5)))
    return (low + high) / 2, max(high - low, 1.0)


def window_of_image(image: ProjectionImage) -> tuple[float, float]:
    """What most pixels of a projection image span."""
    low, high = (float(v) for v in np.percentile(image.array[::4, ::4], (0.5, 99.5)))
    return (low + high) / 2, max(high - low, 1.0)


def overlay_png(
    volume: Volume, seg: Dataset, path: Path, *, title: str = "", height: int = 512
) -> None:
    """Draw a SEG over its source: the slice that shows most of it, and the two planes across.

    Args:
        volume: the source series.
        seg: the SEG, with its pixel data.
        path: the PNG file to write.
        title: default the SEG's series description.

    Raises:
        ReadError: the SEG does not lie on this series.
    """
    said = title or str(seg.get("SeriesDescription", "Segmentation"))
    mark = "Not for clinical use" if _is_marked(seg) else None
    _draw(volume, label_map(seg, volume), segments_of(seg), path, said, mark, height)


def regions_png(
    volume: Volume, found: Sequence[Region], path: Path, *, title: str, height: int = 512
) -> None:
    """Draw the regions of an RT Structure Set over its source, as `overlay_png` does."""
    numbers = np.zeros(volume.array.shape, dtype=np.uint16)
    shown = []
    for number, one in enumerate(found, start=1):
        numbers[one.mask] = number
        fallback = _FALLBACK_COLORS[(number - 1) % len(_FALLBACK_COLORS)]
        shown.append(ShownSegment(number, one.name, one.color_rgb or fallback))
    _draw(volume, numbers, shown, path, title, None, height)


def _draw(
    volume: Volume,
    numbers: npt.NDArray[np.uint16],
    shown: Sequence[ShownSegment],
    path: Path,
    title: str,
    mark: str | None,
    height: int,
) -> None:
    middle = _middle(numbers)
    centre, width = window_of(volume)
    spacing = volume.spacing
    panels = []
    # of a few thick slices the planes across would be a band of metres
    for axis in (0, 1, 2) if len(numbers) >= FEWEST_SLICES_ACROSS else (0,):
        plane: npt.NDArray[Any] = np.moveaxis(volume.array, axis, 0)[middle[axis]]
        cut: npt.NDArray[Any] = np.moveaxis(numbers, axis, 0)[middle[axis]]
        grey = windowed(plane, centre, width)
        pair = [spacing[other] for other in (0, 1, 2) if other != axis]
        if axis != 0 and volume.affine[2, 0] > 0:
            grey, cut = grey[::-1], cut[::-1]  # head up
        outlined = [Outlined(cut == one.number, one.color) for one in shown]
        tall = height if axis == 0 else round(height * 0.8)
        panels.append(panel(grey, outlined, (pair[0], pair[1]), tall))
    mm3 = abs(float(np.linalg.det(volume.affine[:3, :3])))
    counts = np.bincount(numbers.reshape(-1), minlength=len(shown) + 1)
    legend: list[tuple[Rgb | None, str]] = [
        (one.color, f"{one.label}  {counts[one.number] * mm3 / 1000:.1f} ml") for one in shown
    ]
    legend.append((None, f"slice {middle[0] + 1} of {len(volume.frames)}"))
    made = sheet(panels, legend, title, mark)
    made.save(path, format="PNG")


def frame_png(image: Dataset, path: Path) -> None:
    """Draw one frame of an image: of a float map the frame with most in it, else the middle one.

    Raises:
        ReadError: it has no pixels that can be decoded.
    """
    try:
        values: npt.NDArray[Any] = image.pixel_array
    except Exception as error:
        raise ReadError(f"its pixels cannot be shown ({type(error).__name__})") from error
    if int(image.get("NumberOfFrames") or 1) > 1:
        is_map = "FloatPixelData" in image
        z = int(values.sum(axis=(1, 2)).argmax()) if is_map else len(values) // 2
        values = values[z]
    if values.ndim == 2:
        low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
        values = windowed(values.astype(np.float32), (low + high) / 2, max(high - low, 1e-6))
    PIL.Image.fromarray(values.astype(np.uint8)).save(path, format="PNG")


def _middle(numbers: npt.NDArray[np.uint16]) -> tuple[int, int, int]:
    """The planes that cut most of what was segmented."""
    inside = numbers > 0
    z = int(inside.sum(axis=(1, 2)).argmax())
    y = int(inside.sum(axis=(0, 2)).argmax())
    x = int(inside.sum(axis=(0, 1)).argmax())
    return z, y, x


def _is_marked(result: Dataset) -> bool:
    said = f"{result.get('ContentDescription', '')} {result.get('SeriesDescription', '')}"
    return "not for clinical use" in said.lower()


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A content item of a report: its depth in the tree, its name and its value as text."""

    depth: int
    name: str
    value: str
    person: bool = False
    """Whether the value is a person's name."""


def report_rows(report: Dataset) -> list[ReportRow]:
    """A structured report as rows of a table, in the order of its content tree."""
    return list(_rows(report, 0))


def _rows(item: Dataset, depth: int) -> Iterator[ReportRow]:
    person = str(item.get("ValueType", "")) == "PNAME"
    yield ReportRow(depth, _meaning(item, "ConceptNameCodeSequence"), _value_of(item), person)
    for child in item.get("ContentSequence") or []:
        yield from _rows(child, depth + 1)


def _meaning(item: Dataset, keyword: str) -> str:
    codes = item.get(keyword)
    return str(codes[0].get("CodeMeaning", "")) if codes else ""


def _value_of(item: Dataset) -> str:
    kind = str(item.get("ValueType", ""))
    if kind == "CODE":
        return _meaning(item, "ConceptCodeSequence")
    if kind == "NUM":
        measured = item.get("MeasuredValueSequence")
        if not measured:
            return "no value"
        unit = measured[0].get("MeasurementUnitsCodeSequence")
        shown = str(unit[0].get("CodeValue", "")) if unit else ""
        how = [
            _meaning(child, "ConceptCodeSequence")
            for child in item.get("ContentSequence") or []
            if _meaning(child, "ConceptNameCodeSequence") == "Derivation"
        ]
        said = f"{measured[0].NumericValue} {shown}".rstrip()
        return f"{said} ({', '.join(how)})" if how else said
    if kind in ("IMAGE", "COMPOSITE"):
        return str(item.ReferencedSOPSequence[0].get("ReferencedSOPInstanceUID", ""))
    if kind == "SCOORD":
        return f"{item.get('GraphicType', '')}, {len(item.get('GraphicData') or []) // 2} points"
    keyword = {"TEXT": "TextValue", "UIDREF": "UID", "PNAME": "PersonName"}.get(kind, "")
    return str(item.get(keyword) or item.get(kind.title()) or "") if kind != "CONTAINER" else ""
