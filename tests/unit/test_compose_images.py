"""Denoised series, heat maps and pictures: values, geometry and references."""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.compose.registry import compose
from dicom_node.errors import ComposeError
from dicom_node.read.elements import spans
from dicom_node.read.volume import read_image
from dicom_node.records import Classification, Denoised, RawInstance, Segmentation, Volume
from tests.builders import images, models

SHAPE = (6, 20, 24)
GRID = images.affine("oblique")


def read_back(contents: list[bytes]) -> Volume:
    instances = []
    for content in contents:
        meta = pydicom.filereader.read_partial(BytesIO(content), lambda *_: True)
        start = 144 + meta.file_meta.FileMetaInformationGroupLength
        instances.append(
            RawInstance(
                content[start:],
                str(meta.file_meta.TransferSyntaxUID),
                str(meta.file_meta.MediaStorageSOPClassUID),
                str(meta.file_meta.MediaStorageSOPInstanceUID),
            )
        )
    found = read_image(instances)
    assert isinstance(found, Volume)
    return found


def volume(syntax: str = ExplicitVRLittleEndian, **changes: object) -> Volume:
    sets = images.series(images.pattern(SHAPE), GRID, **changes)
    for z, one in enumerate(sets):
        one.XRayTubeCurrent = 100 + z  # differs from slice to slice
        one.add_new(0x00091001, "LO", "private")
        one.PixelPaddingValue = 100
        one["PixelPaddingValue"].VR = "SS"
    found = read_image([images.raw(one, syntax) for one in sets])
    assert isinstance(found, Volume)
    return found


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_a_denoised_series_is_the_source_with_other_pixels(syntax: str, tmp_path: Path) -> None:
    source = volume(syntax)
    wanted = source.array + np.float32(7)
    ctx = models.context(models.model(tmp_path, "denoising"))
    *made, report = compose(ctx, source, Denoised(wanted))
    back = read_back([file.content for file in made])
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-6)
    assert source.padding is not None
    assert back.padding is not None
    np.testing.assert_array_equal(source.padding, images.pattern(SHAPE) == 100)
    np.testing.assert_array_equal(back.padding, source.padding)
    np.testing.assert_array_equal(back.array[~source.padding], wanted[~source.padding])
    assert report.kind == "sr"
    for z, (ours, theirs) in enumerate(zip(back.headers, source.headers, strict=True)):
        assert ours.SOPClassUID == theirs.SOPClassUID
        assert list(ours.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert ours.XRayTubeCurrent == 100 + z
        assert ours.FrameOfReferenceUID == theirs.FrameOfReferenceUID
        assert ours.PatientName == theirs.PatientName
        assert ours.SourceImageSequence[0].ReferencedSOPInstanceUID == theirs.SOPInstanceUID
        assert ours.SOPInstanceUID != theirs.SOPInstanceUID
        assert ours.SeriesInstanceUID != theirs.SeriesInstanceUID
        assert ours.Manufacturer == "dicom-node"
        assert "Not for clinical use" in ours.DerivationDescription
        assert 0x00091001 not in ours


def test_denoised_values_keep_each_slices_own_rescale(tmp_path: Path) -> None:
    sets = images.series(images.pattern(SHAPE), GRID, modality="PT", intercept=0.0)
    for z, one in enumerate(sets):
        one.RescaleSlope = str(0.5 + z)
    source = read_image([images.raw(one) for one in sets])
    assert isinstance(source, Volume)
    ctx = models.context(models.model(tmp_path, "denoising"), kinds=frozenset({"denoised"}))
    back = read_back([f.content for f in compose(ctx, source, Denoised(source.array.copy()))])
    np.testing.assert_allclose(back.array, source.array, rtol=1e-6)


def test_a_multi_frame_source_is_denoised_in_one_instance(tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    one = images.enhanced_ct(images.pattern(SHAPE), GRID, order=order)
    source = read_image([images.raw(one)])
    assert isinstance(source, Volume)
    ctx = models.context(models.model(tmp_path, "denoising"), kinds=frozenset({"denoised"}))
    before = source.headers[0].to_json()
    (made,) = compose(ctx, source, Denoised(source.array - 3))
    assert source.headers[0].to_json() == before  # the source's header is not what is written
    back = read_back([made.content])
    np.testing.assert_array_equal(back.array, source.array - 3)
    assert back.frames[0].frame_number == source.frames[0].frame_number


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_a_denoised_image_that_does_not_fit_is_refused(wrong: str, tmp_path: Path) -> None:
    source = volume()
    array = source.array[:, :, 1:] if wrong == "shape" else np.full_like(source.array, np.nan)
    with pytest.raises(ComposeError):
        compose(models.context(models.model(tmp_path, "denoising")), source, Denoised(array))


def heat() -> np.ndarray:
    made = np.zeros(SHAPE, np.float32)
    made[2:4, 5:9, 6:12] = 0.9
    return made


def test_a_heat_map_is_float_on_the_sources_grid(tmp_path: Path) -> None:
    source = volume()
    prediction = Classification({0: 0.2, 1: 0.8}, heatmaps={1: heat()})
    ctx = models.context(models.model(tmp_path, "classification"))
    files = compose(ctx, source, prediction)
    assert [file.kind for file in files] == ["heatmap"] * 3 + ["sr"]
    found = files[0].dataset()
    values = np.frombuffer(found.FloatPixelData, "<f4").reshape(2, *SHAPE[1:])
    np.testing.assert_array_equal(values, heat()[2:4])
    frame = found.PerFrameFunctionalGroupsSequence[0]
    np.testing.assert_allclose(
        np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float),
        (source.affine @ (2, 0, 0, 1))[:3],
        atol=1e-5,
    )
    referenced = frame.DerivationImageSequence[0].SourceImageSequence[0]
    assert referenced.ReferencedSOPInstanceUID == source.frames[2].sop_instance_uid


def test_a_radiograph_gets_a_report_and_a_picture(tmp_path: Path) -> None:
    stored = images.pattern((1, 40, 50))[0]
    image = read_image([images.raw(images.radiograph(stored.astype(np.uint16)))])
    warm = np.zeros((40, 50), np.float32)
    warm[10:20, 10:30] = 1
    ctx = models.context(models.model(tmp_path, "classification", modality="DX"))
    picture, report = compose(ctx, image, Classification({0: 0.1, 1: 0.9}, heatmaps={1: warm}))
    shown = picture.dataset().pixel_array
    assert shown.shape[2] == 3
    rows, columns = shown.shape[:2]
    inside = shown[rows * 15 // 40, columns * 20 // 50].astype(int)
    outside = shown[rows * 35 // 40, columns * 40 // 50].astype(int)
    assert inside[0] > inside[2] + 50  # warm: red over blue
    assert np.ptp(outside) == 0  # cold: grey
    said = report.content
    assert b"Pneumonia: 90.0%" in said


def test_probabilities_stand_in_the_report_with_their_threshold(tmp_path: Path) -> None:
    source = volume()
    ctx = models.context(models.model(tmp_path, "classification"))
    (report,) = compose(ctx, source, Classification({0: 0.45, 1: 0.55}))
    groups = report.dataset().ContentSequence[-2].ContentSequence
    numbers = [
        (
            item.ConceptNameCodeSequence[0].CodeMeaning,
            float(item.MeasuredValueSequence[0].NumericValue),
        )
        for group in groups
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    ]
    assert numbers == [("Probability", 45.0), ("Probability", 55.0)]
    presence = [
        item.ConceptCodeSequence[0].CodeMeaning
        for group in groups
        for item in group.ContentSequence
        if item.ValueType == "CODE" and item.ConceptNameCodeSequence[0].CodeMeaning == "Presence"
    ]
    assert presence == ["Absent", "Absent"]  # thresholds are 0.5 and 0.6


def test_a_prediction_without_one_of_the_classes_is_refused(tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path, "classification"))
    with pytest.raises(ComposeError, match="no probability of Pneumonia"):
        compose(ctx, volume(), Classification({0: 1.0}))


@pytest.mark.parametrize(
    "wrong", [np.zeros((6, 20, 23), np.float32), np.full(SHAPE, 1.5, np.float32)]
)
def test_a_heat_map_that_does_not_fit_is_refused(wrong: np.ndarray, tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path, "classification"))
    with pytest.raises(ComposeError, match="heat map"):
        compose(ctx, volume(), Classification({0: 0.5, 1: 0.5}, heatmaps={1: wrong}))


def test_outlines_are_drawn_with_the_mark_burned_in(tmp_path: Path) -> None:
    source = volume()
    ctx = models.context(models.model(tmp_path), kinds=frozenset({"secondary_capture"}))
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 8:16, 4:12] = 1
    made = compose(ctx, source, Segmentation(labels))
    assert len(made) == 2
    shown = made[0].dataset().pixel_array.astype(int)
    blue = (np.abs(shown - (70, 130, 240)).max(axis=2) < 40).sum()
    amber = (np.abs(shown - (255, 200, 60)).max(axis=2) < 40).sum()
    assert blue > 500
    assert amber > 100


