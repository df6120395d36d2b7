"""What a destination is sent after it has refused a LABELMAP: the same voxels, as BINARY."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from dicom_node.compose.context import DicomFile
from dicom_node.compose.fallback import binary_twins
from dicom_node.compose.registry import compose
from dicom_node.compose.show import label_map
from dicom_node.errors import ComposeError
from dicom_node.read.volume import read_image
from dicom_node.records import Segmentation, Volume
from tests.builders import images, models

SHAPE = (6, 20, 24)
KINDS = frozenset({"seg", "sr", "presentation_state", "key_objects"})


@pytest.fixture
def source() -> Volume:
    grid = images.affine("oblique", (3.0, 0.8, 0.8))
    found = read_image([images.raw(one) for one in images.series(images.pattern(SHAPE), grid)])
    assert isinstance(found, Volume)
    return found


@pytest.fixture
def refused(source: Volume, tmp_path: Path) -> list[DicomFile]:
    ctx = models.context(models.model(tmp_path), segmentation="labelmap", kinds=KINDS)
    return compose(ctx, source, Segmentation(images.labels(SHAPE)))


def test_twins_are_voxel_exact_and_refer_to_each_other(
    source: Volume, refused: list[DicomFile]
) -> None:
    given = {file.kind: file.dataset() for file in refused}
    twins = binary_twins(list(given.values()))
    assert [file.kind for file in twins] == ["seg", "sr", "key_objects"]
    seg, report, selection = (file.dataset() for file in twins)
    read = hd.seg.Segmentation.from_dataset(seg)
    assert read.segmentation_type == hd.seg.SegmentationTypeValues.BINARY
    back = read.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in source.frames],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(back, images.labels(SHAPE))
    np.testing.assert_array_equal(label_map(seg, source), images.labels(SHAPE))
    assert [one.TrackingUID for one in seg.SegmentSequence] == [
        one.TrackingUID for one in given["seg"].SegmentSequence
    ]
    content = hd.sr.Comprehensive3DSR.from_dataset(report).content
    referred = {
        group.referenced_segment.referenced_sop_instance_uid
        for group in content.get_volumetric_roi_measurement_groups()
    }
    assert referred == {seg.SOPInstanceUID}
    listed = {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in selection.ContentSequence
        if "ReferencedSOPSequence" in item
    }
    kept = str(given["presentation_state"].SOPInstanceUID)
    assert listed == {str(seg.SOPInstanceUID), str(report.SOPInstanceUID), kept}


def test_nothing_of_what_was_refused_is_left_in_twins(refused: list[DicomFile]) -> None:
    twins = binary_twins([file.dataset() for file in refused])
    for twin in twins:
        assert b"1.2.840.10008.5.1.4.1.1.66.7" not in twin.content
        for file in refused:
            if file.kind != "presentation_state":
                assert file.sop_instance_uid.encode() not in twin.content
                assert file.series_uid.encode() not in twin.content
    again = binary_twins([file.dataset() for file in refused])
    assert [file.content for file in again] == [file.content for file in twins]


def test_results_without_a_labelmap_have_no_twins(source: Volume, tmp_path: Path) -> None:
    files = compose(
        models.context(models.model(tmp_path)), source, Segmentation(images.labels(SHAPE))
    )
    with pytest.raises(ComposeError, match="no LABELMAP"):
        binary_twins([file.dataset() for file in files])
