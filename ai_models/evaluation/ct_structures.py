"""How well `ct_structures` agrees with stated labels on a held-out patient, with truth on phantoms.

    python -m ai_models.evaluate ct_structures

In: the shipped bundle, run by plain MONAI; the real series of the patient it was trained without;
phantoms of seeds that training never uses. Out: `docs/evaluation.json` in the bundle, which the
card quotes, and pictures.

- Dice, a class at a time, on the series' own grid, against the rule's labels (real) or the truth
  (phantoms). One held-out patient gives no interval over patients: the interval there is over blocks
  of 30 mm of slices of this one patient, and says how even the agreement is along the body, nothing
  about other patients. The intervals on phantoms are over phantoms.
- Baseline: the rule itself (`data/ct_labels.py`: threshold and morphology) on the same phantoms.
- False lung: millilitres of lung marked where there is none.
- Mirrored: the same series with left and right exchanged must give the exchanged labels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from ai_models.data.ct_labels import StatedLabel, label_by_rule
from ai_models.data.ct_sets import (
    draw_phantom,
    held_out,
    phantom_labels,
    read,
    source,
    stated_labels,
)
from ai_models.evaluation import card
from ai_models.evaluation.bundle import Bundle
from ai_models.evaluation.plots import save
from ai_models.evaluation.statistics import Interval, bootstrap
from ai_models.phantoms import thorax
from ai_models.training import MODELS, progress, run_folder, seed_everything
from ai_models.training.ct_structures import FIRST_TEST_PHANTOM, NAME

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CLASSES = tuple(c for c in StatedLabel if c not in (StatedLabel.BACKGROUND, StatedLabel.IGNORE))
LUNGS = (StatedLabel.LEFT_LUNG, StatedLabel.RIGHT_LUNG)
BLOCK_MM = 30.0
Labels = NDArray[np.uint8]


def overlaps(prediction: Labels, truth: Labels, label: int) -> NDArray[np.int64]:
    """`(z, 2)`: voxels that both call `label`, and voxels that either does, the latter counted twice."""
    counted = truth != StatedLabel.IGNORE
    a, b = (prediction == label) & counted, truth == label
    both = np.logical_and(a, b).sum((1, 2))
    return np.stack((both, a.sum((1, 2)) + b.sum((1, 2))), 1)


def dice_of(counts: NDArray[np.int64]) -> float:
    """Dice of summed counts; NaN where neither side has the label at all."""
    both, either = np.asarray(counts).sum(0)
    return float(2 * both / either) if either else float("nan")


def along_the_body(prediction: Labels, truth: Labels, step_mm: float) -> dict[str, Any]:
    """Dice of each class with the interval over blocks of slices of one series."""
    blocks = (np.arange(len(truth)) * step_mm // BLOCK_MM).astype(int)
    return {
        label.name.lower(): _rounded(
            bootstrap(dice_of, blocks.tolist(), overlaps(prediction, truth, label))
        )
        for label in CLASSES
        if (truth == label).any()
    }


def real_patient(bundle: Bundle, patient: str, cache: Path) -> dict[str, Any]:
    """Agreement on every series of the held-out patient, with the mirrored one and the false lung below."""
    out: dict[str, Any] = {}
    for of in progress(held_out(patient)[1], "held-out series", len(held_out(patient)[1])):
        volume = read(of)
        truth = stated_labels(of, volume, cache)
        started = time.perf_counter()
        predicted = bundle.run(volume.hu, volume.affine).astype(np.uint8)
        seconds = time.perf_counter() - started
        mirror = bundle.run(volume.hu[:, :, ::-1], volume.affine).astype(np.uint8)[:, :, ::-1]
        swapped = _swapped(mirror)
        millilitre = float(np.prod(volume.spacing_mm)) / 1000
        lungless = ~np.isin(truth, LUNGS).any((1, 2))
        out[of.name] = {
            "scanner": of.scanner,
            "slices": len(truth),
            "seconds_plain_monai": round(seconds, 1),
            "dice": along_the_body(predicted, truth, volume.spacing_mm[0]),
            "dice_mirrored": {
                k: v["value"]
                for k, v in along_the_body(swapped, truth, volume.spacing_mm[0]).items()
            },
            "volume_ml": {
                c.name.lower(): [
                    round(float((predicted == c).sum()) * millilitre, 1),
                    round(float((truth == c).sum()) * millilitre, 1),
                ]
                for c in CLASSES
            },
            "slices_without_lung": int(lungless.sum()),
            "false_lung_ml_there": round(
                float(np.isin(predicted[lungless], LUNGS).sum()) * millilitre, 2
            ),
        }
        picture(run_folder(NAME) / f"{of.name}.png", volume.hu, predicted, volume.spacing_mm)
    return out


def on_phantoms(bundle: Bundle, count: int) -> dict[str, Any]:
    """The model and its baseline on unseen phantoms: Dice with intervals over phantoms, false lung in ml."""
    rows: dict[str, dict[str, list[NDArray[np.int64]]]] = {
        who: {c.name.lower(): [] for c in CLASSES} for who in ("model", "threshold_and_morphology")
    }
    false_lung = dict.fromkeys(rows, 0.0)
    seeds = range(FIRST_TEST_PHANTOM, FIRST_TEST_PHANTOM + count)
    for seed in progress(seeds, "phantoms", count):
        phantom = draw_phantom(seed)
        truth = phantom_labels(phantom)
        answers = {
            "model": bundle.run(phantom.hu, phantom.affine).astype(np.uint8),
            "threshold_and_morphology": label_by_rule(
                phantom.hu, phantom.spacing_mm, contrast=phantom.contrast
            ),
        }
        for who, answer in answers.items():
            for label in CLASSES:
                rows[who][label.name.lower()].append(overlaps(answer, truth, label).sum(0))
            if not np.isin(truth, LUNGS).any():
                voxels = float(np.isin(answer, LUNGS).sum())
                false_lung[who] += voxels * float(np.prod(phantom.spacing_mm)) / 1000
    result: dict[str, Any] = {"phantoms": count, "false_lung_ml_in_lungless": false_lung}
    for who, classes in rows.items():
        result[who] = {
            name: _rounded(bootstrap(_mean_dice, list(range(count)), np.array(counts)))
            for name, counts in classes.items()
        }
    return result


def without_lungs(bundle: Bundle) -> dict[str, float]:
    """Lung in ml that is marked in real series of abdomen and thigh (patients that training has seen)."""
    out = {}
    for name in ("ts-nifti", "sts-002"):
        volume = read(source(name))
        predicted = bundle.run(volume.hu, volume.affine)
        voxels = float(np.isin(predicted, LUNGS).sum())
        out[name] = round(voxels * float(np.prod(volume.spacing_mm)) / 1000, 2)
    return out


def picture(
    path: Path, hu: NDArray[np.int16], labels: Labels, spacing_mm: tuple[float, float, float]
) -> None:
    """Four axial slices and one coronal, with the outlines of the labels."""
    colours = [(0, 0, 0), (70, 130, 240), (80, 200, 120), (240, 200, 60), (230, 90, 90)]
    height, middle = len(hu), hu.shape[1] // 2
    planes = [(hu[int(height * f)], labels[int(height * f)], 1.0) for f in (0.2, 0.4, 0.6, 0.85)]
    planes.append((hu[::-1, middle], labels[::-1, middle], spacing_mm[0] / spacing_mm[2]))
    figure, axes = plt.subplots(1, 5, figsize=(16, 3.6))
    for axis, (image, marked, aspect) in zip(axes, planes, strict=True):
        axis.imshow(image, cmap="gray", vmin=-1000, vmax=500, aspect=aspect)
        for label in CLASSES:
            colour = [tuple(v / 255 for v in colours[label])]
            if (marked == label).any():
                axis.contour(marked == label, [0.5], colors=colour, linewidths=0.9)
        axis.axis("off")
    figure.suptitle(
        "Not for clinical use: left lung blue, right lung green, airways yellow, bone red"
    )
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the evaluation; see the module."""
    parser = argparse.ArgumentParser(prog="ai_models.evaluate ct_structures", description=__doc__)
    parser.add_argument("--hold-out", default="acrin-042", help="patient the weights never saw")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--phantoms", type=int, default=10)
    parser.add_argument("--out", type=Path, default=MODELS / NAME / "docs" / "evaluation.json")
    options = parser.parse_args(argv)
    seed_everything(0)
    bundle = Bundle(NAME, options.weights)
    report = json.loads(options.out.read_text()) if options.out.exists() else {}
    cache = run_folder(NAME) / "cache"
    report[f"held out {options.hold_out}"] = real_patient(bundle, options.hold_out, cache)
    if options.weights is None:
        report["phantoms"] = on_phantoms(bundle, options.phantoms)
        report["false_lung_ml_seen_patients"] = without_lungs(bundle)
        phantom = thorax((100, 256, 256), (3.2, 1.5, 1.5), FIRST_TEST_PHANTOM, nodules=2)
        marked = bundle.run(phantom.hu, phantom.affine).astype(np.uint8)
        picture(options.out.with_name("phantom.png"), phantom.hu, marked, phantom.spacing_mm)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    card.fill(options.out.with_name("README.md"), figures(report))
    print(json.dumps(report, indent=2))
    return 0


