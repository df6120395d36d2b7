"""A nodule in a phantom series, CNN + LSTM: python -m ai_models.train ct_slice_nodule

Phantoms only: the model is a proof that the sequence adds what no slice has, and is switched off in the
node. Makes 500 series to train on and 80 to watch (each seed is a patient of his own). The network reads
each of 32 x 32 places as a sequence over the slices, and is taught place by place, slice by slice and
series by series at once, on squares of a quarter of the slice. The rival is the same CNN without the LSTM,
trained on the same squares for as many steps: it sees a round spot, but not that the spot comes and goes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ai_models.data.sequences import PLACES, nodule_set
from ai_models.evaluation.plots import curves_plot
from ai_models.evaluation.statistics import auc
from ai_models.networks.slice_sequence import SliceSequenceNet
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
from ai_models.training.bundles import network_of
from ai_models.training.sequence_fit import Batch, predict, sequence_loss

NAME = "ct_slice_nodule"
BUNDLE = MODELS / NAME
TRAIN, WATCH, TEST = (1_000_000, 500), (2_000_000, 80), (3_000_000, 200)  # first seed, count
STEPS, PER_EPOCH, BATCH, RATE = 500, 50, 16, 4e-3
CROP = 16  # places
SHOWN = 0.6  # of the squares of a series with a nodule hold it for sure
RUNS = {"lstm": {}, "cnn": {"hidden": 0}}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"ai_models.train {NAME}", description=__doc__)
    parser.add_argument("--run", action="append", choices=RUNS)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(argv)
    train, watch = cached("train", *TRAIN), cached("watch", *WATCH)
    for run in options.run or RUNS:
        torch.manual_seed(0)
        net = network_of(BUNDLE, **RUNS[run])
        nn.init.constant_(net.head[1].bias, -6.0)  # nodules are rare
        learn(net, train, watch, run, options.steps)
    rows = [r for run in RUNS for r in JsonLog(run_folder(NAME) / f"{run}.jsonl").rows()]
    curves_plot(BUNDLE / "docs" / "training.png", rows, ["loss", "auc"])


def draw(train: dict[str, Tensor], generator: Generator) -> tuple[Tensor, Tensor]:
    """`BATCH` squares `(b, x, y, s)` of 0 to 1, turned, mirrored, upside down, of another brightness and with
    grain; and where the nodule is in them, `(b, s, places, places)`."""
    images, nodules = [], []
    for k in torch.randint(len(train["images"]), (BATCH,), generator=generator).tolist():
        x, y = torch.randint(PLACES - CROP + 1, (2,), generator=generator).tolist()
        there = train["nodule"][k].any(0).nonzero()
        if len(there) and float(torch.rand(1, generator=generator)) < SHOWN:
            shift = torch.randint(CROP, (2,), generator=generator)
            x, y = (there[0] - shift).clamp(0, PLACES - CROP).tolist()
        side = train["images"].shape[1] // PLACES
        window = (slice(side * x, side * (x + CROP)), slice(side * y, side * (y + CROP)))
        image = train["images"][k][window].float() / 255
        nodule = train["nodule"][k, :, x : x + CROP, y : y + CROP]
        ways = torch.rand(4, generator=generator) < 0.5
        if ways[0]:
            image, nodule = image.transpose(0, 1), nodule.transpose(1, 2)
        flips = [axis for axis in range(3) if ways[1 + axis]]
        images.append(image.flip(flips))
        nodules.append(nodule.flip([(axis + 1) % 3 for axis in flips]))
    x = torch.stack(images)
    b = (BATCH, 1, 1, 1)
    x = x * (1 + 0.05 * torch.randn(b, generator=generator))
    x = x + 0.02 * torch.randn(b, generator=generator)
    x = x + 0.02 * torch.rand(b, generator=generator) * torch.randn(x.shape, generator=generator)
    return x.clamp(0, 1), torch.stack(nodules).float()


def place_loss(odds: Tensor, nodule: Tensor) -> Tensor:
    """Cross entropy of all places `(b, s, p)`, for each place with a nodule: few in ten thousand have one."""
    total = binary_cross_entropy_with_logits(odds, nodule, reduction="sum")
    return total / (1 + nodule.sum())


def learn(
    net: SliceSequenceNet,
    train: dict[str, Tensor],
    watch: dict[str, Tensor],
    run: str,
    steps: int,
) -> None:
    """Train, or go on where a stopped run ended; leaves weights and a log."""
    generator = seed_everything(0)
    net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.15
    )
    folder = run_folder(NAME)
    checkpoint = Checkpoint(folder / f"{run}.ckpt", net=net, optimizer=optimizer, schedule=schedule)
    first = checkpoint.resume(generator)
    log = JsonLog(folder / f"{run}.jsonl", fresh=first == 0)
    epochs = steps // PER_EPOCH
    for epoch in progress(range(first, epochs), run, epochs - first):
        net.train()
        sums = {"loss": 0.0, "places": 0.0}
        for _ in range(PER_EPOCH):
            images, nodule = draw(train, generator)
            with mixed_precision():
                seen = net.look(images[:, None])
            odds, weights = net.read_places(seen.float())
            places = place_loss(odds[..., 0], nodule.flatten(2))
            slices = odds.logsumexp(2)
            series = net.sum_up(slices, weights.amax(2))
            there = nodule.amax((2, 3))
            batch = Batch(images, there[..., None], there.amax(1, keepdim=True))
            said = torch.cat([series[:, None], slices], 1)
            loss = places + sequence_loss(said, batch, net.exclusive)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            sums["loss"] += loss.item() / PER_EPOCH
            sums["places"] += places.item() / PER_EPOCH
        row = {"run": run, "epoch": epoch + 1, **{k: round(v, 4) for k, v in sums.items()}}
        if (epoch + 1) % 3 == 0 or epoch + 1 == epochs:
            row["auc"] = round(watched(net, watch), 4)
        log.write(**row)
        checkpoint.save(epoch + 1, generator)
    save_weights(net, weights_of(run), {"format": "pt", "run": run})


def watched(net: SliceSequenceNet, watch: dict[str, Tensor]) -> float:
    """AUC of the series that nothing is learnt from, whole slices."""
    said = [float(predict(net, v[None].float() / 255)[0, 0]) for v in watch["images"]]
    return auc(watch["slices"].any(1).numpy(), np.array(said))


def weights_of(run: str) -> Path:
    """Where a run leaves its weights."""
    return run_folder(NAME) / f"{run}.safetensors"


def cached(part: str, first: int, count: int) -> dict[str, torch.Tensor]:
    """`nodule_set` of one part, made once and kept in the run folder."""
    file = run_folder(NAME) / f"{part}-{first}-{count}.npz"
    if not file.exists():
        np.savez(file, **nodule_set(first, count))
    with np.load(file) as made:
        return {name: torch.from_numpy(made[name]) for name in made.files}
