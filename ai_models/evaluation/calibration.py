"""Are probabilities what they say? Logits and labels in; a temperature, a bias, and errors of
calibration out.

Temperature scaling: Guo et al., "On calibration of modern neural networks", ICML 2017. A
temperature changes no ranking, so no AUC; it is fitted on patients that neither trained the network
nor judge it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scaling:
    """Calibrated logit = logit / `temperature` + `bias`."""

    temperature: float
    bias: float = 0.0

    def __call__(self, logits: ArrayLike) -> Floats:
        return np.asarray(logits, dtype=np.float64) / self.temperature + self.bias

    def fold_into(self, layer: torch.nn.Linear) -> None:
        """Scale the last linear layer in place, so that its logits come out calibrated."""
        with torch.no_grad():
            layer.weight /= self.temperature
            layer.bias.copy_(layer.bias / self.temperature + self.bias)


def sigmoid(logits: ArrayLike) -> Floats:
    """Probability of a logit."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(logits, dtype=np.float64)))


def log_loss(labels: ArrayLike, logits: ArrayLike) -> float:
    """Mean negative log likelihood of yes-or-no labels, in nats."""
    y, x = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    return float(np.mean(np.logaddexp(0, x) - y * x))


def fit_scaling(labels: ArrayLike, logits: ArrayLike, *, bias: bool = False) -> Scaling:
    """The temperature (and, where asked, the bias) with the least log loss."""

    def loss(p: Floats) -> float:
        return log_loss(labels, np.asarray(logits) / np.exp(p[0]) + (p[1] if bias else 0.0))

    found = minimize(loss, np.zeros(2 if bias else 1), method="Nelder-Mead")
    return Scaling(float(np.exp(found.x[0])), float(found.x[1]) if bias else 0.0)


def reliability(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10
) -> list[dict[str, float]]:
    """Bins of equally many cases: mean probability, share of positives, count. Empty bins are left out."""
    y, p = np.asarray(labels, dtype=np.float64), np.asarray(probabilities, dtype=np.float64)
    parts = np.array_split(np.argsort(p, kind="stable"), bins)
    return [
        {"said": float(p[part].mean()), "was": float(y[part].mean()), "count": len(part)}
        for part in parts
        if len(part)
    ]


def expected_calibration_error(
    labels: ArrayLike, probabilities: ArrayLike, bins: int = 10
) -> float:
    """Mean distance between what was said and what was, over bins of equally many cases.

    With n cases a perfectly calibrated model still shows about `sqrt(bins / n) * 0.4`: read it beside that.
    """
    rows = reliability(labels, probabilities, bins)
    total = sum(row["count"] for row in rows)
    return sum(row["count"] * abs(row["said"] - row["was"]) for row in rows) / total


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean squared distance between probability and label."""
    return float(np.mean((np.asarray(labels, float) - np.asarray(probabilities, float)) ** 2))
