"""Geometry truth: what lies where in the patient, from received bytes to the bits of the SEG."""

from __future__ import annotations

import random
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset

from dicom_node.compose.registry import compose
from dicom_node.errors import GeometryError, ReadError
from dicom_node.read.volume import read_image
from dicom_node.records import RawInstance, Segmentation, Volume
from tests.builders import images, models

SHAPE = (6, 20, 24)


def volume(instances: list[RawInstance]) -> Volume:
    found = read_image(instances)
    assert isinstance(found, Volume)
    return found


def raws(sets: list[Dataset]) -> list[RawInstance]:
    return [images.raw(one) for one in sets]


def world(affine: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """LPS of each voxel of a mask `(z, y, x)`, in a fixed order."""
    index = np.argwhere(mask)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return points[np.lexsort(points.round(3).T)]


def seg_points(seg: hd.seg.Segmentation, number: int) -> np.ndarray:
    """LPS of each voxel of a segment, from each frame's own position: no reader's sorting is trusted."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, bits in zip(
        seg.PerFrameFunctionalGroupsSequence, np.atleast_3d(seg.pixel_array), strict=True
    ):
        if frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for y, x in np.argwhere(bits):
            points.append(origin + cosines[3:] * row_mm * y + cosines[:3] * column_mm * x)
    found = np.array(points)
    return found[np.lexsort(found.round(3).T)]


def segmented(tmp_path: Path, source: Volume, labels: np.ndarray) -> hd.seg.Segmentation:
    files = compose(
        models.context(models.model(tmp_path)), source, Segmentation(np.ascontiguousarray(labels))
    )
    return hd.seg.Segmentation.from_dataset(files[0].dataset())


def labels_like(source: Volume, truth_affine: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The truth's labels on the source's grid, by world position alone."""
    index = np.indices(source.array.shape).reshape(3, -1).T
    points = index @ source.affine[:3, :3].T + source.affine[:3, 3]
    back = np.linalg.inv(truth_affine)
    at = np.rint(points @ back[:3, :3].T + back[:3, 3]).astype(int)
    return truth[tuple(at.T)].reshape(source.array.shape)


GRIDS = {
    **{name: images.affine(name) for name in images.ORIENTATIONS},
    "reversed slices": images.affine("axial") @ np.diag([-1.0, 1, 1, 1]),
    "tilted gantry": images.affine("axial", tilt_mm=0.8),
    "thick": images.affine("axial", spacing=(10.0, 0.5, 0.5)),
    "anisotropic in plane": images.affine("coronal", spacing=(2.0, 0.4, 1.9)),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_label_comes_back_at_its_place_in_the_patient(
    grid: np.ndarray, tmp_path: Path
) -> None:
    stored, truth = images.pattern(SHAPE), images.labels(SHAPE)
    instances = raws(images.series(stored, grid))
    random.Random(3).shuffle(instances)
    source = volume(instances)
    labels = labels_like(source, grid, truth)
    expected = stored.astype(np.float32) - 1024
    np.testing.assert_array_equal(np.sort(source.array[labels == 2]), np.sort(expected[truth == 2]))
    seg = segmented(tmp_path, source, labels)
    for number in (1, 2, 3):
        np.testing.assert_allclose(seg_points(seg, number), world(grid, truth == number), atol=0.01)


@pytest.mark.parametrize("name", images.ORIENTATIONS)
def test_voxel_values_lie_where_the_affine_says(name: str) -> None:
    grid, stored = images.affine(name), images.pattern(SHAPE)
    source = volume(raws(images.series(stored, grid))[::-1])
    np.testing.assert_allclose(source.affine, grid, atol=1e-5)
    np.testing.assert_array_equal(source.array, stored.astype(np.float32) - 1024)
    normal = np.cross(source.affine[:3, 2], source.affine[:3, 1])
    assert normal @ source.affine[:3, 0] > 0


def test_frames_and_headers_follow_the_slices_however_they_are_numbered() -> None:
    sets = images.series(images.pattern(SHAPE), images.affine("sagittal"))
    for one, number in zip(sets, (4, 1, 6, 2, 5, 3), strict=True):
        one.InstanceNumber = number
    instances = raws(sets)
    random.Random(1).shuffle(instances)
    source = volume(instances)
    uids = [str(one.SOPInstanceUID) for one in sets]
    assert [frame.sop_instance_uid for frame in source.frames] == uids
    assert [str(header.SOPInstanceUID) for header in source.headers] == uids
    assert "PixelData" not in source.headers[0]


def test_enhanced_multi_frame_is_sorted_and_rescaled_frame_by_frame(tmp_path: Path) -> None:
    grid, stored, truth = images.affine("oblique"), images.pattern(SHAPE), images.labels(SHAPE)
    order = [3, 0, 5, 1, 4, 2]
    slopes = [1.0, 2.0, 0.5, 1.5, 3.0, 1.0]
    enhanced = images.enhanced_ct(stored, grid, order=order, slopes=slopes)
    source = volume([images.raw(enhanced)])
    np.testing.assert_allclose(source.affine, grid, atol=1e-5)
    for index, z in enumerate(order):
        np.testing.assert_allclose(source.array[z], stored[z] * slopes[index] - 1024.0)
        assert source.frames[z].frame_number == index + 1
    seg = segmented(tmp_path, source, truth)
    np.testing.assert_allclose(seg_points(seg, 2), world(grid, truth == 2), atol=0.01)
    first = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert first.SourceImageSequence[0].ReferencedFrameNumber == order.index(1) + 1


def test_each_slice_has_its_own_rescale() -> None:
    stored, grid = images.pattern(SHAPE), images.affine()
    sets = images.series(stored, grid, modality="PT", intercept=0.0)
    for z, one in enumerate(sets):
        one.RescaleSlope = str(0.5 + z)
    source = volume(raws(sets))
    for z in range(len(stored)):
        np.testing.assert_allclose(source.array[z], stored[z] * (0.5 + z), rtol=1e-6)
    np.testing.assert_allclose(source.rescale[:, 0], 0.5 + np.arange(len(stored)))


def test_tilt_is_kept_in_the_affine_and_told() -> None:
    grid = images.affine(tilt_mm=0.8)
    source = volume(raws(images.series(images.pattern(SHAPE), grid)))
    np.testing.assert_allclose(source.affine, grid, atol=1e-5)
    assert source.notes == ("the slices are sheared by 14.9 degrees (gantry tilt)",)


def test_rounded_positions_are_no_unevenness() -> None:
    sets = images.series(images.pattern(SHAPE), images.affine(spacing=(1.25, 1, 1)))
    for one in sets:
        one.ImagePositionPatient = [f"{float(v):.1f}" for v in one.ImagePositionPatient]
    assert volume(raws(sets)).spacing[0] == pytest.approx(1.25, abs=0.02)


def _gap(sets: list[Dataset]) -> list[Dataset]:
    for z, one in enumerate(sets[3:], start=7):  # four slices are missing
        x, y, first = (float(v) for v in sets[0].ImagePositionPatient)
        one.ImagePositionPatient = [x, y, first + 3 * z]
    return sets


def _doubled(sets: list[Dataset]) -> list[Dataset]:
    sets[2].ImagePositionPatient, sets[2].AcquisitionNumber = sets[1].ImagePositionPatient, 2
    return sets


def _uneven(sets: list[Dataset]) -> list[Dataset]:
    x, y, z = (float(v) for v in sets[-1].ImagePositionPatient)
    sets[-1].ImagePositionPatient = [x, y, z + 9.7]
    return sets


def _turned(sets: list[Dataset]) -> list[Dataset]:
    sets[2].ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # the others then lack it
    return sets


def _set(keyword: str, value: object) -> object:
    def change(sets: list[Dataset]) -> list[Dataset]:
        setattr(sets[1], keyword, value)
        return sets

    return change


def _without(keyword: str) -> object:
    def change(sets: list[Dataset]) -> list[Dataset]:
        for one in sets:
            delattr(one, keyword)
        return sets

    return change


REFUSED = {
    "gap": (_gap, GeometryError, "4 slices missing"),
    "doubled": (_doubled, GeometryError, "6 slices lie at 5 positions.*acquisition number"),
    "uneven": (_uneven, GeometryError, "unevenly"),
    "turned": (_turned, GeometryError, "different directions"),
    "rows": (_set("Rows", 19), GeometryError, "differ in size"),
    "spacing": (_set("PixelSpacing", [2, 2]), GeometryError, "differ in Pixel Spacing"),
    "no position": (_without("ImagePositionPatient"), GeometryError, "Image Position"),
    "no spacing": (_without("PixelSpacing"), GeometryError, "Pixel Spacing"),
    "no frame of reference": (
        _without("FrameOfReferenceUID"),
        GeometryError,
        "no Frame of Reference UID",
    ),
    "other frame of reference": (
        _set("FrameOfReferenceUID", "1.2.3"),
        GeometryError,
        "2 different values of Frame of Reference UID",
    ),
    "other patient": (_set("PatientID", "P-2"), ReadError, "2 different values of Patient ID"),
    "other series": (_set("SeriesInstanceUID", "1.2.3"), ReadError, "Series Instance UID"),
    "no pixels": (_without("PixelData"), ReadError, "no pixel data"),
    "short pixels": (_set("PixelData", b"\0" * 100), ReadError, "pixel data is 100 bytes long"),
    "not orthogonal": (
        lambda sets: [_oblique(one) for one in sets],
        GeometryError,
        "perpendicular",
    ),
}


def _oblique(one: Dataset) -> Dataset:
    one.ImageOrientationPatient = [1, 0, 0, 0.5, 0.866, 0]
    return one


@pytest.mark.parametrize(("change", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_contradictions_are_refused_with_the_reason(
    change: object, error: type[Exception], says: str
) -> None:
    assert callable(change)
    sets = change(images.series(images.pattern(SHAPE), images.affine()))
    with pytest.raises(error, match=says):
        read_image(raws(sets))


def test_what_is_no_image_is_refused() -> None:
    sets = images.series(images.pattern(SHAPE), images.affine())
    sets[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    with pytest.raises(ReadError, match="no image that this node reads"):
        read_image(raws(sets))
    with pytest.raises(ReadError, match="no instances"):
        read_image([])


def test_a_lone_slice_is_a_volume_of_one() -> None:
    source = volume(raws(images.series(images.pattern((1, 8, 8)), images.affine())))
    assert source.array.shape == (1, 8, 8)
    assert source.spacing == pytest.approx((3.0, 0.9, 0.7))


@st.composite
def grids(draw: st.DrawFn) -> np.ndarray:
    """Any orthogonal grid: a random rotation, spacing and origin."""
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    length = np.linalg.norm(quaternion)
    w, x, y, z = quaternion / length if length > 0.1 else (1.0, 0.0, 0.0, 0.0)
    row = (1 - 2 * (y * y + z * z), 2 * (x * y + z * w), 2 * (x * z - y * w))
    column = (2 * (x * y - z * w), 1 - 2 * (x * x + z * z), 2 * (y * z + x * w))
    spacing = tuple(draw(st.floats(0.2, 8)) for _ in range(3))
    origin = tuple(draw(st.floats(-800, 800)) for _ in range(3))
    return images.affine((row, column), spacing, origin)


@given(grid=grids(), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_any_grid_survives_reading(grid: np.ndarray, seed: int) -> None:
    stored = images.pattern((4, 5, 7))
    instances = raws(images.series(stored, grid))
    random.Random(seed).shuffle(instances)
    source = volume(instances)
    np.testing.assert_allclose(source.affine, grid, atol=1e-4)
    np.testing.assert_array_equal(source.array, stored.astype(np.float32) - 1024)
