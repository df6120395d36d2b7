"""Segmentations of radiographs: on their image and nowhere else, sized only where the image is calibrated."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.compose.context import DicomFile
from dicom_node.compose.registry import compose
from dicom_node.read.volume import read_image
from dicom_node.records import ProjectionImage, Segmentation
from tests.builders import images, models
from tests.unit.test_compose_results import texts

SHAPE = (41, 53)  # frames do not end at a byte


def film(**changes: object) -> ProjectionImage:
    one = images.radiograph(np.arange(41 * 53, dtype=np.uint16).reshape(SHAPE))
    for keyword, value in changes.items():
        setattr(one, keyword, value)
    found = read_image([images.raw(one)])
    assert isinstance(found, ProjectionImage)
    return found


def labels() -> np.ndarray:
    made = np.zeros(SHAPE, np.uint8)
    made[3:20, 5:17] = 1
    made[25:38, 30:50] = 2
    made[30:33, 5:8] = 3
    return made


def composed(image: ProjectionImage, folder: Path, **changes: object) -> list[DicomFile]:
    ctx = models.context(models.model(folder, lesion=True, modality="DX"), **changes)
    return compose(ctx, image, Segmentation(labels()))


def test_the_seg_of_a_film_is_voxel_exact_and_has_no_place(tmp_path: Path) -> None:
    image = film()
    seg, report = composed(image, tmp_path)
    made = seg.dataset()
    for keyword in ("FrameOfReferenceUID", "PositionReferenceIndicator"):
        assert keyword not in made
    assert made.SharedFunctionalGroupsSequence[0].get("PlaneOrientationSequence") is None
    read = hd.seg.Segmentation.from_dataset(made)
    back = read.get_pixels_by_source_instance([image.frame.sop_instance_uid], combine_segments=True)
    np.testing.assert_array_equal(back[0], labels())
    content = hd.sr.Comprehensive3DSR.from_dataset(report.dataset()).content
    assert content.get_volumetric_roi_measurement_groups() == []
    planar = content.get_planar_roi_measurement_groups()
    assert {group.tracking_uid for group in planar} == {
        item.TrackingUID for item in made.SegmentSequence
    }


def sizes(report: Dataset) -> list[dict[str, float]]:
    content = hd.sr.Comprehensive3DSR.from_dataset(report).content
    return [
        {m.name.meaning: m.value for m in group.get_measurements()}
        for group in content.get_planar_roi_measurement_groups()
    ]


def test_sizes_are_those_of_a_calibrated_image(tmp_path: Path) -> None:
    image = film(PixelSpacing=["0.12", "0.12"])  # at the detector 0.15
    report = composed(image, tmp_path)[1].dataset()
    found = sizes(report)
    assert [one["Area"] for one in found] == pytest.approx(
        [n * 0.12**2 for n in (17 * 12, 13 * 20, 9)], abs=1e-4
    )
    assert found[2]["Long axis"] == pytest.approx(3 * np.sqrt(2) * 0.12, abs=1e-3)


@pytest.mark.parametrize("known", [{}, {"PixelSpacing": None, "ImagerPixelSpacing": None}])
def test_millimetres_of_the_detector_are_not_reported(
    known: dict[str, object], tmp_path: Path
) -> None:
    report = composed(film(**known), tmp_path)[1].dataset()
    assert sizes(report) == [{}, {}, {}]
    assert any("Sizes are left out" in line for line in texts(report))
    assert not any(" ml" in line for line in texts(report))


def test_outlines_are_drawn_on_the_film(tmp_path: Path) -> None:
    kinds = frozenset({"seg", "sr", "secondary_capture", "presentation_state", "key_objects"})
    made = composed(film(), tmp_path, kinds=kinds, segmentation="labelmap")
    assert [file.kind for file in made] == ["seg", "secondary_capture", "sr", "key_objects"]
    assert made[0].dataset().SegmentationType == "BINARY"


def test_nothing_found_on_a_film_is_said(tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path, modality="DX"))
    (report,) = compose(ctx, film(), Segmentation(np.zeros(SHAPE, np.uint8)))
    assert "Not found: Left lung, Liver, Nodule." in texts(report.dataset())
