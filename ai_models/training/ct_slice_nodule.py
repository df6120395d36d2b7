"""A nodule in a phantom series, CNN + LSTM: python -m ai_models.train ct_slice_nodule

Phantoms only: the model is a proof that the sequence adds what no slice has, and is switched off in
the node. Makes 700 series to train on and 80 to watch (each seed is a patient of his own). First the
CNN learns, slice by slice, in which of 16 x 16 places there is a round spot, nodule or vessel alike;
then it is kept as it is, and the LSTM learns on the maps of spots, and so does the rival without one.
Both read the same maps, so the difference between them is the sequence and nothing else.

State: not solved. The CNN finds the spots (AUC 0.996 of places), the LSTM learns nothing from them
(AUC 0.5 on the series to watch), so no weights are shipped; `ai_models/LOG.md` says what was tried.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ai_models.data.sequences import nodule_set
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
from ai_models.training.sequence_fit import Batch, sequence_loss

NAME = "ct_slice_nodule"
BUNDLE = MODELS / NAME
TRAIN, WATCH, TEST = (1_000_000, 700), (2_000_000, 80), (3_000_000, 200)  # first seed, count
SPOT_EPOCHS, SPOT_STEPS, SPOT_BATCH = 12, 40, 48
EPOCHS, BATCH, RATE = 20, 16, 1e-2
SEQUENCES = 400
"""The LSTM learns on so many of the series; every place is a sequence, so there are 256 times as many."""
RUNS = {"lstm": {}, "cnn": {"hidden": 0}}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog=f"ai_models.train {NAME}", description=__doc__)
    parser.add_argument("--run", action="append", choices=RUNS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(argv)
    train, watch = cached("train", *TRAIN), cached("watch", *WATCH)
    eyes = learn_spots(train)
    views = seen(eyes, train["images"][:SEQUENCES])
    watched = seen(eyes, watch["images"]), watch["slices"].any(1).numpy()
    for run in options.run or RUNS:
        torch.manual_seed(0)
        net = network_of(BUNDLE, **RUNS[run])
        net.cnn.load_state_dict(eyes.cnn.state_dict())
        net.marks.load_state_dict(eyes.marks.state_dict())
        learn_sequence(net, views, train["slices"][:SEQUENCES], watched, run, options.epochs)
    rows = [
        r for run in ("spots", *RUNS) for r in JsonLog(run_folder(NAME) / f"{run}.jsonl").rows()
    ]
    curves_plot(BUNDLE / "docs" / "training.png", rows, ["loss", "auc"])


def learn_spots(train: dict[str, Tensor]) -> SliceSequenceNet:
    """Teach the CNN where spots are, on single slices; returns the network that holds it."""
    generator = seed_everything(0)
    net = network_of(BUNDLE)
    cnn = net.cnn.to(memory_format=torch.channels_last).train()
    ask = net.marks
    optimizer = torch.optim.AdamW([*cnn.parameters(), *ask.parameters()], 3e-3, weight_decay=0.01)
    folder = run_folder(NAME)
    checkpoint = Checkpoint(folder / "spots.ckpt", cnn=cnn, ask=ask, optimizer=optimizer)
    first = checkpoint.resume(generator)
    log = JsonLog(folder / "spots.jsonl", fresh=first == 0)
    series, _, _, count = train["images"].shape
    for epoch in progress(range(first, SPOT_EPOCHS), "spots", SPOT_EPOCHS - first):
        total = 0.0
        for _ in range(SPOT_STEPS):
            k = torch.randint(series, (SPOT_BATCH,), generator=generator)
            z = torch.randint(count, (SPOT_BATCH,), generator=generator)
            x = train["images"][k, :, :, z].float()[:, None] / 255
            with mixed_precision():
                said = ask(cnn((x - 0.5) * 4))[:, 0]
            weight = said.new_tensor(10.0, dtype=torch.float32)  # one place in fifty has a spot
            spots = train["spots"][k, z].float()
            loss = binary_cross_entropy_with_logits(said.float(), spots, pos_weight=weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        log.write(run="spots", epoch=epoch + 1, loss=round(total / SPOT_STEPS, 4))
        checkpoint.save(epoch + 1, generator)
    return net.eval()


@torch.inference_mode()
def seen(net: SliceSequenceNet, images: Tensor) -> Tensor:
    """What the CNN sees in each series: `(n, slices, 1, 16, 16)`, the probability of a spot."""
    return torch.cat([net.eval().look(v[None, None].float() / 255) for v in images])


def moved(maps: Tensor, generator: torch.Generator) -> Tensor:
    """The maps mirrored along x and y and shifted by up to two places: a spot is a spot anywhere."""
    for axis in (3, 4):
        if float(torch.rand(1, generator=generator)) < 0.5:
            maps = maps.flip(axis)
    dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return maps.roll((dx, dy), (3, 4))


def learn_sequence(
    net: SliceSequenceNet,
    views: Tensor,
    slices: Tensor,
    watched: tuple[Tensor, np.ndarray],
    run: str,
    epochs: int,
) -> None:
    """Train everything behind the CNN on what the CNN sees; leaves weights and a log.

    Args:
        views: `seen` of the series.
        slices: `(n, slices)`, which slices hold the nodule.
        watched: `seen` of other series, and whether they have a nodule, for the log.
    """
    generator = seed_everything(0)
    net.cnn.requires_grad_(False)
    net.marks.requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in net.parameters() if p.requires_grad], RATE, weight_decay=0.05
    )
    steps = len(slices) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=epochs * steps, pct_start=0.2
    )
    folder = run_folder(NAME)
    checkpoint = Checkpoint(folder / f"{run}.ckpt", net=net, optimizer=optimizer, schedule=schedule)
    first = checkpoint.resume(generator)
    log = JsonLog(folder / f"{run}.jsonl", fresh=first == 0)
    for epoch in progress(range(first, epochs), run, epochs - first):
        net.train().cnn.eval()
        total = 0.0
        order = torch.randperm(len(slices), generator=generator)
        for chosen in order[: steps * BATCH].split(BATCH):
            x, y = moved(views[chosen], generator), slices[chosen]
            if float(torch.rand(1, generator=generator)) < 0.5:  # upside down
                x, y = x.flip(1), y.flip(1)
            odds, weights = net.read(x)
            said = torch.cat([net.sum_up(odds, weights)[:, None], odds], 1)
            batch = Batch(x, y.float()[..., None], y.any(1).float()[:, None])
            loss = sequence_loss(said, batch, net.exclusive)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
        row = {"run": run, "epoch": epoch + 1, "loss": round(total / steps, 4)}
        if (epoch + 1) % 5 == 0 or epoch + 1 == epochs:
            with torch.inference_mode():
                series = net.eval().sum_up(*net.read(watched[0]))[:, 0].numpy()
            row["auc"] = round(auc(watched[1], series), 4)
        log.write(**row)
        checkpoint.save(epoch + 1, generator)
    save_weights(net, folder / f"{run}.safetensors", {"format": "pt", "run": run})


def cached(part: str, first: int, count: int) -> dict[str, torch.Tensor]:
    """`nodule_set` of one part, made once and kept in the run folder."""
    file = run_folder(NAME) / f"{part}-{first}-{count}.npz"
    if not file.exists():
        np.savez(file, **nodule_set(first, count))
    with np.load(file) as made:
        return {name: torch.from_numpy(made[name]) for name in made.files}
