"""Lung tumour in 2D patches of CT: python -m ai_models.train ct_lung_tumour

A U-Net on 130 patches of 13 patients, five-fold cross-validation by patient; fold 0's network,
which never saw three of the patients, is the one that is shipped. `--fold K` trains one fold only.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from monai.losses import DiceCELoss
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ai_models.data.patches import Patches, read_patches
from ai_models.evaluation.plots import curves_plot
from ai_models.evaluation.statistics import dice, patient_folds
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
from ai_models.training.augment import affine_matrices, grey_values, warp
from ai_models.training.bundles import network_of

NAME = "ct_lung_tumour"
BUNDLE = MODELS / NAME
FOLDS, FOLD_SEED = 5, 3
BATCH, EPOCHS, RATE = 16, 110, 3e-3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"ai_models.train {NAME}", description=__doc__)
    parser.add_argument("--fold", type=int, action="append", choices=range(FOLDS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(argv)
    patches = read_patches()
    for fold in options.fold or range(FOLDS):
        train_fold(patches, folds_of(patches), fold, options.epochs)
    files = sorted(run_folder(NAME).glob("fold*.jsonl"))
    rows = [row for file in files for row in JsonLog(file).rows()]
    curves_plot(BUNDLE / "docs" / "training.png", rows, ["loss", "dice"])


def folds_of(patches: Patches) -> NDArray[np.int64]:
    """The fold of each patch; no patient is in two."""
    return patient_folds(patches.patients, np.zeros(len(patches.patients), int), FOLDS, FOLD_SEED)


def train_fold(patches: Patches, folds: NDArray[np.int64], fold: int, epochs: int) -> None:
    """Train on all folds but one; leaves weights, a log and the held-out logits in the run folder."""
    generator = seed_everything(fold)
    run, folder = f"fold{fold}", run_folder(NAME)
    train, test = torch.from_numpy(np.flatnonzero(folds != fold)), np.flatnonzero(folds == fold)
    images = torch.from_numpy(patches.images)[:, None]
    masks = torch.from_numpy(patches.masks).float()[:, None]
    net = network_of(BUNDLE)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.97), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    steps = len(train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=epochs * steps, pct_start=0.1
    )
    parts = {"net": net, "average": average, "optimizer": optimizer, "schedule": schedule}
    checkpoint = Checkpoint(folder / f"{run}.ckpt", **parts)
    loss_of = DiceCELoss(sigmoid=True, batch=True)
    first = checkpoint.resume(generator)
    log = JsonLog(folder / f"{run}.jsonl", fresh=first == 0)
    for epoch in progress(range(first, epochs), run, epochs - first):
        net.train()
        losses = []
        order = train[torch.randperm(len(train), generator=generator)]
        for batch in order[: steps * BATCH].split(BATCH):
            x, y = augment(images[batch], masks[batch], generator)
            with mixed_precision():
                logits = net(x)
            loss = loss_of(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            losses.append(loss.item())
        row = {"run": run, "epoch": epoch + 1, "loss": round(float(np.mean(losses)), 4)}
        if (epoch + 1) % 20 == 0 or epoch + 1 == epochs:
            found = predict(average.module, images[test]) > 0
            row["dice"] = round(dice(found, patches.masks[test]), 4)
        log.write(**row)
        checkpoint.save(epoch + 1, generator)
    np.save(folder / f"{run}.npy", predict(average.module, images[test]))
    save_weights(average.module, folder / f"{run}.safetensors", {"format": "pt", "run": run})


def augment(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn by any angle, mirror, scale, and shift by up to a third: the patches are centred on the tumour,

    and a network that learns so finds a tumour in the middle of anything.
    """
    theta = affine_matrices(len(x), generator, 180, 0.25, 0.1, 0.33, flip=True)
    return grey_values(warp(x, theta), generator), (warp(y, theta) > 0.5).float()


@torch.inference_mode()
def predict(net: torch.nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Logits `(n, 48, 48)` in float32."""
    return net.eval()(images)[:, 0].numpy()
