"""A classifier's answer: probabilities of its classes, of slices where it scores them, and heat maps.

What comes in: the prepared image. What goes out: a `Classification` on the source grid. A classifier gives
`(1, classes)`, or `(1, classes, 1 + slices)` with the whole series in column 0.
"""

from collections.abc import Mapping

import numpy as np
import torch

from dicom_node.errors import BundleRefused
from dicom_node.infer import postprocess
from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.grids import GridMap
from dicom_node.infer.heatmap import heatmaps
from dicom_node.infer.runs import Runs, swapped
from dicom_node.infer.windows import Network, check_finite, first_tensor
from dicom_node.records import Classification, Float32


def classify(
    bundle: LoadedBundle, runs: Runs, prepared: torch.Tensor, to: GridMap, shape: tuple[int, ...]
) -> Classification:
    """Run a classifier on `(C, i, j[, k])`; `shape` is the source's.

    Heat maps are made of classes at or above their threshold alone, and of the first network: a map is
    relative, so that of a class that was not found would show a place where nothing is.
    """
    looks = [
        _look(bundle, network, prepared, axes, mirrored)
        for network in runs.networks
        for axes, mirrored in zip(runs.flips, runs.mirrors, strict=True)
    ]
    values = torch.stack(looks).mean(dim=0)
    classes = bundle.description.classes
    highest = max(entry.index for entry in classes)
    if highest >= values.shape[0]:
        raise BundleRefused(
            f"{bundle.description.name}: dicom.toml has a class {highest}, "
            f"the network gives {values.shape[0]}"
        )
    series = values if values.ndim == 1 else values[:, 0]
    probabilities = {entry.index: float(series[entry.index]) for entry in classes}
    slices: dict[int, Float32] = {}
    notes: tuple[str, ...] = ()
    if values.ndim > 1:
        slices, notes = _of_slices(values[:, 1:], to, probabilities)
    if bundle.description.inference.uncertainty == "spread":
        notes = (*notes, _spread(bundle, torch.stack(looks)))
    found = [entry.index for entry in classes if probabilities[entry.index] >= entry.threshold]
    maps = (
        heatmaps(bundle, prepared, to, found, shape) if bundle.description.outputs.heatmap else {}
    )
    return Classification(
        probabilities=probabilities, heatmaps=maps, slice_scores=slices, notes=notes
    )


def _look(
    bundle: LoadedBundle,
    network: Network,
    prepared: torch.Tensor,
    axes: tuple[int, ...],
    mirrored: bool,
) -> torch.Tensor:
    """Probabilities `(classes,)`, or `(classes, 1 + slices)`, of one network's look at the image."""
    seen = prepared.flip([axis + 1 for axis in axes]) if axes else prepared
    output = first_tensor(network(seen[None].to(bundle.device)))
    scores = output[0].float().cpu()
    check_finite(scores)
    if scores.ndim > 2 and scores[0].numel() == 1:
        scores = scores.flatten()  # a fully convolutional classifier on one field of view
    if scores.ndim > 2:
        raise BundleRefused(
            f"{bundle.description.name}: a classifier gave an output of shape {tuple(output.shape)}"
        )
    if scores.ndim == 2 and prepared.ndim - 2 in axes:
        # slices run along the last axis
        scores = torch.cat([scores[:, :1], scores[:, 1:].flip(1)], dim=1)
    values = postprocess.classify(scores, bundle.postprocessing)
    return swapped(values, bundle.description.inference.mirrored) if mirrored else values


def _spread(bundle: LoadedBundle, looks: torch.Tensor) -> str:
    """How far the looks `(n, classes, ...)` lie apart, in words."""
    series = looks if looks.ndim == 2 else looks[:, :, 0]
    deviation = series.std(dim=0, correction=0)
    told = (f"{one.label} {float(deviation[one.index]):.3f}" for one in bundle.description.classes)
    return f"standard deviation of the probability over {len(looks)} runs: {', '.join(told)}"


def _of_slices(
    values: torch.Tensor, to: GridMap, classes: Mapping[int, float]
) -> tuple[dict[int, Float32], tuple[str, ...]]:
    """Scores `(classes, k)` of the network's slices, as scores of the source's slices."""
    if to.order[0] != 2:
        return {}, ("slices were scored across the acquired ones and are not reported",)
    centre = np.array([0.0, (to.shape[1] - 1) / 2, (to.shape[2] - 1) / 2, 1.0])
    places = to.matrix[0] @ centre + to.matrix[0, 0] * np.arange(to.shape[0])
    nearest = np.clip(np.rint(places).astype(int), 0, values.shape[1] - 1)
    return {index: values[index].numpy()[nearest] for index in classes}, ()
