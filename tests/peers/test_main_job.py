"""The main job, end to end: DCMTK's storescu -> node -> Orthanc, on real CT, judged by others' tools."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import Dataset, dcmread

from dicom_node.demo.pacs import Orthanc, orthanc_pacs
from tests.conftest import program
from tests.harness import Node, ct_to, node, settled

pytestmark = [
    pytest.mark.peer("dcmtk"),
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("dicom3tools"),
    pytest.mark.peer("dcmqi"),
    pytest.mark.xdist_group("main_job"),
    pytest.mark.slow,
]

REAL_SERIES = {
    "ai/lung-pet-ct-dx/A0001_kernel-B": 64,
    "ai/lung-pet-ct-dx/A0001_kernel-L": 64,
    "ai/CRLM-CT-1004": 41,
    "ai/ACRIN-NSCLC-FDG-PET-042/CT": 135,
}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc_pacs(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, pacs: Orthanc) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node"), ct_to(pacs)) as started:
        yield started


def storescu(to: Node, *paths: Path, options: tuple[str, ...] = ()) -> str:
    """Send as a scanner would; returns what storescu printed."""
    command = [
        str(program("storescu")),
        *("-aet", "SCANNER", "-aec", to.address.ae_title, "+sd", "+r", "-v", *options),
        to.address.host,
        str(to.address.port),
        *map(str, paths),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def delivered(shared: Path, running: Node, pacs: Orthanc) -> dict[str, list[Dataset]]:
    """Every real series pushed through the node; folder -> what Orthanc then holds of its results."""
    uids = {}
    for folder in REAL_SERIES:
        storescu(running, shared / folder, options=("-xt",))  # proposed as JPEG-LS, sent as it lies
        first = next(iter(sorted((shared / folder).glob("*.dcm"))))
        uids[str(dcmread(first, stop_before_pixels=True).SeriesInstanceUID)] = folder
    series = running.wait_for(settled(len(REAL_SERIES)), 300)
    kept = pacs.received()
    found: dict[str, list[Dataset]] = {}
    for row in series:
        results = [result for job in row["jobs"] for result in job["results"]]
        assert all(result["sop_instance_uid"] in kept for result in results)
        if row["series_uid"] in uids:
            found[uids[row["series_uid"]]] = [pacs.read(r["sop_instance_uid"]) for r in results]
    return found


def of(objects: list[Dataset], modality: str) -> Dataset:
    """The one object of a modality."""
    (one,) = [found for found in objects if found.Modality == modality]
    return one


@pytest.mark.parametrize("folder", REAL_SERIES)
def test_seg_and_sr_arrive_in_the_study_they_belong_to(
    folder: str, delivered: dict[str, list[Dataset]], shared: Path
) -> None:
    source = dcmread(next(iter(sorted((shared / folder).glob("*.dcm")))), stop_before_pixels=True)
    for modality in ("SEG", "SR"):
        found = of(delivered[folder], modality)
        assert found.StudyInstanceUID == source.StudyInstanceUID
        assert found.PatientID == source.PatientID
        assert found.SeriesInstanceUID != source.SeriesInstanceUID
        assert found.SeriesDescription.startswith("AI ")
    seg = of(delivered[folder], "SEG")
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID


@pytest.mark.parametrize("folder", REAL_SERIES)
def test_dciodvfy_finds_no_error(
    folder: str, delivered: dict[str, list[Dataset]], tmp_path: Path
) -> None:
    for found in delivered[folder]:
        assert not errors_found(found, tmp_path / f"{found.Modality}.dcm")


def errors_found(judged: Dataset, path: Path) -> list[str]:
    """What dciodvfy calls an error in an object."""
    judged.save_as(path)
    told = subprocess.run(
        [str(program("dciodvfy")), "-new", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return [line for line in told.stderr.splitlines() if line.startswith("Error")]


def test_dcmqi_reads_the_very_voxels_that_the_model_predicted(
    delivered: dict[str, list[Dataset]], shared: Path, tmp_path: Path
) -> None:
    """segimage2itkimage's labels, sampled where our prediction's voxels lie, equal the prediction."""
    from dicom_node.catalogue import describe
    from dicom_node.infer.runner import predict
    from dicom_node.read.part10 import raw_instance
    from dicom_node.read.volume import read_image
    from dicom_node.records import Segmentation, Volume
    from dicom_node.settings import BUNDLED_MODELS

    folder = "ai/lung-pet-ct-dx/A0001_kernel-B"
    volume = read_image([raw_instance(path) for path in (shared / folder).glob("*.dcm")])
    assert isinstance(volume, Volume)
    predicted = predict(describe(BUNDLED_MODELS / "ct_structures"), volume)
    assert isinstance(predicted, Segmentation)

    seg = tmp_path / "seg.dcm"
    of(delivered[folder], "SEG").save_as(seg)
    command = [
        str(program("segimage2itkimage")),
        *("--inputDICOM", str(seg), "--outputDirectory", str(tmp_path)),
        *("--outputType", "nrrd", "--mergeSegments"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (image_path,) = tmp_path.glob("*.nrrd")
    image = sitk.ReadImage(str(image_path))
    array = sitk.GetArrayFromImage(image)
    indices = np.argwhere(predicted.labels)
    world = indices @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    direction = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    xyz = (world - image.GetOrigin()) @ np.linalg.inv(direction).T
    assert np.abs(xyz - np.rint(xyz)).max() < 0.01, "their grid is not ours"
    theirs = array[tuple(np.rint(xyz).astype(int)[:, ::-1].T)]
    assert len(indices) > 100_000
    assert np.array_equal(theirs, predicted.labels[tuple(indices.T)])
    assert np.count_nonzero(array) == len(indices), "they have voxels that we have not"


def test_dcmqi_reads_the_report(delivered: dict[str, list[Dataset]], tmp_path: Path) -> None:
    report = tmp_path / "sr.dcm"
    of(delivered["ai/lung-pet-ct-dx/A0001_kernel-B"], "SR").save_as(report)
    command = [
        str(program("tid1500reader")),
        *("--inputDICOM", str(report), "--outputMetadata", str(tmp_path / "sr.json")),
    ]
    read = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert read.returncode == 0, read.stdout + read.stderr
    assert "Left lung" in (tmp_path / "sr.json").read_text()


def test_a_second_push_makes_no_new_work(
    delivered: dict[str, list[Dataset]], shared: Path, running: Node, pacs: Orthanc
) -> None:
    before = running.series(), pacs.received()
    storescu(running, shared / "ai/CRLM-CT-1004", options=("-xt",))
    assert (running.series(), pacs.received()) == before


def dicom_node(running: Node, *arguments: str) -> str:
    """Run a command on the node's configuration, as its admin would; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "dicom_node", *arguments, "--config", str(running.config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_status_tells_the_story_of_a_study(
    delivered: dict[str, list[Dataset]], running: Node
) -> None:
    study = delivered["ai/CRLM-CT-1004"][0].StudyInstanceUID
    told = dicom_node(running, "status", study)
    for move in ("OPEN", "STABLE", "QUEUED", "RUNNING", "STORED", "PENDING", "SENT", "CONFIRMED"):
        assert move in told, told
    # its slices were cut out of a longer series, as their instance numbers tell
    assert "nothing came for" in told


