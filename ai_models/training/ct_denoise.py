"""CT denoising: a residual generator against a patch discriminator, with L1 and SSIM beside.

    python -m ai_models.train ct_denoise --hold-out acrin-042 --minutes 7
    python -m ai_models.train ct_denoise --minutes 7 --adversarial 0 --run plain \\
        --weights training/ct_denoise/plain.safetensors

In: slices of real series (all patients but the one held out) and of phantoms with projection-domain noise
added (`data/ct_noise.py`). Out: the generator as weights of the bundle `ai_models/ct_denoise`, and in
`training/ct_denoise/<run>` the log with both players' losses, the curves and a checkpoint (`--resume`).

The game is a true min-max loop (Goodfellow et al. 2014, with the least squares of Mao et al. 2017): a
step of the discriminator on full-dose and denoised patches, then a step of the generator against it.
`--adversarial 0` is the ablation: the same generator, data and losses without the discriminator. The
added noise is drawn per patch, so the network is not told the dose.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.losses import PatchAdversarialLoss, SSIMLoss
from monai.networks.nets import PatchDiscriminator
from torch.nn.functional import l1_loss

from ai_models.data.ct_noise import NoisySeries, phantom_noisy, real_noisy
from ai_models.data.ct_sets import held_out
from ai_models.evaluation.plots import curves_plot
from ai_models.networks.residual_denoiser import SCALE_HU, ResidualDenoiser
from ai_models.training import (
    MODELS,
    Checkpoint,
    JsonLog,
    mixed_precision,
    progress,
    run_folder,
    save_weights,
    seed_everything,
)

NAME = "ct_denoise"
PATCH = 128
BATCH = 6
STEPS_PER_EPOCH = 25
SSIM_RANGE_HU = 400.0
SSIM_WEIGHT = 0.1
SERIES = ("dx-a0001-b", "crlm-1004", "crlm-1006", "ts-dicom", "acrin-042")
FIRST_TEST_PHANTOM = 9000


def discriminator() -> PatchDiscriminator:
    """Says of every patch of a slice whether it is a full-dose one; input in units of `SCALE_HU`."""
    return PatchDiscriminator(spatial_dims=2, channels=24, in_channels=1, num_layers_d=3)


def training_series(patient: str, phantoms: int, cache: Path) -> list[NoisySeries]:
    """Real series of all other patients, and phantoms."""
    real = [s for s in held_out(patient)[0] if s.name in SERIES]
    made = [real_noisy(s, cache) for s in progress(real, "real series", len(real))]
    return made + [phantom_noisy(s, cache) for s in progress(range(phantoms), "phantoms", phantoms)]


def draw_patch(series: NoisySeries, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Three noisy slices `(3, y, x)` and the middle one's target `(1, y, x)`, HU, randomly turned."""
    depth, rows, columns = series.hu.shape
    for _ in range(8):  # mostly body, seldom air
        z = int(rng.integers(depth))
        y, x = int(rng.integers(rows - PATCH + 1)), int(rng.integers(columns - PATCH + 1))
        window = (slice(y, y + PATCH), slice(x, x + PATCH))
        if (series.hu[z][window] > -900).mean() > 0.3:
            break
    stack = np.clip([z - 1, z, z + 1], 0, depth - 1)
    own = series.own_noise_hu
    added = own * math.sqrt(1 / rng.uniform(0.12, 0.9) - 1) if own else rng.uniform(3, 60)
    scan = series.hu[stack][:, *window].astype(np.float32)
    noisy = scan + np.float32(added) * series.noise[stack][:, *window].astype(np.float32)
    target = scan[1:2]
    turns, flip = int(rng.integers(4)), int(rng.integers(2))
    made = [np.rot90(part, turns, (1, 2))[:, :, :: 1 - 2 * flip] for part in (noisy, target)]
    return made[0].copy(), made[1].copy()


def generator_losses(
    clean: torch.Tensor, target: torch.Tensor, judge: PatchDiscriminator | None
) -> dict[str, torch.Tensor]:
    """L1 in units of 100 HU, 1 - SSIM, and how well the judge was fooled (0 without one)."""
    l1 = l1_loss(clean, target) / SCALE_HU
    ssim = SSIMLoss(spatial_dims=2, data_range=SSIM_RANGE_HU)(clean, target)
    fooled = clean.new_zeros(())
    if judge is not None:
        with mixed_precision():
            verdict = judge(clean / SCALE_HU)[-1]
        fooled = PatchAdversarialLoss(criterion="least_squares")(
            verdict.float(), True, for_discriminator=False
        )
    return {"l1": l1, "ssim": ssim, "fooled": fooled}


