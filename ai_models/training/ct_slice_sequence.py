"""Region of the body slice by slice, CNN + LSTM: python -m ai_models.train ct_slice_sequence

Seven real CT series of five patients and 24 phantoms, labelled by the rule of
`ai_models.data.regions`. Trains five times, each time without one patient; the run without
Lung-Dx-A0001 is the one that is shipped. `--without PATIENT` trains one; `--cnn` trains the same
networks without their LSTM.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from ai_models.data.regions import Region, RegionSeries, phantom_series, real_series
from ai_models.evaluation.plots import curves_plot
from ai_models.training import MODELS, JsonLog, run_folder
from ai_models.training.augment import affine_matrices, warp
from ai_models.training.bundles import network_of, prepared, preprocessing_of
from ai_models.training.sequence_fit import Batch, fit, predict

NAME = "ct_slice_sequence"
BUNDLE = MODELS / NAME
SHIPPED = "Lung-Dx-A0001"
PHANTOMS = range(500, 524)
BATCH, STEPS, SHARE_OF_PHANTOMS = 6, 500, 0.35
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class Prepared:
    """A series as the network takes it: `volume` `(1, 64, 64, s)`, `regions` `(s,)`, `step_mm`."""

    patient: str
    volume: Tensor
    regions: Tensor
    step_mm: float


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"ai_models.train {NAME}", description=__doc__)
    parser.add_argument("--without", action="append")
    parser.add_argument("--cnn", action="store_true", help="leave the LSTM out, for comparison")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(argv)
    real, phantoms = prepare(real_series()), prepare([phantom_series(s) for s in PHANTOMS])
    kind = "cnn" if options.cnn else "lstm"
    for patient in options.without or sorted({series.patient for series in real}):
        pools = [s for s in real if s.patient != patient], phantoms
        held_out = [s for s in real if s.patient == patient]
        torch.manual_seed(0)
        net = network_of(BUNDLE, **({"hidden": 0} if options.cnn else {}))
        fit(
            net,
            lambda generator, pools=pools: draw(*pools, generator),
            name=NAME,
            run=f"{kind}-without-{patient}",
            steps=options.steps,
            seed=0,
            judge=lambda net, held_out=held_out: {"accuracy": share_right(net, held_out)},
        )
    files = sorted(run_folder(NAME).glob("lstm-*.jsonl"))
    rows = [row for file in files for row in JsonLog(file).rows()]
    curves_plot(BUNDLE / "docs" / "training.png", rows, ["loss", "accuracy"])


def prepare(series: list[RegionSeries]) -> list[Prepared]:
    """Each series through the bundle's own preprocessing."""
    steps = preprocessing_of(BUNDLE)
    out = []
    for one in series:
        xyz = torch.from_numpy(np.ascontiguousarray(one.hu.transpose(2, 1, 0)))[None]
        volume = prepared(steps, xyz, LPS_TO_RAS)
        out.append(Prepared(one.patient, volume, torch.from_numpy(one.regions), one.spacing_mm))
    return out


def draw(real: list[Prepared], phantoms: list[Prepared], generator: Generator) -> Batch:
    """Stretches of series, cut at a random place, stretched to another slice spacing, and moved in-plane."""
    count = int(torch.randint(6, 41, (1,), generator=generator))
    picks = [_stretch(_pick(real, phantoms, generator), count, generator) for _ in range(BATCH)]
    x = torch.stack([p[0] for p in picks])  # (b, s, x, y): the slices of a series move together
    theta = affine_matrices(BATCH, generator, 12, 0.2, 0.08, 0.08, flip=True)
    x = warp(x, theta.flip(1)[:, :, [1, 0, 2]])
    b = (BATCH, 1, 1, 1)
    x = x * (1 + 0.1 * torch.randn(b, generator=generator))
    x = x + 0.03 * torch.randn(b, generator=generator)
    x = x + torch.randn(x.shape, generator=generator) * 0.03 * torch.rand(b, generator=generator)
    x = _spoil(x, generator)
    regions = torch.stack([p[1] for p in picks])
    slices = torch.nn.functional.one_hot(regions, len(Region)).float()
    return Batch(x.clamp(0, 1).permute(0, 2, 3, 1)[:, None], slices, slices.amax(1))


def _spoil(x: Tensor, generator: Generator) -> Tensor:
    """Replace a run of slices of every second series by grain, so that order must tell what looks cannot."""
    x = x.clone()
    for series in x:
        longest = max(2, len(series) // 2)
        if float(torch.rand(1, generator=generator)) < 0.5:
            length = int(torch.randint(1, longest, (1,), generator=generator))
            first = int(torch.randint(0, len(series) - length + 1, (1,), generator=generator))
            grain = torch.rand(series[first : first + length].shape, generator=generator)
            series[first : first + length] = grain * float(torch.rand(1, generator=generator))
    return x


def _pick(real: list[Prepared], phantoms: list[Prepared], generator: Generator) -> Prepared:
    if float(torch.rand(1, generator=generator)) < SHARE_OF_PHANTOMS:
        return phantoms[int(torch.randint(len(phantoms), (1,), generator=generator))]
    patients = sorted({s.patient for s in real})
    patient = patients[int(torch.randint(len(patients), (1,), generator=generator))]
    mine = [s for s in real if s.patient == patient]
    return mine[int(torch.randint(len(mine), (1,), generator=generator))]


def _stretch(series: Prepared, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """`count` slices `(s, x, y)` around a slice of a random region, 1 to 8 mm apart, and their regions."""
    present = series.regions.unique()
    region = present[torch.randint(len(present), (1,), generator=generator)]
    members = torch.nonzero(series.regions == region)[:, 0]
    middle = float(members[torch.randint(len(members), (1,), generator=generator)])
    last = len(series.regions) - 1
    step = (1 + 7 * float(torch.rand(1, generator=generator))) / series.step_mm
    step = min(step, last / (count - 1))
    low = min(max(middle - step * (count - 1) / 2, 0.0), last - step * (count - 1))
    at = (low + step * torch.arange(count)).clamp(0, last)
    below = at.floor().long().clamp(max=max(last - 1, 0))
    part = at - below
    slices = series.volume[0].permute(2, 0, 1)
    mixed = torch.lerp(slices[below], slices[below + 1], part[:, None, None])
    return mixed, series.regions[at.round().long()]


def share_right(net: torch.nn.Module, series: list[Prepared]) -> float:
    """Share of slices whose likeliest region is the labelled one."""
    right = [predict(net, s.volume)[1:].argmax(1) == s.regions for s in series]
    return round(float(torch.cat(right).float().mean()), 4)
