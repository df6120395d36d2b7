"""Ensembles, mirrored windows and uncertainty: what they average, and that left stays left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dicom_node.catalogue import ModelDescription, describe
from dicom_node.compose.registry import compose
from dicom_node.errors import BundleRefused
from dicom_node.infer import runner
from dicom_node.infer.bundle import load_bundle
from dicom_node.infer.runner import predict
from dicom_node.infer.runs import Runs, entropy
from dicom_node.records import Classification, Denoised, Float32, Segmentation, Volume
from tests.builders.bundles import (
    ARGMAX,
    INVERT,
    RESAMPLE,
    SEGMENT,
    SIGMOID,
    SOFTMAX,
    THRESHOLD_NETWORK,
    WINDOWS,
    configuration,
    threshold_weights,
    write_bundle,
)
from tests.builders.models import context
from tests.builders.volumes import (
    AXIAL,
    CORONAL,
    FLIPPED,
    SAGITTAL,
    asymmetric_block,
    oblique,
    projection,
    volume,
)

CPU = torch.device("cpu")
SHIFT = {
    "_target_": "AutoEncoder",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "channels": [1],
    "strides": [1],
    "kernel_size": 3,
    "up_kernel_size": 1,
    "act": None,
    "norm": None,
}
"""A network whose answer depends on where things lie: a convolution that no mirror leaves alone."""


def members(folder: Path, *weights: dict[str, torch.Tensor]) -> None:
    for number, one in enumerate(weights):
        save_file(
            {name: value.contiguous() for name, value in one.items()},
            folder / f"models/fold_{number}.safetensors",
        )


def lopsided(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "encode.encode_0.conv.weight": torch.rand(1, 1, 3, 3, 3, generator=generator),
        "encode.encode_0.conv.bias": torch.zeros(1),
        "decode.decode_0.conv.conv.weight": torch.ones(1, 1, 1, 1, 1),
        "decode.decode_0.conv.conv.bias": torch.zeros(1),
    }


def filtering(folder: Path, options: str, **process: Any) -> ModelDescription:
    """A model of values: what is averaged can be seen as it is."""
    config = configuration(network=SHIFT, postprocessing=(), **process)
    description = write_bundle(folder, config, lopsided(0), task="denoising", details=options)
    members(folder, lopsided(1), lopsided(2))
    return describe(description.folder)


def values_of(description: ModelDescription, image: Volume) -> Float32:
    found = predict(description, image)
    assert isinstance(found, Denoised)
    return found.array


def noise(shape: tuple[int, ...] = (13, 20, 22)) -> Float32:
    return np.random.default_rng(5).normal(0, 100, shape).astype(np.float32)


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    image = volume(noise())
    apart = []
    for number in (0, 1):
        options = f'[inference]\nweights = ["models/fold_{number}.safetensors"]'
        apart.append(values_of(filtering(tmp_path / f"model_{'ab'[number]}", options), image))
    both = '[inference]\nweights = ["models/fold_0.safetensors", "models/fold_1.safetensors"]'
    found = values_of(filtering(tmp_path / "model_c", both), image)
    assert np.abs(apart[0] - apart[1]).max() > 10
    assert np.allclose(found, (apart[0] + apart[1]) / 2, atol=1e-3)


# which axis of the array runs along each axis of the patient
GRIDS = {
    "axial": (AXIAL, {"head_foot": 0, "front_back": 1, "left_right": 2}),
    "sagittal": (SAGITTAL, {"left_right": 0, "head_foot": 1, "front_back": 2}),
    "coronal": (CORONAL, {"front_back": 0, "head_foot": 1, "left_right": 2}),
    "flipped": (FLIPPED, {"head_foot": 0, "front_back": 1, "left_right": 2}),
    "oblique": (oblique(20.0), {"head_foot": 0, "front_back": 1, "left_right": 2}),
}


@pytest.mark.parametrize("grid", GRIDS)
def test_windows_are_mirrored_along_the_patients_axes(grid: str, tmp_path: Path) -> None:
    axes, runs_along = GRIDS[grid]
    image = volume(noise(), axes, spacing=(1.5, 1.0, 1.2))
    once = values_of(filtering(tmp_path / "model_a", ""), image)
    for name, axis in runs_along.items():
        mirrored = filtering(tmp_path / f"with_{name}", f'[inference]\nflips = ["{name}"]')
        other = replace(image, array=np.ascontiguousarray(np.flip(image.array, axis)))
        back = np.flip(values_of(describe(tmp_path / "model_a"), other), axis)
        assert np.allclose(values_of(mirrored, image), (once + back) / 2, atol=1e-2)
        assert np.abs(once - back).max() > 10, "the network tells one side from the other"


def test_all_axes_together_are_eight_looks(tmp_path: Path) -> None:
    flips = '[inference]\nflips = ["left_right", "front_back", "head_foot"]'
    found = predict(filtering(tmp_path / "model_a", flips), volume(noise()))
    assert found.notes == ("the mean of 8 runs (8 mirrorings)",)
    assert isinstance(found, Denoised)
    mirrored = np.flip(noise(), (0, 1, 2))
    again = predict(describe(tmp_path / "model_a"), volume(np.ascontiguousarray(mirrored)))
    assert isinstance(again, Denoised)
    assert np.allclose(found.array, np.flip(again.array, (0, 1, 2)), atol=1e-2)


def test_a_grid_that_lies_across_the_patient_is_not_mirrored(tmp_path: Path) -> None:
    image = volume(noise(), oblique(44.0))
    description = filtering(tmp_path / "model_a", '[inference]\nflips = ["left_right"]')
    found = predict(description, image)
    assert found.notes == ("left-right mirrored windows were left out: the grid is oblique",)


def sides(windows: torch.Tensor) -> torch.Tensor:
    """Calls what is bright 1 on the low side of the last axis and 2 on the other, as anatomy would."""
    bright = (windows > 0.5).float()
    low = torch.zeros_like(bright)
    low[..., : windows.shape[-1] // 2] = 1
    return torch.cat([0.5 - bright, bright * low, bright * (1 - low)], dim=1) * 20


def test_left_and_right_change_places_in_a_mirror() -> None:
    image = torch.zeros(1, 1, 4, 4, 8)
    image[..., 1:3] = 1
    runs = Runs(
        (sides,), ((), (2,)), (False, True), ((1, 2),), lambda scores: scores.softmax(1), True
    )
    found = runs(image)
    assert (found.shape[1], found[:, :-1].argmax(1).unique().tolist()) == (4, [0, 1])
    assert found[:, -1].max() < 1e-6, "both looks agree"
    mixed = replace(runs, swap=())(image)
    assert mixed[:, -1].max() > 0.9, (
        "without the word of the sidecar they would contradict each other"
    )


SIDED = SEGMENT.replace('"Bright"', '"Bright left"')
RIGHT = SIDED.replace("left", "right").replace("value = 1", "value = 2")


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        (SIDED + '[inference]\nflips = ["left_right"]', "'Bright left' is of one side"),
        (
            SIDED + RIGHT + '[inference]\nflips = ["left_right"]\nmirrored = [[1, 1]]',
            "'Bright right' is of one side",
        ),
        (
            SIDED + '[inference]\nflips = ["front_back"]\nmirrored = [[1, 1]]',
            "front_back turns the anatomy by which a network tells left from right",
        ),
        (
            SEGMENT + 'modifier = ["7771000", "SCT", "Left"]\n[inference]\nflips = ["left_right"]',
            "is of one side",
        ),
        (SEGMENT + '[inference]\nflips = ["up"]', "Input should be 'left_right'"),
        (SEGMENT + '[inference]\nflips = ["head_foot", "head_foot"]', "named twice"),
        (SEGMENT + '[inference]\nuncertainty = "spread"', "one run has none"),
        (SEGMENT + '[inference]\nweights = ["../model.pt"]', "String should match pattern"),
    ],
)
def test_a_sidecar_that_would_mix_up_sides_is_refused(
    details: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleRefused) as refused:
        write_bundle(tmp_path / "model_a", details=details)
    assert "dicom.toml: " in str(refused.value)
    assert "inference" in str(refused.value)
    assert reason in str(refused.value)


def test_what_a_side_is_in_a_mirror_can_be_said(tmp_path: Path) -> None:
    details = SIDED + RIGHT + '[inference]\nflips = ["left_right"]\nmirrored = [[1, 2]]'
    assert write_bundle(tmp_path / "model_a", details=details).inference.runs == 2


def test_a_member_that_is_missing_is_named(tmp_path: Path) -> None:
    description = write_bundle(
        tmp_path / "model_a", details=SEGMENT + '[inference]\nweights = ["models/fold_9.pt"]'
    )
    with pytest.raises(BundleRefused, match=r"inference\.weights: models/fold_9\.pt: no such file"):
        load_bundle(description, CPU)


@pytest.mark.parametrize(
    "steps", [(SOFTMAX, ARGMAX, INVERT), (SOFTMAX, INVERT, ARGMAX), (ARGMAX, INVERT)]
)
@pytest.mark.parametrize("way", ["entropy", "spread"])
def test_uncertainty_lies_where_the_members_disagree(
    way: str, steps: tuple[Any, ...], tmp_path: Path
) -> None:
    """Members with thresholds 100 and 300: between them one says yes and one says no."""
    array = np.zeros((12, 14, 16), np.float32)
    array[:, :, 5:10], array[:, :, 10:] = 200.0, 1000.0
    options = '[inference]\nweights = ["models/fold_0.safetensors", "models/fold_1.safetensors"]\n'
    options += f'uncertainty = "{way}"'
    config = configuration(inferer=WINDOWS, postprocessing=steps)
    write_bundle(tmp_path / "model_a", config, details=SEGMENT + options)
    members(tmp_path / "model_a", threshold_weights(), threshold_weights(threshold=300.0))
    found = predict(describe(tmp_path / "model_a"), volume(array, SAGITTAL))
    assert isinstance(found, Segmentation)
    assert found.uncertainty is not None
    assert found.uncertainty.shape == array.shape
    assert np.allclose(found.uncertainty[:, :, 5:10], 1.0, atol=1e-3)
    assert found.uncertainty[:, :, :5].max() < 1e-3
    assert found.uncertainty[:, :, 10:].max() < 1e-3
    assert (found.labels[:, :, 10:] == 1).all()
    assert not found.labels[:, :, :5].any()
    assert found.notes == ("the mean of 2 runs (2 networks)",)


def test_one_network_has_an_entropy_too(tmp_path: Path) -> None:
    config = configuration(
        preprocessing=RESAMPLE, inferer=WINDOWS, postprocessing=(SOFTMAX, ARGMAX, INVERT)
    )
    details = SEGMENT + '[inference]\nuncertainty = "entropy"'
    image = volume(asymmetric_block(), oblique(), spacing=(2.0, 1.3, 1.1))
    found = predict(write_bundle(tmp_path / "model_a", config, details=details), image)
    plain = predict(write_bundle(tmp_path / "model_b", config), image)
    assert isinstance(found, Segmentation)
    assert isinstance(plain, Segmentation)
    assert np.array_equal(found.labels, plain.labels), "looking for doubt changes no label"
    assert found.uncertainty is not None
    assert 0 <= found.uncertainty.min() <= found.uncertainty.max() <= 1


def test_memory_is_no_reason_to_lose_the_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SHARE_OF_MEMORY", 0.0)
    config = configuration(postprocessing=(SOFTMAX, INVERT, ARGMAX))
    details = SEGMENT + '[inference]\nuncertainty = "entropy"'
    found = predict(
        write_bundle(tmp_path / "model_a", config, details=details), volume(asymmetric_block())
    )
    assert isinstance(found, Segmentation)
    assert found.uncertainty is not None
    assert found.notes == ("borders are those of the network's grid: memory was short",)


@pytest.mark.parametrize("steps", [(SOFTMAX, ARGMAX, INVERT), (ARGMAX, INVERT)])
def test_kept_probabilities_are_the_mean_of_the_members(
    steps: tuple[Any, ...], tmp_path: Path
) -> None:
    details = SEGMENT + "[outputs]\nprobabilities = true\n[inference]\n"
    details += 'weights = ["models/fold_0.safetensors", "models/fold_1.safetensors"]\n'
    config = configuration(inferer=WINDOWS, postprocessing=steps)
    write_bundle(tmp_path / "model_a", config, details=details + 'uncertainty = "spread"')
    members(tmp_path / "model_a", threshold_weights(), threshold_weights(threshold=300.0))
    array = np.zeros((12, 14, 16), np.float32)
    array[:, :, 5:10], array[:, :, 10:] = 200.0, 1000.0
    found = predict(describe(tmp_path / "model_a"), volume(array))
    assert isinstance(found, Segmentation)
    assert found.uncertainty is not None
    shares = found.probabilities[1][6, 7]
    assert shares.tolist() == [0] * 5 + [128] * 5 + [255] * 6


def test_masks_of_their_own_have_the_doubt_of_the_least_sure() -> None:
    probabilities = torch.tensor([[0.5, 0.0, 1.0], [1.0, 1.0, 0.9]])[..., None, None]
    found = entropy(probabilities, "sigmoid").flatten()
    assert torch.allclose(found, torch.tensor([1.0, 0.0, 0.469]), atol=1e-3)
    sure = entropy(torch.eye(3)[..., None, None], "softmax")
    assert float(sure.max()) == 0.0


def test_scores_that_are_no_probabilities_have_no_uncertainty(tmp_path: Path) -> None:
    mask = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.0}
    one = {**THRESHOLD_NETWORK, "out_channels": 2}
    details = SEGMENT + '[inference]\nuncertainty = "entropy"'
    description = write_bundle(
        tmp_path / "model_a", configuration(network=one, postprocessing=(mask,)), details=details
    )
    with pytest.raises(BundleRefused, match="names no softmax, sigmoid or argmax"):
        predict(description, volume(asymmetric_block()))


CLASSES = """
[[classes]]
index = 0
label = "Bright"
finding = ["233604007", "SCT", "Pneumonia"]
"""
DENSE = {
    "_target_": "DenseNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 1,
    "init_features": 4, "growth_rate": 2, "block_config": [1, 1],
}  # fmt: skip


def classifiers(folder: Path, options: str) -> ModelDescription:
    from dicom_node.infer import allowed

    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        made = allowed.make("DenseNet", {key: v for key, v in DENSE.items() if key[0] != "_"})
        states.append(made.state_dict())
    config = configuration(network=DENSE, postprocessing=(SIGMOID,))
    write_bundle(
        folder, config, states[0], task="classification", dimensions=2, details=CLASSES + options
    )
    members(folder, *states)
    return describe(folder)


def test_a_classifiers_looks_are_averaged_and_their_spread_is_told(tmp_path: Path) -> None:
    image = projection(asymmetric_block((4, 90, 70))[1] / 1000)
    each = []
    for number in (0, 1):
        options = f'[inference]\nweights = ["models/fold_{number}.safetensors"]'
        one = predict(classifiers(tmp_path / f"model_{'ab'[number]}", options), image)
        assert isinstance(one, Classification)
        each.append(one.probabilities[0])
    options = """[inference]
