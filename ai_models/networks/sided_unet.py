"""A UNet that knows which side of the body it looks at: scaled CT `(b, 1, x, y, z)` in, logits out.

Left and right lung look alike; what tells them apart is their side. A convolution has no notion of side,
so the network is given two more channels: how far to the left and to the back a voxel lies from the
middle of the tissue in its window, in units of 100 mm. They are computed from the window itself, so they
move with the patient and turn over when he is mirrored. The x axis must run to the patient's left and y
to his back.

Invariant: with no tissue in the window both channels are measured from the window's middle; NaN counts as
air.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

TISSUE = 0.4  # in an image where 0 is -1024 HU and 1 is +1024 HU: about -200 HU


class SidedUNet(nn.Module):
    """MONAI's residual UNet (Kerfoot et al. 2018) in three dimensions with lateral and dorsal coordinates.

    Args:
        classes: number of logits.
        channels: of the resolutions, finest first; each halves the one before.
        spacing_mm: size of a voxel along x and y.
    """

    def __init__(
        self,
        classes: int = 5,
        channels: Sequence[int] = (16, 32, 64, 96, 128),
        spacing_mm: Sequence[float] = (2.5, 2.5),
    ) -> None:
        super().__init__()
        self.spacing_mm = tuple(spacing_mm)
        self.unet = UNet(
            spatial_dims=3,
            in_channels=3,
            out_channels=classes,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=2,
            norm="batch",
        )

    def forward(self, image: Tensor) -> Tensor:
        """Logits `(b, classes, x, y, z)` of images `(b, 1, x, y, z)` in 0..1; sizes are multiples of 16."""
        image = torch.nan_to_num(image)
        return self.unet(torch.cat((image, *self._coordinates(image)), 1))

    def _coordinates(self, image: Tensor) -> list[Tensor]:
        tissue = (image > TISSUE).to(image.dtype)
        made = []
        for axis, step in zip((2, 3), self.spacing_mm, strict=True):
            others = [a for a in (1, 2, 3, 4) if a != axis]
            profile = tissue.sum(others) + 1e-3
            at = torch.arange(image.shape[axis], device=image.device, dtype=image.dtype)
            middle = (profile * at).sum(1, keepdim=True) / profile.sum(1, keepdim=True)
            shape = [image.shape[0], 1, 1, 1, 1]
            shape[axis] = image.shape[axis]
            made.append(((at - middle) * (step / 100)).reshape(shape).expand_as(image))
        return made
