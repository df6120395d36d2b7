"""CNN + LSTM over the slices of a CT series: `(b, 1, x, y, slices)` in [0, 1] in, log-odds out.

The output is `(b, classes, 1 + slices)`: column 0 is the series, column 1 + k slice k. It holds
log-odds, so that a sigmoid makes probabilities of all of it; where a slice has exactly one class,
the softmax is already in. Invariant: a slice without contrast (air, constant, NaN) has log-odds
`NOTHING`, and so has a series of nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

NOTHING = -10.0


class SliceSequenceNet(nn.Module):
    """Features of each slice by a CNN, their sequence by a bidirectional LSTM.

    The CNN's maps are averaged over a coarse grid of places: how much of what is where. With `marks`
    they are first made into probabilities of a few things (say, a spot), so that an average counts.
    `per_place` gives each place its own sequence, all with the same weights, and a slice the most that
    any of its places says: what matters is then one spot's coming and going, wherever it is. Such a network
    can be taught place by place (`read_places`), and on parts of slices.
    The series' log-odds of a class are a mean of the slices' log-odds, weighted by attention, scaled
    and shifted; `attention` gives the weights. LSTM: Hochreiter and Schmidhuber 1997.

    Args:
        classes: number of classes.
        exclusive: each slice has exactly one class (softmax); otherwise each is a question of its own.
        channels: channels of the CNN's stages, each of which halves the side.
        grid: side of the grid of places that is kept; 0 keeps the CNN's own.
        marks: number of probability maps made of the CNN's maps; 0 takes the maps as they are.
        per_place: one LSTM over the slices for each place, not one for the slice as a whole.
        features: length of the feature vector of a slice (or place).
        hidden: LSTM units in each direction; 0 leaves the LSTM out, for comparison.
        least_contrast: a slice whose standard deviation lies below this is taken as empty.
    """

    def __init__(
        self,
        classes: int,
        exclusive: bool,
        channels: Sequence[int] = (8, 24, 32),
        grid: int = 4,
        marks: int = 0,
        per_place: bool = False,
        features: int = 96,
        hidden: int = 64,
        dropout: float = 0.1,
        least_contrast: float = 1e-3,
    ) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.least_contrast = least_contrast
        stages: list[nn.Module] = []
        width = 1
        for out in channels:
            first = width == 1
            stages += [
                nn.Conv2d(width, out, 3, stride=2 if first else 1, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                *([] if first else [nn.MaxPool2d(2)]),
            ]
            width = out
        self.cnn = nn.Sequential(*stages)
        self.marks = nn.Conv2d(width, marks, 1) if marks else None
        width = marks or width
        self.places = nn.AdaptiveAvgPool2d(grid) if grid else nn.Identity()
        self.per_place = per_place
        if per_place:
            self.embed = nn.Sequential(nn.Conv2d(width, features, 3, padding=1), nn.ReLU())
        else:
            self.embed = nn.Sequential(
                nn.Flatten(),
                nn.LayerNorm(width * grid * grid),
                nn.Dropout(dropout),
                nn.Linear(width * grid * grid, features),
                nn.ReLU(),
            )
        self.lstm = (
            nn.LSTM(features, hidden, batch_first=True, bidirectional=True) if hidden else None
        )
        length = 2 * hidden if hidden else features
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(length, classes))
        self.weigh = nn.Linear(length, classes)
        self.scale = nn.Parameter(torch.ones(classes))
        self.shift = nn.Parameter(torch.zeros(classes))

    def forward(self, volume: Tensor) -> Tensor:
        """Log-odds `(b, classes, 1 + slices)`."""
        odds, weights, empty = self._slices(volume)
        series = self.sum_up(odds, weights)
        series = series.masked_fill(empty.all(1)[:, None], NOTHING)
        odds = odds.masked_fill(empty[..., None], NOTHING)
        return torch.cat([series[:, None], odds], 1).transpose(1, 2)

    def attention(self, volume: Tensor) -> Tensor:
        """The weight of each slice in the series' log-odds, `(b, classes, slices)`; a class sums to 1."""
        return self._slices(volume)[1].softmax(1).transpose(1, 2)

    def look(self, volume: Tensor) -> Tensor:
        """What the CNN sees in each slice: `(b, slices, channels, grid, grid)`."""
        slices = torch.nan_to_num(volume).permute(0, 4, 1, 2, 3).flatten(0, 1)
        maps = self.cnn((slices - 0.5) * 4)
        if self.marks is not None:
            maps = torch.sigmoid(self.marks(maps))
        places = self.places(maps)
        return places.unflatten(0, (volume.shape[0], volume.shape[-1]))

    def read(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds and attention before its softmax, `(b, slices, classes)` both, of what `look` gave."""
        if self.per_place:
            logits, weights = self.read_places(seen)
            return logits.logsumexp(2), weights.amax(2)
        logits, weights = self._over_slices(self._embedded(seen))
        return (_log_odds(logits) if self.exclusive else logits), weights

    def read_places(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """The same of each place before the most is taken: `(b, slices, places, classes)`, rows along x."""
        state = self._embedded(seen).flatten(3).permute(0, 3, 1, 2)  # (b, p, s, f)
        logits, weights = self._over_slices(state.flatten(0, 1))
        shape = (len(seen), -1)
        return logits.unflatten(0, shape).transpose(1, 2), weights.unflatten(0, shape).transpose(
            1, 2
        )

    def _embedded(self, seen: Tensor) -> Tensor:
        return self.embed(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])

    def _over_slices(self, state: Tensor) -> tuple[Tensor, Tensor]:
        if self.lstm is not None:
            state = self.lstm(state)[0]
        return self.head(state).float(), self.weigh(state).float()

    def sum_up(self, odds: Tensor, weights: Tensor) -> Tensor:
        """Log-odds of the series, `(b, classes)`, from those of its slices."""
        return (odds * weights.softmax(1)).sum(1) * self.scale + self.shift

    def _slices(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        odds, weights = self.read(self.look(volume))
        spread = torch.nan_to_num(volume).flatten(1, 3).std(1)
        empty = spread < self.least_contrast
        return odds, weights.masked_fill(empty[..., None], -1e4), empty


def _log_odds(logits: Tensor) -> Tensor:
    """The log-odds of each class under a softmax: its logit less the log-sum-exp of the others."""
    others = [
        torch.cat([logits[..., :k], logits[..., k + 1 :]], -1) for k in range(logits.shape[-1])
    ]
    return torch.stack([logits[..., k] - o.logsumexp(-1) for k, o in enumerate(others)], -1)