weights = ["models/fold_0.safetensors", "models/fold_1.safetensors"]
uncertainty = "spread"
"""
    found = predict(classifiers(tmp_path / "model_c", options), image)
    assert isinstance(found, Classification)
    assert found.probabilities[0] == pytest.approx(np.mean(each), abs=1e-6)
    told = f"standard deviation of the probability over 2 runs: Bright {np.std(each):.3f}"
    assert found.notes == ("the mean of 2 runs (2 networks)", told)
    mirrored = predict(
        classifiers(tmp_path / "model_d", '[inference]\nflips = ["left_right"]'), image
    )
    turned = projection(np.ascontiguousarray(np.flip(image.array, 1)))
    again = predict(describe(tmp_path / "model_d"), turned)
    assert isinstance(mirrored, Classification)
    assert isinstance(again, Classification)
    assert mirrored.probabilities[0] == pytest.approx(again.probabilities[0], abs=1e-5)
    assert mirrored.probabilities[0] != pytest.approx(each[0], abs=1e-5)


def test_the_map_of_uncertainty_is_an_object_where_it_is_wanted(tmp_path: Path) -> None:
    from tests.unit.test_compose_images import volume as series

    source = series()
    doubt = np.zeros(source.array.shape, np.float32)
    doubt[2:4, 4:8] = 0.5
    labels = np.zeros(source.array.shape, np.uint8)
    labels[3, 4:8] = 1
    ctx = context(write_bundle(tmp_path / "model_a"))
    found = Segmentation(labels, doubt)
    assert {file.kind for file in compose(ctx, source, found)} == {"seg", "sr"}
    with_map = replace(ctx, kinds=ctx.kinds | {"uncertainty"})
    made = {file.kind: file for file in compose(with_map, source, found)}
    parametric = made["uncertainty"].dataset()
    values = np.frombuffer(parametric.FloatPixelData, "<f4").reshape(-1, *source.array.shape[1:])
    np.testing.assert_array_equal(values, doubt[2:4])
    assert "uncertainty" in parametric.SeriesDescription
    assert b"Mean uncertainty (0 sure, 1 a guess): Bright 0.50" in made["sr"].content
