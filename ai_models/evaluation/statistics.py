"""Figures with their intervals: arrays in, plain numbers out. No torch, no files.

The unit of resampling is the patient: two images of one patient are not two facts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval (percentiles)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def as_json(self) -> dict[str, float]:
        """Rounded to four digits."""
        return {k: round(float(getattr(self, k)), 4) for k in ("value", "low", "high")}


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties counted half.

    NaN where one of the two classes is missing.
    """
    positive, rank = np.asarray(labels).astype(bool), rankdata(scores)
    n = int(positive.sum())
    m = positive.size - n
    if n == 0 or m == 0:
        return float("nan")
    return float((rank[positive].sum() - n * (n + 1) / 2) / (n * m))


def auc_within(labels: ArrayLike, scores: ArrayLike, nuisance: ArrayLike, strata: int = 8) -> float:
    """AUC over pairs that are alike in `nuisance`: what remains when that tells nothing any more.

    Cases are cut into strata of equal size by the nuisance; only pairs within a stratum count.
    """
    y, score, value = np.asarray(labels).astype(bool), np.asarray(scores), np.asarray(nuisance)
    edges = np.quantile(value, np.linspace(0, 1, strata + 1)[1:-1])
    stratum = np.digitize(value, edges)
    total, pairs = 0.0, 0
    for k in range(strata):
        mine = stratum == k
        count = int(y[mine].sum()) * int((~y[mine]).sum())
        if count:
            total, pairs = total + count * auc(y[mine], score[mine]), pairs + count
    return total / pairs if pairs else float("nan")


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """False positive rate, true positive rate and threshold, from the strictest to the loosest."""
    positive, score = np.asarray(labels).astype(bool), np.asarray(scores, dtype=np.float64)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    hits = np.cumsum(positive[order])[last]
    false = last + 1 - hits
    zero = np.zeros(1)
    tpr = np.concatenate([zero, hits / max(positive.sum(), 1)])
    fpr = np.concatenate([zero, false / max((~positive).sum(), 1)])
    return fpr, tpr, np.concatenate([[np.inf], score[order][last]])


def dice(prediction: ArrayLike, truth: ArrayLike) -> float:
    """Dice overlap of two masks; 1 where both are empty."""
    a, b = np.asarray(prediction).astype(bool), np.asarray(truth).astype(bool)
    both = int(a.sum()) + int(b.sum())
    return 1.0 if both == 0 else 2 * int((a & b).sum()) / both


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Share of equal entries."""
    return float((np.asarray(labels) == np.asarray(predictions)).mean())


def sensitivity_specificity(labels: ArrayLike, positive: ArrayLike) -> tuple[float, float]:
    """Share of the ill that are found, share of the well that are passed."""
    ill, found = np.asarray(labels).astype(bool), np.asarray(positive).astype(bool)
    return float(found[ill].mean()), float((~found[~ill]).mean())


def bootstrap(
    metric: Callable[..., float],
    patients: Sequence[Hashable],
    *arrays: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """`metric(*arrays)` with its 95 % interval; whole patients are drawn with replacement.

    Args:
        patients: the patient of each entry of the arrays.
        draws: draws whose metric is NaN (one class only) are left out.
    """
    columns = [np.asarray(a) for a in arrays]
    _, inverse = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    members = [np.flatnonzero(inverse == k) for k in range(int(inverse.max()) + 1)]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        drawn = rng.integers(0, len(members), len(members))
        rows = np.concatenate([members[k] for k in drawn])
        values.append(metric(*(c[rows] for c in columns)))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(metric(*columns), float(low), float(high))


def patient_folds(
    patients: Sequence[Any], labels: ArrayLike, folds: int, seed: int
) -> NDArray[np.int64]:
    """A fold for each entry: no patient in two folds, the labels spread evenly. Deterministic.

    Patients are dealt out in random order, label by label (a patient's label is the majority of his images).
    """
    names, y = np.asarray(patients).astype(str), np.asarray(labels)
    unique, inverse = np.unique(names, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(unique))
    majority = np.array([np.bincount(y[inverse == k]).argmax() for k in range(len(unique))])
    fold = np.empty(len(unique), dtype=np.int64)
    for label in np.unique(majority):
        members = order[majority[order] == label]
        fold[members] = np.arange(len(members)) % folds
    return fold[inverse]
