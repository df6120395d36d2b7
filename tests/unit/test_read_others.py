"""What other people's scanners and programs wrote: read, or refused with a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom import Dataset
from pydicom.errors import InvalidDicomError

from dicom_node.compose.show import (
    label_map,
    overlay_png,
    referenced_frames,
    referenced_instances,
    regions_png,
    report_rows,
    segments_of,
)
from dicom_node.errors import ReadError
from dicom_node.read.part10 import raw_file, raw_instance
from dicom_node.read.structures import referenced_images, regions
from dicom_node.read.volume import read_image, read_referenced
from dicom_node.records import RawInstance, SourceFrame, Volume

pytestmark = pytest.mark.shared


def instances(folder: Path) -> dict[str, list[RawInstance]]:
    """Every DICOM file under a folder, by series."""
    found: dict[str, list[RawInstance]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if content[128:132] != b"DICM":
            continue
        meta = pydicom.filereader.read_file_meta_info(path)
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        if not {"TransferSyntaxUID", "FileMetaInformationGroupLength"} <= set(meta.dir()):
            continue
        start = 144 + meta.FileMetaInformationGroupLength
        found.setdefault(str(header.get("SeriesInstanceUID")), []).append(
            RawInstance(
                memoryview(content)[start:],
                str(meta.TransferSyntaxUID),
                str(meta.get("MediaStorageSOPClassUID", "")),
                str(meta.get("MediaStorageSOPInstanceUID", "")),
            )
        )
    return found


def volume(folder: Path) -> Volume:
    (series,) = instances(folder).values()
    found = read_image(series)
    assert isinstance(found, Volume)
    return found


@pytest.mark.parametrize(
    ("folder", "shape"),
    [
        ("ai/lung-pet-ct-dx/A0001_kernel-B", (64, 512, 512)),
        ("ai/CRLM-CT-1004", None),
        ("interop/dcmqi/segmentations/24x38x3/image", (3, 38, 24)),
        ("interop/dcmqi/segmentations/24x38x3/multiframe", (3, 38, 24)),
    ],
)
def test_series_of_others_become_volumes(shared: Path, folder: str, shape: object) -> None:
    if folder == "ai/CRLM-CT-1004":
        found = {len(one): one for one in instances(shared / folder).values()}[41]
        image = read_image(found)
        assert isinstance(image, Volume)
        assert image.array.shape == (41, 512, 512)
        return
    assert volume(shared / folder).array.shape == shape


def test_single_frames_and_their_multi_frame_twin_are_one_image(shared: Path) -> None:
    home = shared / "interop/dcmqi/segmentations/24x38x3"
    one, other = volume(home / "image"), volume(home / "multiframe")
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)
    np.testing.assert_allclose(one.array, other.array)


@pytest.mark.parametrize("size", ["24x38x3", "23x38x3"])
def test_a_seg_of_dcmqi_lies_where_its_nrrd_says(shared: Path, size: str) -> None:
    sitk = pytest.importorskip("SimpleITK")
    home = shared / "interop/dcmqi/segmentations" / size
    source = volume(home / "image")
    (path,) = (home / "seg").glob("*.seg")
    seg = pydicom.dcmread(path)
    numbers = label_map(seg, source)
    assert {one.number for one in segments_of(seg)} >= set(np.unique(numbers)) - {0}
    truth = sitk.ReadImage(str(home / "nrrd" / "label.nrrd"))
    mask = sitk.GetArrayFromImage(truth)
    for label in np.unique(mask[mask > 0]):
        theirs = {
            tuple(np.round(truth.TransformIndexToPhysicalPoint((int(x), int(y), int(z))), 2))
            for z, y, x in np.argwhere(mask == label)
        }
        ours = [
            {
                tuple(np.round(source.affine @ (*index, 1.0), 2)[:3])
                for index in np.argwhere(numbers == one.number)
            }
            for one in segments_of(seg)
        ]
        assert theirs in ours


def test_no_file_of_others_breaks_the_reader(shared: Path) -> None:
    read = refused = 0
    for series in instances(shared / "interop").values():
        try:
            read_image(series)
            read += 1
        except ReadError:
            refused += 1
    assert read >= 35
    assert refused >= 35


REPORTS = {
    "dcmqi/sr-example/sr.dcm": ("Imaging Measurement Report", 150),
    "pydicom/test_files/reportsi.dcm": ("", 1),
    "pydicom/test_files/reportsi_with_empty_number_tags.dcm": ("", 1),
    "pydicom/test_files/test-SR.dcm": ("", 3),
}


@pytest.mark.parametrize("name", REPORTS)
def test_reports_of_others_are_shown(name: str, shared: Path) -> None:
    title, rows_at_least = REPORTS[name]
    rows = report_rows(pydicom.dcmread(shared / "interop" / name))
    assert title in rows[0].name
    assert len(rows) >= rows_at_least
    assert any(row.value for row in rows)


@pytest.fixture(scope="module")
def at_hand(shared: Path) -> dict[str, RawInstance]:
    """Every image of others by its SOP instance, the first of equals."""
    found: dict[str, RawInstance] = {}
    for series in instances(shared / "interop").values():
        for one in series:
            found.setdefault(one.sop_instance_uid, one)
    return found


def source_of(seg: Dataset, at_hand: dict[str, RawInstance]) -> Volume:
    listed = [at_hand[uid] for uid in referenced_instances(seg) if uid in at_hand]
    return read_referenced(listed, referenced_frames(seg))


SEGMENTATIONS = {
    "dcmqi/segmentations/partial_overlaps.dcm": {1: 6518, 2: 11838, 3: 10743, 4: 6693, 5: 4713},
    "dcmqi/segmentations/sparse-labelmap-noppv.dcm": {1: 630},
    "dcmqi/segmentations/sparse-labelmap-ppv5.dcm": {1: 630},
    **{
        f"pydicom-data/liver{kind}.dcm": {1: 107098}
        for kind in ("", "_deflate", "_expb", "_j2k", "_rle")
    },
}
"""Voxels of each segment; where segments overlap, of the higher number."""


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_segmentations_of_others_lie_on_their_images(
    name: str, shared: Path, at_hand: dict[str, RawInstance]
) -> None:
    seg = pydicom.dcmread(shared / "interop" / name)
    numbers = label_map(seg, source_of(seg, at_hand))
    found = dict(zip(*np.unique(numbers[numbers > 0], return_counts=True), strict=True))
    assert found == SEGMENTATIONS[name]
    assert {one.number for one in segments_of(seg)} >= set(found)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pydicom-data/liver_nonbyte_aligned.dcm", "510 x 510 pixels, its source has not"),
        ("pydicom-data/liver_nonbyte_aligned_rle.dcm", "510 x 510 pixels, its source has not"),
        ("pydicom/test_files/liver_1frame.dcm", "1 frames and says where 3 lie"),
        ("pydicom/test_files/liver_expb_1frame.dcm", "1 frames and says where 3 lie"),
    ],
)
def test_segmentations_that_contradict_themselves_are_refused(
    name: str, says: str, shared: Path, at_hand: dict[str, RawInstance]
) -> None:
    seg = pydicom.dcmread(shared / "interop" / name)
    with pytest.raises(ReadError, match=says):
        label_map(seg, source_of(seg, at_hand))


def test_a_structure_set_of_others_is_filled_on_its_images(
    shared: Path, at_hand: dict[str, RawInstance], tmp_path: Path
) -> None:
    structures = pydicom.dcmread(shared / "interop/rt-utils/rt.dcm")
    listed = referenced_images(structures)
    images_of = [at_hand[uid] for uid in listed if uid in at_hand]
    source = read_referenced(images_of, {(uid, None) for uid in listed})
    (region,) = regions(structures, source)
    assert region.name == "ROI-1"
    assert region.left_out == 0
    contours = [
        np.array(one.ContourData, float).reshape(-1, 3)
        for one in structures.ROIContourSequence[0].ContourSequence
    ]
    points = np.vstack(contours)
    inside = np.argwhere(region.mask) @ source.affine[:3, :3].T + source.affine[:3, 3]
    assert (inside.min(axis=0) >= points.min(axis=0) - 0.5).all()
    assert (inside.max(axis=0) <= points.max(axis=0) + 0.5).all()
    areas = [
        abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
        for x, y in ((one[:, 0], one[:, 1]) for one in contours)
    ]
    # the second contour lies within the first: a hole
    found = region.mask.sum() * source.spacing[1] * source.spacing[2]
    assert found == pytest.approx(areas[0] - areas[1], rel=0.04)
    regions_png(source, [region], tmp_path / "r.png", title="RT")
    with PIL.Image.open(tmp_path / "r.png") as drawn:
        assert drawn.width < 3 * drawn.height  # of a lone slice there are no planes across


def test_a_structure_set_of_another_space_is_refused(
    shared: Path, at_hand: dict[str, RawInstance]
) -> None:
    structures = pydicom.dcmread(shared / "interop/rt-utils/rt.dcm")
    listed = referenced_images(structures)
    images_of = [at_hand[uid] for uid in listed if uid in at_hand]
    source = read_referenced(images_of, {(uid, None) for uid in listed})
    assert regions(structures, source)  # another one, but it names these very images
    other = replace(source, frames=(SourceFrame("1.2", "1.2.3"),) * len(source.frames))
    with pytest.raises(ReadError, match="another frame of reference"):
        regions(structures, other)
    with pytest.raises(ReadError, match="no structure set"):
        regions(Dataset(), source)


def test_a_seg_of_others_is_drawn(shared: Path, tmp_path: Path) -> None:
    home = shared / "interop/dcmqi/segmentations/24x38x3"
    (path,) = (home / "seg").glob("*.seg")
    overlay_png(volume(home / "image"), pydicom.dcmread(path), tmp_path / "o.png", height=200)
    assert (tmp_path / "o.png").stat().st_size > 1000


def test_a_file_is_taken_apart_where_its_own_head_says(shared: Path) -> None:
    """The same as pydicom's reader, for every real file; what it refuses is refused in a sentence."""
    from pydicom.filereader import read_file_meta_info

    taken = 0
    for path in sorted((shared / "interop").rglob("*.dcm")):
        try:
            meta = read_file_meta_info(path)
            start = 144 + int(meta.FileMetaInformationGroupLength)
            wanted = (
                meta.TransferSyntaxUID,
                meta.MediaStorageSOPClassUID,
                path.read_bytes()[start:],
            )
        except (AttributeError, ValueError, InvalidDicomError):
            with pytest.raises(ReadError, match=path.name):
                raw_instance(path)
            continue
        raw = raw_instance(path)
        assert (raw.transfer_syntax_uid, raw.sop_class_uid, raw.data) == wanted, path.name
        taken += 1
    assert taken > 150
    with pytest.raises(ReadError):
        raw_file(b"\0" * 128 + b"DICM\2\0\0\0UL\4\0\xff\xff\xff\xff")
