"""CT structures: both lungs, airways and bone, learned from phantoms and from real series with stated labels.

    python -m ai_models.train ct_structures --hold-out acrin-042 --minutes 20

In: the real series of `data/ct_sets.py` (all patients but the one held out) and procedural phantoms. Out: the
weights of the bundle `ai_models/ct_structures`, and in `training/ct_structures/<held out>` the log, the loss
curve and a checkpoint (`--resume` goes on from it). Nothing of the held-out patient is looked at, neither for
training nor for choosing a step: the last state is what is kept. Mirrored patches have their left and right
labels exchanged: left is where the patient's left is.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandGaussianNoised,
    RandGaussianSharpend,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    SpatialPadd,
    ToTensord,
)
from numpy.typing import NDArray

from ai_models.data.ct_labels import StatedLabel
from ai_models.data.ct_sets import GRID_MM, Case, held_out, phantom_case, real_case
from ai_models.evaluation.plots import curves_plot
from ai_models.networks.sided_unet import SidedUNet
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

NAME = "ct_structures"
CLASSES = 5
PATCH = (144, 112, 32)
HU_RANGE = (-1024.0, 1024.0)  # to 0 .. 1, so that padding with zero is padding with air
CLASS_WEIGHTS = (0.5, 1.0, 1.0, 4.0, 2.0)
STEPS_PER_EPOCH = 20
FIRST_TEST_PHANTOM = 9000  # seeds from here on are for evaluation only


def network() -> SidedUNet:
    """The network of the bundle's `network_def`: input 1 channel 0..1, output 5 logits."""
    return SidedUNet(classes=CLASSES, channels=(16, 32, 64, 96, 128), spacing_mm=GRID_MM[:2])


def augmentation(seed: int) -> Compose:
    """A patch of a case, turned, scaled, noised, blurred, sharpened, shifted in HU."""
    both = ["image", "label"]
    chain = Compose(
        [
            SpatialPadd(both, PATCH),
            RandSpatialCropd(both, PATCH, random_size=False),
            RandAffined(
                both,
                prob=0.35,
                rotate_range=(0.08, 0.08, 0.15),
                scale_range=(0.15, 0.15, 0.15),
                shear_range=(0.04, 0.04, 0.04),
                mode=("bilinear", "nearest"),
                padding_mode="zeros",
            ),
            RandGaussianSmoothd("image", (0.3, 1.0), (0.3, 1.0), (0.2, 0.8), prob=0.2),
            RandGaussianSharpend("image", alpha=(1.0, 6.0), prob=0.15),
            RandGaussianNoised("image", prob=0.5, std=0.02),
            RandScaleIntensityd("image", 0.08, prob=0.3),
            RandShiftIntensityd("image", 0.015, prob=0.3),
            RandAdjustContrastd("image", prob=0.1, gamma=(0.9, 1.1)),
            ToTensord(both, track_meta=False),
        ]
    )
    return chain.set_random_state(seed)


