"""Pictures for the model cards: ROC, reliability, loss curves, grids of images. Numbers in, PNG
files out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import ArrayLike

from ai_models.evaluation.calibration import reliability
from ai_models.evaluation.statistics import auc, roc_curve

mpl.use("Agg")
import matplotlib.pyplot as plt

SIZE = (4.2, 4.0)


def save(figure: Any, path: Path, dpi: int = 80) -> Path:
    """Write a figure small enough for a repository, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    return path


def roc_plot(path: Path, labels: ArrayLike, scores: Mapping[str, ArrayLike]) -> Path:
    """One ROC curve for each name in `scores`."""
    figure, axis = plt.subplots(figsize=SIZE)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    for name, score in scores.items():
        fpr, tpr, _ = roc_curve(labels, score)
        axis.plot(fpr, tpr, label=f"{name}: {auc(labels, score):.3f}", linewidth=1.4)
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC, held-out patients")
    axis.legend(fontsize=7, loc="lower right")
    return save(figure, path)


def reliability_plot(
    path: Path, labels: ArrayLike, probabilities: Mapping[str, ArrayLike], bins: int = 10
) -> Path:
    """What was said against what was, in bins of equally many cases."""
    figure, axis = plt.subplots(figsize=SIZE)
    axis.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    for name, p in probabilities.items():
        rows = reliability(labels, p, bins)
        axis.plot(
            [r["said"] for r in rows], [r["was"] for r in rows], "o-", label=name, markersize=3
        )
    axis.set(
        xlabel="probability said", ylabel="share that was", title="Reliability, held-out patients"
    )
    axis.legend(fontsize=7)
    return save(figure, path)


def curves_plot(
    path: Path, rows: Sequence[Mapping[str, float]], keys: Sequence[str], x: str = "epoch"
) -> Path:
    """One small panel for each key of the log's rows, runs told apart by their `run`."""
    figure, axes = plt.subplots(1, len(keys), figsize=(3.6 * len(keys), 3), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        for run in sorted({str(r.get("run", "")) for r in rows}):
            mine = [r for r in rows if str(r.get("run", "")) == run and key in r]
            axis.plot([r[x] for r in mine], [r[key] for r in mine], label=run, linewidth=1)
        axis.set(xlabel=x, title=key)
    if len({str(r.get("run", "")) for r in rows}) > 1:
        axes[0][0].legend(fontsize=6)
    return save(figure, path)


def image_grid(
    path: Path, images: Sequence[ArrayLike], titles: Sequence[str], columns: int = 4
) -> Path:
    """Grey or RGB images `(y, x)` or `(y, x, 3)` in [0, 1], with a title each."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.1 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title in zip(axes.flat, images, titles, strict=False):
        axis.imshow(np.clip(np.asarray(image), 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=6)
    return save(figure, path, dpi=60)
