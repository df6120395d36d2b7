"""Odd and bad input from a real sender: the right answer, a visible reason, nobody else disturbed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    BasicTextSRStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.thorax import thorax
from dicom_node.demo.pacs import FolderPacs, folder_pacs
from tests.builders.raw_peer import RawPeer
from tests.conftest import program
from tests.harness import Node, ct_to, node, settled

pytestmark = [pytest.mark.peer("dcmtk"), pytest.mark.slow]

IMPATIENT = """
[assemble]
settle_seconds = 0.5
idle_seconds = 1.0
"""


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FolderPacs]:
    with folder_pacs(tmp_path_factory.mktemp("pacs")) as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, pacs: FolderPacs) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node"), IMPATIENT + ct_to(pacs)) as started:
        yield started


@pytest.fixture
def slices(tmp_path: Path) -> list[Path]:
    """A few slices of a phantom under fresh UIDs."""
    phantom = thorax((4, 64, 64), (5.0, 6.0, 6.0), seed=1)
    paths = write_ct_series(phantom, tmp_path / "ct", seed=1)
    fresh = {"study": generate_uid(), "series": generate_uid()}
    for path in paths:
        found = dcmread(path)
        found.StudyInstanceUID, found.SeriesInstanceUID = fresh["study"], fresh["series"]
        found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        found.save_as(path)
    return paths


def send(to: Node, *paths: Path) -> None:
    """Send with storescu; every C-STORE must be answered with 0000."""
    command = [str(program("storescu")), "-aec", to.address.ae_title, "-v"]
    done = subprocess.run(
        [*command, to.address.host, str(to.address.port), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert told.count("Received Store Response (Success)") == len(paths), told


def row_of(running: Node, file: Path) -> dict[str, object]:
    """What `status` says of the series of a file, once it has ended."""
    uid = dcmread(file, stop_before_pixels=True).SeriesInstanceUID
    known = lambda series: [row for row in series if row["series_uid"] == uid]  # noqa: E731
    series = running.wait_for(lambda all_of: settled(1)(known(all_of)), 120)
    (row,) = known(series)
    return row


def other_object(file: Path, sop_class: str, modality: str) -> None:
    """Turn a slice into an object of another class in a series of its own, without an image plane."""
    found = dcmread(file)
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = sop_class
    found.Modality = modality
    found.SeriesInstanceUID = generate_uid()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID"):
        delattr(found, keyword)
    if modality == "SR":
        for keyword in ("Rows", "Columns", "PixelData"):
            delattr(found, keyword)
    found.save_as(file)


def test_an_image_without_pixel_data_is_kept_and_held(running: Node, slices: list[Path]) -> None:
    found = dcmread(slices[1])
    del found.PixelData
    found.save_as(slices[1])
    send(running, *slices)
    row = row_of(running, slices[0])
    assert row["state"] == "HELD"
    assert "1 of 4 instances quarantined" in str(row["reason"])
    assert "ixel" in str(row["reason"])


def test_a_lone_slice_gets_a_report_that_says_not_applicable(
    running: Node, slices: list[Path], pacs: FolderPacs
) -> None:
    send(running, slices[0])
    row = row_of(running, slices[0])
    (job,) = row["jobs"]  # type: ignore[misc]
    assert job["outcome"] == "not applicable"
    assert "1 slice" in job["reason"]
    (report,) = job["results"]
    assert pacs.read(report["sop_instance_uid"]).Modality == "SR"


def test_a_structured_report_has_no_route(running: Node, slices: list[Path]) -> None:
    other_object(slices[0], BasicTextSRStorage, "SR")
    send(running, slices[0])
    row = row_of(running, slices[0])
    assert row["state"] == "NO_ROUTE"
    assert "modality SR is not CT" in str(row["reason"])


def test_a_secondary_capture_has_no_route(running: Node, slices: list[Path]) -> None:
    other_object(slices[0], SecondaryCaptureImageStorage, "OT")
    send(running, slices[0])
    row = row_of(running, slices[0])
    assert row["state"] == "NO_ROUTE"
    assert "modality OT is not CT" in str(row["reason"])


def test_an_unreadable_data_set_is_refused_and_disturbs_nobody(
    running: Node, slices: list[Path]
) -> None:
    """Noise where a data set should be: C000, and the next good series goes through."""
    with RawPeer((running.address.host, running.address.port)) as peer:
        peer.associate()
        assert peer.store(1, bytes(range(1, 256)) * 20, sop_instance="1.2.3") == 0xC000
        peer.release()
    send(running, slices[0])
    assert row_of(running, slices[0])["jobs"]
