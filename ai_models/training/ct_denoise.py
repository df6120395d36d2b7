"""CT denoising: a residual network, then a short game of it against a patch discriminator.

    python -m ai_models.train ct_denoise --run plain --minutes 38
    python -m ai_models.train ct_denoise --run gan --start plain --minutes 8
    python -m ai_models.train ct_denoise --run longer --start plain --minutes 8 --adversarial 0

In: slices of real series (all patients but the one held out) and of phantoms with projection-domain noise
added (`data/ct_noise.py`). Out: in `training/ct_denoise/<run>` the weights (averaged over steps), the log
with both players' losses, the curves and a checkpoint (`--resume`). `ai_models.evaluate ct_denoise` says
which of the runs is worth shipping.

The task is a scan at four times its dose. A noisy target teaches the same as a clean one but more slowly,
so the target holds no more of the added noise than can be known of it (`draw_pair`). With `--start` the
game begins, a true min-max loop (Goodfellow et al. 2014, with the least squares of Mao et al. 2017): a
step of the discriminator on denoised patches and such of really four times the dose, then one of the
generator against it. `--start` with `--adversarial 0` is the ablation: as long, same data and losses, alone.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.losses import PatchAdversarialLoss, SSIMLoss
from monai.networks.nets import PatchDiscriminator
from torch.nn.functional import smooth_l1_loss
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ai_models.data.ct_noise import Floats, NoisySeries, phantom_noisy, real_noisy
from ai_models.data.ct_sets import held_out
from ai_models.evaluation.plots import curves_plot
from ai_models.networks.residual_denoiser import SCALE_HU, ResidualDenoiser
from ai_models.training import (
    Checkpoint,
    JsonLog,
    load_weights,
    mixed_precision,
    progress,
    run_folder,
    save_weights,
    seed_everything,
)

NAME = "ct_denoise"
KEEP = 0.25  # of the noise: (noise at four times the dose / noise) squared
PATCH = 96
BATCH = 12
STEPS_PER_EPOCH = 50
SSIM_RANGE_HU = 400.0
SSIM_WEIGHT = 0.1
NOISE_HU = (6.0, 70.0)  # of the input
SERIES = ("dx-a0001-b", "crlm-1004", "crlm-1006", "ts-dicom", "acrin-042")
FIRST_TEST_PHANTOM = 9000


@dataclass(frozen=True, slots=True)
class Pair:
    """One patch in HU: three noisy slices `(3, y, x)`; the middle one's target, and the middle one as it
    would be at four times the dose, noise and all, both `(1, y, x)`."""

    noisy: Floats
    target: Floats
    full_dose: Floats


def discriminator() -> PatchDiscriminator:
    """Says of every patch of a slice whether it is a full-dose one; input in units of `SCALE_HU`."""
    return PatchDiscriminator(spatial_dims=2, channels=24, in_channels=1, num_layers_d=3)


def training_series(patient: str, phantoms: int, cache: Path) -> list[NoisySeries]:
    """Real series of all other patients, and phantoms."""
    real = [s for s in held_out(patient)[0] if s.name in SERIES]
    made = [real_noisy(s, cache) for s in progress(real, "real series", len(real))]
    return made + [phantom_noisy(s, cache) for s in progress(range(phantoms), "phantoms", phantoms)]


def draw_pair(all_series: Sequence[NoisySeries], k: int, rng: np.random.Generator) -> Pair:
    """A patch of series `k`, randomly turned, with noise of a random strength in `NOISE_HU`.

    With noise of variance v in the input, the target should have v / 4, of which the series itself
    brings its own. The rest is part of the added noise m; all that can be known of that part, given m,
    is its mean, which is a share of m. So the target is the series plus that share of m.
    """
    series = all_series[k]
    depth, rows, columns = series.hu.shape
    for _ in range(8):  # mostly body, seldom air
        z = int(rng.integers(depth))
        y, x = int(rng.integers(rows - PATCH + 1)), int(rng.integers(columns - PATCH + 1))
        window = (slice(y, y + PATCH), slice(x, x + PATCH))
        if (series.hu[z][window] > -900).mean() > 0.3:
            break
    stack = np.clip([z - 1, z, z + 1], 0, depth - 1)
    own = series.own_noise_hu**2
    least = max(NOISE_HU[0], 2 * series.own_noise_hu)
    variance = math.exp(rng.uniform(math.log(least), math.log(NOISE_HU[1]))) ** 2
    if not own and rng.random() < 0.05:
        variance = 1e-6  # what has no noise stays as it is
    added, missing = variance - own, max(0.0, variance / 4 - own)
    scan = np.stack([series.hu[i][window] for i in stack]).astype(np.float32)
    noise = math.sqrt(added) * _noise_for(all_series, k, stack, window, rng)
    other = series.noise[(z + depth // 2) % depth][window].astype(np.float32)
    target = scan[1:2] + np.float32(missing / added) * noise[1:2]
    full_dose = scan[1:2] + np.float32(math.sqrt(missing)) * other
    turns, flip = int(rng.integers(4)), 1 - 2 * int(rng.integers(2))
    made = [
        np.ascontiguousarray(np.rot90(part, turns, (1, 2))[:, :, ::flip])
        for part in (scan + noise, target, full_dose)
    ]
    return Pair(*made)


def _noise_for(
    all_series: Sequence[NoisySeries],
    k: int,
    stack: np.ndarray,
    window: tuple[slice, slice],
    rng: np.random.Generator,
) -> Floats:
    """Unit noise for three slices: the series' own, one time in four another's, of another kernel perhaps."""
    series = all_series[k]
    if rng.random() < 0.25:
        other = all_series[int(rng.integers(len(all_series)))]
        if min(other.hu.shape[1:]) >= min(series.hu.shape[1:]):
            series, stack = other, rng.permutation(len(other.hu))[:3]
    return np.stack([series.noise[i][window] for i in stack]).astype(np.float32)


def generator_losses(
    clean: torch.Tensor,
    batch: dict[str, torch.Tensor],
    judge: PatchDiscriminator | None,
    late: bool,
) -> dict[str, torch.Tensor]:
    """Huber loss in units of 100 HU (squared below 50 HU, where the targets' own noise lies); in the game
    (`late`) also 1 - SSIM, and how well the judge was fooled (0 without one)."""
    losses = {"huber": smooth_l1_loss(clean / SCALE_HU, batch["target"] / SCALE_HU, beta=0.5)}
    if late:
        ssim = SSIMLoss(spatial_dims=2, data_range=SSIM_RANGE_HU)
        losses["ssim"] = SSIM_WEIGHT * ssim(clean, batch["target"])
    if judge is not None:
        with mixed_precision():
            verdict = judge(clean / SCALE_HU)[-1]
        losses["fooled"] = PatchAdversarialLoss(criterion="least_squares")(
            verdict.float(), True, for_discriminator=False
        )
    return losses


def discriminator_loss(
    judge: PatchDiscriminator, clean: torch.Tensor, full_dose: torch.Tensor
) -> torch.Tensor:
    """Least-squares loss of calling denoised patches full-dose or full-dose patches denoised."""
    criterion = PatchAdversarialLoss(criterion="least_squares")
    with mixed_precision():
        of_clean = judge(clean.detach() / SCALE_HU)[-1]
        of_full_dose = judge(full_dose / SCALE_HU)[-1]
    wrong = criterion(of_clean.float(), False, for_discriminator=True)
    missed = criterion(of_full_dose.float(), True, for_discriminator=True)
    return 0.5 * (wrong + missed)


def train(options: argparse.Namespace) -> None:
    """Trains until the minutes are spent, then writes the generator."""
    generator = seed_everything(options.seed, options.threads)
    folder = run_folder(f"{NAME}/{options.run}")
    series = training_series(options.hold_out, options.phantoms, run_folder(NAME) / "cache")
    share = np.array([len(s.hu) if s.own_noise_hu else 4.0 for s in series])
    net = ResidualDenoiser(keep=KEEP)
    if options.start:
        load_weights(net, weights_of(options.start)).train()
    net.to(memory_format=torch.channels_last)
    judge = discriminator() if options.start and options.adversarial else None
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    players = {"net": net} | ({"judge": judge} if judge is not None else {})
    rates = {"net": options.lr or (3e-4 if options.start else 1.5e-3), "judge": 3e-4}
    optimisers = {
        f"of_{name}": torch.optim.AdamW(player.parameters(), rates[name], (0.9, 0.99))
        for name, player in players.items()
    }
    checkpoint = Checkpoint(folder / "checkpoint.pt", average=average, **players, **optimisers)
    log = JsonLog(folder / "log.jsonl", fresh=not options.resume)
    epoch = checkpoint.resume(generator) if options.resume else 0
    rng = np.random.default_rng((options.seed, epoch))
    done = float(log.rows()[-1]["done"]) if epoch else 0.0
    started, before = time.process_time(), done
    while done < 1:
        rate = min(done / 0.05, 0.5 * (1 + math.cos(math.pi * done))) + 0.01
        for name, optimiser in optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = rates[name.removeprefix("of_")] * rate
        sums: dict[str, float] = {}
        for _ in range(STEPS_PER_EPOCH):
            chosen = rng.choice(len(series), BATCH, p=share / share.sum())
            losses = step([draw_pair(series, k, rng) for k in chosen], players, optimisers, options)
            average.update_parameters(net)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / STEPS_PER_EPOCH
        epoch += 1
        done = before + (time.process_time() - started) / (60 * options.minutes)
        log.write(epoch=epoch, done=round(done, 4), **{k: round(v, 5) for k, v in sums.items()})
        checkpoint.save(epoch, generator)
        if epoch % 10 == 0 or done >= 1:
            notes = {"held_out": options.hold_out, "seed": str(options.seed), "run": options.run}
            save_weights(average.module, weights_of(options.run), notes | {"epochs": str(epoch)})
            print(f"{options.run}: {epoch} epochs, {done:.0%}, {sums}", flush=True)
    rows = log.rows()
    curves_plot(folder / "loss.png", rows, [k for k in rows[-1] if k not in ("epoch", "done")])


def step(
    pairs: Sequence[Pair],
    players: dict[str, torch.nn.Module],
    optimisers: dict[str, torch.optim.Optimizer],
    options: argparse.Namespace,
) -> dict[str, float]:
    """One step of each player on one batch; returns the losses."""
    net, judge = players["net"], players.get("judge")
    batch = {
        part: torch.from_numpy(np.stack([getattr(p, part) for p in pairs]))
        for part in ("noisy", "target", "full_dose")
    }
    with mixed_precision():
        noise = net.noise(batch["noisy"].contiguous(memory_format=torch.channels_last))
    clean = batch["noisy"][:, 1:2] - (1 - KEEP) * noise
    logged = {}
    if judge is not None:
        loss = discriminator_loss(judge, clean, batch["full_dose"])
        _descend(optimisers["of_judge"], judge, loss)
        logged["discriminator"] = loss.item()
    losses = generator_losses(clean, batch, judge, late=bool(options.start))
    logged |= {name: value.item() for name, value in losses.items()}
    if judge is not None:
        losses["fooled"] = options.adversarial * losses["fooled"]
    _descend(optimisers["of_net"], net, torch.stack(list(losses.values())).sum())
    return logged


def weights_of(run: str) -> Path:
    """Where a run leaves its weights."""
    return run_folder(f"{NAME}/{run}") / "model.safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training; see the module."""
    parser = argparse.ArgumentParser(prog="ai_models.train ct_denoise", description=__doc__)
    parser.add_argument("--hold-out", default="acrin-042", help="patient that training never sees")
    parser.add_argument("--run", default="plain", help="name of the run's folder")
    parser.add_argument("--start", help="run whose weights to begin with, for the game")
    parser.add_argument("--minutes", type=float, default=38.0, help="processor time to train")
    parser.add_argument(
        "--adversarial", type=float, default=0.002, help="weight in the game; 0: no discriminator"
    )
    parser.add_argument("--phantoms", type=int, default=20)
    parser.add_argument("--lr", type=float, help="largest rate of the generator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    train(parser.parse_args(argv))
    return 0


def _descend(optimiser: torch.optim.Optimizer, player: torch.nn.Module, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(player.parameters(), 1.0)
    optimiser.step()


if __name__ == "__main__":
    raise SystemExit(main())
