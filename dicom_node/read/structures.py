"""RT Structure Sets (PS3.3 A.19): contours in the patient in, masks on a volume out.

What comes in: a structure set, of whoever wrote it, and the volume that it was drawn on. What goes out: a
mask for each region. It owns the invariant that a contour is filled on the slice that it lies on, and that
what lies on none is counted and not moved to one.
"""

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from skimage.draw import polygon

from dicom_node.errors import ReadError
from dicom_node.records import Float64, Mask, Region, Volume

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_SLICE = 0.5
"""Largest distance of a contour from its slice, in slice spacings."""
MOST_POINTS = 10_000_000


def referenced_images(structures: Dataset) -> set[str]:
    """SOP Instance UIDs of the images that a structure set says it was drawn on."""
    found = set()
    for space in structures.get("ReferencedFrameOfReferenceSequence") or []:
        for study in space.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                for image in series.get("ContourImageSequence") or []:
                    found.add(str(image.ReferencedSOPInstanceUID))
    for item in structures.get("ROIContourSequence") or []:
        for contour in item.get("ContourSequence") or []:
            for image in contour.get("ContourImageSequence") or []:
                found.add(str(image.ReferencedSOPInstanceUID))
    return found


def regions(structures: Dataset, volume: Volume) -> list[Region]:
    """The regions of a structure set on the volume's grid, in the order of their numbers.

    Raises:
        ReadError: it is no structure set, lies in another frame of reference without naming these images,
            or holds contours that cannot be read.
    """
    if "StructureSetROISequence" not in structures:
        raise ReadError("no structure set")
    # some programs give a frame of reference of their own to what they draw on given images
    named = {frame.sop_instance_uid for frame in volume.frames} & referenced_images(structures)
    names = {int(one.ROINumber): one for one in structures.StructureSetROISequence}
    space = str(volume.headers[0].get("FrameOfReferenceUID", ""))
    found = []
    for item in structures.get("ROIContourSequence") or []:
        number = int(item.ReferencedROINumber)
        roi = names.get(number, Dataset())
        theirs = str(roi.get("ReferencedFrameOfReferenceUID", ""))
        if theirs and theirs != space and not named:
            raise ReadError("the structure set lies in another frame of reference than the images")
        mask, left_out = _filled(item, volume)
        color = item.get("ROIDisplayColor")
        rgb = (int(color[0]), int(color[1]), int(color[2])) if color and len(color) == 3 else None
        name = str(roi.get("ROIName") or f"Region {number}")
        found.append(Region(number, name, rgb, mask, left_out))
    return sorted(found, key=lambda one: one.number)


def _filled(item: Dataset, volume: Volume) -> tuple[Mask, int]:
    """The region's mask, and how many of its contours are not in it."""
    mask: Mask = np.zeros(volume.array.shape, dtype=np.bool_)
    left_out = 0
    for kind, points in _contours(item):
        at = _slice_of(points, volume)
        if kind not in CLOSED or len(points) < 3 or at is None:
            left_out += 1
            continue
        z, rows, columns = at
        inside = polygon(rows, columns, shape=mask.shape[1:])
        mask[z][inside] ^= True
    return mask, left_out


def _contours(item: Dataset) -> Iterator[tuple[str, Float64]]:
    """Type and points `(n, 3)`, LPS mm, of each contour."""
    for contour in item.get("ContourSequence") or []:
        try:
            points = np.array(contour.get("ContourData") or [], dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ReadError("a contour holds something that is no number") from error
        if len(points) % 3 or len(points) > MOST_POINTS or not np.isfinite(points).all():
            raise ReadError("a contour does not hold points of three finite numbers")
        yield str(contour.get("ContourGeometricType", "")), points.reshape(-1, 3)


def _slice_of(points: Float64, volume: Volume) -> tuple[int, Float64, Float64] | None:
    """The slice that all points lie on, and their rows and columns; None where there is none."""
    if not len(points):
        return None
    origins = volume.positions
    if origins is None:
        steps = np.arange(volume.array.shape[0])[:, None]
        origins = volume.affine[:3, 3] + steps * volume.affine[:3, 0]
    back = np.linalg.inv(volume.affine[:3, :3])
    from_first = (points - origins[0]) @ back.T
    heights = (origins - origins[0]) @ back.T[:, 0]
    z = int(np.abs(heights - from_first[:, 0].mean()).argmin())
    off = (points - origins[z]) @ back.T
    if np.abs(off[:, 0]).max() > OFF_SLICE:
        return None
    return z, off[:, 1], off[:, 2]
