"""The training loop of the CNN + LSTM: batches of series in, weights, a log and a checkpoint out.

Both tasks share it: a series' loss and its slices' loss are added. Half of the bargain is the
slices' loss: with labels on series alone and a thousand series, an LSTM finds the needle late or
never.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from ai_models.networks.slice_sequence import SliceSequenceNet
from ai_models.training import (
    Checkpoint,
    JsonLog,
    mixed_precision,
    progress,
    run_folder,
    save_weights,
    seed_everything,
)

RARE = 4.0
"""A slice with the finding weighs so much: one in sixteen has it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`volumes` `(b, 1, x, y, s)`; `slices` and `series`: 0 or 1, `(b, s, c)` and `(b, c)`."""

    volumes: Tensor
    slices: Tensor
    series: Tensor


def fit(
    net: SliceSequenceNet,
    draw: Callable[[Generator], Batch],
    *,
    name: str,
    run: str,
    steps: int,
    seed: int,
    rate: float = 2e-3,
    per_epoch: int = 50,
    judge: Callable[[SliceSequenceNet], dict[str, float]] | None = None,
) -> SliceSequenceNet:
    """Train on `steps` batches drawn one by one; goes on where an earlier, stopped run ended.

    Args:
        name: the model; the run's files go to `run_folder(name)`.
        judge: figures for the log, asked for every fifth epoch and at the end.
    """
    generator = seed_everything(seed)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.15
    )
    folder = run_folder(name)
    checkpoint = Checkpoint(folder / f"{run}.ckpt", net=net, optimizer=optimizer, schedule=schedule)
    first = checkpoint.resume(generator)
    log = JsonLog(folder / f"{run}.jsonl", fresh=first == 0)
    epochs = steps // per_epoch
    for epoch in progress(range(first, epochs), run, epochs - first):
        net.train()
        total = 0.0
        for _ in range(per_epoch):
            batch = draw(generator)
            with mixed_precision():
                odds = net(batch.volumes).transpose(1, 2)
            loss = sequence_loss(odds.float(), batch, net.exclusive)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        row = {"run": run, "epoch": epoch + 1, "loss": round(total / per_epoch, 4)}
        if judge and ((epoch + 1) % 5 == 0 or epoch + 1 == epochs):
            row |= judge(net.eval())
        log.write(**row)
        checkpoint.save(epoch + 1, generator)
    save_weights(net, folder / f"{run}.safetensors", {"format": "pt", "run": run})
    return net.eval()


def sequence_loss(odds: Tensor, batch: Batch, exclusive: bool) -> Tensor:
    """Cross entropy of the series plus that of the slices; `odds` is `(b, 1 + s, c)`, the series first."""
    series = binary_cross_entropy_with_logits(odds[:, 0], batch.series)
    if exclusive:  # minus the log of the right class's softmax is the softplus of its odds against
        slices = (softplus(-odds[:, 1:]) * batch.slices).sum(2).mean()
    else:
        slices = binary_cross_entropy_with_logits(
            odds[:, 1:], batch.slices, pos_weight=odds.new_tensor(RARE)
        )
    return series + slices


@torch.inference_mode()
def predict(net: SliceSequenceNet, volume: Tensor) -> Tensor:
    """Log-odds `(1 + s, c)` of one series `(1, x, y, s)`, in float32 as the node computes them."""
    return net.eval()(volume[None])[0].T
