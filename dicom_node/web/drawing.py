"""Pictures of a result, in a process of its own: reads what strangers sent, under limits.

What comes in: where a result and its source lie. What goes out: PNG bytes and plain values. A file that
breaks a decoder, or fills the memory, breaks this process and no other; the next picture starts a new one.
It opens one result at a time and keeps it, since who looks at one slice looks at the next.
"""

import resource
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.compose.picture import windowed
from dicom_node.compose.show import (
    label_map,
    referenced_frames,
    report_rows,
    segments_of,
    window_of,
)
from dicom_node.errors import ReadError
from dicom_node.read.volume import read_referenced
from dicom_node.records import RawInstance, StoredInstance, Volume
from dicom_node.store.spool import open_data_set

MEMORY_BYTES = 8 * 2**30
MOST_PIXELS = 2**28
PRESETS = (
    ("Lung", -600.0, 1500.0),
    ("Soft tissue", 40.0, 400.0),
    ("Bone", 400.0, 1800.0),
    ("Brain", 40.0, 80.0),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which result: its file, and what it was made from."""

    result_id: int
    kind: str
    path: str
    spool_dir: Path
    inputs: tuple[StoredInstance, ...]


@dataclass(frozen=True, slots=True)
class _Opened:
    result_id: int
    about: dict[str, Any]
    images: npt.NDArray[Any]
    """`(z, y, x)` float32 in modality values, or `(z, y, x, 3)` uint8."""
    labels: npt.NDArray[np.uint8] | None


_kept: _Opened | None = None


def limit() -> None:
    """Run once in the new process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def about(wanted: Wanted) -> dict[str, Any]:
    """Slices, pixel spacing, segments and windows of a result.

    Raises:
        ReadError: it cannot be shown; the message says why.
    """
    return _open(wanted).about


def image(wanted: Wanted, z: int, window: tuple[float, float] | None) -> bytes:
    """Slice `z` as PNG, through a window `(centre, width)`; errors as in `about`."""
    opened = _open(wanted)
    values = opened.images[z]
    if values.ndim == 2:
        centre, width = window or opened.about["window"]
        values = windowed(values, centre, width)
    return _png(values)


def labels(wanted: Wanted, z: int) -> bytes:
    """The segments' numbers on slice `z` as an 8-bit PNG, 0 where there is none."""
    found = _open(wanted).labels
    if found is None:
        raise ReadError("this result has no segments")
    return _png(found[z])


def report(wanted: Wanted) -> list[tuple[int, str, str, bool]]:
    """A structured report as rows: depth, name, value, whether it names a person.

    Raises:
        ReadError: it is none, or cannot be read.
    """
    try:
        made = dcmread(wanted.path)
        return [(one.depth, one.name, one.value, one.person) for one in report_rows(made)]
    except (InvalidDicomError, AttributeError, ValueError, RecursionError) as error:
        raise ReadError("this report cannot be read") from error


def _png(values: npt.NDArray[Any]) -> bytes:
    made = BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(made, format="PNG", compress_level=1)
    return made.getvalue()


def _open(wanted: Wanted) -> _Opened:
    global _kept
    if _kept is None or _kept.result_id != wanted.result_id:
        _kept = None  # its memory goes before the next is read
        made = dcmread(wanted.path)
        _kept = _overlay(wanted, made) if wanted.kind == "seg" else _plain(wanted, made)
    return _kept


def _overlay(wanted: Wanted, seg: Dataset) -> _Opened:
    volume = _volume(wanted, referenced_frames(seg))
    numbers = label_map(seg, volume)
    if numbers.max() > 255:
        raise ReadError("more than 255 segments are not shown")
    inside = (numbers > 0).sum(axis=(1, 2))
    mm3 = abs(float(np.linalg.det(volume.affine[:3, :3])))
    counts = np.bincount(numbers.reshape(-1), minlength=256)
    segments = [
        {
            "number": one.number,
            "label": one.label,
            "color": one.color,
            "ml": round(float(counts[one.number]) * mm3 / 1000, 1),
        }
        for one in segments_of(seg)
    ]
    told = {
        "slices": len(volume.array),
        "first": int(inside.argmax()),
        "spacing": volume.spacing[1:],
        "segments": segments,
        "window": window_of(volume),
        "presets": _presets(str(volume.headers[0].get("Modality", "")), window_of(volume)),
    }
    return _Opened(wanted.result_id, told, volume.array, numbers.astype(np.uint8))


def _volume(wanted: Wanted, referenced: set[tuple[str, int | None]]) -> Volume:
    raw = [
        RawInstance(
            open_data_set(wanted.spool_dir, one.address),
            one.transfer_syntax_uid,
            one.sop_class_uid,
            one.sop_instance_uid,
        )
        for one in wanted.inputs
    ]
    return read_referenced(raw, referenced, workers=1)


def _presets(modality: str, proposed: tuple[float, float]) -> list[dict[str, Any]]:
    known = PRESETS if modality == "CT" else ()
    return [
        {"name": name, "centre": centre, "width": width}
        for name, centre, width in (("As proposed", *proposed), *known)
    ]


def _plain(wanted: Wanted, made: Dataset) -> _Opened:
    """Any other image that was made: as it is, frame by frame."""
    is_map = "FloatPixelData" in made
    if "PixelData" not in made and not is_map:
        raise ReadError("this result is no picture")
    frames = int(made.get("NumberOfFrames") or 1)
    if frames * int(made.Rows) * int(made.Columns) > MOST_PIXELS:
        raise ReadError("this result is larger than what is shown")
    colour = int(made.get("SamplesPerPixel", 1)) == 3
    found = made.pixel_array.reshape(frames, int(made.Rows), int(made.Columns), *([3] * colour))
    window = (0.0, 0.0)
    if not colour:
        slope, intercept = made.get("RescaleSlope", 1), made.get("RescaleIntercept", 0)
        found = found.astype(np.float32) * np.float32(slope) + np.float32(intercept)
        if is_map:  # in percent of its highest value: a window is of whole numbers
            found *= np.float32(100 / max(float(found.max()), 1e-12))
        low, high = (float(value) for value in np.percentile(found, (1, 99.5)))
        window = (50.0, 101.0) if is_map else ((low + high) / 2, max(high - low, 1.0))
    spacing = [float(value) for value in made.get("PixelSpacing") or (1.0, 1.0)]
    told = {
        "slices": frames,
        "first": int(found.sum(axis=(1, 2)).argmax()) if is_map else frames // 2,
        "spacing": tuple(spacing),
        "segments": [],
        "window": window,
        "presets": [] if colour else _presets(str(made.get("Modality", "")), window),
    }
    return _Opened(wanted.result_id, told, found, None)
