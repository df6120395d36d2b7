"""What other people's programs say of exported objects, real ones and every kind that the node makes."""

import re
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicom_node.compose.context import DicomFile
from dicom_node.compose.registry import compose
from dicom_node.errors import ReadError
from dicom_node.privacy.deidentify import deidentified, read
from dicom_node.privacy.export import Candidate, Export
from dicom_node.privacy.pseudonyms import Project, Pseudonyms
from dicom_node.privacy.rules import options_of
from dicom_node.privacy.words import Identity
from dicom_node.read.volume import read_image
from dicom_node.records import Classification, Denoised, Segmentation, Volume
from tests.builders import images, models
from tests.conftest import program

pytestmark = [pytest.mark.peer("dicom3tools"), pytest.mark.slow]

SHAPE = (10, 64, 72)
KINDS = (
    "seg",
    "sr",
    "denoised",
    "heatmap",
    "secondary_capture",
    "presentation_state",
    "key_objects",
)
OPTIONS = options_of(("clean-descriptors", "retain-modified-dates"))


def errors(path: Path) -> set[str]:
    """What dciodvfy calls an error, without the UIDs and places that it quotes."""
    done = subprocess.run(
        [str(program("dciodvfy")), "-new", str(path)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    return {re.sub(r"<[\d.]*>|\[\d+\]", "", line) for line in lines}


def test_no_real_object_becomes_worse(shared: Path, tmp_path: Path) -> None:
    judged = 0
    for path in sorted((shared / "interop").rglob("*.dcm"))[::2]:
        try:
            dataset = read(path.read_bytes())
            identity = Identity(OPTIONS)
            identity.learn(dataset)
            made = deidentified(dataset, OPTIONS, Pseudonyms(bytes(32)), identity)
        except ReadError:
            continue
        (tmp_path / "made.dcm").write_bytes(made.content)
        worse = errors(tmp_path / "made.dcm") - errors(path)
        if path.name != "MR_truncated.dcm":  # padded to an even length
            assert not worse, (path.name, worse)
        judged += 1
    assert judged > 30


def results(source: Volume, key: str, folder: Path) -> list[DicomFile]:
    """Every kind of object that the node makes."""
    heat = np.zeros(SHAPE, np.float32)
    heat[3:7, 20:40, 30:50] = 0.9
    made: list[DicomFile] = []
    for task, prediction in (
        ("segmentation", Segmentation(images.labels(SHAPE))),
        ("denoising", Denoised(source.array + 20)),
        ("classification", Classification({0: 0.2, 1: 0.8}, heatmaps={1: heat})),
    ):
        ctx = models.context(models.model(folder, task), job_key=key + task, kinds=KINDS)
        made += compose(ctx, source, prediction)
    return made


def referenced(dataset: Dataset) -> set[str]:
    return {
        str(element.value)
        for element in dataset.iterall()
        if element.keyword == "ReferencedSOPInstanceUID"
    }


def test_every_kind_of_result_leaves_whole_and_points_at_what_left_with_it(tmp_path: Path) -> None:
    sets = images.series(images.pattern(SHAPE), images.affine("oblique", (3.0, 0.8, 0.8)))
    instances = [images.raw(one) for one in sets]
    source = read_image(instances)
    assert isinstance(source, Volume)
    files = results(source, str(sets[0].StudyInstanceUID), tmp_path)
    export = Export(tmp_path / "out", Project(tmp_path / "secrets", "p"), OPTIONS)
    made_here = [Candidate(partial(bytes, file.content), own=True) for file in files]
    export.add([*made_here, *(Candidate(partial(images.part10, one)) for one in instances)])
    assert not export.report.refused
    made = {ds.SOPInstanceUID: (ds, path) for path in export_of(tmp_path) for ds in [dcmread(path)]}
    assert len(made) == len(files) + len(instances)
    assert {ds.Modality for ds, _ in made.values()} == {"CT", "SEG", "SR", "OT", "PR", "KO"}
    for dataset, path in made.values():
        assert not errors(path), dataset.SOPClassUID.name
        assert referenced(dataset) <= made.keys(), dataset.SOPClassUID.name
    (drawn,) = [ds for ds, _ in made.values() if ds.Modality == "PR"]
    told = {
        text.UnformattedTextValue
        for note in drawn.GraphicAnnotationSequence
        for text in note.get("TextObjectSequence", [])
    }
    assert {"Left lung", "Liver", "Nodule"} <= told, "the node's own drawing stays"


def export_of(folder: Path) -> list[Path]:
    return sorted((folder / "out").rglob("*.dcm"))
