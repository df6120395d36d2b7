"""The tumour-patch segmentation as it is shipped, and the rule that it is measured against."""

import json

import numpy as np
import pytest
import torch

from ai_models.evaluation.ct_lung_tumour import baseline, by_patient, rule
from ai_models.evaluation.statistics import dice
from ai_models.training.bundles import prepared, preprocessing_of, shipped_network
from ai_models.training.ct_lung_tumour import BUNDLE, augment, folds_of, predict

h5py = pytest.importorskip("h5py", reason="the patches come as HDF5; install the extra 'train'")

from ai_models.data.patches import Patches, read_patches  # noqa: E402 - it needs h5py


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.set_num_threads(1)
    return shipped_network(BUNDLE)


@pytest.fixture(scope="module")
def patches() -> Patches:
    try:
        return read_patches()
    except FileNotFoundError as error:
        pytest.skip(f"no real patches here: {error}")


def test_weights_are_small_and_repeat_themselves(network: torch.nn.Module) -> None:
    assert (BUNDLE / "models" / "model.safetensors").stat().st_size < 8e6
    image = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(image), shipped_network(BUNDLE)(image))


def test_air_alone_holds_no_tumour(network: torch.nn.Module) -> None:
    for value in (-1000.0, -1024.0):
        volume = torch.full((1, 96, 96, 3), value)
        slices = prepared(preprocessing_of(BUNDLE), volume).permute(3, 0, 1, 2)
        assert not (network(slices) > 0).any()


def test_turning_moves_image_and_mask_together() -> None:
    mask = torch.zeros(4, 1, 48, 48)
    mask[:, :, 18:30, 12:22] = 1
    image, moved = augment(mask * 0.8 + 0.1, mask, torch.Generator().manual_seed(1))
    assert not torch.equal(moved, mask)
    inside, outside = image[moved > 0].mean(), image[(moved == 0) & (image > 0)].mean()
    assert inside > outside + 0.3


def test_the_rule_takes_a_lump_and_leaves_the_wall() -> None:
    image = np.full((48, 48), 0.1, np.float32)
    image[:, :8] = 0.9
    image[20:30, 25:35] = 0.85
    found = rule(image, 0.6, 1, 6)
    assert dice(found, image == np.float32(0.85)) > 0.95
    assert not rule(np.full((48, 48), 0.1, np.float32), 0.6, 1, 6).any()


@pytest.mark.shared
def test_patients_held_out_from_these_weights(network: torch.nn.Module, patches: Patches) -> None:
    held_out = folds_of(patches) == 0
    part = Patches(patches.images[held_out], patches.masks[held_out], patches.patients[held_out])
    found = predict(network, torch.from_numpy(part.images)[:, None]) > 0
    assert by_patient(found, part).mean() > 0.4


@pytest.mark.shared
def test_a_patient_is_ten_patches_of_one_lung(patches: Patches) -> None:
    assert patches.images.shape == patches.masks.shape == (130, 48, 48)
    assert np.bincount(patches.patients).tolist() == [10] * 13
    folds = folds_of(patches)
    assert all(len(np.unique(folds[patches.patients == p])) == 1 for p in range(13))
    assert baseline(patches, folds).shape == patches.masks.shape


def test_the_card_quotes_the_evaluation() -> None:
    card = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    found = json.loads((BUNDLE / "docs" / "evaluation.json").read_text(encoding="utf-8"))
    for who in ("network", "threshold_and_shape", "blob_in_the_middle"):
        figure = found[who]["dice_mean_over_patients"]
        assert f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" in card
