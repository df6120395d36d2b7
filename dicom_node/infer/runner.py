"""One image through one loaded bundle.

What comes in: a `LoadedBundle` and an image. What goes out: a `Prediction` on the image's own grid. An image
that says nothing (constant, mostly NaN) is refused as `NotApplicable` and never shown to the network, so
that no finding is made up, and none is ruled out either.

Invariants: the image is not written to; `labels.shape == image.array.shape`; what the network gives is
finite, or the job fails.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from dicom_node.catalogue import ModelDescription
from dicom_node.errors import BundleRefused, ModelFailed, NodeError
from dicom_node.infer import postprocess
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.classify import classify
from dicom_node.infer.dictionary import is_dictionary, run_dictionary
from dicom_node.infer.grids import GridMap, argmax, grid_map, labels_to_source, values_to_source
from dicom_node.infer.inputs import Prepared, check_dimensions, prepare, readable
from dicom_node.infer.plan import window_plan
from dicom_node.infer.runs import Runs, of_scores, runs_of, wanted
from dicom_node.infer.windows import Network, Reduce, WindowPlan, check_finite, slide
from dicom_node.records import (
    Classification,
    Denoised,
    Float32,
    Image,
    Labels,
    Prediction,
    Segmentation,
)

SHARE_OF_MEMORY = 0.5
"""Scores on the network's grid may take so much of the free memory; above it only labels are kept."""

_Result = TypeVar("_Result")


def predict(
    description: ModelDescription, image: Image, device: torch.device | None = None
) -> Prediction:
    """Load a model and run it once; `engine.LocalEngine` keeps models for the next image.

    Raises:
        BundleRefused: the bundle may not be loaded.
        NotApplicable, ModelFailed: see `run`.
    """
    return run(load_bundle(description, device or torch.device("cpu")), image)


def run(
    bundle: LoadedBundle,
    image: Image,
    also: Sequence[Image] = (),
    prompts: Mapping[str, Any] | None = None,
) -> Prediction:
    """Run a loaded model.

    Args:
        bundle: the model.
        image: what the prediction will lie on.
        also: further images on its grid, for a model that takes several series at once.
        prompts: what a person says for the model, by the key that its transforms know it by.

    Raises:
        NotApplicable: the image says nothing, or has another number of dimensions than the model takes.
        ModelFailed: a transform or the network broke.
    """
    check_dimensions(bundle, image)
    image, notes = readable(image)
    with torch.inference_mode():
        prepared = _step("preprocessing", lambda: prepare(bundle, image, also, prompts))
        dimensions = prepared.tensor.ndim - 1
        to = grid_map(image, prepared.affine, dimensions, bundle.rows_first)
        task = _TASKS[bundle.description.model.task]
        return _step("network", lambda: task(bundle, image, prepared, to, notes))


def _segment(
    bundle: LoadedBundle, image: Image, prepared: Prepared, to: GridMap, notes: tuple[str, ...]
) -> Segmentation:
    if is_dictionary(bundle.inferer):
        labels = labels_to_source(run_dictionary(bundle, prepared), to)
        return Segmentation(labels=labels.reshape(image.array.shape), notes=notes)
    plan = window_plan(bundle.inferer, prepared.tensor.ndim - 1)
    network, said = _looks(bundle, image, prepared, plan.slice_axis)
    steps, doubt = bundle.postprocessing, None
    if isinstance(network, Runs):
        network, steps, doubt = of_scores(network, bundle)
    keeps = bundle.description.outputs.probabilities
    done = 0 if keeps else postprocess.leading_argmax(steps)
    inverts = not keeps and not done and postprocess.inverts_scores(steps)
    if inverts and not _scores_fit(bundle, prepared.tensor):
        done = _argmax_after_invert(steps)
        if done:
            said = (*said, "borders are those of the network's grid: memory was short")
    keep: Reduce | None = argmax if done else None
    if doubt is not None:
        keep = doubt.with_map(keep)
    output, unsure = _slide(bundle, prepared.tensor, plan, network, keep), None
    if doubt is not None:
        unsure = values_to_source(output[-1], to).clip(0.0, 1.0).reshape(image.array.shape)
        output = output[:-1].to(torch.uint8) if done else output[:-1]
    _check_values(bundle, output, labels_only=bool(done))
    labels = postprocess.segment(output, steps[done:], to)
    shares = _shares(bundle, output, to, activated=isinstance(network, Runs)) if keeps else {}
    shape = image.array.shape
    return Segmentation(
        labels.reshape(shape),
        unsure,
        (*notes, *said),
        {value: one.reshape(shape) for value, one in shares.items()},
    )


def _shares(
    bundle: LoadedBundle, output: torch.Tensor, to: GridMap, *, activated: bool
) -> dict[int, Labels]:
    """255 x the probability of each segment; `activated`: the output is probabilities already."""
    values = [segment.value for segment in bundle.description.segments]
    steps = bundle.postprocessing
    return postprocess.probabilities(output, steps, to, values, activated=activated)