def discriminator_loss(
    judge: PatchDiscriminator, clean: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Least-squares loss of calling denoised patches full-dose or full-dose patches denoised."""
    criterion = PatchAdversarialLoss(criterion="least_squares")
    with mixed_precision():
        of_clean, of_target = judge(clean.detach() / SCALE_HU)[-1], judge(target / SCALE_HU)[-1]
    wrong = criterion(of_clean.float(), False, for_discriminator=True)
    missed = criterion(of_target.float(), True, for_discriminator=True)
    return 0.5 * (wrong + missed)


def train(options: argparse.Namespace) -> None:
    """Plays until the minutes are spent, then writes the generator."""
    seed_everything(options.seed, options.threads)
    folder = run_folder(f"{NAME}/{options.run}")
    series = training_series(options.hold_out, options.phantoms, run_folder(NAME) / "cache")
    share = np.array([3.0 if s.own_noise_hu else 0.5 for s in series])
    net, judge = ResidualDenoiser(), discriminator() if options.adversarial else None
    players = {"net": net} | ({"judge": judge} if judge is not None else {})
    optimisers = {
        f"of_{name}": torch.optim.Adam(player.parameters(), options.lr, (0.5, 0.999))
        for name, player in players.items()
    }
    checkpoint = Checkpoint(folder / "checkpoint.pt", **players, **optimisers)
    log = JsonLog(folder / "log.jsonl", fresh=not options.resume)
    dice = torch.Generator().manual_seed(options.seed)
    first = checkpoint.resume(dice) if options.resume else 0
    rng = np.random.default_rng((options.seed, first))
    started, epoch = time.process_time(), first
    for epoch in progress(range(first, options.epochs), NAME, options.epochs - first):
        spent = (time.process_time() - started) / (60 * options.minutes)
        done = min(1.0, max(spent, epoch / options.epochs))
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = options.lr * max(0.02, 0.5 * (1 + math.cos(math.pi * done)))
        sums: dict[str, float] = {}
        for _ in range(STEPS_PER_EPOCH):
            chosen = rng.choice(len(series), BATCH, p=share / share.sum())
            pairs = [draw_patch(series[i], rng) for i in chosen]
            noisy, target = (torch.from_numpy(np.stack(p)) for p in zip(*pairs, strict=True))
            with mixed_precision():
                noise = net.noise(noisy)
            clean = noisy[:, 1:2] - noise
            if judge is not None:
                loss = discriminator_loss(judge, clean, target)
                _step(optimisers["of_judge"], loss)
                sums["discriminator"] = sums.get("discriminator", 0.0) + loss.item()
            parts = generator_losses(clean, target, judge)
            total = (
                parts["l1"] + SSIM_WEIGHT * parts["ssim"] + options.adversarial * parts["fooled"]
            )
            _step(optimisers["of_net"], total)
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value.item()
        log.write(epoch=epoch, **{k: v / STEPS_PER_EPOCH for k, v in sums.items()})
        checkpoint.save(epoch + 1, dice)
        if spent > 1:
            break
    notes = {"held_out": options.hold_out, "seed": str(options.seed), "epochs": str(epoch + 1)}
    save_weights(net, options.weights, notes | {"adversarial": str(options.adversarial)})
    keys = ["l1", "ssim"] + (["fooled", "discriminator"] if judge is not None else [])
    curves_plot(folder / "loss.png", log.rows(), keys)
    print(f"{options.weights}: {epoch + 1} epochs of {STEPS_PER_EPOCH} steps")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training; see the module."""
    parser = argparse.ArgumentParser(prog="ai_models.train ct_denoise", description=__doc__)
    parser.add_argument("--hold-out", default="acrin-042", help="patient that training never sees")
    parser.add_argument("--run", default="gan", help="name of the run's folder")
    parser.add_argument("--minutes", type=float, default=7.0, help="processor time to train")
    parser.add_argument("--epochs", type=int, default=400, help="upper limit, of 25 steps each")
    parser.add_argument(
        "--adversarial", type=float, default=0.01, help="weight; 0: no discriminator"
    )
    parser.add_argument("--phantoms", type=int, default=8)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--weights", type=Path, default=MODELS / NAME / "models" / "model.safetensors"
    )
    train(parser.parse_args(argv))
    return 0


def _step(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


if __name__ == "__main__":
    raise SystemExit(main())
