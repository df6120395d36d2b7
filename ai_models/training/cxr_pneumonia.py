"""Pneumonia or no finding on chest films: python -m ai_models.train cxr_pneumonia

A ResNet-10 from random weights on 724 films, five-fold cross-validation by patient. Fold 0 is the
network that is shipped: it never saw the patients of fold 0. `--fold K` trains one fold only; a run
that was stopped goes on from its last epoch. Then `python -m ai_models.evaluate cxr_pneumonia`
calibrates, judges and writes the bundle.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ai_models.data.films import Films, read_films
from ai_models.evaluation.plots import curves_plot
from ai_models.evaluation.statistics import auc, patient_folds
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
from ai_models.training.augment import affine, cut_out, grey_values, mix
from ai_models.training.bundles import network_of, prepared, preprocessing_of

NAME = "cxr_pneumonia"
BUNDLE = MODELS / NAME
FOLDS, FOLD_SEED = 5, 17
BATCH, EPOCHS, RATE, DECAY = 32, 60, 2e-3, 0.05
SMOOTHING = 0.05


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"ai_models.train {NAME}", description=__doc__)
    parser.add_argument("--fold", type=int, action="append", choices=range(FOLDS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--margin", type=float, default=None, help="overrides the bundle's margin")
    parser.add_argument("--run", default="fold", help="name of the run, for ablations")
    options = parser.parse_args(argv)
    films = read_films()
    images, folds = preprocess(films), folds_of(films)
    folder = run_folder(NAME)
    for fold in options.fold or range(FOLDS):
        train_fold(
            images, films, folds, fold, options.epochs, options.margin, f"{options.run}{fold}"
        )
    rows = [r for f in sorted(folder.glob("fold*.jsonl")) for r in JsonLog(f).rows()]
    curves_plot(BUNDLE / "docs" / "training.png", rows, ["loss", "auc"])


def folds_of(films: Films) -> NDArray[np.int64]:
    """The fold of each film; fold 0 is held out from the shipped network."""
    return patient_folds(films.patients, films.pneumonia.astype(int), FOLDS, FOLD_SEED)


def preprocess(films: Films) -> Tensor:
    """The films as the bundle's own preprocessing makes them: `(n, 1, 160, 160)` in [0, 1]."""
    steps = preprocessing_of(BUNDLE)
    return torch.stack([prepared(steps, torch.from_numpy(film[None])) for film in films.images])


def train_fold(
    images: Tensor,
    films: Films,
    folds: NDArray[np.int64],
    fold: int,
    epochs: int,
    margin: float | None,
    run: str,
) -> None:
    """Train on all folds but one; leaves weights, a log and the held-out logits in the run folder."""
    generator = seed_everything(fold)
    train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    labels = torch.from_numpy(films.pneumonia).float()[:, None]
    changes = {} if margin is None else {"margin": margin}
    net = network_of(BUNDLE, **changes).to(memory_format=torch.channels_last)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    steps = len(train) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=epochs * steps, pct_start=0.15
    )
    folder = run_folder(NAME)
    checkpoint = Checkpoint(
        folder / f"{run}.ckpt", net=net, average=average, optimizer=optimizer, schedule=schedule
    )
    first = checkpoint.resume(generator)
    log = JsonLog(folder / f"{run}.jsonl", fresh=first == 0)
    for epoch in progress(range(first, epochs), run, epochs - first):
        began, losses = time.monotonic(), []
        net.train()
        order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)]
        for batch in order[: steps * BATCH].split(BATCH):
            x = cut_out(grey_values(affine(images[batch], generator), generator), generator)
            y = labels[batch] * (1 - SMOOTHING) + SMOOTHING / 2
            x, y = mix(x, y, generator)
            with mixed_precision():
                logits = net(x.contiguous(memory_format=torch.channels_last))
            loss = binary_cross_entropy_with_logits(logits.float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
            losses.append(loss.item())
        row = {"run": run, "epoch": epoch + 1, "loss": round(float(np.mean(losses)), 4)}
        if (epoch + 1) % 10 == 0 or epoch + 1 == epochs:
            row["auc"] = round(auc(films.pneumonia[test], predict(average.module, images[test])), 4)
        log.write(**row, seconds=round(time.monotonic() - began, 1))
        checkpoint.save(epoch + 1, generator)
    np.save(folder / f"{run}.npy", predict(average.module, images[test]))
    save_weights(average.module, folder / f"{run}.safetensors", {"format": "pt", "run": run})


@torch.inference_mode()
def predict(net: torch.nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Logits `(n,)`, as the node computes them: one film, one pass, float32."""
    net.eval()
    return torch.cat([net(batch) for batch in images.split(64)])[:, 0].numpy()
