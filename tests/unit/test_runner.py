"""One image through one bundle: a mask comes back where it belongs, and nothing is made up."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    EnsureTyped,
    Invertd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from dicom_node.errors import BundleRefused, ModelFailed, NotApplicable
from dicom_node.infer import runner, windows
from dicom_node.infer.fused import fused
from dicom_node.infer.grids import (
    grid_map,
    labels_to_source,
    scores_to_source_labels,
    to_meta_tensor,
)
from dicom_node.infer.plan import window_plan
from dicom_node.infer.runner import predict
from dicom_node.records import Classification, Denoised, Float32, Segmentation, Volume
from tests.builders.bundles import (
    ARGMAX,
    INVERT,
    RESAMPLE,
    SIGMOID,
    SOFTMAX,
    THRESHOLD,
    THRESHOLD_NETWORK,
    WINDOWS,
    configuration,
    identity_weights,
    threshold_weights,
    write_bundle,
)
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

ORIENTATIONS = {
    "axial": AXIAL,
    "sagittal": SAGITTAL,
    "coronal": CORONAL,
    "flipped": FLIPPED,
    "oblique": oblique(),
}
PIPELINES: dict[str, dict[str, Any]] = {
    "as it is": configuration(),
    "resampled, labels carried back": configuration(preprocessing=RESAMPLE, inferer=WINDOWS),
    "resampled, scores carried back": configuration(
        preprocessing=RESAMPLE, inferer=WINDOWS, postprocessing=(SOFTMAX, INVERT, ARGMAX)
    ),
    "cropped and padded": configuration(
        preprocessing=[
            *RESAMPLE[:1],
            {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "margin": 3},
            {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [50, 50, 50]},
        ],
        inferer=WINDOWS,
    ),
}


def dice(a: Any, b: Any) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_mask_comes_back_where_it_belongs(
    orientation: str, pipeline: str, tmp_path: Path
) -> None:
    image = volume(asymmetric_block(), ORIENTATIONS[orientation], spacing=(2.0, 1.3, 1.1))
    found = predict(write_bundle(tmp_path / "model_a", PIPELINES[pipeline]), image)
    assert isinstance(found, Segmentation)
    assert found.labels.shape == image.array.shape
    assert found.labels.dtype == np.uint8
    truth = image.array > THRESHOLD
    if "resampled" in pipeline:
        assert dice(found.labels > 0, truth) > 0.88
        centre = np.argwhere(truth).mean(axis=0) - np.argwhere(found.labels).mean(axis=0)
        assert np.abs(centre * image.spacing).max() < 1.5, "by most of the network's 2 mm voxel"
    else:
        assert np.array_equal(found.labels > 0, truth)


@settings(deadline=None, max_examples=25)
@given(
    degrees=st.floats(-80, 80),
    spacing=st.tuples(st.floats(0.5, 6), st.floats(0.4, 3), st.floats(0.4, 3)),
    tilt=st.floats(-0.4, 0.4),
)
def test_every_voxel_finds_its_way_there_and_back(
    degrees: float, spacing: tuple[float, float, float], tilt: float
) -> None:
    """Oblique, anisotropic and gantry-tilted grids: after `Orientationd` alone the map is exact."""
    numbers = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)
    image = volume(numbers, oblique(degrees), spacing)
    sheared = image.affine.copy()
    sheared[:3, 0] += tilt * spacing[0] * sheared[:3, 1] / spacing[1]
    image = replace(image, affine=sheared)
    oriented = Orientationd(keys="image", axcodes="RAS", labels=None)(
        {"image": to_meta_tensor(image)}
    )["image"]
    to = grid_map(image, oriented.affine, 3)
    assert to.is_identity
    assert np.array_equal(labels_to_source(oriented[0].as_tensor(), to), numbers.astype(np.uint8))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_labels_agree_with_monais_own_inversion(orientation: str) -> None:
    image = volume(asymmetric_block(), ORIENTATIONS[orientation], spacing=(3.1, 1.07, 0.93))
    before = Compose(
        [
            Orientationd(keys="image", axcodes="RAS", labels=None),
            Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0), mode="bilinear"),
        ]
    )
    data = before({"image": to_meta_tensor(image)})
    seen = data["image"]
    labels = (seen > THRESHOLD).to(torch.float32)
    data["pred"] = MetaTensor(labels.as_tensor(), affine=seen.affine, meta=seen.meta)
    invert = Invertd(keys="pred", transform=before, orig_keys="image", nearest_interp=True)
    theirs = invert(data)["pred"][0].numpy().transpose(2, 1, 0) > 0
    to = grid_map(image, seen.affine, 3)
    ours = labels_to_source(labels[0].as_tensor(), to) > 0
    # a source voxel half way between two of the network's may fall to either
    assert dice(ours, theirs) > 0.97


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("pixdim", [[2.0, 2.0, 2.0], [0.7, 1.9, -1.0]])
def test_preprocessing_in_one_pass_gives_what_monai_gives(
    orientation: str, pixdim: list[float]
) -> None:
    rng = np.random.default_rng(2)
    array = rng.normal(0, 700, (14, 22, 26)).astype(np.float32)
    image = volume(array, ORIENTATIONS[orientation], spacing=(3.1, 1.07, 0.93))
    transforms = [
        Orientationd(keys="image", axcodes="LPS", labels=None),
        Spacingd(keys="image", pixdim=pixdim, mode="bilinear"),
        EnsureTyped(keys="image"),
        ScaleIntensityRanged("image", -1000.0, 500.0, 0.0, 1.0, clip=True),
        NormalizeIntensityd("image"),
    ]
    found = fused(transforms, "image", image)
    assert found is not None
    ours, left = found
    assert [type(step).__name__ for step in left] == ["NormalizeIntensityd"]
    theirs = Compose(transforms[:4])({"image": to_meta_tensor(image)})["image"]
    assert ours.shape == theirs.shape
    assert np.allclose(np.asarray(ours.affine), np.asarray(theirs.affine), atol=1e-6)
    assert float((ours.as_tensor() - theirs.as_tensor()).abs().max()) < 2e-3


def test_other_preprocessing_is_left_to_monai() -> None:
    image = volume(asymmetric_block((8, 9, 10)))
    nearest = Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0), mode="nearest")
    assert fused([nearest], "image", image) is None
    assert fused([NormalizeIntensityd("image")], "image", image) is None


def test_smooth_labels_are_the_argmax_of_interpolated_scores() -> None:
    image = volume(np.zeros((9, 11, 13), np.float32), oblique(), spacing=(1.7, 0.9, 0.8))
    before = Spacingd(keys="image", pixdim=(2.0, 2.0, 2.0))
    seen = before({"image": to_meta_tensor(image)})["image"]
    scores = torch.randn(4, *seen.shape[1:], generator=torch.Generator().manual_seed(1))
    to = grid_map(image, seen.affine, 3)
    fused = scores_to_source_labels(scores, to)
    plain = postprocess_each(scores, to)
    assert np.array_equal(fused, plain)


def postprocess_each(scores: torch.Tensor, to: Any) -> Any:
    from dicom_node.infer.grids import values_to_source

    return np.argmax([values_to_source(one, to, -np.inf) for one in scores], axis=0)


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize(("shape", "overlap"), [((20, 17, 31), 0.5), ((9, 40, 12), 0.25)])
def test_windows_are_those_of_monai(mode: str, shape: tuple[int, ...], overlap: float) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(1, *shape)
    inferer = SlidingWindowInferer((16, 16, 12), 3, overlap, mode=mode, padding_mode="replicate")
    with torch.inference_mode():
        theirs = inferer(image[None], network)[0]
        ours = windows.slide(image, window_plan(inferer, 3), network, device=torch.device("cpu"))
        best = windows.slide(
            image, window_plan(inferer, 3), network, device=torch.device("cpu"),
            reduce=lambda slab: slab.max(0, keepdim=True).indices,
        )  # fmt: skip
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.equal(best[0], ours.max(0).indices)


def test_running_out_of_memory_is_answered_once_with_smaller_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = write_bundle(tmp_path / "model_a", PIPELINES["resampled, labels carried back"])
    image = volume(asymmetric_block())
    wanted = predict(description, image)
    batches: list[int] = []
    plain_slide = windows.slide

    def short_of_memory(image: Any, plan: windows.WindowPlan, *args: Any, **more: Any) -> Any:
        batches.append(plan.batch)
        if plan.batch > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return plain_slide(image, plan, *args, **more)

    monkeypatch.setattr(runner, "slide", short_of_memory)
    found = predict(description, image)
    assert batches == [4, 1]
    assert isinstance(found, Segmentation)
    assert isinstance(wanted, Segmentation)
    assert np.array_equal(found.labels, wanted.labels)


def test_many_classes_are_blended_in_the_hosts_memory_where_a_gpu_is_short_of_it() -> None:
    gpu, gib = torch.device("cuda", 0), 2**30

    def free(device: torch.device) -> int:
        return 8 * gib

    assert windows.accumulator_device(gpu, 3 * gib, free) == gpu
    assert windows.accumulator_device(gpu, 5 * gib, free).type == "cpu"
    assert windows.accumulator_device(torch.device("cpu"), 99 * gib).type == "cpu"


def test_a_constant_image_is_not_applicable(tmp_path: Path) -> None:
    description = write_bundle(tmp_path / "model_a")
    with pytest.raises(NotApplicable, match="every value of the image is the same"):
        predict(description, volume(np.full((8, 8, 8), 700.0, np.float32)))


def test_an_image_of_nan_is_not_applicable(tmp_path: Path) -> None:
    array = asymmetric_block((12, 12, 12))
    array[:7] = np.nan
    with pytest.raises(NotApplicable, match="58% of the image's values are no numbers"):
        predict(write_bundle(tmp_path / "model_a"), volume(array))


def test_a_few_nan_are_taken_as_the_lowest_value_and_noted(tmp_path: Path) -> None:
    array = asymmetric_block((12, 12, 12))
    whole = predict(write_bundle(tmp_path / "model_a"), volume(array))
    array[0, 0, :3] = np.nan, np.inf, -np.inf
    source = array.copy()
    found = predict(write_bundle(tmp_path / "model_a"), volume(array))
    assert isinstance(found, Segmentation)
    assert isinstance(whole, Segmentation)
    assert np.array_equal(found.labels, whole.labels)
    assert found.notes == ("3 values were no numbers and were taken as 0",)
    assert np.array_equal(array, source, equal_nan=True), "the image was written to"


def test_a_network_that_gives_nan_fails(tmp_path: Path) -> None:
    weights = threshold_weights()
    weights["encode.encode_0.conv.bias"][:] = float("nan")
    description = write_bundle(tmp_path / "model_a", weights=weights)
    with pytest.raises(ModelFailed, match="no numbers"):
        predict(description, volume(asymmetric_block((8, 8, 8))))


def test_a_projection_is_not_given_to_a_model_of_volumes(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="a single image, the model takes a volume"):
        predict(write_bundle(tmp_path / "model_a"), projection(np.eye(9, dtype=np.float32)))


def test_a_segment_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    details = '[[segments]]\nvalue = 7\nlabel = "x"\ncategory = ["1", "SCT", "a"]\n'
    details += 'type = ["1", "SCT", "a"]\ncolor_rgb = [1, 1, 1]'
    with pytest.raises(BundleRefused, match=r"out_channels is 2, dicom\.toml has a segment 7"):
        predict(write_bundle(tmp_path / "model_a", details=details), volume(asymmetric_block()))


def test_largest_component_and_threshold_and_lambda(tmp_path: Path) -> None:
    array = asymmetric_block()
    array[0, 0, :4] = 400.0
    keep = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred", "applied_labels": [1]}
    image = volume(array)
    kept = predict(
        write_bundle(tmp_path / "model_a", configuration(postprocessing=(ARGMAX, keep))), image
    )
    assert isinstance(kept, Segmentation)
    assert not kept.labels[0].any()
    assert kept.labels.any()
    mask = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
    second = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[1:]"}
    steps = configuration(postprocessing=(SIGMOID, INVERT, mask, second))
    masks = predict(write_bundle(tmp_path / "model_b", steps), image)
    assert isinstance(masks, Segmentation)
    assert np.array_equal(masks.labels > 0, array >= THRESHOLD)


def identity(folder: Path, *before: dict[str, Any], after: tuple[Any, ...] = ()) -> Any:
    return write_bundle(
        folder,
        configuration(
            network={**THRESHOLD_NETWORK, "out_channels": 1},
            preprocessing=before,
            postprocessing=after,
            inferer=WINDOWS,
        ),
        identity_weights(),
        task="denoising",
        details="",
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_denoiser_that_does_nothing_gives_back_the_image(
    orientation: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    array: Float32 = rng.normal(0, 400, (14, 18, 22)).astype(np.float32)
    image = volume(array, ORIENTATIONS[orientation])
    scale = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1000, "a_max": 1000,
             "b_min": 0, "b_max": 1, "clip": True}  # fmt: skip
    back = {"_target_": "ScaleIntensityRanged", "keys": "pred", "a_min": 0, "a_max": 1,
            "b_min": -1000, "b_max": 1000}  # fmt: skip
    found = predict(identity(tmp_path / "model_a", RESAMPLE[0], scale, after=(back,)), image)
    assert isinstance(found, Denoised)
    assert found.array.dtype == np.float32
    assert np.abs(found.array - array).max() < 0.01
    assert (np.abs(array) > 1000).any(), "values that the model clips are kept too"
    assert "were kept as they were" in found.notes[0]


CLASSES = """
[[classes]]
index = 1
label = "Pneumonia"
finding = ["233604007", "SCT", "Pneumonia"]
"""
DENSE = {
    "_target_": "DenseNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 2,
    "block_config": [1, 1],
}


def classifier(folder: Path, *after: dict[str, Any], details: str = CLASSES) -> Any:
    from dicom_node.infer import allowed

    torch.manual_seed(3)
    network = allowed.make("DenseNet", {key: v for key, v in DENSE.items() if key[0] != "_"})
    resize = {"_target_": "Resized", "keys": "image", "spatial_size": [32, 24]}
    config = configuration(network=DENSE, preprocessing=[resize], postprocessing=after)
    return write_bundle(
        folder, config, network.state_dict(), task="classification", dimensions=2, details=details
    )


def test_a_classifier_gives_probabilities_and_a_heat_map_on_the_source_grid(
    tmp_path: Path,
) -> None:
    details = (
        CLASSES + 'threshold = 0.0\n[outputs]\nheatmap = true\nheatmap_layer = "features.norm5"'
    )
    image = projection(asymmetric_block((4, 90, 70))[1])
    names = [name for name, _ in _features(tmp_path)]
    layer = next(name for name in reversed(names) if "norm" in name)
    details = details.replace("features.norm5", layer)
    found = predict(classifier(tmp_path / "model_a", SOFTMAX, details=details), image)
    assert isinstance(found, Classification)
    assert set(found.probabilities) == {1}
    assert 0 < found.probabilities[1] < 1
    assert found.heatmaps[1].shape == (90, 70)
    assert 0 <= found.heatmaps[1].min() <= found.heatmaps[1].max() <= 1


def _features(tmp_path: Path) -> Any:
    from dicom_node.infer.bundle import load_bundle

    bundle = load_bundle(classifier(tmp_path / "model_z", SOFTMAX), torch.device("cpu"))
    return list(bundle.network.named_modules())


def test_scores_without_an_activation_are_not_called_probabilities(tmp_path: Path) -> None:
    image = projection(asymmetric_block((4, 90, 70))[1] * 100)
    with pytest.raises(ModelFailed, match="no probabilities"):
        predict(classifier(tmp_path / "model_a"), image)


def test_a_class_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    image = projection(asymmetric_block((4, 90, 70))[1])
    with pytest.raises(BundleRefused, match=r"dicom\.toml has a class 5, the network gives 2"):
        predict(
            classifier(
                tmp_path / "model_a", SOFTMAX, details=CLASSES.replace("index = 1", "index = 5")
            ),
            image,
        )


def test_a_heat_map_without_a_layer_is_refused(tmp_path: Path) -> None:
    details = CLASSES + "[outputs]\nheatmap = true"
    image = projection(asymmetric_block((4, 90, 70))[1])
    with pytest.raises(BundleRefused, match=r"outputs\.heatmap_layer: is missing"):
        predict(classifier(tmp_path / "model_a", SOFTMAX, details=details), image)


def test_rows_come_first_where_the_bundles_reader_says_so(tmp_path: Path) -> None:
    image = projection(np.arange(20, dtype=np.float32).reshape(4, 5))
    assert to_meta_tensor(image).shape == (1, 5, 4)
    by_rows = to_meta_tensor(image, rows_first=True)
    assert np.array_equal(by_rows[0].numpy(), image.array)
    to = grid_map(image, by_rows.affine, 2, rows_first=True)
    assert np.array_equal(labels_to_source(by_rows[0].as_tensor(), to)[0], image.array)


def test_a_volume_keeps_its_type(tmp_path: Path) -> None:
    """The prepared image lies where the source lies: a landmark keeps its position in the patient."""
    image = volume(asymmetric_block((6, 8, 10)), SAGITTAL, spacing=(2.0, 1.5, 0.5))
    assert isinstance(image, Volume)
    tensor = to_meta_tensor(image)
    z, y, x = 4, 6, 9
    lps = image.affine @ [z, y, x, 1]
    ras = np.asarray(tensor.affine) @ [x, y, z, 1]
    assert np.allclose(ras[:3] * [-1, -1, 1], lps[:3])
    assert float(tensor[0, x, y, z]) == image.array[z, y, x]
