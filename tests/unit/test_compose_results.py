"""What every result says of itself, the report that is always there, and files that are whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.compose.color import cielab, rgb_of
from dicom_node.compose.context import DicomFile
from dicom_node.compose.part10 import write
from dicom_node.compose.registry import compose, compose_report_only
from dicom_node.compose.show import label_map, overlay_png
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError
from dicom_node.read.volume import read_image
from dicom_node.records import Outcome, Segmentation, Volume
from tests.builders import images, models

SHAPE = (6, 20, 24)
SQUARE = images.affine(spacing=(3.0, 0.8, 0.8))


@pytest.fixture
def source() -> Volume:
    found = read_image([images.raw(one) for one in images.series(images.pattern(SHAPE), SQUARE)])
    assert isinstance(found, Volume)
    return found


@pytest.fixture
def files(source: Volume, tmp_path: Path) -> list[DicomFile]:
    return compose(
        models.context(models.model(tmp_path)), source, Segmentation(images.labels(SHAPE))
    )


def texts(report: Dataset) -> list[str]:
    """Every TEXT of a report."""
    found = [str(report.TextValue)] if report.get("ValueType") == "TEXT" else []
    for child in report.get("ContentSequence", []):
        found += texts(child)
    return found


def code_values(report: Dataset) -> list[str]:
    """Every coded value of a report."""
    found = (
        [str(report.ConceptCodeSequence[0].CodeValue)] if "ConceptCodeSequence" in report else []
    )
    for child in report.get("ContentSequence", []):
        found += code_values(child)
    return found


def test_results_stand_on_the_patient_and_study_of_their_source(
    source: Volume, files: list[DicomFile]
) -> None:
    header = source.headers[0]
    for file in files:
        made = file.dataset()
        for keyword in (
            "PatientID",
            "StudyInstanceUID",
            "AccessionNumber",
            "StudyDate",
            "PatientSex",
        ):
            assert made[keyword].value == header[keyword].value
        assert str(made.PatientName) == "Müller^Ångström"
        assert made.SpecificCharacterSet == "ISO_IR 192"
        assert made.SeriesInstanceUID != header.SeriesInstanceUID
        assert made.SeriesDescription.startswith("AI ")
        assert made.SeriesNumber >= 9100
        assert made.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert made.SOPInstanceUID == file.sop_instance_uid
    seg = files[0].dataset()
    assert seg.FrameOfReferenceUID == header.FrameOfReferenceUID
    assert seg.BodyPartExamined == "CHEST"
    assert seg.ContentCreatorName == "ai-node^test_segmentation"


def test_results_say_who_made_them(files: list[DicomFile], tmp_path: Path) -> None:
    model = models.model(tmp_path)
    for file in files:
        made = file.dataset()
        assert made.Manufacturer == "dicom-node"
        assert made.ManufacturerModelName == "test_segmentation"
        assert list(made.SoftwareVersions) == [
            "dicom-node 0.1.0",
            model.digest,
            "test_segmentation 1.2.3",
        ]
        scanner, node = made.ContributingEquipmentSequence
        assert (scanner.Manufacturer, node.Manufacturer) == ("Builder", "dicom-node")
        assert node.ContributionDescription.startswith("Not for clinical use.")


def test_the_mark_follows_its_switch(source: Volume, tmp_path: Path) -> None:
    model, labels = models.model(tmp_path), images.labels(SHAPE)
    for on in (True, False):
        ctx = models.context(model, not_for_clinical_use=on)
        for file in compose(ctx, source, Segmentation(labels)):
            assert (b"not for clinical use" in file.content.lower()) is on


def test_a_re_run_makes_the_same_bytes_and_another_job_other_uids(
    source: Volume, files: list[DicomFile], tmp_path: Path
) -> None:
    model, labels = models.model(tmp_path), Segmentation(images.labels(SHAPE))
    again = compose(models.context(model), source, labels)
    assert [file.content for file in again] == [file.content for file in files]
    other = compose(models.context(model, job_key="job-2"), source, labels)
    assert not {f.sop_instance_uid for f in other} & {f.sop_instance_uid for f in files}
    uid = derived_uid("job-1", "seg", "instance", 1)
    assert uid.is_valid
    assert uid.startswith("2.25.")


def test_seg_is_voxel_exact_and_described(source: Volume, files: list[DicomFile]) -> None:
    seg = hd.seg.Segmentation.from_dataset(files[0].dataset())
    truth = images.labels(SHAPE)
    back = seg.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in source.frames],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(back, truth)
    described = seg.get_segment_description(1)
    assert described.segment_label == "Left lung"
    assert described.segmented_property_type.value == "39607008"
    assert described.algorithm_type == hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    # slices without a segment have no frame of it
    assert seg.NumberOfFrames == sum(int((truth == n).any(axis=(1, 2)).sum()) for n in (1, 2, 3))


def test_frames_of_any_size_are_packed_without_padding(tmp_path: Path) -> None:
    shape = (4, 7, 9)  # 63 pixels: frames do not end at a byte
    sets = images.series(images.pattern(shape), images.affine())
    source = read_image([images.raw(one) for one in sets])
    truth = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8)
    made = compose(models.context(models.model(tmp_path)), source, Segmentation(truth))[0]
    seg = hd.seg.Segmentation.from_dataset(made.dataset())
    uids = [str(one.SOPInstanceUID) for one in sets]
    back = seg.get_pixels_by_source_instance(uids, combine_segments=True)
    np.testing.assert_array_equal(back, truth)


def test_seg_and_report_share_tracking_uids(files: list[DicomFile]) -> None:
    seg, report = (file.dataset() for file in files)
    in_seg = {item.TrackingUID for item in seg.SegmentSequence}
    measured = hd.sr.Comprehensive3DSR.from_dataset(report).content
    volumetric = measured.get_volumetric_roi_measurement_groups()
    planar = measured.get_planar_roi_measurement_groups()
    assert {group.tracking_uid for group in volumetric} == in_seg
    assert {group.tracking_uid for group in planar} == in_seg
    referenced = {
        group.referenced_segment.referenced_segment_numbers[0]
        for group in volumetric
        if hasattr(group.referenced_segment, "referenced_segment_numbers")
    }
    assert referenced <= {1, 2, 3}


def test_report_holds_volume_and_hounsfield_values(source: Volume, files: list[DicomFile]) -> None:
    content = hd.sr.Comprehensive3DSR.from_dataset(files[1].dataset()).content
    truth = images.labels(SHAPE)
    for number, group in enumerate(content.get_volumetric_roi_measurement_groups(), start=1):
        values = source.array[truth == number]
        found = [
            (m.name.meaning, m.derivation.meaning if m.derivation else "", m.value, m.unit.value)
            for m in group.get_measurements()
        ]
        volume = values.size * 3.0 * 0.8 * 0.8 / 1000
        expected = [
            ("Volume", "", volume, "ml"),
            ("Attenuation Coefficient", "Mean", values.mean(), "[hnsf'U]"),
            ("Attenuation Coefficient", "Standard Deviation", values.std(), "[hnsf'U]"),
            ("Attenuation Coefficient", "Minimum", values.min(), "[hnsf'U]"),
            ("Attenuation Coefficient", "Maximum", values.max(), "[hnsf'U]"),
        ]
        for (name, derivation, value, unit), want in zip(found, expected, strict=False):
            assert (name, derivation, unit) == (want[0], want[1], want[3])
            assert value == pytest.approx(float(want[2]), abs=1e-3)


def test_a_surface_is_reported_where_a_model_asks_for_it(source: Volume, tmp_path: Path) -> None:
    model = models.model(tmp_path)
    asked = tuple(s.model_copy(update={"surface": s.value == 2}) for s in model.segments)
    ctx = models.context(model.model_copy(update={"segments": asked}))
    report = compose(ctx, source, Segmentation(images.labels(SHAPE)))[1].dataset()
    content = hd.sr.Comprehensive3DSR.from_dataset(report).content
    found = [
        [m.value for m in group.get_measurements() if m.name.value == "C0JK"]
        for group in content.get_volumetric_roi_measurement_groups()
    ]
    assert [len(values) for values in found] == [0, 1, 0]
    depth, rows, columns = 4 * 3.0, 7 * 0.8, 12 * 0.8  # the block of label 2, in mm
    sides = 2 * (depth * rows + depth * columns + rows * columns)
    assert found[1][0] == pytest.approx(sides, rel=0.15)


def test_contours_are_left_out_where_pixels_are_not_square(tmp_path: Path) -> None:
    sets = images.series(images.pattern(SHAPE), images.affine(spacing=(3, 0.9, 0.7)))
    source = read_image([images.raw(one) for one in sets])
    report = compose(
        models.context(models.model(tmp_path)), source, Segmentation(images.labels(SHAPE))
    )[1].dataset()
    assert not hd.sr.Comprehensive3DSR.from_dataset(
        report
    ).content.get_planar_roi_measurement_groups()
    assert any("not square" in line for line in texts(report))


def test_each_lesion_is_a_finding_of_its_own(source: Volume, tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:3, 2:5, 2:5] = 3
    labels[4, 10:18, 10:18] = 3
    labels[0, 1, 1] = 1
    seg, report = compose(
        models.context(models.model(tmp_path, lesion=True)), source, Segmentation(labels)
    )
    described = seg.dataset().SegmentSequence
    assert [item.SegmentLabel for item in described] == ["Left lung", "Nodule 1", "Nodule 2"]
    assert len({item.TrackingUID for item in described}) == 3
    back = label_map(seg.dataset(), source)
    np.testing.assert_array_equal(back == 2, (labels == 3) & (np.indices(SHAPE)[0] == 4))
    content = hd.sr.Comprehensive3DSR.from_dataset(report.dataset()).content
    assert len(content.get_volumetric_roi_measurement_groups()) == 3


def test_nothing_found_is_said_and_has_no_seg(source: Volume, tmp_path: Path) -> None:
    (report,) = compose(
        models.context(models.model(tmp_path)), source, Segmentation(np.zeros(SHAPE, np.uint8))
    )
    made = report.dataset()
    assert {"111222", "111241"} <= set(code_values(made))
    assert "Not found: Left lung, Liver, Nodule." in texts(made)


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.FAILED, "111224"), (Outcome.NOT_APPLICABLE, "111225")]
)
def test_what_did_not_run_is_reported_with_the_reason(
    outcome: Outcome, code: str, tmp_path: Path
) -> None:
    headers = images.series(images.pattern(SHAPE), SQUARE)
    ctx = models.context(models.model(tmp_path))
    (report,) = compose_report_only(ctx, headers, outcome, "2 slices missing")
    made = report.dataset()
    assert {code, "111245"} <= set(code_values(made))
    assert any("2 slices missing" in line and "no negative" in line for line in texts(made))
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == len(headers)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.zeros((6, 20, 23), np.uint8), "not on one grid"),
        (np.full(SHAPE, 9, np.uint8), r"does not name: \[9\]"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(
    labels: np.ndarray, says: str, source: Volume, tmp_path: Path
) -> None:
    with pytest.raises(ComposeError, match=says):
        compose(models.context(models.model(tmp_path)), source, Segmentation(labels))


def test_only_wanted_kinds_are_made(source: Volume, tmp_path: Path) -> None:
    model, labels = models.model(tmp_path), Segmentation(images.labels(SHAPE))
    made = compose(models.context(model, kinds=frozenset({"seg"})), source, labels)
    assert [file.kind for file in made] == ["seg"]


def test_written_files_are_whole_and_hashed(files: list[DicomFile], tmp_path: Path) -> None:
    results = write(files, tmp_path / "results" / "7")
    for file, result in zip(files, results, strict=True):
        content = result.path.read_bytes()
        assert content == file.content
        assert hashlib.sha256(content).hexdigest() == result.sha256
        assert pydicom.dcmread(result.path).SOPInstanceUID == result.sop_instance_uid
    assert len(list((tmp_path / "results" / "7").iterdir())) == len(files)


def test_what_cannot_be_written_leaves_nothing(files: list[DicomFile], tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("a file where a folder should be")
    with pytest.raises(ComposeError, match="cannot be written"):
        write(files, tmp_path / "blocked")


def test_two_results_of_one_uid_are_not_written(files: list[DicomFile], tmp_path: Path) -> None:
    with pytest.raises(ComposeError, match="same SOP Instance UID"):
        write([*files, files[0]], tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_colours_agree_with_highdicom_and_come_back() -> None:
    for rgb in ((70, 130, 240), (0, 0, 0), (255, 255, 255), (250, 220, 40), (255, 0, 0)):
        ours, theirs = cielab(rgb), hd.color.CIELabColor.from_rgb(*rgb).value
        assert np.abs(np.subtract(ours, theirs)).max() < 0.002 * 65535
        assert np.abs(np.subtract(rgb_of(ours), rgb)).max() <= 1


def test_the_overlay_picture_is_drawn(
    source: Volume, files: list[DicomFile], tmp_path: Path
) -> None:
    overlay_png(source, files[0].dataset(), tmp_path / "o.png", height=200)
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_a_labelmap_is_voxel_exact_and_an_object_of_its_own(
    source: Volume, files: list[DicomFile], tmp_path: Path
) -> None:
    ctx = models.context(models.model(tmp_path), segmentation="labelmap")
    seg, report = compose(ctx, source, Segmentation(images.labels(SHAPE)))
    assert seg.sop_class_uid == "1.2.840.10008.5.1.4.1.1.66.7"
    assert not {seg.sop_instance_uid, report.sop_instance_uid} & {f.sop_instance_uid for f in files}
    found = hd.seg.Segmentation.from_dataset(seg.dataset())
    back = found.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in source.frames],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(back, images.labels(SHAPE))
    np.testing.assert_array_equal(label_map(seg.dataset(), source), images.labels(SHAPE))
    assert seg.sop_instance_uid.encode() in report.content
