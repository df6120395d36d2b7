"""A bundle's postprocessing, on the grid where it is cheap.

What comes in: the network's blended output `(C, ...)`, the bundle's transforms, and the way to the source
grid. What goes out: labels, probabilities or values on the source grid.

The order of the bundle is kept where it changes the result: an argmax before `Invertd` is taken on the
network's grid and its labels carried back; scores that are inverted first are interpolated and their
argmax taken on the source grid (a smoother border), in one pass and without the scores ever existing
there. Labels are never interpolated, whatever `nearest_interp` says. Known clean-up transforms run as
connected-components code that does not write into its input; the others run as they are.
"""

from collections.abc import Sequence
from typing import Any

import cc3d
import numpy as np
import torch

from dicom_node.errors import ModelFailed
from dicom_node.infer.grids import (
    GridMap,
    argmax,
    labels_to_source,
    scores_to_source_labels,
    values_to_source,
)
from dicom_node.records import Float32, Labels

_NO_EFFECT = ("EnsureType", "ToTensor", "ToNumpy", "FromMetaTensor", "Identity")
_NEIGHBOURS = {None: 26, 1: 6, 2: 18, 3: 26}


def leading_argmax(steps: Sequence[Any]) -> int:
    """How many first steps come to an argmax on the network's grid; 0 where they do not.

    Softmax, sigmoid and the like keep the order of channels, so before an argmax they need not be computed.
    """
    for index, step in enumerate(steps):
        if _is(step, "AsDiscrete"):
            return index + 1 if option(step, "argmax") and not option(step, "to_onehot") else 0
        if not (_is(step, "Activations") and not option(step, "other")) and not _does_nothing(step):
            return 0
    return 0


def inverts_scores(steps: Sequence[Any]) -> bool:
    """Whether the bundle wants its scores on the source grid before their argmax."""
    for step in steps:
        if _is(step, "AsDiscrete"):
            return False
        if _is(step, "Invert"):
            return True
    return False


def takes_argmax(steps: Sequence[Any]) -> bool:
    """Whether labels come from an argmax over channels: said so, or since nothing else is said."""
    discrete = [step for step in steps if _is(step, "AsDiscrete")]
    return not discrete or any(option(step, "argmax") for step in discrete)


def activation(steps: Sequence[Any]) -> tuple[Any | None, tuple[Any, ...]]:
    """The step that turns scores into probabilities, None where there is none, and the others."""
    found = next((step for step in steps if _is(step, "Activations")), None)
    return found, tuple(step for step in steps if step is not found)


def renames_labels(steps: Sequence[Any]) -> bool:
    """Whether a label may have another value than its channel."""
    return any(_is(step, name) for step in steps for name in ("MapLabelValue", "Lambda"))


def segment(output: torch.Tensor, steps: Sequence[Any], to: GridMap) -> Labels:
    """Labels `(z, y, x)` on the source grid from scores `(C, ...)` or labels `(1, ...)` uint8."""
    values, on_source = output, False
    for index, step in enumerate(steps):
        if not _is(step, "Invert"):
            values = apply(values, step)
        elif not on_source:
            ahead = steps[index + 1 :]
            values = _inverted(values, to, best=leading_argmax(ahead) > 0)
            on_source = True
    labels = _as_labels(values)
    return labels.numpy() if on_source else labels_to_source(labels, to)


def probabilities(
    output: torch.Tensor,
    steps: Sequence[Any],
    to: GridMap,
    values: Sequence[int],
    *,
    activated: bool = False,
) -> dict[int, Labels]:
    """255 x the probability of each segment value, `(z, y, x)` uint8 on the source grid, trilinear.

    Channels that an argmax chooses among are the values, 0 the background; channels that are each a mask are
    the values from 1. `activated`: what turns scores into probabilities was done already.

    Raises:
        ModelFailed: the bundle names no activation and the scores are no probabilities.
    """
    exclusive = takes_argmax(steps)
    activations = [step for step in steps if _is(step, "Activations")]
    shares = output.float()
    for step in activations if not activated else ():
        shares = apply(shares, step)
    if exclusive and not activations and not activated:
        shares = torch.softmax(shares, dim=0)
    if bool((shares < 0).any()) or bool((shares > 1).any()):
        raise ModelFailed("the outputs are no probabilities; postprocessing names no activation")
    first = 0 if exclusive else 1
    made = {}
    for value in values:
        on_source = values_to_source(shares[value - first], to)
        made[value] = np.rint(on_source * 255).astype(np.uint8)
    return made


def denoise(output: torch.Tensor, steps: Sequence[Any], to: GridMap) -> Float32:
    """Values `(z, y, x)` on the source grid, in the units that the postprocessing makes."""
    values = output
    for step in steps:
        if not _is(step, "Invert"):
            values = apply(values, step)
    if values.shape[0] != 1:
        raise ModelFailed(f"a denoising model gave {values.shape[0]} channels")
    return values_to_source(values[0], to)