def _denoise(
    bundle: LoadedBundle, image: Image, prepared: Prepared, to: GridMap, notes: tuple[str, ...]
) -> Denoised:
    plan = window_plan(bundle.inferer, prepared.tensor.ndim - 1)
    network, said = _looks(bundle, image, prepared, plan.slice_axis)
    output = _slide(bundle, prepared.tensor, plan, network)
    values = postprocess.denoise(output, bundle.postprocessing, to).reshape(image.array.shape)
    beyond, note = _outside_range(bundle, image.array)
    if beyond is not None:
        values = np.where(beyond, image.array, values)
        said = (*said, note)
    return Denoised(array=values, notes=(*notes, *said))


def _classify(
    bundle: LoadedBundle, image: Image, prepared: Prepared, to: GridMap, notes: tuple[str, ...]
) -> Classification:
    runs, said = runs_of(bundle, bundle.networks, image, prepared.affine)
    found = classify(bundle, runs, prepared.tensor, to, image.array.shape)
    return replace(found, notes=(*notes, *said, *found.notes))


_TASKS: dict[str, Callable[..., Prediction]] = {
    "segmentation": _segment,
    "denoising": _denoise,
    "classification": _classify,
}


def _looks(
    bundle: LoadedBundle, image: Image, prepared: Prepared, slice_axis: int | None
) -> tuple[Network, tuple[str, ...]]:
    """The network, or all the looks that the sidecar asks for, with notes for the report."""
    networks = _networks(bundle)
    if not wanted(bundle):
        return networks[0], ()
    return runs_of(bundle, networks, image, prepared.affine, slice_axis)


def _slide(
    bundle: LoadedBundle,
    prepared: torch.Tensor,
    plan: WindowPlan,
    network: Network,
    reduce: Reduce | None = None,
) -> torch.Tensor:
    """The network over the image; after running out of memory once more with smaller windows."""

    def checked(slab: torch.Tensor) -> torch.Tensor:
        check_finite(slab)
        return slab if reduce is None else reduce(slab)

    try:
        return slide(prepared, plan, network, device=bundle.device, reduce=checked)
    except (RuntimeError, MemoryError) as error:
        smaller = plan.smaller()
        if not is_out_of_memory(error) or smaller is None:
            raise
    if bundle.device.type == "cuda":
        torch.cuda.empty_cache()
    return slide(prepared, smaller, network, device=bundle.device, reduce=checked)


def _networks(bundle: LoadedBundle) -> tuple[Network, ...]:
    """The compiled networks for windows that they were compiled for, torch's for others."""
    if not bundle.fast:
        return bundle.networks
    return tuple(
        _choosing(fast, network) for fast, network in zip(bundle.fast, bundle.networks, strict=True)
    )


def _choosing(fast: Any, network: Network) -> Network:
    return lambda windows: (
        fast(windows) if fast.takes(tuple(windows.shape[1:])) else network(windows)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (either device) or Python ran out of memory."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def _scores_fit(bundle: LoadedBundle, prepared: torch.Tensor) -> bool:
    classes = 1 + max(segment.value for segment in bundle.description.segments)
    needed = 2 * 4 * classes * int(np.prod(prepared.shape[1:]))  # once more in the source's order
    return needed <= SHARE_OF_MEMORY * float(psutil.virtual_memory().available)


def _argmax_after_invert(steps: tuple[Any, ...]) -> int:
    """Steps up to the argmax that follows the inversion; 0 where something else stands between."""
    for index, step in enumerate(steps):
        if type(step).__name__ in ("Invert", "Invertd"):
            ahead = postprocess.leading_argmax(steps[index + 1 :])
            return index + 1 + ahead if ahead else 0
    return 0


def _check_values(bundle: LoadedBundle, output: torch.Tensor, *, labels_only: bool) -> None:
    """A network with fewer channels than the sidecar has segments is another network."""
    highest = max(segment.value for segment in bundle.description.segments)
    if not labels_only and output.shape[0] > 1 and highest > output.shape[0]:
        raise BundleRefused(
            f"{bundle.description.name}: dicom.toml has a segment {highest}, "
            f"the network gives {output.shape[0]} channels"
        )


def _outside_range(bundle: LoadedBundle, array: Float32) -> tuple[Any, str]:
    """Voxels that the preprocessing clips: the network never saw their values, so they stay as they were."""
    for transform in bundle.preprocessing:
        scaler = getattr(transform, "scaler", transform)
        if type(scaler).__name__ == "ScaleIntensityRange" and scaler.clip:
            beyond = (array < scaler.a_min) | (array > scaler.a_max)
            if beyond.any():
                note = (
                    f"{int(beyond.sum())} values outside {scaler.a_min:g} to {scaler.a_max:g} "
                    "were kept as they were"
                )
                return beyond, note
    return None, ""


def _step(name: str, work: Callable[[], _Result]) -> _Result:
    """Run a part of the prediction; what breaks in it is the model's failure, told without values."""
    try:
        return work()
    except NodeError:
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ModelFailed(f"{name}: out of memory") from error
        raise ModelFailed(f"{name}: {_reason(error)}") from error
    except Exception as error:
        raise ModelFailed(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {(lines[0] if lines else '')[:200]}"
