"""What other people's programs say of our objects: dciodvfy, dcmqi, DCMTK."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dicom_node.compose.context import ALL_KINDS
from dicom_node.compose.fallback import binary_twins
from dicom_node.compose.part10 import write
from dicom_node.compose.registry import compose, compose_report_only
from dicom_node.read.volume import read_image
from dicom_node.records import (
    Classification,
    Denoised,
    EarlierResult,
    Outcome,
    ProjectionImage,
    RawInstance,
    ResultObject,
    Segmentation,
    Volume,
)
from tests.builders import images, models
from tests.conftest import program

SHAPE = (6, 20, 24)
LABELLED = Segmentation(images.labels(SHAPE))


def run(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def errors(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    said = subprocess.run(
        [str(program("dciodvfy")), "-new", str(path)], capture_output=True, text=True, timeout=120
    )
    return [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")]


def single(name: str, **changes: object) -> list[RawInstance]:
    spacing = (3.0, 0.8, 0.8)
    sets = images.series(images.pattern(SHAPE), images.affine(name, spacing), **changes)
    return [images.raw(one) for one in sets]


SOURCES: dict[str, Callable[[], list[RawInstance]]] = {
    **{name: lambda name=name: single(name) for name in images.ORIENTATIONS},
    "not square": lambda: [
        images.raw(one) for one in images.series(images.pattern(SHAPE), images.affine())
    ],
    "mr": lambda: single("axial", modality="MR", intercept=0.0),
    "pet": lambda: single("axial", modality="PT", intercept=0.0),
    "enhanced": lambda: [images.raw(images.enhanced_ct(images.pattern(SHAPE), images.affine()))],
}


@pytest.fixture(params=SOURCES, scope="module")
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Volume, list[ResultObject]]:
    """A source and the objects made from labels on it."""
    folder = tmp_path_factory.mktemp("made")
    source = read_image(SOURCES[request.param]())
    assert isinstance(source, Volume)
    ctx = models.context(models.model(folder, lesion=request.param == "axial"))
    files = compose(ctx, source, Segmentation(images.labels(SHAPE)))
    files += compose(
        models.context(ctx.model, job_key="empty"), source, Segmentation(np.zeros(SHAPE, np.uint8))
    )
    for outcome in (Outcome.FAILED, Outcome.NOT_APPLICABLE):
        other = models.context(ctx.model, job_key=outcome.name)
        files += compose_report_only(other, source.headers, outcome, "2 slices missing")
    return source, write(files, folder / "results")


def pixel_results(source: Volume, folder: Path) -> list[ResultObject]:
    """Denoised series, heat maps and pictures on a source."""
    heat = np.zeros(SHAPE, np.float32)
    heat[2:4, 5:9, 6:12] = 0.9
    denoising = models.context(models.model(folder, "denoising"), job_key="denoising")
    classifying = models.context(models.model(folder, "classification"), job_key="classes")
    wanted = frozenset({"secondary_capture", "uncertainty"})
    outlining = models.context(models.model(folder), kinds=wanted)
    files = compose(denoising, source, Denoised(source.array + 5))
    files += compose(classifying, source, Classification({0: 0.2, 1: 0.8}, heatmaps={1: heat}))
    files += compose(outlining, source, Segmentation(images.labels(SHAPE), heat))
    return write(files, folder / "pixels")


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("name", ["oblique", "mr", "pet"])
def test_dciodvfy_finds_no_error_in_images(name: str, tmp_path: Path) -> None:
    source = read_image(SOURCES[name]())
    assert isinstance(source, Volume)
    given = tmp_path / "source.dcm"
    given.write_bytes(images.part10(SOURCES[name]()[0]))
    # a denoised instance repeats what its source says, so only what is new counts
    known = set(errors(given))
    results = pixel_results(source, tmp_path)
    kinds = {"denoised", "heatmap", "secondary_capture", "sr", "uncertainty"}
    assert {result.kind for result in results} == kinds
    found = {result.path.name: set(errors(result.path)) - known for result in results}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.peer("dicom3tools")
def test_dciodvfy_finds_no_error(made: tuple[Volume, list[ResultObject]]) -> None:
    assert {result.kind: errors(result.path) for result in made[1]} == {"seg": [], "sr": []}
    assert [errors(result.path) for result in made[1]] == [[]] * len(made[1])


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("name", ["oblique", "mr", "enhanced"])
def test_fractional_segs_and_twins_of_labelmaps_are_without_error(
    name: str, tmp_path: Path
) -> None:
    source = read_image(SOURCES[name]())
    assert isinstance(source, Volume)
    model = models.model(tmp_path)
    shares = {n: np.full(SHAPE, 50 * n, np.uint8) for n in (1, 2, 3)}
    files = compose(
        models.context(model, segmentation="fractional"),
        source,
        Segmentation(images.labels(SHAPE), probabilities=shares),
    )
    labelmap = compose(models.context(model, segmentation="labelmap"), source, LABELLED)
    files += binary_twins([file.dataset() for file in labelmap])
    results = write(files, tmp_path / "results")
    assert [errors(result.path) for result in results] == [[]] * 4


@pytest.mark.peer("dicom3tools")
@pytest.mark.parametrize("spacing", [None, ["0.12", "0.12"]], ids=["at the detector", "calibrated"])
def test_segmentations_of_films_are_without_error(
    spacing: list[str] | None, tmp_path: Path
) -> None:
    one = images.radiograph(images.pattern(SHAPE)[0].astype(np.uint16))
    one.PixelSpacing = spacing
    source = read_image([images.raw(one)])
    assert isinstance(source, ProjectionImage)
    ctx = models.context(models.model(tmp_path, modality="DX"))
    results = write(compose(ctx, source, Segmentation(LABELLED.labels[2])), tmp_path / "results")
    assert [(result.kind, errors(result.path)) for result in results] == [("seg", []), ("sr", [])]


@pytest.mark.peer("dicom3tools")
def test_segs_of_series_with_missing_slices_are_without_error(tmp_path: Path) -> None:
    sets = images.series(images.pattern((7, 20, 24)), images.affine("oblique", (3.0, 0.8, 0.8)))
    source = read_image([images.raw(one) for one in sets[:3] + sets[4:]])
    assert isinstance(source, Volume)
    assert not source.even
    files = compose(models.context(models.model(tmp_path)), source, LABELLED)
    results = write(files, tmp_path / "results")
    assert [errors(result.path) for result in results] == [[], []]


@pytest.mark.peer("dicom3tools")
@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("name", ["oblique", "mr"])
def test_key_objects_are_read_and_without_error(name: str, tmp_path: Path) -> None:
    source = read_image(SOURCES[name]())
    assert isinstance(source, Volume)
    model = models.model(tmp_path)
    before = compose(models.context(model, job_key="before"), source, LABELLED)
    earlier = tuple(
        EarlierResult(f.kind, f.sop_class_uid, f.sop_instance_uid, f.series_uid, f.study_uid)
        for f in before
    )
    ctx = models.context(model, kinds=ALL_KINDS, supersedes=earlier)
    results = write(compose(ctx, source, LABELLED), tmp_path / "results")
    for kind, title in (("key_objects", "Of Interest"), ("rejection", "Rejected for Quality")):
        (one,) = [result for result in results if result.kind == kind]
        assert errors(one.path) == []
        text = run(str(program("dsrdump")), one.path)
        assert title in text
        assert "Not for clinical use." in text
        for listed in earlier if kind == "rejection" else results[:2]:
            assert listed.sop_instance_uid in run(str(program("dcmdump")), one.path)


@pytest.mark.peer("dcmqi")
def test_dcmqi_puts_every_voxel_where_the_prediction_has_it(
    made: tuple[Volume, list[ResultObject]], tmp_path: Path
) -> None:
    source, results = made
    seg = next(result for result in results if result.kind == "seg")
    run(
        str(program("segimage2itkimage")),
        *("--inputDICOM", seg.path, "--outputDirectory", tmp_path, "--outputType", "nrrd"),
    )
    truth = images.labels(SHAPE)
    for number in (1, 2, 3):
        image = sitk.ReadImage(str(tmp_path / f"{number}.nrrd"))
        theirs = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
        direction = np.array(image.GetDirection()).reshape(3, 3)
        points = theirs * np.array(image.GetSpacing()) @ direction.T + np.array(image.GetOrigin())
        ours = np.argwhere(truth == number) @ source.affine[:3, :3].T + source.affine[:3, 3]
        assert len(points) == len(ours)
        nearest = np.linalg.norm(points[:, None] - ours[None], axis=2).min(axis=1)
        assert nearest.max() < 0.01


@pytest.mark.peer("dcmqi")
@pytest.mark.peer("dcmtk")
def test_reports_are_read_by_dcmqi_and_dcmtk(
    made: tuple[Volume, list[ResultObject]], tmp_path: Path
) -> None:
    reports = [result for result in made[1] if result.kind == "sr"]
    for index, result in enumerate(reports):
        out = tmp_path / f"{index}.json"
        run(str(program("tid1500reader")), "--inputDICOM", result.path, "--outputMetadata", out)
        read = json.loads(out.read_text())
        volumes = [
            item
            for group in read["Measurements"]
            for item in group["measurementItems"]
            if item["quantity"]["CodeMeaning"] == "Volume"
        ]
        assert len(volumes) == (3 if index == 0 else 0)
        text = run(str(program("dsrdump")), result.path)
        assert "Imaging Measurement Report" in text or "Diagnostic Imaging Report" in text
        assert "Not for clinical use." in text


@pytest.mark.peer("dcmqi")
def test_dcmqi_reads_the_heat_map_back(tmp_path: Path) -> None:
    source = read_image(single("oblique"))
    assert isinstance(source, Volume)
    results = pixel_results(source, tmp_path)
    maps = [r for r in results if r.sop_class_uid == "1.2.840.10008.5.1.4.1.1.30"]
    path = maps[0].path
    run(
        str(program("paramap2itkimage")),
        *("--inputDICOM", path, "--outputDirectory", tmp_path, "--outputType", "nrrd"),
    )
    image = sitk.ReadImage(str(next(tmp_path.glob("*.nrrd"))))
    values = sitk.GetArrayFromImage(image)
    assert values.shape == (2, 20, 24)
    assert (np.isclose(values, 0.9)).sum() == 2 * 4 * 6
    z, y, x = (int(v) for v in np.argwhere(np.isclose(values, 0.9))[0])
    world = np.array(image.TransformIndexToPhysicalPoint((x, y, z)))
    index = np.linalg.inv(source.affine) @ (*world, 1.0)
    np.testing.assert_allclose(index[1:3], (5, 6), atol=0.01)


@pytest.mark.peer("dicom3tools")
@pytest.mark.peer("dcmtk")
@pytest.mark.parametrize("name", ["oblique", "mr", "pet", "enhanced", "not square"])
def test_presentation_states_are_without_error_and_read(name: str, tmp_path: Path) -> None:
    instances = SOURCES[name]()
    source = read_image(instances)
    assert isinstance(source, Volume)
    ctx = models.context(models.model(tmp_path), kinds=frozenset({"presentation_state"}))
    (result,) = write(compose(ctx, source, LABELLED), tmp_path / "results")
    assert errors(result.path) == []
    # its pattern of a name has no room for the ü of ours
    checked = run(str(program("dcmpschk")), "-v", result.path)
    assert checked.count("Affected attribute") == checked.count("PatientName (0010,0010)") == 1
    z = 0 if name == "enhanced" else 2  # what it dumps is always of frame 1
    frame = source.frames[z]
    (one,) = [one for one in instances if one.sop_instance_uid == frame.sop_instance_uid]
    (tmp_path / "image.dcm").write_bytes(images.part10(one))
    number = str(frame.frame_number or 1)
    said = run(
        *(str(program("dcmp2pgm")), "-d", "--pstate", result.path, "--frame", number),
        *(tmp_path / "image.dcm", tmp_path / "drawn.pgm"),
    )
    assert (tmp_path / "drawn.pgm").read_bytes().startswith(b"P5")
    assert "AI: Test segmentation - Not for clinical use" in said
    lines = re.findall(r"coordinates: (.*), ?$", said, re.MULTILINE)
    drawn = [np.array([list(map(float, p.split("\\"))) for p in one.split(", ")]) for one in lines]
    truth = images.labels(SHAPE)[z]
    for label, points in zip(np.unique(truth)[1:], drawn, strict=True):
        rows, columns = np.nonzero(truth == label)
        assert points.min(axis=0).tolist() == [columns.min(), rows.min()]
        assert points.max(axis=0).tolist() == [columns.max() + 1, rows.max() + 1]


@pytest.mark.peer("dicom3tools")
def test_slices_of_unlike_rescale_have_states_of_their_own(tmp_path: Path) -> None:
    sets = images.series(images.pattern(SHAPE), images.affine(), modality="PT", intercept=0.0)
    for z, one in enumerate(sets):
        one.RescaleSlope = str(1 + z // 3)
    source = read_image([images.raw(one) for one in sets])
    ctx = models.context(models.model(tmp_path), kinds=frozenset({"presentation_state"}))
    results = write(compose(ctx, source, LABELLED), tmp_path / "results")
    assert len(results) == 2
    for slope, result in enumerate(results, start=1):
        state = pydicom.dcmread(result.path)
        assert errors(result.path) == []
        assert state.RescaleSlope == slope
        images_of = state.ReferencedSeriesSequence[0].ReferencedImageSequence
        assert len(images_of) == 3
