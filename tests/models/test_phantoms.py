"""The phantom is what it says: sides, sizes, materials, and a study that a scanner could have sent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian, JPEGLSLossless

from ai_models.phantoms import Label, Nodule, Phantom, thorax, write_ct_series

SHAPE, SPACING = (84, 96, 112), (4.0, 3.6, 3.6)


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return thorax(SHAPE, SPACING, 5, nodules=2)


def centre_of(phantom: Phantom, label: Label) -> np.ndarray:
    """Centre of mass of a label, LPS in mm."""
    index = np.argwhere(phantom.labels == label).mean(0)[::-1]
    return (phantom.affine @ (*index, 1.0))[:3]


def litres(phantom: Phantom, label: Label) -> float:
    return float((phantom.labels == label).sum() * np.prod(phantom.spacing_mm) / 1e6)


def test_the_left_lung_lies_at_larger_x_and_is_the_smaller_one(chest: Phantom) -> None:
    left, right = centre_of(chest, Label.LEFT_LUNG), centre_of(chest, Label.RIGHT_LUNG)
    assert left[0] > 40
    assert right[0] < -40
    assert 1.0 < litres(chest, Label.LEFT_LUNG) < litres(chest, Label.RIGHT_LUNG) < 4.0


def test_the_right_dome_stands_higher_and_the_heart_lies_left(chest: Phantom) -> None:
    def lowest_z_of_dome(label: Label, x_mm: float) -> float:
        column = round((x_mm - chest.origin_mm[0]) / chest.spacing_mm[2])
        row = round((5.0 - chest.origin_mm[1]) / chest.spacing_mm[1])
        inside = np.flatnonzero(chest.labels[:, row, column] == label)
        return chest.origin_mm[2] + chest.spacing_mm[0] * inside[0]

    assert lowest_z_of_dome(Label.RIGHT_LUNG, -72) > lowest_z_of_dome(Label.LEFT_LUNG, 78) + 4
    at_heart = round((-30 - chest.origin_mm[2]) / chest.spacing_mm[0])
    lung = np.isin(chest.labels[at_heart], (Label.LEFT_LUNG, Label.RIGHT_LUNG))
    middle = SHAPE[2] // 2
    assert lung[: SHAPE[1] // 2, middle:].sum() < 0.8 * lung[: SHAPE[1] // 2, :middle].sum()


def test_materials_have_their_hounsfield_units(chest: Phantom) -> None:
    def median(label: Label) -> float:
        return float(np.median(chest.hu[chest.labels == label]))

    assert -920 < median(Label.LEFT_LUNG) < -740
    assert median(Label.TRACHEA) < -930
    assert median(Label.BONE) > 130
    assert chest.hu.dtype == np.int16
    assert chest.labels.dtype == np.uint8
    assert abs(float(np.median(chest.hu[:, 0, 0])) + 1000) < 60


def test_the_same_seed_makes_the_same_voxels_and_another_does_not() -> None:
    a, b, c = (thorax((8, 40, 40), (8.0, 9.0, 9.0), seed) for seed in (3, 3, 4))
    assert np.array_equal(a.hu, b.hu)
    assert np.array_equal(a.labels, b.labels)
    assert not np.array_equal(a.hu, c.hu)


def test_a_nodule_has_the_diameter_and_the_place_that_were_asked_for() -> None:
    wanted = Nodule((-70.0, 10.0, 40.0), 20.0, 40.0)
    phantom = thorax((40, 200, 200), (1.5, 1.5, 1.5), 2, nodules=[wanted], centre_z_mm=40.0)
    volume = float((phantom.labels == Label.NODULE).sum() * 1.5**3)
    assert volume == pytest.approx(np.pi / 6 * 20**3, rel=0.05)
    assert np.allclose(centre_of(phantom, Label.NODULE), wanted.centre_mm, atol=0.5)
    assert np.allclose(phantom.nodules[0].centre_mm, wanted.centre_mm)


def test_an_abdomen_holds_no_lung() -> None:
    abdomen = thorax((20, 64, 64), (6.0, 6.0, 6.0), 1, centre_z_mm=-290.0)
    assert not np.isin(abdomen.labels, (Label.LEFT_LUNG, Label.RIGHT_LUNG)).any()
    assert (abdomen.hu < -800).any()  # gas in the bowel


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        thorax((0, 8, 8), (1.0, 1.0, 1.0), 0)
    with pytest.raises(ValueError, match="no room"):
        thorax((4, 8, 8), (2.0, 2.0, 2.0), 0, nodules=1, centre_z_mm=-300.0)


def test_written_instances_give_back_voxels_and_geometry(chest: Phantom, tmp_path: Path) -> None:
    paths = write_ct_series(chest, tmp_path, seed=11)
    slices = [pydicom.dcmread(path) for path in paths]
    assert len({s.SOPInstanceUID for s in slices}) == len(slices) == SHAPE[0]
    assert (
        len({(s.SeriesInstanceUID, s.StudyInstanceUID, s.FrameOfReferenceUID) for s in slices}) == 1
    )
    assert [s.InstanceNumber for s in slices] == list(range(SHAPE[0], 0, -1))
    for index in (0, 40, SHAPE[0] - 1):
        s = slices[index]
        assert np.array_equal(s.pixel_array + float(s.RescaleIntercept), chest.hu[index])
        assert np.allclose(s.ImagePositionPatient, (chest.affine @ (0, 0, index, 1))[:3])
        assert list(s.ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    first = slices[0]
    assert (first.Modality, first.BodyPartExamined, first.BitsStored) == ("CT", "CHEST", 12)
    assert list(first.ImageType) == ["ORIGINAL", "PRIMARY", "AXIAL"]
    assert first.file_meta.MediaStorageSOPInstanceUID == first.SOPInstanceUID


@pytest.mark.parametrize("orientation", ["axial", "axial-prone", "coronal", "sagittal"])
def test_each_orientation_puts_every_voxel_where_the_phantom_has_it(
    chest: Phantom, tmp_path: Path, orientation: str
) -> None:
    paths = write_ct_series(chest, tmp_path, orientation=orientation, bits_stored=16)
    s = pydicom.dcmread(paths[7])
    row, column = 20, 30
    along_row, down = np.array(s.ImageOrientationPatient, float).reshape(2, 3)
    here = np.array(s.ImagePositionPatient, float)
    here = here + along_row * column * s.PixelSpacing[1] + down * row * s.PixelSpacing[0]
    x, y, z = np.rint((here - chest.origin_mm) / np.array(chest.spacing_mm[::-1])).astype(int)
    assert s.pixel_array[row, column] + s.RescaleIntercept == chest.hu[z, y, x]


def test_uids_follow_from_the_seed(chest: Phantom, tmp_path: Path) -> None:
    def uids(seed: int, name: str) -> tuple[str, str]:
        path = write_ct_series(chest, tmp_path / name, seed=seed)[0]
        header = pydicom.dcmread(path, stop_before_pixels=True)
        return header.StudyInstanceUID, header.SOPInstanceUID

    assert uids(1, "a") == uids(1, "b") != uids(2, "c")


def test_compressed_syntaxes_and_unknown_orientations_are_refused(
    chest: Phantom, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="uncompressed"):
        write_ct_series(chest, tmp_path, transfer_syntax=JPEGLSLossless)
    with pytest.raises(ValueError, match="orientation"):
        write_ct_series(chest, tmp_path, orientation="upside-down")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is missing")
@pytest.mark.parametrize("orientation", ["axial", "sagittal"])
def test_dciodvfy_finds_no_error(chest: Phantom, tmp_path: Path, orientation: str) -> None:
    path = write_ct_series(
        chest, tmp_path, orientation=orientation, transfer_syntax=ImplicitVRLittleEndian
    )[3]
    said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    assert "Error" not in said.stderr + said.stdout
