"""A small residual CNN for projection images: `(b, 1, h, w)` in [0, 1] in, logits `(b, classes)`
out.

Invariant: an image that carries nothing (constant, or all NaN) has no finding: its logits are
`NOTHING`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import ResNet
from torch import Tensor, nn

NOTHING = -10.0
"""Logit of every class for an image without contrast; the sigmoid of it is 0.00005."""


class FilmCNN(nn.Module):
    """ResNet-10 with narrow stages (He et al. 2016), dropout and one linear layer.

    Args:
        channels: channels of the four stages; the last is the length of the feature vector.
        classes: number of logits; each class is its own yes-or-no question.
        dropout: share of features dropped before the linear layer, in training only.
        margin: share of the height and width at each edge that the network never sees. Letters, arrows and
            the word PORTABLE stand there; they tell how ill the ward thought the patient was, not his lungs.
        least_contrast: an image whose standard deviation lies below this is taken as empty.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 128, 192),
        classes: int = 1,
        dropout: float = 0.3,
        margin: float = 0.1,
        least_contrast: float = 1e-3,
    ) -> None:
        super().__init__()
        self.margin = margin
        self.least_contrast = least_contrast
        self.backbone = ResNet(
            "basic",
            [1, 1, 1, 1],
            list(channels),
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=5,
            conv1_t_stride=2,
            feed_forward=False,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels[-1], classes)

    def forward(self, film: Tensor) -> Tensor:
        """Logits `(b, classes)` of films `(b, 1, h, w)` with values in [0, 1]."""
        film = self._without_margin(torch.nan_to_num(film))
        empty = film.flatten(1).std(1, keepdim=True) < self.least_contrast
        logits = self.classifier(self.dropout(self.backbone((film - 0.5) * 4)))
        return torch.where(empty, torch.full_like(logits, NOTHING), logits)

    def _without_margin(self, film: Tensor) -> Tensor:
        height, width = film.shape[-2:]
        y, x = round(self.margin * height), round(self.margin * width)
        inside = torch.zeros_like(film)
        inside[..., y : height - y, x : width - x] = 1
        return film * inside
