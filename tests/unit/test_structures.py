"""RT Structure Sets: contours whose truth is known, in any direction, with holes, off every slice."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.errors import ReadError
from dicom_node.read.structures import regions
from dicom_node.read.volume import read_image
from dicom_node.records import Volume
from tests.builders import images

SHAPE = (6, 20, 24)


def volume(name: str) -> Volume:
    grid = images.affine(name, (3.0, 0.8, 0.8))
    found = read_image([images.raw(one) for one in images.series(images.pattern(SHAPE), grid)])
    assert isinstance(found, Volume)
    return found


def contour(source: Volume, z: float, corners: list[tuple[float, float]]) -> Dataset:
    """A closed contour through (row, column) on slice z."""
    item = Dataset()
    item.ContourGeometricType, item.NumberOfContourPoints = "CLOSED_PLANAR", len(corners)
    points = [source.affine @ (z, row, column, 1.0) for row, column in corners]
    item.ContourData = [images.decimal(v) for point in points for v in point[:3]]
    return item


def box(top: float, left: float, bottom: float, right: float) -> list[tuple[float, float]]:
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def structures(source: Volume, contours: list[Dataset]) -> Dataset:
    made, roi, item = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 4, "Tumour"
    roi.ReferencedFrameOfReferenceUID = source.headers[0].FrameOfReferenceUID
    item.ReferencedROINumber, item.ROIDisplayColor = 4, [250, 10, 20]
    item.ContourSequence = contours
    made.StructureSetROISequence, made.ROIContourSequence = [roi], [item]
    return made


@pytest.mark.parametrize("name", images.ORIENTATIONS)
def test_a_region_with_a_hole_is_filled_where_it_was_drawn(name: str) -> None:
    source = volume(name)
    given = structures(
        source,
        [
            contour(source, 2, box(2.5, 3.5, 15.5, 18.5)),
            contour(source, 2, box(5.5, 7.5, 9.5, 11.5)),
            contour(source, 4, box(1.5, 1.5, 3.5, 4.5)),
            contour(source, 8, box(1.5, 1.5, 3.5, 4.5)),
        ],
    )
    (region,) = regions(given, source)
    truth = np.zeros(SHAPE, bool)
    truth[2, 3:16, 4:19] = True
    truth[2, 6:10, 8:12] = False
    truth[4, 2:4, 2:5] = True
    np.testing.assert_array_equal(region.mask, truth)
    assert (region.number, region.name, region.color_rgb) == (4, "Tumour", (250, 10, 20))
    assert region.left_out == 1


def test_what_crosses_slices_or_is_open_is_counted_and_not_moved() -> None:
    source = volume("axial")
    slanted = contour(source, 1, box(2, 2, 9, 9))
    slanted.ContourData[2] = images.decimal(float(slanted.ContourData[2]) + 4)
    line = contour(source, 1, box(2, 2, 9, 9))
    line.ContourGeometricType = "OPEN_PLANAR"
    (region,) = regions(structures(source, [slanted, line]), source)
    assert not region.mask.any()
    assert region.left_out == 2


@pytest.mark.parametrize("points", [["1", "2"], ["1", "2", "1e400"]])
def test_contours_that_are_none_are_refused(points: list[str]) -> None:
    source = volume("axial")
    broken = contour(source, 1, box(2, 2, 9, 9))
    broken.ContourData = [float(value) for value in points]
    with pytest.raises(ReadError, match="three finite numbers"):
        regions(structures(source, [broken]), source)