MALFORMED = {
    "PatientSize": (b"1,80", "DS"),
    "PatientWeight": (b"abc ", "DS"),
    "PatientBirthDate": (b"unknown ", "DA"),
    "PatientSex": (b"female", "CS"),
    "PatientName": (b"M\xfcller\\Hans", "PN"),
    "AccessionNumber": (b"X" * 40, "SH"),
    "StudyDate": (b"2026.01.05", "DA"),
    "StudyTime": (b"25:00 ", "TM"),
    "StudyID": (b"\xff\xfe\0 ", "SH"),
    "SliceThickness": (b"5 mm", "DS"),
    "WindowCenter": (b"n/a ", "DS"),
    "WindowWidth": (b"wide", "DS"),
    "BodyPartExamined": (b"chest ap", "CS"),
    "Laterality": (b"Q ", "CS"),
}


@pytest.mark.parametrize("keyword", MALFORMED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_malformed_attribute_keeps_no_result_from_being_made(
    keyword: str, tmp_path: Path
) -> None:
    instances = []
    for one in images.series(images.pattern(SHAPE), GRID):
        one.pop(keyword, None)
        plain = images.raw(one)
        instances.append(
            replace(plain, data=with_element(plain.data, keyword, *MALFORMED[keyword]))
        )
    source = read_image(instances)
    assert isinstance(source, Volume)
    kinds = frozenset({"seg", "sr", "denoised", "heatmap", "secondary_capture"})
    for task, prediction in (
        ("segmentation", Segmentation(images.labels(SHAPE))),
        ("denoising", Denoised(source.array)),
        ("classification", Classification({0: 0.5, 1: 0.5}, heatmaps={1: heat()})),
    ):
        ctx = models.context(models.model(tmp_path, task), kinds=kinds)
        for file in compose(ctx, source, prediction):
            assert file.dataset().PatientID == "P-1"


def with_element(data: bytes | memoryview, keyword: str, value: bytes, vr: str) -> bytes:
    """A data set with an element put in as it stands, whatever pydicom would say of it."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    head = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(value))
    after = next(start for found, start, _ in spans(data, ExplicitVRLittleEndian) if found > tag)
    return bytes(data[:after]) + head + value + bytes(data[after:])