def classify(output: torch.Tensor, steps: Sequence[Any]) -> torch.Tensor:
    """Probabilities `(C,)` from scores `(C,)`.

    Raises:
        ModelFailed: the bundle names no activation and the scores are no probabilities.
    """
    values, activated, discrete = output, False, False
    for step in steps:
        if _is(step, "Activations"):
            values, activated = apply(values, step), True
        elif _is(step, "AsDiscrete"):
            discrete = discrete or bool(option(step, "argmax"))
        elif not _is(step, "Invert") and not discrete:
            values = apply(values, step)
    if not activated and discrete:
        values = torch.softmax(values, dim=0)
    if bool((values < 0).any()) or bool((values > 1).any()):
        raise ModelFailed("the outputs are no probabilities; postprocessing names no activation")
    return values


def apply(values: torch.Tensor, step: Any) -> torch.Tensor:
    """One transform on `(C, ...)`; the input is left as it was."""
    if _does_nothing(step):
        return values
    if _is(step, "Activations"):
        return _activated(values, step)
    if _is(step, "AsDiscrete"):
        return _discrete(values, step)
    if _is(step, "KeepLargestConnectedComponent") and values.shape[0] == 1:
        return _largest_components(values, step)
    return _run(values, step)


def _run(values: torch.Tensor, step: Any) -> torch.Tensor:
    """Any other transform, on a copy, since some of MONAI's write into their input."""
    if keys := getattr(step, "keys", None):
        result = step({keys[0]: values.clone()})[keys[0]]
    else:
        result = step(values.clone())
    tensor = torch.as_tensor(result)
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def _activated(values: torch.Tensor, step: Any) -> torch.Tensor:
    if option(step, "sigmoid"):
        values = torch.sigmoid(values)
    if option(step, "softmax"):
        values = torch.softmax(values, dim=0)
    if other := option(step, "other"):
        values = other(values)
    return values


def _discrete(values: torch.Tensor, step: Any) -> torch.Tensor:
    # one channel of uint8 is an argmax that was taken already
    if option(step, "argmax") and not (values.shape[0] == 1 and values.dtype == torch.uint8):
        values = argmax(values)
    if classes := option(step, "to_onehot"):
        wanted = torch.arange(classes).reshape(-1, *[1] * (values.ndim - 1))
        values = (values == wanted).to(torch.uint8)
    if (threshold := option(step, "threshold")) is not None:
        values = (values >= threshold).to(torch.uint8)
    if option(step, "rounding"):
        values = torch.round(values)
    return values


def _inverted(values: torch.Tensor, to: GridMap, *, best: bool) -> torch.Tensor:
    """`(C, ...)` of the network's grid on the source grid, `(C', z, y, x)`."""
    if not values.is_floating_point():
        return torch.stack([torch.from_numpy(labels_to_source(one, to)) for one in values])
    if best and values.shape[0] > 1:
        return torch.from_numpy(scores_to_source_labels(values, to))[None]
    return torch.stack([torch.from_numpy(values_to_source(one, to)) for one in values])


def _as_labels(values: torch.Tensor) -> torch.Tensor:
    """One label map: masks of several channels become labels 1, 2, ..., later ones over earlier ones."""
    if values.shape[0] == 1:
        return values[0].round().to(torch.uint8)
    if values.is_floating_point():
        return argmax(values)[0]
    labels = torch.zeros(values.shape[1:], dtype=torch.uint8)
    is_onehot = bool((values.sum(dim=0) == 1).all())
    for channel, mask in enumerate(values):
        labels[mask > 0] = channel if is_onehot else channel + 1
    return labels


def _largest_components(values: torch.Tensor, step: Any) -> torch.Tensor:
    """Keep the largest component of each label (or of all labels together), as one pass of cc3d."""
    keep = getattr(step, "converter", step)
    labels = values[0].to(torch.uint8).cpu().numpy()
    wanted = list(keep.applied_labels or [int(label) for label in np.unique(labels) if label])
    neighbours = _NEIGHBOURS[keep.connectivity] if labels.ndim == 3 else (
        4 if keep.connectivity == 1 else 8
    )  # fmt: skip
    groups = [[label] for label in wanted] if keep.independent else [wanted]
    kept = labels.copy()
    for group in groups:
        mask = np.isin(labels, group) if len(group) > 1 else labels == (group or [0])[0]
        if group and mask.any():
            largest = cc3d.largest_k(mask, k=keep.num_components, connectivity=neighbours)
            kept[mask & (largest == 0)] = 0
    return torch.from_numpy(kept)[None]


def _is(step: Any, name: str) -> bool:
    return type(step).__name__ in (name, f"{name}d")


def _does_nothing(step: Any) -> bool:
    return any(_is(step, name) for name in _NO_EFFECT)


def option(step: Any, name: str) -> Any:
    """An option of a transform; the dictionary forms keep one for each key, and there is one key."""
    value = getattr(step, name, None)
    return value[0] if isinstance(value, tuple | list) else value
