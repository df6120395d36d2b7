"""The shipped ct_structures: its weights fit, sides are the right way round, and no lung is made up."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import pytest
import torch

from ai_models.data.ct_labels import StatedLabel, label_by_rule
from ai_models.data.ct_sets import phantom_labels, read, shared_data, source
from ai_models.evaluation.bundle import Bundle
from ai_models.evaluation.ct_structures import LUNGS, dice_of, overlaps
from ai_models.phantoms import Phantom, thorax
from ai_models.training import MODELS
from ai_models.training.ct_structures import NAME, loss_of, mirrored

SHAPE, SPACING = (66, 110, 140), (5.0, 2.6, 2.6)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.set_num_threads(1)
    return Bundle(NAME)


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return thorax(SHAPE, SPACING, 9100, nodules=1)


def dice(prediction: np.ndarray, truth: np.ndarray, label: StatedLabel) -> float:
    return dice_of(overlaps(prediction.astype(np.uint8), truth, label))


def test_an_unseen_phantom_is_segmented_the_right_way_round(bundle: Bundle, chest: Phantom) -> None:
    predicted, truth = bundle.run(chest.hu, chest.affine), phantom_labels(chest)
    assert predicted.shape == chest.hu.shape
    assert dice(predicted, truth, StatedLabel.LEFT_LUNG) > 0.93
    assert dice(predicted, truth, StatedLabel.RIGHT_LUNG) > 0.93
    assert dice(predicted, truth, StatedLabel.AIRWAY) > 0.2
    assert dice(predicted, truth, StatedLabel.BONE) > 0.6
    x = chest.origin_mm[0] + SPACING[2] * np.argwhere(predicted == StatedLabel.LEFT_LUNG)[:, 2]
    assert x.mean() > 0


def test_a_mirrored_phantom_has_its_left_lung_at_its_left(bundle: Bundle, chest: Phantom) -> None:
    predicted = bundle.run(chest.hu[:, :, ::-1].copy(), chest.affine)
    truth = phantom_labels(chest)[:, :, ::-1]
    assert dice(predicted, truth == StatedLabel.RIGHT_LUNG, StatedLabel.LEFT_LUNG) > 0.9
    assert dice(np.where(predicted == 2, 1, 0), truth == 1, StatedLabel.LEFT_LUNG) > 0.9


def test_voxels_stored_the_other_way_round_give_the_same_labels(
    bundle: Bundle, chest: Phantom
) -> None:
    flipped = chest.affine @ np.array(
        [[-1, 0, 0, SHAPE[2] - 1], [0, 1, 0, 0], [0, 0, -1, SHAPE[0] - 1], [0, 0, 0, 1.0]]
    )
    straight = bundle.run(chest.hu, chest.affine)
    turned = bundle.run(chest.hu[::-1, :, ::-1].copy(), flipped)[::-1, :, ::-1]
    assert (straight == turned).mean() > 0.995


def test_an_abdomen_and_noise_and_air_have_no_lungs(bundle: Bundle) -> None:
    abdomen = thorax((30, 110, 140), (5.0, 2.6, 2.6), 9101, centre_z_mm=-300.0)
    rng = np.random.default_rng(0)
    for hu in (
        abdomen.hu,
        np.full((12, 64, 64), -1000, np.int16),
        np.full((12, 64, 64), 40, np.int16),
        rng.normal(0, 30, (12, 64, 64)).astype(np.int16),
    ):
        predicted = bundle.run(hu, abdomen.affine)
        voxel_ml = float(np.prod(SPACING)) / 1000
        assert np.isin(predicted, LUNGS).sum() * voxel_ml < 30


def test_mirroring_exchanges_picture_and_labels_alike() -> None:
    image = torch.arange(24.0).reshape(1, 4, 3, 2)
    labels = torch.zeros(4, 3, 2, dtype=torch.long)
    labels[0], labels[3] = StatedLabel.LEFT_LUNG, StatedLabel.RIGHT_LUNG
    other_image, other = mirrored(image, labels)
    assert torch.equal(other, labels)
    assert torch.equal(other_image, image.flip(1))


def test_the_loss_leaves_ignored_voxels_out_of_account() -> None:
    logits = torch.randn(1, 5, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    labels[:, :2] = StatedLabel.IGNORE
    changed = logits.clone()
    changed[:, :, :2] += torch.randn(5, 1, 1, 1)
    assert loss_of(logits, labels).item() == pytest.approx(loss_of(changed, labels).item())


def test_the_rule_labels_a_phantom_as_its_truth_has_it(chest: Phantom) -> None:
    labels, truth = label_by_rule(chest.hu, SPACING, contrast=False), phantom_labels(chest)
    for label in LUNGS:
        assert dice(labels, truth, label) > 0.93


def test_card_sidecar_and_configuration_agree() -> None:
    folder = MODELS / NAME
    sidecar = tomllib.loads((folder / "dicom.toml").read_text())
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    config = json.loads((folder / "configs" / "inference.json").read_text())
    assert sidecar["model"]["version"] == metadata["version"]
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert len(channels) == config["network_def"]["classes"]
    assert [s["value"] for s in sidecar["segments"]] == [int(k) for k in list(channels)[1:]]
    assert (folder / "models" / "model.safetensors").stat().st_size < 8_000_000


@pytest.mark.skipif(not shared_data().exists(), reason="the folder of real data is absent")
def test_real_lung_bases_are_found_on_their_sides(bundle: Bundle) -> None:
    volume = read(source("crlm-1006"))
    coarse = volume.hu[14:, ::3, ::3]
    affine = volume.affine @ np.diag((3.0, 3.0, 1.0, 1.0))
    predicted = bundle.run(coarse, affine)
    ml = float(np.prod(volume.spacing_mm)) * 9 / 1000
    left, right = ((predicted == label) for label in LUNGS)
    assert 800 < left.sum() * ml < 1300
    assert 1000 < right.sum() * ml < 1500
    assert np.argwhere(left)[:, 2].mean() > np.argwhere(right)[:, 2].mean()
