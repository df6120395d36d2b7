"""Our results in OHIF, in a browser: labels, colours, counts, numbers, contours, no error of the page."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.compose.context import DicomFile
from dicom_node.compose.registry import compose
from dicom_node.demo.pacs import Orthanc, orthanc_pacs
from dicom_node.read.volume import read_image
from dicom_node.records import Classification, Denoised, Segmentation, Volume
from tests.builders import images, models
from tests.peers import ohif_viewer

pytestmark = [
    pytest.mark.peer("orthanc"),
    pytest.mark.peer("chromium"),
    pytest.mark.xdist_group("ohif"),
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

SHAPE = (10, 64, 72)
COLORS = [[70, 130, 240], [200, 90, 60], [250, 220, 40]]


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Orthanc, ohif_viewer.Viewer]]:
    """Orthanc with DICOMweb, and OHIF over it."""
    if why := ohif_viewer.missing():
        tell = pytest.fail if os.environ.get("DICOM_NODE_REQUIRE_PEERS") else pytest.skip
        tell(f"OHIF cannot be tried here: {why}")
    home = tmp_path_factory.mktemp("orthanc")
    with (
        orthanc_pacs(home, **ohif_viewer.dicom_web()) as pacs,
        ohif_viewer.ohif(pacs.url) as viewer,
    ):
        yield pacs, viewer


def put(pacs: Orthanc, content: bytes) -> None:
    request = urllib.request.Request(f"{pacs.url}/instances", data=content, method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def stored(pacs: Orthanc, sets: list[Dataset], folder: Path, *, pictures: bool) -> list[DicomFile]:
    """A source and what is made of it, in the PACS."""
    instances = [images.raw(one) for one in sets]
    source = read_image(instances)
    assert isinstance(source, Volume)
    key = str(sets[0].StudyInstanceUID)
    files = compose(
        models.context(models.model(folder), job_key=key),
        source,
        Segmentation(images.labels(SHAPE)),
    )
    if pictures:
        heat = np.zeros(SHAPE, np.float32)
        heat[3:7, 20:40, 30:50] = 0.9
        denoising = models.context(models.model(folder, "denoising"), job_key=key + "d")
        files += compose(denoising, source, Denoised(source.array + 20))[:-1]
        classifying = models.context(models.model(folder, "classification"), job_key=key + "c")
        made = compose(classifying, source, Classification({0: 0.2, 1: 0.8}, heatmaps={1: heat}))
        files += [file for file in made if file.sop_class_uid == "1.2.840.10008.5.1.4.1.1.7"]
    for content in [*map(images.part10, instances), *(file.content for file in files)]:
        put(pacs, content)
    return files


def check_segmentation(told: dict[str, Any]) -> None:
    """Every voxel, label and colour of the SEG as OHIF holds it."""
    (one,) = told["series"]["SEG"]["segmentations"]
    truth = np.bincount(images.labels(SHAPE).reshape(-1))
    assert one["counts"] == {str(n): int(truth[n]) for n in (1, 2, 3)}
    assert [segment["label"] for segment in one["segments"]] == ["Left lung", "Liver", "Nodule"]
    for found, wanted in zip(told["series"]["SEG"]["colors"][0], COLORS, strict=True):
        assert np.abs(np.subtract(found[:3], wanted)).max() <= 1


def test_oblique_ct_with_everything(
    stage: tuple[Orthanc, ohif_viewer.Viewer], tmp_path: Path
) -> None:
    pacs, viewer = stage
    grid = images.affine("oblique", (3.0, 0.8, 0.8))
    sets = images.series(images.pattern(SHAPE), grid)
    files = stored(pacs, sets, tmp_path, pictures=True)
    told = viewer.show(
        sets[0].StudyInstanceUID,
        ["SEG", "SR", "denoised", "pictures"],
        expected=len({file.series_uid for file in files}) + 1,
        screenshot=str(tmp_path / "{}.png"),
    )
    assert told["errors"] == []
    assert not [one for one in told["displaySets"] if one["unsupported"]]
    check_segmentation(told)
    groups = told["series"]["SR"]["displayed"]
    assert [group["loaded"] for group in groups] == [True] * 3  # contours lie on their images
    voxels = int((images.labels(SHAPE) == 1).sum())
    assert f"Volume={voxels * 3 * 0.8 * 0.8 / 1000:.2f} ml" in groups[0]["label"]
    for name in ("denoised", "pictures"):
        assert told["series"][name]["images"] == (10 if name == "denoised" else 4)
        assert told["series"][name]["spread"] > 20, f"{name} shows nothing"


def test_mr_whose_pixels_are_not_square_has_its_report_as_text(
    stage: tuple[Orthanc, ohif_viewer.Viewer], tmp_path: Path
) -> None:
    pacs, viewer = stage
    grid = images.affine("sagittal", (3.0, 0.9, 0.7))
    sets = images.series(images.pattern(SHAPE), grid, modality="MR", intercept=0.0)
    stored(pacs, sets, tmp_path, pictures=False)
    told = viewer.show(sets[0].StudyInstanceUID, ["SEG", "SR"], expected=3)
    assert told["errors"] == []
    check_segmentation(told)
    text = told["series"]["SR"]["text"]
    for line in ("Not for clinical use", "Left lung: ", "Pixels are not square"):
        assert line in text
