"""Judges the tumour-patch segmentation: python -m ai_models.evaluate ct_lung_tumour

In: what training left in `training/ct_lung_tumour`. Out: the bundle's weights (fold 0's),
`docs/evaluation.json` and pictures. Dice is taken over all ten patches of a patient together, then averaged
over patients. The rival is a threshold with a shape rule, whose numbers are chosen on the training folds.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai_models.data.patches import Patches, read_patches
from ai_models.evaluation.plots import image_grid
from ai_models.evaluation.statistics import bootstrap, dice
from ai_models.training import load_weights, run_folder, save_weights
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.ct_lung_tumour import BUNDLE, FOLDS, NAME, folds_of

DOCS = BUNDLE / "docs"
Masks = NDArray[np.bool_]
GRID = tuple(product((0.5, 0.6, 0.7, 0.8), (0, 1, 2), (6, 15)))
"""Baseline: threshold of the intensity, radius of an opening in pixels, least area in pixels."""


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog=f"ai_models.evaluate {NAME}", description=__doc__).parse_args(argv)
    patches, runs = read_patches(), run_folder(NAME)
    folds = folds_of(patches)
    logits = np.empty(patches.images.shape, np.float32)
    for fold in range(FOLDS):
        logits[folds == fold] = np.load(runs / f"fold{fold}.npy")
    net = load_weights(network_of(BUNDLE), runs / "fold0.safetensors")
    save_weights(net, BUNDLE / WEIGHTS, {"format": "pt", "model": NAME, "held_out": "fold 0"})
    found, rival = logits > 0, baseline(patches, folds)
    middle = blob_in_the_middle(patches, folds)
    gains = by_patient(found, patches) - by_patient(rival, patches)
    report = {
        "patches": len(logits),
        "patients": len(np.unique(patches.patients)),
        "network": figures(found, patches),
        "threshold_and_shape": figures(rival, patches),
        "blob_in_the_middle": figures(middle, patches),
        "gain_over_threshold": bootstrap(_mean, range(len(gains)), gains).as_json(),
        "shipped_on_fold_0": figures(found, patches, folds == 0),
        "dice_by_patient": [round(float(v), 4) for v in by_patient(found, patches)],
    }
    (DOCS / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    pictures(found, patches)
    print(json.dumps(report, indent=2))


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.mean(values))


def by_patient(found: Masks, patches: Patches) -> NDArray[np.float64]:
    """Dice over all patches of each patient."""
    who = patches.patients
    return np.array([dice(found[who == p], patches.masks[who == p]) for p in np.unique(who)])


def figures(found: Masks, patches: Patches, rows: Masks | None = None) -> dict[str, Any]:
    """Dice by patient and by patch; how often a patch without tumour is left empty."""
    some = np.ones(len(found), bool) if rows is None else rows
    part = Patches(patches.images[some], patches.masks[some], patches.patients[some])
    mine = found[some]
    ill = part.masks.any((1, 2))
    scores = by_patient(mine, part)
    each = [dice(a, b) for a, b in zip(mine[ill], part.masks[ill], strict=True)]
    return {
        "dice_mean_over_patients": bootstrap(_mean, range(len(scores)), scores).as_json(),
        "dice_mean_over_tumour_patches": bootstrap(_mean, part.patients[ill], each).as_json(),
        "tumour_patches": int(ill.sum()),
        "empty_patches_left_empty": round(float((~mine[~ill].any((1, 2))).mean()), 4),
        "empty_patches": int((~ill).sum()),
    }


def baseline(patches: Patches, folds: NDArray[np.int64]) -> Masks:
    """The best rule of the grid on the training folds, applied to the held-out one."""
    tried = [np.stack([rule(i, *numbers) for i in patches.images]) for numbers in GRID]
    out = np.empty_like(patches.masks)
    for fold in range(FOLDS):
        train = folds != fold
        part = Patches(patches.images[train], patches.masks[train], patches.patients[train])
        best = max(tried, key=lambda masks: by_patient(masks[train], part).mean())
        out[~train] = best[~train]
    return out


def rule(image: NDArray[np.float32], threshold: float, radius: int, area: int) -> Masks:
    """Dense matter, opened, in one piece that does not touch the patch's edge; the largest such piece."""
    dense = image > threshold
    if radius:
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        dense = ndimage.binary_opening(dense, y * y + x * x <= radius * radius)
    parts, _ = ndimage.label(dense)
    edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    sizes = np.bincount(parts.ravel())
    sizes[[0, *edge]] = 0
    return parts == sizes.argmax() if sizes.max() >= area else np.zeros_like(dense)


def blob_in_the_middle(patches: Patches, folds: NDArray[np.int64]) -> Masks:
    """Where tumours lay in the training folds' patches, cut so that Dice there is best: no look at all."""
    out = np.empty_like(patches.masks)
    for fold in range(FOLDS):
        train = folds != fold
        where = patches.masks[train].mean(0)
        part = Patches(patches.images[train], patches.masks[train], patches.patients[train])
        shape = part.masks.shape
        cuts = [np.broadcast_to(where > t, shape) for t in (0.1, 0.2, 0.3, 0.4, 0.5)]
        best = max(cuts, key=lambda masks: by_patient(masks, part).mean())
        out[~train] = best[0]
    return out


def pictures(found: Masks, patches: Patches) -> None:
    """Per patient the patch with the median Dice among those with tumour; green expert, red network."""
    shown, titles = [], []
    for patient in np.unique(patches.patients):
        rows = [k for k in np.flatnonzero(patches.patients == patient) if patches.masks[k].any()]
        rows.sort(key=lambda k: dice(found[k], patches.masks[k]))
        k = rows[len(rows) // 2]
        grey = np.repeat(patches.images[k][..., None], 3, -1) * 0.8
        for mask, channel in ((patches.masks[k], 1), (found[k], 0)):
            rim = mask & ~ndimage.binary_erosion(mask)
            grey[rim] *= 0.3
            grey[rim, channel] = 1.0
        shown.append(grey)
        titles.append(f"patient {patient}: Dice {dice(found[k], patches.masks[k]):.2f}")
    image_grid(DOCS / "patches.png", shown, titles, columns=5)