def patch_of(
    case: Case, rng: np.random.Generator, chain: Compose
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (1, x, y, z) in 0..1 and labels (x, y, z) of an augmented patch, perhaps mirrored or cut."""
    low, high = HU_RANGE
    depth = case.hu.shape[2]
    first, last = 0, depth
    if rng.random() < 0.4:  # a short series: what lies beyond it is air to the network
        length = int(rng.integers(8, PATCH[2]))
        first = int(rng.integers(0, max(1, depth - length)))
        last = min(depth, first + length)
    hu, given = case.hu[..., first:last], case.labels[..., first:last]
    if rng.random() < 0.3:
        hu = with_clutter(hu, given, rng)
    image = np.clip((hu - low) / (high - low), 0, 1).astype(np.float32)
    made = chain({"image": image[None], "label": given[None]})
    image_t, labels = made["image"].clamp(0, 1), made["label"][0].long()
    if rng.random() < 0.3:
        image_t, labels = mirrored(image_t, labels)
    return image_t, labels


def with_clutter(
    hu: NDArray[np.int16], labels: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.float32]:
    """The image `(x, y, z)` with a dense bar in the air behind the patient: couches are no bone."""
    out = hu.astype(np.float32)
    rows = hu.shape[1]
    top = int(rng.integers(rows // 2, rows - 2))
    bar = slice(top, min(rows, top + int(rng.integers(1, 6))))
    start = int(rng.integers(0, hu.shape[0] // 2))
    side = slice(start, start + int(rng.integers(10, hu.shape[0])))
    piece = out[side, bar]
    piece[(piece < -700) & (labels[side, bar] == 0)] = float(rng.uniform(-300, 1000))
    return out


def mirrored(image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Left and right exchanged, in the picture (first spatial axis) and in the labels alike."""
    left, right = labels == StatedLabel.LEFT_LUNG, labels == StatedLabel.RIGHT_LUNG
    swapped = labels.masked_fill(left, StatedLabel.RIGHT_LUNG)
    swapped = swapped.masked_fill(right, StatedLabel.LEFT_LUNG)
    return image.flip(1), swapped.flip(0)


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Weighted cross-entropy plus Dice over the voxels that have a label.

    Logits `(b, c, x, y, z)`, labels `(b, x, y, z)`; Dice over the structures that the batch holds. Only the
    probability of the true class is gathered: no one-hot volume is made, which would cost a third of a step.
    """
    counted = labels != StatedLabel.IGNORE
    truth = labels.masked_fill(~counted, 0).flatten()
    logs = torch.log_softmax(logits, 1)
    of_truth = logs.gather(1, labels.masked_fill(~counted, 0)[:, None])[:, 0]
    share = counted.flatten().float()
    weights = logits.new_tensor(CLASS_WEIGHTS)
    zeros = logits.new_zeros(CLASSES)
    voxels = zeros.index_add(0, truth, share)
    entropy = zeros.index_add(0, truth, of_truth.flatten() * share)
    both = zeros.index_add(0, truth, of_truth.exp().flatten() * share)
    claimed = (logs.exp() * counted[:, None]).sum((0, 2, 3, 4))
    overlap = (2 * both + 1) / (claimed + voxels + 1)
    there = voxels[1:] > 0
    missed = 1 - overlap[1:][there].mean() if bool(there.any()) else zeros.sum()
    return missed - (entropy * weights).sum() / (voxels * weights).sum()


def cases_for(patient: str, phantoms: int, cache: Path) -> tuple[list[Case], list[float]]:
    """Training cases with their weights: real series share 0.6 of the draws, chests twice an abdomen."""
    real = [real_case(s, cache) for s in progress(*_titled(held_out(patient)[0], "real series"))]
    made = [phantom_case(s, cache) for s in progress(*_titled(range(phantoms), "phantoms"))]
    lungs = [3.0 if np.isin(c.labels, (1, 2)).any() else 1.0 for c in real]
    weights = [0.6 * v / sum(lungs) for v in lungs] + [0.4 / len(made)] * len(made)
    return real + made, weights


def train(options: argparse.Namespace) -> None:
    """Runs until the minutes are spent, then writes the weights."""
    seed_everything(options.seed, options.threads)
    folder = run_folder(f"{NAME}/{options.hold_out}")
    cases, weights = cases_for(options.hold_out, options.phantoms, run_folder(NAME) / "cache")
    net = network().to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(net.parameters(), lr=options.lr, weight_decay=1e-4)
    checkpoint = Checkpoint(folder / "checkpoint.pt", net=net, optimiser=optimiser)
    log = JsonLog(folder / "log.jsonl", fresh=not options.resume)
    dice = torch.Generator().manual_seed(options.seed)
    first = checkpoint.resume(dice) if options.resume else 0
    rng = np.random.default_rng((options.seed, first))
    chain = augmentation(options.seed + first)
    started = time.process_time()
    epochs = options.epochs
    for epoch in progress(range(first, epochs), NAME, epochs - first):
        spent = (time.process_time() - started) / (60 * options.minutes)
        share = max(spent, epoch / epochs)
        for group in optimiser.param_groups:
            group["lr"] = options.lr * max(0.02, 0.5 * (1 + math.cos(math.pi * min(1.0, share))))
        losses = []
        for _ in range(STEPS_PER_EPOCH):
            batch = [
                patch_of(cases[i], rng, chain)
                for i in rng.choice(len(cases), size=2, p=np.array(weights))
            ]
            image, labels = (torch.stack(part) for part in zip(*batch, strict=True))
            with mixed_precision():
                logits = net(image.to(memory_format=torch.channels_last_3d))
            loss = loss_of(logits.float(), labels)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimiser.step()
            losses.append(loss.item())
        log.write(epoch=epoch, loss=float(np.mean(losses)), lr=optimiser.param_groups[0]["lr"])
        checkpoint.save(epoch + 1, dice)
        if spent > 1:
            break
    notes = {"held_out": options.hold_out, "seed": str(options.seed), "epochs": str(epoch + 1)}
    save_weights(net.half(), options.weights, notes)  # half the size; read back as float32
    curves_plot(folder / "loss.png", log.rows(), ["loss", "lr"])
    print(f"{options.weights}: {epoch + 1} epochs of {STEPS_PER_EPOCH} steps")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the training; see the module."""
    parser = argparse.ArgumentParser(prog="ai_models.train ct_structures", description=__doc__)
    parser.add_argument("--hold-out", default="acrin-042", help="patient that training never sees")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="processor time, without preparation"
    )
    parser.add_argument("--epochs", type=int, default=400, help="upper limit, of 20 steps each")
    parser.add_argument("--phantoms", type=int, default=40)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--weights", type=Path, default=MODELS / NAME / "models" / "model.safetensors"
    )
    train(parser.parse_args(argv))
    return 0


def _titled(items: Sequence, title: str) -> tuple[Sequence, str, int]:
    return items, title, len(items)


if __name__ == "__main__":
    raise SystemExit(main())
