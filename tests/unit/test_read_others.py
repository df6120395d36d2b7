"""What other people's scanners and programs wrote: read, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_node.compose.show import label_map, overlay_png, report_rows, segments_of
from dicom_node.errors import ReadError
from dicom_node.read.volume import read_image
from dicom_node.records import RawInstance, Volume

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


def test_reports_of_others_are_shown(shared: Path) -> None:
    for path in (shared / "interop/dcmqi/sr-example").rglob("*.dcm"):
        report = pydicom.dcmread(path)
        if isinstance(report, Dataset) and "ContentSequence" in report:
            rows = report_rows(report)
            assert rows[0].name == "Imaging Measurement Report"
            assert any(row.value for row in rows)


def test_a_seg_of_others_is_drawn(shared: Path, tmp_path: Path) -> None:
    home = shared / "interop/dcmqi/segmentations/24x38x3"
    (path,) = (home / "seg").glob("*.seg")
    overlay_png(volume(home / "image"), pydicom.dcmread(path), tmp_path / "o.png", height=200)
    assert (tmp_path / "o.png").stat().st_size > 1000
