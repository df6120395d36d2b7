"""Series that are not one even stack: several stacks, missing slices, uneven spacing, padding.

Each is a phantom whose truth is known by world position, through reading, a network that calls everything
above a value "bright", and the SEG or report that comes of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.catalogue import ModelDescription, StackAttribute
from dicom_node.compose.context import DicomFile
from dicom_node.compose.registry import compose
from dicom_node.errors import GeometryError, NotApplicable
from dicom_node.infer.answer import Answer, answer, composed
from dicom_node.infer.engine import LocalEngine
from dicom_node.read.multiframe import _STACK_ATTRIBUTES
from dicom_node.read.uneven import evened
from dicom_node.read.volume import TELLS_STACKS_APART, read_image, read_stacks
from dicom_node.records import Outcome, RawInstance, Segmentation, Volume
from dicom_node.settings import InferSettings
from tests.builders import bundles, images, models

SHAPE = (24, 30, 36)
GRID = images.affine(spacing=(2.5, 2.0, 2.0))


def raws(sets: list[Dataset]) -> list[RawInstance]:
    instances = [images.raw(one) for one in sets]
    random.Random(5).shuffle(instances)
    return instances


def volume(sets: list[Dataset], **wanted: object) -> Volume:
    found = read_image(raws(sets), **wanted)
    assert isinstance(found, Volume)
    return found


def bright(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Stored values of a series: air, and two blocks that tell every axis and sign."""
    z, y, x = shape
    made = np.full(shape, 24, np.int16)
    made[z // 6 : z - 4, y // 8 : y // 2, x // 2 : x - 4] = 1524
    made[z // 2 : z - 2, y // 2 + 4 : y - 2, 3 : x // 3] = 1524
    return made


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return LocalEngine(InferSettings(device="cpu", threads=1, cpu_engine="torch"))


@pytest.fixture(scope="module")
def threshold(tmp_path_factory: pytest.TempPathFactory) -> ModelDescription:
    """A network on a grid of 2 mm that calls everything above 100 HU bright."""
    folder = tmp_path_factory.mktemp("bundles") / "threshold"
    return bundles.write_bundle(folder, bundles.configuration(preprocessing=bundles.RESAMPLE))


# --- several stacks ------------------------------------------------------------------------------


def phases(count: int = 2, shape: tuple[int, int, int] = (6, 20, 24)) -> list[list[Dataset]]:
    """As many series at the same positions, alike but for their values, in one series."""
    study, uid = images.Study(), "1.2.826.0.1.3680043.10.5"
    return [
        images.series(
            images.pattern(shape) + 1000 * n, images.affine(), study=study, series_uid=uid
        )
        for n in range(count)
    ]


def told_by(keyword: str, *values: object) -> list[Dataset]:
    """Phases that one attribute tells apart."""
    found = phases(len(values))
    for sets, value in zip(found, values, strict=True):
        for one in sets:
            setattr(one, keyword, value)
    return [one for sets in found for one in sets]


APART: dict[str, tuple[str, tuple[object, ...]]] = {
    "echo": ("EchoTime", (30, 90)),
    "phase": ("AcquisitionNumber", (1, 2, 3)),
    "diffusion": ("DiffusionBValue", (0.0, 800.0)),
    "contrast": ("ContrastBolusAgent", ("", "Agent")),
    "cardiac phase": ("TriggerTime", (0, 40, 80, 120)),
    "kernel": ("ConvolutionKernel", ("B31f", "B70f")),
    "image type": ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
}


@pytest.mark.parametrize(("keyword", "values"), APART.values(), ids=APART)
def test_each_stack_is_a_volume_of_its_own(keyword: str, values: tuple[object, ...]) -> None:
    found = read_stacks(raws(told_by(keyword, *values)))
    assert len(found) == len(values)
    for n, one in enumerate(found):
        np.testing.assert_allclose(one.affine, images.affine(), atol=1e-5)
        np.testing.assert_array_equal(
            one.array, images.pattern((6, 20, 24)).astype(np.float32) + 1000 * n - 1024
        )
        assert len({str(header.get(keyword)) for header in one.headers}) == 1


def test_stacks_that_take_two_attributes_to_tell_apart() -> None:
    found = phases(4)
    for n, sets in enumerate(found):
        for z, one in enumerate(sets):
            one.EchoTime, one.InversionTime = (10, 20)[n % 2], (300, 900)[n // 2]
            one.AcquisitionTime = (
                f"1015{n:02d}.{z:02d}"  # differs from slice to slice: tells nothing
            )
    stacks = read_stacks(raws([one for sets in found for one in sets]))
    assert [float(one.array[0, 0, 0]) for one in stacks] == [
        100 + 1000 * n - 1024 for n in (0, 2, 1, 3)
    ]


def test_the_largest_stack_is_read_and_the_others_are_named() -> None:
    first, second = phases(2)
    for one in second:
        one.AcquisitionNumber = 2
    source = volume(first[2:] + second)
    assert len(source.frames) == 6
    assert float(source.array[0, 0, 0]) == 1100 - 1024
    assert source.notes == (
        "the series holds 2 stacks: the result is of acquisition number 2 (6 slices), the largest, "
        "not of acquisition number 1 (4 slices)",
    )


@pytest.mark.parametrize(
    ("wanted", "value"),
    [("lowest", 0), ("highest", 1000), ("800", 1000), ("0", 0), ("800.0", 1000)],
)
def test_a_model_names_the_stack_that_it_takes(wanted: str, value: int) -> None:
    source = volume(told_by("DiffusionBValue", 0.0, 800.0), wanted={"b_value": wanted})
    assert float(source.array[0, 0, 0]) == 100 + value - 1024
    assert "as the model asks for it" in source.notes[0]


def test_the_stack_that_a_sidecar_names_is_the_one_that_is_segmented(
    engine: LocalEngine, tmp_path: Path
) -> None:
    details = 'stack = { echo_time = "highest" }\n' + bundles.SEGMENT
    model = bundles.write_bundle(tmp_path / "late_echo", details=details)
    given = answer(engine, model, raws(told_by("EchoTime", 30, 90)))
    assert given.outcome is Outcome.SUCCEEDED, given.reason
    assert isinstance(given.image, Volume)
    assert {float(header.EchoTime) for header in given.image.headers} == {90.0}
    report = written(given, model)[-1].dataset()
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert len(evidence.ReferencedSOPSequence) == 6  # of the stack, not of the series
    content = written(given, model)[-1].content
    assert content.count(b"not of echo time 30.0 (6 slices)") == 1


def test_a_stack_that_there_is_not_is_not_replaced() -> None:
    with pytest.raises(NotApplicable, match="no stack of b value 1500; the series has 0, 800"):
        volume(told_by("DiffusionBValue", 0.0, 800.0), wanted={"b_value": "1500"})


def test_what_a_model_can_name_is_what_tells_stacks_apart() -> None:
    known = {*TELLS_STACKS_APART.values(), *(name for _, _, name in _STACK_ATTRIBUTES), "direction"}
    assert known == set(StackAttribute.__args__)  # type: ignore[attr-defined]


def test_a_scout_of_another_direction_in_the_series_is_left_out_and_named() -> None:
    study, uid = images.Study(), "1.2.826.0.1.3680043.10.6"
    axial = images.series(images.pattern((6, 20, 24)), GRID, study=study, series_uid=uid)
    scout = images.series(
        images.pattern((1, 40, 40)), images.affine("coronal"), study=study, series_uid=uid
    )
    source = volume(axial + scout)
    assert source.array.shape == (6, 20, 24)
    assert source.notes[0].endswith("the largest, not of coronal, 40 x 40 of 0.7 mm (1 slice)")
    assert [one.array.shape for one in read_stacks(raws(axial + scout))] == [
        (6, 20, 24),
        (1, 40, 40),
    ]


def test_stacks_in_one_multi_frame_instance_keep_their_frames(tmp_path: Path) -> None:
    stored = np.concatenate([images.pattern((6, 20, 24)), images.pattern((6, 20, 24)) + 500])
    grid = images.affine()
    enhanced = images.enhanced_ct(stored, grid)
    for n, frame in enumerate(enhanced.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence[0].TemporalPositionIndex = n // 6 + 1
        position = grid[:3, 3] + (n % 6) * grid[:3, 0]
        frame.PlanePositionSequence[0].ImagePositionPatient = [images.decimal(v) for v in position]
    first, second = read_stacks([images.raw(enhanced)])
    assert [frame.frame_number for frame in second.frames] == [7, 8, 9, 10, 11, 12]
    assert float(second.array[0, 0, 0] - first.array[0, 0, 0]) == 500
    labels = images.labels((6, 20, 24))
    seg = compose(models.context(models.model(tmp_path)), second, Segmentation(labels))[0].dataset()
    referenced = {
        int(
            frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber,
        )
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert referenced <= set(range(7, 13))


def test_doubled_slices_that_nothing_tells_apart_are_refused() -> None:
    first, second = phases(2)
    with pytest.raises(GeometryError, match="12 slices lie at 6 positions"):
        volume(first + second)


# --- missing and unevenly spaced slices ----------------------------------------------------------


def at_heights(heights: list[float], shape: tuple[int, int, int] = SHAPE) -> list[Dataset]:
    """Slices of the bright phantom at these heights in mm above its first slice."""
    stored = bright(shape)
    whole = images.series(stored, GRID)
    kept = [round(height / 2.5) for height in heights]
    sets = [Dataset(whole[z]) for z in kept]
    for one, height in zip(sets, heights, strict=True):
        one.ImagePositionPatient = [images.decimal(v) for v in GRID[:3, 3] + (0, 0, height)]
        one.SOPInstanceUID = f"1.2.826.0.1.{round(height * 100)}"
    return sets


FULL = [2.5 * z for z in range(SHAPE[0])]
UNEVEN: dict[str, list[float]] = {
    "one missing": FULL[:9] + FULL[10:],
    "three missing in a row": FULL[:9] + FULL[12:],
    "two gaps": FULL[:5] + FULL[6:14] + FULL[16:],
    "denser below": FULL[:10] + FULL[10::2],
    "two distances, no multiples": [*FULL[:12], *(27.5 + 4.2 * n for n in range(1, 7))],
    "one slice off its place": [*FULL[:7], 18.4, *FULL[8:]],
}


@pytest.mark.parametrize("heights", UNEVEN.values(), ids=UNEVEN)
def test_results_lie_on_the_slices_that_there_are(
    heights: list[float], engine: LocalEngine, threshold: ModelDescription, tmp_path: Path
) -> None:
    sets = at_heights(heights)
    given = answer(engine, threshold, raws(sets))
    assert given.outcome is Outcome.SUCCEEDED, given.reason
    source = given.image
    assert isinstance(source, Volume)
    assert not source.even
    assert isinstance(given.prediction, Segmentation)
    # each slice has the labels of its own pixels: at borders along z the model saw blends
    truth = source.array > 100
    found = given.prediction.labels == 1
    assert found.shape == truth.shape
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97
    changes = np.flatnonzero((truth[1:] != truth[:-1]).any(axis=(1, 2)))
    inner = np.setdiff1d(np.arange(len(truth)), [*changes, *(changes + 1)])
    np.testing.assert_array_equal(found[inner], truth[inner])
    files = written(given, threshold)
    seg = hd.seg.Segmentation.from_dataset(files[0].dataset())
    lies_at = {
        round(float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) - GRID[2, 3], 2)
        for frame in seg.PerFrameFunctionalGroupsSequence
    }
    assert lies_at <= {round(height, 2) for height in heights}
    assert b"results lie on the slices" in files[-1].content


def written(given: Answer, model: ModelDescription) -> list[DicomFile]:
    again, files = composed(models.context(model), given)
    assert again.outcome is Outcome.SUCCEEDED, again.reason
    return files


@pytest.mark.parametrize("heights", UNEVEN.values(), ids=UNEVEN)
def test_the_even_grid_has_the_scanned_slices_in_it_unblended(heights: list[float]) -> None:
    source = volume(at_heights(heights))
    even = evened(source)
    grid = even.volume
    assert grid.even
    assert len(grid.frames) == len(grid.array)
    assert source.positions is not None
    ends = grid.affine[:3, 3] + np.outer([0, len(grid.array) - 1], grid.affine[:3, 0])
    np.testing.assert_allclose(ends, source.positions[[0, -1]], atol=1e-3)
    for z, at in enumerate(even.at):
        place = grid.affine[:3, 3] + at * grid.affine[:3, 0]
        np.testing.assert_allclose(place, source.positions[z], atol=1e-3)
        if abs(at - round(at)) < 0.05:
            np.testing.assert_array_equal(grid.array[round(at)], source.array[z])


def test_a_missing_slice_is_interpolated_linearly() -> None:
    sets = at_heights(UNEVEN["one missing"])
    even = evened(volume(sets))
    whole = even.volume.array
    assert len(whole) == SHAPE[0]
    np.testing.assert_allclose(whole[9], (whole[8] + whole[10]) / 2)
    assert even.exact


def test_volumes_bridge_what_is_missing(engine: LocalEngine, threshold: ModelDescription) -> None:
    """A block's volume is what it is with and without a slice in its middle."""
    found = []
    for heights in (FULL, UNEVEN["one missing"], UNEVEN["denser below"]):
        given = answer(engine, threshold, raws(at_heights(heights)))
        report = hd.sr.Comprehensive3DSR.from_dataset(written(given, threshold)[-1].dataset())
        (group,) = report.content.get_volumetric_roi_measurement_groups()
        found.append(next(m.value for m in group.get_measurements() if m.name.meaning == "Volume"))
    assert found[1] == pytest.approx(found[0], rel=0.001)
    assert found[2] == pytest.approx(found[0], rel=0.08)  # a border may lie half a wide step off


def test_denoised_slices_are_never_blends(engine: LocalEngine, tmp_path: Path) -> None:
    steps = [{"_target_": "Identityd", "keys": "pred"}]
    config = bundles.configuration(
        {**bundles.THRESHOLD_NETWORK, "out_channels": 1}, postprocessing=steps
    )
    model = bundles.write_bundle(
        tmp_path / "denoise", config, bundles.identity_weights(), task="denoising", details=""
    )
    given = answer(engine, model, raws(at_heights(UNEVEN["two distances, no multiples"])))
    assert given.outcome is Outcome.NOT_APPLICABLE
    assert "blends of their neighbours" in given.reason
    given = answer(engine, model, raws(at_heights(UNEVEN["two gaps"])))
    assert given.outcome is Outcome.SUCCEEDED, given.reason
    assert given.image is not None
    assert given.prediction is not None
    np.testing.assert_allclose(given.prediction.array, given.image.array, atol=0.01)


def test_a_tilted_stack_with_a_gap_is_straightened_along_its_own_line() -> None:
    grid = images.affine(spacing=(2.5, 2.0, 2.0), tilt_mm=0.6)
    sets = images.series(bright(), grid)
    source = volume(sets[:9] + sets[11:])
    even = evened(source)
    np.testing.assert_allclose(even.volume.affine, grid, atol=1e-4)
    assert any("gantry tilt" in note for note in source.notes)
    assert any("2 slices missing" in note for note in source.notes)


# --- padding -------------------------------------------------------------------------------------


def padded(
    value: int, limit: int | None = None, *, signed: bool = True, **more: object
) -> tuple[list[Dataset], np.ndarray]:
    """A series whose corners hold padding, and where."""
    kind = np.int16 if signed else np.uint16
    stored = bright().astype(kind)
    corner = np.zeros(SHAPE, bool)
    corner[:, :9, :9] = True
    stored[corner] = value if limit is None else np.linspace(value, limit, 81 * 24).astype(kind)
    sets = images.series(stored, GRID, **more)
    for one in sets:
        one.add_new(0x00280120, "SS" if signed else "US", value)
        if limit is not None:
            one.add_new(0x00280121, "SS" if signed else "US", limit)
    return sets, corner


PADDINGS: dict[str, Callable[[], tuple[list[Dataset], np.ndarray]]] = {
    "far below": lambda: padded(-2000),
    "far above, as tissue": lambda: padded(3000),
    "a range": lambda: padded(2000, 3000),
    "unsigned": lambda: padded(63536, signed=False),
}


@pytest.mark.parametrize("make", PADDINGS.values(), ids=PADDINGS)
def test_padding_is_air_to_the_model_and_not_there_for_statistics(
    make: Callable[[], tuple[list[Dataset], np.ndarray]],
    engine: LocalEngine,
    threshold: ModelDescription,
) -> None:
    sets, corner = make()
    source = volume(sets)
    assert source.padding is not None
    np.testing.assert_array_equal(source.padding, corner)
    assert set(np.unique(source.array[corner])) == {-1000.0}
    given = answer(engine, threshold, raws(sets))
    assert isinstance(given.prediction, Segmentation)
    assert not given.prediction.labels[corner].any()
    np.testing.assert_array_equal(source.array[~corner] > 100, bright()[~corner] > 1124)


def test_a_label_on_padding_is_left_out_and_told(tmp_path: Path) -> None:
    sets, corner = padded(-2000)
    source = volume(sets)
    labels = np.zeros(SHAPE, np.uint8)
    labels[4:8, :12, :12] = 1
    ctx = models.context(models.model(tmp_path))
    seg, report = compose(ctx, source, Segmentation(labels))
    back = hd.seg.Segmentation.from_dataset(seg.dataset()).get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in source.frames],
        combine_segments=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(back == 1, (labels == 1) & ~corner)
    assert b"324 labelled voxels lay outside of what was scanned" in report.content
    (group,) = hd.sr.Comprehensive3DSR.from_dataset(
        report.dataset()
    ).content.get_volumetric_roi_measurement_groups()
    lowest = [
        m.value
        for m in group.get_measurements()
        if m.derivation is not None and m.derivation.meaning == "Minimum"
    ]
    assert lowest == [-1000.0]  # the phantom's own air; padding lies at -3024


def test_a_series_without_padding_has_no_mask() -> None:
    sets, _ = padded(-2000)
    for one in sets:
        one.PixelPaddingValue = -1999
    assert volume(sets).padding is None


def test_padding_in_bits_that_no_pixel_has() -> None:
    stored = (bright().astype(np.int32) & 0xFFF).astype(np.uint16)
    stored[:, 0, 0] = 63536  # -2000 in 16 bits, of which the pixels use 12
    sets = images.series(stored, GRID)
    for one in sets:
        one.BitsStored, one.HighBit = 12, 11
        one.add_new(0x00280120, "US", 63536)
    source = volume(sets)
    assert source.padding is not None
    assert source.padding.sum() == SHAPE[0]
    assert source.array[0, 0, 0] == -1000.0
