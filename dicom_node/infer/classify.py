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
from dicom_node.infer.windows import check_finite, first_tensor
from dicom_node.records import Classification, Float32


def classify(
    bundle: LoadedBundle, prepared: torch.Tensor, to: GridMap, shape: tuple[int, ...]
) -> Classification:
    """Run a classifier on `(C, i, j[, k])`; `shape` is the source's.

    Heat maps are made of classes at or above their threshold alone: a map is relative, so that of a class
    that was not found would show a place where nothing is.
    """
    output = first_tensor(bundle.network(prepared[None].to(bundle.device)))
    scores = output[0].float().cpu()
    check_finite(scores)
    if scores.ndim > 2 and scores[0].numel() == 1:
        scores = scores.flatten()  # a fully convolutional classifier on one field of view
    if scores.ndim > 2:
        raise BundleRefused(
            f"{bundle.description.name}: a classifier gave an output of shape {tuple(output.shape)}"
        )
    values = postprocess.classify(scores, bundle.postprocessing)
    classes = bundle.description.classes
    highest = max(entry.index for entry in classes)
    if highest >= values.shape[0]:
        raise BundleRefused(
            f"{bundle.description.name}: dicom.toml has a class {highest}, "
            f"the network gives {values.shape[0]}"
        )
    series = values if values.ndim == 1 else values[:, 0]
    probabilities = {entry.index: float(series[entry.index]) for entry in classes}
    slices, notes = ({}, ()) if values.ndim == 1 else _of_slices(values[:, 1:], to, probabilities)
    found = [entry.index for entry in classes if probabilities[entry.index] >= entry.threshold]
    maps = (
        heatmaps(bundle, prepared, to, found, shape) if bundle.description.outputs.heatmap else {}
    )
    return Classification(
        probabilities=probabilities, heatmaps=maps, slice_scores=slices, notes=notes
    )


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
