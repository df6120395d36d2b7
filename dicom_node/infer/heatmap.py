"""Heat maps: what in the image spoke for a class, on the source grid.

What comes in: a classifier, the image that it was given, classes. What goes out: Grad-CAM maps (Selvaraju
et al., ICCV 2017) in [0, 1] of the layer that the model's sidecar names. A map is relative to itself: it
says where, never how much, and never what.
"""

from collections.abc import Sequence

import torch

from ai_models.explain import grad_cam
from dicom_node.errors import ModelFailed
from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.grids import GridMap, values_to_source
from dicom_node.records import Float32


def heatmaps(
    bundle: LoadedBundle,
    prepared: torch.Tensor,
    to: GridMap,
    classes: Sequence[int],
    shape: tuple[int, ...],
) -> dict[int, Float32]:
    """Maps of some classes: index -> float32 of `shape`, the source's."""
    layer = bundle.description.outputs.heatmap_layer
    assert layer is not None  # a bundle without it is refused when it is loaded
    image = prepared[None].to(bundle.device)
    found = {}
    for index in classes:
        try:
            map_ = grad_cam(bundle.network, image, layer, index)
        except ValueError as error:
            raise ModelFailed(f"heat map: {error}") from error
        found[index] = values_to_source(map_.cpu(), to).clip(0.0, 1.0).reshape(shape)
    return found
