"""A denoiser that predicts the noise: HU `(b, 1, x, y, z)` in, HU of the same shape out.

The network is two-dimensional and sees three slices: the one that it cleans and its neighbours, whose
noise is another but whose anatomy is almost the same. Its answer is the noise. All of it but the share
`keep` is subtracted: what a quarter of the dose added is half of the amplitude, but which half nobody can
know, and the least error against the scan at full dose lies at a quarter of all noise kept. `limit_hu`
bounds the noise, so no voxel ever changes by more. Everything is in HU: no preprocessing can be forgotten.

Invariants: what goes in without noise comes out within `limit_hu`; NaN counts as air; the first and the last
slice are their own neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, pixel_shuffle, pixel_unshuffle

SCALE_HU = 100.0  # of the network's inner units
MULTIPLE = 8  # of pixels in x and y: unshuffled once, halved twice


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a short cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.second(torch.relu(self.first(x)))


class ResidualDenoiser(nn.Module):
    """A small U-net on 2 x 2 unshuffled slices (as in FFDNet, Zhang et al. 2018).

    Args:
        channels: of the three resolutions, finest first.
        blocks: residual blocks at each resolution on the way down, and again on the way up.
        limit_hu: bound of the change of a voxel.
        keep: share of the noise that stays, 0 to 1.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        limit_hu: float = 200.0,
        keep: float = 0.0,
    ) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.limit_hu, self.keep = limit_hu, keep
        self.enter = nn.Conv2d(12, fine, 3, padding=1)
        self.down_fine = _chain(fine, blocks)
        self.to_middle = nn.Conv2d(fine, middle, 2, stride=2)
        self.down_middle = _chain(middle, blocks)
        self.to_coarse = nn.Conv2d(middle, coarse, 2, stride=2)
        self.deep = _chain(coarse, blocks)
        self.from_coarse = nn.ConvTranspose2d(coarse, middle, 2, stride=2)
        self.up_middle = _chain(middle, blocks)
        self.from_middle = nn.ConvTranspose2d(middle, fine, 2, stride=2)
        self.up_fine = _chain(fine, blocks)
        self.leave = nn.Conv2d(fine, 4, 3, padding=1)

    def forward(self, hu: Tensor) -> Tensor:
        """The denoised volume `(b, 1, x, y, z)` in HU."""
        hu = torch.nan_to_num(hu, nan=-1000.0)
        batch, _, columns, rows, slices = hu.shape
        neighbours = torch.cat((hu[..., :1], hu, hu[..., -1:]), -1)
        stacks = torch.cat([neighbours[..., i : i + slices] for i in range(3)], 1)
        flat = stacks.permute(0, 4, 1, 2, 3).reshape(batch * slices, 3, columns, rows)
        noise = self.noise(flat).reshape(batch, slices, 1, columns, rows)
        return hu - (1 - self.keep) * noise.permute(0, 2, 3, 4, 1)

    def noise(self, stacks: Tensor) -> Tensor:
        """The noise `(n, 1, x, y)` of the middle one of three slices `(n, 3, x, y)`, both in HU."""
        columns, rows = stacks.shape[2:]
        missing = (0, -rows % MULTIPLE, 0, -columns % MULTIPLE)
        x = pad(stacks.clamp(-1100, 3100) / SCALE_HU, missing, mode="replicate")
        fine = self.down_fine(self.enter(pixel_unshuffle(x, 2)))
        middle = self.down_middle(self.to_middle(fine))
        deep = self.deep(self.to_coarse(middle))
        middle = self.up_middle(self.from_coarse(deep) + middle)
        fine = self.up_fine(self.from_middle(middle) + fine)
        noise = pixel_shuffle(self.leave(fine).float(), 2)[..., :columns, :rows] * SCALE_HU
        return self.limit_hu * torch.tanh(noise / self.limit_hu)


def _chain(channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
