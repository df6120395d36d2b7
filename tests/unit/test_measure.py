"""Measurements against SimpleITK, which computes them by other code."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_node.compose.axes import axes
from dicom_node.compose.measure import measure
from dicom_node.compose.surface import surface_mm2
from dicom_node.errors import ComposeError
from tests.builders import images

SHAPE = (6, 20, 24)


def itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """The array in ITK's world, which is LPS as ours."""
    made = sitk.GetImageFromArray(array)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (affine[:3, :3] / lengths)[:, ::-1]
    made.SetSpacing([float(v) for v in lengths[::-1]])
    made.SetDirection([float(v) for v in directions.reshape(-1)])
    made.SetOrigin([float(v) for v in affine[:3, 3]])
    return made


@pytest.mark.parametrize("name", images.ORIENTATIONS)
def test_statistics_agree_with_simpleitk(name: str) -> None:
    grid, labels = images.affine(name), images.labels(SHAPE)
    image = np.random.default_rng(4).normal(-200, 300, SHAPE).astype(np.float32)
    found = measure(labels, image, grid)
    intensity = sitk.LabelIntensityStatisticsImageFilter()
    intensity.Execute(itk(labels, grid), itk(image, grid))
    assert sorted(found) == sorted(intensity.GetLabels())
    for label, one in found.items():
        assert one.voxels == intensity.GetNumberOfPixels(label)
        assert one.volume_mm3 == pytest.approx(intensity.GetPhysicalSize(label), rel=1e-6)
        assert one.mean == pytest.approx(intensity.GetMean(label), rel=1e-5)
        n = one.voxels
        sample_sd = one.sd * np.sqrt(n / (n - 1))  # ITK divides by n - 1
        assert sample_sd == pytest.approx(intensity.GetStandardDeviation(label), rel=1e-5)
        assert one.minimum == pytest.approx(intensity.GetMinimum(label))
        assert one.maximum == pytest.approx(intensity.GetMaximum(label))
        np.testing.assert_allclose(one.centroid, intensity.GetCentroid(label), atol=1e-4)
        values = np.sort(image[labels == label])
        step = float(values[-1] - values[0]) / 8191 + 1e-4
        for share, value in zip((0.05, 0.5, 0.95), one.percentiles, strict=True):
            ranked = values[int(np.ceil(share * n)) - 1]  # by nearest rank
            assert value == pytest.approx(ranked, abs=step)
        x, y, z, wide, high, deep = intensity.GetBoundingBox(label)
        assert one.box == ((z, z + deep - 1), (y, y + high - 1), (x, x + wide - 1))
        assert one.key_slice == int((labels == label).sum(axis=(1, 2)).argmax())


def test_nothing_labelled_is_nothing_measured() -> None:
    assert measure(np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32), np.eye(4)) == {}


def test_grids_must_agree() -> None:
    with pytest.raises(ComposeError, match="labels are"):
        measure(np.zeros(SHAPE, np.uint8), np.zeros((6, 20, 23), np.float32), np.eye(4))


def test_axes_of_a_rectangle_are_its_diagonal_and_what_lies_across() -> None:
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:13] = True  # 4 rows of 2 mm, 3 columns of 2 mm: 8 x 6 mm
    found = axes(mask, (2.0, 2.0))
    assert found.long_mm == pytest.approx(10.0)
    assert found.short_mm == pytest.approx(2 * 8 * 6 / 10)
    assert set(found.long_ends) in ({(10, 5), (13, 9)}, {(13, 5), (10, 9)})


def test_axes_of_an_ellipse_are_its_own_within_a_pixel() -> None:
    y, x = np.indices((80, 80)) - 40.0
    turned = (x * 0.8 + y * 0.6) / 25, (y * 0.8 - x * 0.6) / 12
    found = axes(turned[0] ** 2 + turned[1] ** 2 <= 1, (0.5, 0.5))
    assert found.long_mm == pytest.approx(25.0, abs=0.8)
    assert found.short_mm == pytest.approx(12.0, abs=0.8)


def test_axes_know_that_pixels_are_not_square() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2, 3:7] = True
    found = axes(mask, (3.0, 1.0))
    assert found.long_mm == pytest.approx(5.0)
    assert found.short_mm == pytest.approx(2 * 4 * 3 / 5)


def ball(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """A mask of voxels whose centre lies within the radius, in mm."""
    half = [int(radius / step) + 2 for step in spacing]
    z, y, x = (np.arange(-n, n + 1) * step for n, step in zip(half, spacing, strict=True))
    return z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2 <= radius**2


@pytest.mark.parametrize(
    ("spacing", "too_large"), [((1.0, 1.0, 1.0), 1.08), ((2.0, 0.8, 0.8), 1.14)]
)
@pytest.mark.parametrize("name", ["axial", "oblique"])
def test_the_surface_of_a_ball_is_its_own_and_near_simpleitks(
    name: str, spacing: tuple[float, float, float], too_large: float
) -> None:
    mask = ball(20.0, spacing)
    grid = images.affine(name, spacing)
    found = surface_mm2(mask, grid)
    assert found == pytest.approx(too_large * 4 * np.pi * 20**2, rel=0.02)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.ComputePerimeterOn()
    shape.Execute(itk(mask.astype(np.uint8), grid))
    # SimpleITK counts crossings of lines (Lehmann and Legland 2012), which has no bias for a ball
    assert found == pytest.approx(too_large * shape.GetPerimeter(1), rel=0.02)


def test_the_surface_of_a_block_is_that_of_its_sides_but_for_cut_corners() -> None:
    mask = np.ones((10, 20, 30), bool)  # touches every edge of the image
    sides = 2 * (10 * 2 * 20 * 1 + 10 * 2 * 30 * 1 + 20 * 30)
    assert surface_mm2(mask, images.affine(spacing=(2.0, 1.0, 1.0))) == pytest.approx(
        sides, rel=0.06
    )


def test_a_surface_knows_where_uneven_slices_lie() -> None:
    grid = images.affine(spacing=(1.0, 1.0, 1.0))
    whole = np.zeros((20, 16, 16), bool)
    whole[2:18, 3:13, 4:14] = True
    kept = [*range(8), *range(8, 20, 2)]
    positions = grid[:3, 3] + np.array(kept)[:, None] * grid[:3, 0]
    uneven = surface_mm2(whole[kept], grid, positions)
    assert uneven == pytest.approx(surface_mm2(whole, grid), rel=0.06)


def test_volumes_and_centres_of_uneven_slices_are_of_what_each_stands_for() -> None:
    grid = images.affine("oblique", (1.0, 1.0, 1.0))
    whole = np.zeros((21, 8, 8), np.uint8)
    whole[4:17, 2:6, 2:6] = 1
    image = np.zeros(whole.shape, np.float32)
    truth = measure(whole, image, grid)[1]
    kept = [*range(11), 12, 14, 16, 18, 20]
    positions = grid[:3, 3] + np.array(kept)[:, None] * grid[:3, 0]
    mean = grid.copy()
    mean[:3, 0] *= 20 / 15
    found = measure(whole[kept], image[kept], mean, positions)[1]
    assert found.volume_mm3 == pytest.approx(truth.volume_mm3, rel=0.05)
    np.testing.assert_allclose(found.centroid, truth.centroid, atol=0.3)