def test_a_rerun_is_delivered_too_and_names_its_predecessor(
    delivered: dict[str, list[Dataset]], running: Node, pacs: Orthanc, tmp_path: Path
) -> None:
    first = of(delivered["ai/CRLM-CT-1004"], "SR")
    study = first.StudyInstanceUID
    before = pacs.received()
    assert "1 jobs queued" in dicom_node(running, "rerun", study, "--model", "ct_structures")
    running.wait_for(
        lambda rows: (
            settled(len(REAL_SERIES))(rows)
            and any(len(row["jobs"]) == 2 for row in rows if row["study_uid"] == study)
        )
    )
    again = [pacs.read(uid) for uid in pacs.received().keys() - before.keys()]
    report = of(again, "SR")
    (series,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    (replaced,) = series.ReferencedSOPSequence
    assert replaced.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert not errors_found(report, tmp_path / "sr.dcm")
    assert "No delivery is dead" in dicom_node(running, "dead")
    assert "0 series would be purged" in dicom_node(running, "purge", "--dry-run")


def test_the_routes_say_what_they_would_do(running: Node, shared: Path) -> None:
    told = dicom_node(running, "route", "test", str(shared / "ai/CRLM-CT-1004"))
    assert "41 instances" in told
    assert "model ct_structures: runs, results to pacs" in told


def test_the_spool_gives_plain_files_back(
    delivered: dict[str, list[Dataset]], running: Node, shared: Path, tmp_path: Path
) -> None:
    study = delivered["ai/CRLM-CT-1004"][0].StudyInstanceUID
    assert "SCANNER at 127.0.0.1" in dicom_node(running, "spool", "list")
    dicom_node(running, "spool", "export", str(tmp_path / "out"), "--study", study)
    sent = {dcmread(p).SOPInstanceUID: dcmread(p) for p in (shared / "ai/CRLM-CT-1004").iterdir()}
    for path in (tmp_path / "out").iterdir():
        back = dcmread(path)
        assert back == sent[back.SOPInstanceUID]
        del sent[back.SOPInstanceUID]
    assert not sent


def test_show_prints_the_report_and_draws_the_segmentation(
    delivered: dict[str, list[Dataset]], running: Node, tmp_path: Path
) -> None:
    study = delivered["ai/CRLM-CT-1004"][0].StudyInstanceUID
    told = dicom_node(running, "show", study, "--to", str(tmp_path))
    assert "Left lung" in told
    assert "ml" in told or "mm3" in told or "cm3" in told, told
    pictures = list(tmp_path.glob("seg-*.png"))
    assert pictures
    assert all(path.stat().st_size > 10_000 for path in pictures)


def test_an_export_names_nobody_and_its_results_still_point_at_their_sources(
    delivered: dict[str, list[Dataset]], running: Node, shared: Path, tmp_path: Path
) -> None:
    folder = "ai/CRLM-CT-1004"
    study = delivered[folder][0].StudyInstanceUID
    told = dicom_node(running, "export", study, "--to", str(tmp_path / "out"), "--project", "paper")
    before = dict(_originals(shared / folder))
    patient = str(next(iter(before.values())).PatientID)
    made = [dcmread(path) for path in (tmp_path / "out").rglob("*.dcm")]
    images = {ds.SOPInstanceUID: ds for ds in made if ds.Modality == "CT"}
    assert len(images) == len(before)
    assert f"{len(made)} objects" in told
    seg, report = of(made, "SEG"), of(made, "SR")
    for ds in made:
        assert ds.PatientIdentityRemoved == "YES"
        assert patient not in str(ds)
        assert ds.StudyInstanceUID != study
    (series,) = seg.ReferencedSeriesSequence
    referenced = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert referenced <= images.keys()
    assert {series.SeriesInstanceUID} == {ds.SeriesInstanceUID for ds in images.values()}
    assert seg.FrameOfReferenceUID == next(iter(images.values())).FrameOfReferenceUID
    assert seg.SOPInstanceUID in str(report), "the report refers to the segmentation"
    of_source = sorted(ds.PixelData for ds in before.values())
    assert sorted(ds.PixelData for ds in images.values()) == of_source
    assert np.array_equal(seg.pixel_array, of(delivered[folder], "SEG").pixel_array)
    for ds in (seg, report):
        assert not errors_found(ds, tmp_path / f"{ds.Modality}.dcm")
    (key,) = (running.settings.data_dir / "export").glob("paper.key")
    assert key.stat().st_mode & 0o077 == 0
    audit = (running.settings.data_dir / "audit.log").read_text
    running.wait_for(lambda _: "110106" in audit() and study in audit(), 30)


def _originals(folder: Path) -> list[tuple[str, Dataset]]:
    return [(str(ds.SOPInstanceUID), ds) for ds in map(dcmread, sorted(folder.glob("*.dcm")))]