def figures(report: dict[str, Any]) -> str:
    """The report as the card shows it."""
    names = [c.name.lower() for c in CLASSES]
    words = {c: c.replace("_", " ") for c in names}
    parts = []
    for key in (k for k in report if k.startswith("held out")):
        for name, of in report[key].items():
            rows = [
                [
                    words[c],
                    card.with_interval(of["dice"][c]),
                    f"{of['dice_mirrored'][c]:.3f}",
                    " / ".join(f"{v:.0f}" for v in of["volume_ml"][c]),
                ]
                for c in names
                if c in of["dice"]
            ]
            head = [f"{name}, {of['scanner']}", "Dice", "Dice, mirrored", "ml, model / stated"]
            false = f"{of['false_lung_ml_there']} ml in {of['slices_without_lung']} slices"
            parts.append(card.table(head, rows) + f"\n\nFalse lung below and above: {false}.")
    made = report["phantoms"]
    rows = [
        [words[c], *(card.with_interval(made[k][c]) for k in ("model", "threshold_and_morphology"))]
        for c in names
    ]
    parts.append(
        card.table([f"{made['phantoms']} phantoms", "model", "threshold + morphology"], rows)
    )
    false = made["false_lung_ml_in_lungless"]
    seen = report["false_lung_ml_seen_patients"]
    parts.append(
        f"False lung in phantoms without lungs: {false['model']:.1f} ml "
        f"(threshold and morphology: {false['threshold_and_morphology']:.1f} ml); in real series without "
        f"lungs, of patients that training has seen: {', '.join(f'{k} {v} ml' for k, v in seen.items())}."
    )
    return "\n\n".join(parts)


def _mean_dice(counts: NDArray[np.int64]) -> float:
    """Mean over phantoms that have the structure, or in which it was marked."""
    both, either = np.asarray(counts).T
    there = either > 0
    return float((2 * both[there] / either[there]).mean()) if there.any() else float("nan")


def _swapped(labels: Labels) -> Labels:
    table = np.arange(256, dtype=np.uint8)
    table[[StatedLabel.LEFT_LUNG, StatedLabel.RIGHT_LUNG]] = [
        StatedLabel.RIGHT_LUNG,
        StatedLabel.LEFT_LUNG,
    ]
    return table[labels]


def _rounded(interval: Interval) -> dict[str, float]:
    return {
        "value": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
    }


if __name__ == "__main__":
    raise SystemExit(main())
