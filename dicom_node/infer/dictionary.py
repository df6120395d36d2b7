"""Bundles whose network gives a dictionary of maps and whose postprocessing works on them together.

What comes in: the prepared image. What goes out: labels on the network's grid, taken from the key that the
bundle would have saved last. Here the bundle's own inferer and transforms run as they are, in order; the
fast ways of `windows` and `postprocess` are for one tensor of scores.
"""

from typing import Any

import torch

from dicom_node.errors import ModelFailed
from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.inputs import Prepared

_INFERERS = ("SlidingWindowHoVerNetInferer",)


def is_dictionary(inferer: Any) -> bool:
    """Whether the inferer gives a dictionary."""
    return type(inferer).__name__ in _INFERERS


def run_dictionary(bundle: LoadedBundle, prepared: Prepared) -> torch.Tensor:
    """Labels `(i, j[, k])` uint8 of the network's grid.

    Raises:
        ModelFailed: the postprocessing leaves nothing under the key that the bundle would have saved.
    """
    output = bundle.inferer(prepared.tensor[None].to(bundle.device), bundle.network)
    pred = {str(getattr(key, "value", key)): value[0].cpu() for key, value in output.items()}
    data: dict[str, Any] = {**prepared.data, "pred": pred}
    for step in bundle.postprocessing:
        data = step(data)
    if bundle.output_key not in data:
        raise ModelFailed(f"postprocessing leaves no {bundle.output_key!r}")
    return torch.as_tensor(data[bundle.output_key])[0].to(torch.uint8)
