"""What spoke for a class: a network and an image in, a map in [0, 1] on the image's grid out.

`grad_cam` (Selvaraju et al., ICCV 2017) asks a layer, `occlusion` (Zeiler and Fergus, ECCV 2014)
blanks the image piece by piece. Both work in 2D and 3D, on one image at a time, and leave the
network as they found it. A map is relative: its maximum is 1 wherever anything spoke for the class,
so it says where, never how much. A classifier's output is `(1, classes)`, or `(1, classes, 1 +
slices)` with the series in column 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional


def class_logit(output: Tensor, index: int) -> Tensor:
    """The logit of class `index` for the whole image, `(b,)`."""
    return output[:, index] if output.ndim == 2 else output[:, index, 0]


def grad_cam(network: nn.Module, image: Tensor, layer: str, index: int = 0) -> Tensor:
    """Grad-CAM of class `index` at the layer with this dotted name.

    Args:
        image: `(1, channels, *spatial)`, as the network takes it.
        layer: a submodule whose output is `(1, features, *spatial)`; the earlier, the finer and the noisier.

    Returns:
        `(*spatial)` float32 in [0, 1], zero everywhere where nothing spoke for the class.

    Raises:
        ValueError: no such layer, it did not run, or its output has not the image's number of axes.
    """
    modules = dict(network.named_modules())
    if layer not in modules:
        raise ValueError(
            f"no layer {layer!r}; there are {', '.join(sorted(filter(None, modules)))}"
        )
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # a following in-place ReLU must not overwrite what is kept

    handle = modules[layer].register_forward_hook(keep)
    try:
        with torch.inference_mode(False), torch.enable_grad(), _evaluating(network):
            source = image.detach().clone().float().requires_grad_(True)
            score = class_logit(network(source), index).sum()
            if not kept or kept[-1].ndim != image.ndim:
                raise ValueError(f"layer {layer!r} gave no map of {image.ndim - 2} dimensions")
            (slope,) = torch.autograd.grad(score, kept[-1])
    finally:
        handle.remove()
    axes = tuple(range(2, slope.ndim))
    weights = slope.mean(axes, keepdim=True)
    evidence = functional.relu((weights * kept[-1].detach()).sum(1, keepdim=True))
    mode = "bilinear" if image.ndim == 4 else "trilinear"
    evidence = functional.interpolate(evidence, image.shape[2:], mode=mode, align_corners=False)
    return _to_unit(evidence[0, 0])


@torch.no_grad()
def occlusion(
    network: nn.Module,
    image: Tensor,
    window: Sequence[int],
    stride: Sequence[int] | None = None,
    index: int = 0,
    fill: float | None = None,
    batch: int = 16,
) -> Tensor:
    """How much the logit of class `index` falls when a window is blanked, mean over a voxel's windows.

    Args:
        image: `(1, channels, *spatial)`.
        window: size per spatial axis; a whole axis, to ask about slices alone, is as long as the image.
        stride: step per spatial axis; half the window where it is not given.
        fill: the value to blank with; the image's mean where it is not given.

    Returns:
        `(*spatial)` float32 in [0, 1].
    """
    shape = tuple(image.shape[2:])
    size = [min(w, n) for w, n in zip(window, shape, strict=True)]
    step = list(stride) if stride else [max(1, w // 2) for w in size]
    starts = [
        sorted({*range(0, n - w + 1, s), n - w}) for n, w, s in zip(shape, size, step, strict=True)
    ]
    places = [
        (..., *(slice(a, a + w) for a, w in zip(corner, size, strict=True)))
        for corner in product(*starts)
    ]
    blank = float(image.nanmean()) if fill is None else fill
    fall, seen = torch.zeros(shape), torch.zeros(shape)
    with _evaluating(network):
        whole = class_logit(network(image), index)
        for k in range(0, len(places), batch):
            some = places[k : k + batch]
            changed = image.repeat(len(some), *[1] * (image.ndim - 1))
            for row, place in zip(changed, some, strict=True):
                row[place] = blank
            for drop, place in zip(whole - class_logit(network(changed), index), some, strict=True):
                fall[place] += drop.item()
                seen[place] += 1
    return _to_unit(functional.relu(fall / seen.clamp(min=1)))


class _evaluating:  # noqa: N801 - used as a statement
    """Sets the network to evaluation and back, so that explaining never moves a batch norm."""

    def __init__(self, network: nn.Module) -> None:
        self.network, self.training = network, network.training

    def __enter__(self) -> None:
        self.network.eval()

    def __exit__(self, *_: object) -> None:
        self.network.train(self.training)


def _to_unit(values: Tensor) -> Tensor:
    values = torch.nan_to_num(values.float())
    top = values.max()
    return values / top if float(top) > 0 else torch.zeros_like(values)
