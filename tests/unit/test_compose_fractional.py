"""Probabilities of a model as a FRACTIONAL SEG: from the network to what highdicom reads."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from dicom_node.compose.registry import compose
from dicom_node.compose.sr import OUTPUT as REPORT
from dicom_node.infer.answer import answer
from dicom_node.infer.engine import LocalEngine
from dicom_node.read.volume import read_image
from dicom_node.records import Outcome, Segmentation, Volume
from dicom_node.settings import InferSettings
from tests.builders import bundles, images, models

SHAPE = (6, 20, 24)


@pytest.fixture
def source() -> Volume:
    grid = images.affine("oblique", (3.0, 0.8, 0.8))
    found = read_image([images.raw(one) for one in images.series(images.pattern(SHAPE), grid)])
    assert isinstance(found, Volume)
    return found


def prediction() -> Segmentation:
    labels = images.labels(SHAPE)
    random = np.random.default_rng(2)
    shares = {n: random.integers(0, 256, SHAPE).astype(np.uint8) for n in (1, 2, 3)}
    shares[1][0] = 0
    return Segmentation(labels, probabilities=shares)


def test_a_fractional_seg_holds_every_probability(source: Volume, tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path, lesion=True), segmentation="fractional")
    given = prediction()
    seg, report = compose(ctx, source, given)
    made = seg.dataset()
    assert (made.SegmentationType, made.SegmentationFractionalType) == ("FRACTIONAL", "PROBABILITY")
    read = hd.seg.Segmentation.from_dataset(made)
    back = read.get_pixels_by_source_instance(
        [frame.sop_instance_uid for frame in source.frames],
        segment_numbers=[1, 2, 3],
        rescale_fractional=False,
        assert_missing_frames_are_empty=True,
    )
    for number in (1, 2):
        np.testing.assert_array_equal(back[..., number - 1], given.probabilities[number])
    lesion = np.where(given.labels == 3, given.probabilities[3], 0)
    np.testing.assert_array_equal(back[..., 2], lesion)
    assert seg.sop_instance_uid.encode() in report.content
    # measurements are of the labels, whatever the SEG is encoded as
    binary = compose(models.context(ctx.model), source, Segmentation(given.labels))
    assert not {f.sop_instance_uid for f in binary} & {f.sop_instance_uid for f in (seg, report)}


def test_without_probabilities_it_is_the_binary_one(source: Volume, tmp_path: Path) -> None:
    model, labels = models.model(tmp_path), Segmentation(images.labels(SHAPE))
    fractional = compose(models.context(model, segmentation="fractional"), source, labels)
    binary = compose(models.context(model), source, labels)
    assert [file.content for file in fractional] == [file.content for file in binary]
    assert REPORT.name == "sr"


@pytest.mark.parametrize("activation", [bundles.SOFTMAX, None], ids=["softmax", "argmax alone"])
def test_a_network_gives_its_probabilities(activation: object, tmp_path: Path) -> None:
    steps = [*([activation] if activation else []), bundles.ARGMAX, bundles.INVERT]
    config = bundles.configuration(preprocessing=bundles.RESAMPLE, postprocessing=steps)
    details = bundles.SEGMENT + "[outputs]\nprobabilities = true\n"
    model = bundles.write_bundle(tmp_path / "kept", config, details=details)
    engine = LocalEngine(InferSettings(device="cpu", threads=1, cpu_engine="torch"))
    z, y, x = np.indices((12, 30, 30))
    stored = (1124 + 8 * np.sin(x / 6) + 4 * np.cos(y / 5) + z).astype(np.int16)
    sets = images.series(stored, images.affine(spacing=(2.0, 1.5, 1.5)))
    given = answer(engine, model, [images.raw(one) for one in sets])
    assert given.outcome is Outcome.SUCCEEDED, given.reason
    assert isinstance(given.prediction, Segmentation)
    shares = given.prediction.probabilities[1]
    assert given.image is not None
    # the network's score is the value above 100, so its probability is the logistic function of it
    expected = 255 / (1 + np.exp(-(given.image.array - 100.0)))
    inner = (slice(2, -2),) * 3
    assert np.abs(shares[inner] - expected[inner]).mean() < 12
    assert np.corrcoef(shares[inner].ravel(), expected[inner].ravel())[0, 1] > 0.98
    clear = np.abs(shares.astype(int) - 128) > 60
    np.testing.assert_array_equal((shares > 128)[clear], (given.prediction.labels == 1)[clear])
