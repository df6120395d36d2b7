"""Random changes to batches of 2D images, in torch alone and driven by a generator, so that a seed
repeats them.

In and out: `(b, 1, h, w)` float32 in [0, 1] or nearly; the label of an image never changes.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def _between(low: float, high: float, n: int, g: Generator) -> Tensor:
    return torch.rand(n, generator=g) * (high - low) + low


def affine(
    x: Tensor,
    g: Generator,
    *,
    degrees: float = 10,
    scale: float = 0.12,
    stretch: float = 0.06,
    shift: float = 0.06,
    flip: bool = True,
    mode: str = "bilinear",
) -> Tensor:
    """Turn, scale, stretch, shift (share of the width) and mirror left to right; outside is 0."""
    theta = affine_matrices(len(x), g, degrees, scale, stretch, shift, flip)
    return warp(x, theta, mode)


def affine_matrices(
    n: int, g: Generator, degrees: float, scale: float, stretch: float, shift: float, flip: bool
) -> Tensor:
    """`(n, 2, 3)` matrices for `warp`."""
    angle = _between(-degrees, degrees, n, g) * math.pi / 180
    size = 1 + _between(-scale, scale, n, g)
    sx = size * (1 + _between(-stretch, stretch, n, g))
    sy = size * (1 + _between(-stretch, stretch, n, g))
    side = torch.where(torch.rand(n, generator=g) < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    rows = [
        torch.stack([sx * angle.cos() * side, -sy * angle.sin(), _between(-2, 2, n, g) * shift], 1),
        torch.stack([sx * angle.sin() * side, sy * angle.cos(), _between(-2, 2, n, g) * shift], 1),
    ]
    return torch.stack(rows, 1)


def warp(x: Tensor, theta: Tensor, mode: str = "bilinear") -> Tensor:
    """Resample `(b, c, h, w)` by one matrix an image."""
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, mode=mode, align_corners=False)


def grey_values(x: Tensor, g: Generator) -> Tensor:
    """Gamma, contrast, brightness and noise: another tube, another detector, another look-up table."""
    n = len(x)
    column = (n, 1, 1, 1)
    x = x.clamp(1e-4, 1) ** torch.exp(_between(-0.35, 0.35, n, g)).view(column)
    x = (x - 0.5) * _between(0.8, 1.2, n, g).view(column) + 0.5
    x = x + _between(-0.1, 0.1, n, g).view(column)
    return x + torch.randn(x.shape, generator=g) * _between(0, 0.03, n, g).view(column)


def cut_out(x: Tensor, g: Generator, probability: float = 0.5) -> Tensor:
    """Blank a rectangle of a tenth to a third of the side, so that no single spot decides."""
    x = x.clone()
    side = x.shape[-1]
    for image in x:
        if float(torch.rand(1, generator=g)) < probability:
            h, w = torch.randint(side // 10, side // 3, (2,), generator=g).tolist()
            top = int(torch.randint(0, side - h, (1,), generator=g))
            left = int(torch.randint(0, side - w, (1,), generator=g))
            image[:, top : top + h, left : left + w] = 0.5
    return x


def mix(x: Tensor, targets: Tensor, g: Generator, alpha: float = 0.4) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., ICLR 2018): blend each image and its target with another's."""
    # A beta variate as the ratio of two gammas, each drawn as a power of uniforms (Johnk's method).
    share = 1.0
    while True:
        u, v = (torch.rand(2, generator=g) ** (1 / alpha)).tolist()
        if 0 < u + v <= 1:
            share = u / (u + v)
            break
    other = torch.randperm(len(x), generator=g)
    return share * x + (1 - share) * x[other], share * targets + (1 - share) * targets[other]
