"""Judges the nodule-in-phantom sequence model: python -m ai_models.evaluate ct_slice_nodule

In: what training left in `training/ct_slice_nodule`. Out: the bundle's weights (the LSTM's, calibrated on the
series that training only watched), `docs/evaluation.json` and pictures. The 200 series that judge are of
seeds that nothing else uses. The rival is the same CNN without the LSTM, trained alike.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ai_models.evaluation.calibration import (
    Scaling,
    brier,
    expected_calibration_error,
    fit_scaling,
    sigmoid,
)
from ai_models.evaluation.plots import plt, reliability_plot, roc_plot, save
from ai_models.evaluation.statistics import auc, bootstrap, sensitivity_specificity
from ai_models.explain import occlusion
from ai_models.networks.slice_sequence import SliceSequenceNet
from ai_models.training import load_weights, run_folder, save_weights
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.ct_slice_nodule import BUNDLE, NAME, RUNS, TEST, WATCH, cached
from ai_models.training.sequence_fit import predict

DOCS = BUNDLE / "docs"
Floats = NDArray[np.float64]


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog=f"ai_models.evaluate {NAME}", description=__doc__).parse_args(argv)
    test, watch = cached("test", *TEST), cached("watch", *WATCH)
    images, slices, diameters = test["images"], test["slices"], test["diameters"].numpy()
    nets = {run: trained(run) for run in RUNS}
    scalings = {
        run: calibrate(net, watch["images"], watch["slices"].numpy()) for run, net in nets.items()
    }
    shipped = nets["lstm"]
    save_weights(shipped, BUNDLE / WEIGHTS, {"format": "pt", "model": NAME, "seen": "phantoms"})
    y, spots = slices.any(1).numpy(), slices.numpy()
    odds = {run: scores(net, images) for run, net in nets.items()}
    series = {run: o[:, 0] for run, o in odds.items()}
    who = np.arange(len(y))
    report = {
        "series": len(y),
        "with_nodule": int(y.sum()),
        **{run: figures(y, spots, diameters, odds[run], scalings[run]) for run in RUNS},
        "gain_of_the_lstm": bootstrap(
            lambda t, a, b: auc(t, a) - auc(t, b), who, y, series["lstm"], series["cnn"]
        ).as_json(),
        "where": where(shipped, images, spots),
    }
    (DOCS / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    roc_plot(DOCS / "roc.png", y, {"CNN + LSTM": series["lstm"], "CNN alone": series["cnn"]})
    reliability_plot(DOCS / "reliability.png", y, {"CNN + LSTM": sigmoid(series["lstm"])})
    curves(shipped, images, spots, odds["lstm"])
    print(json.dumps(report, indent=2))


def trained(run: str) -> SliceSequenceNet:
    """The network of one run."""
    return load_weights(network_of(BUNDLE, **RUNS[run]), run_folder(NAME) / f"{run}.safetensors")


def calibrate(net: SliceSequenceNet, images: torch.Tensor, spots: NDArray[np.bool_]) -> Scaling:
    """Scale the slices' and the series' log-odds in place; returns the series' scaling."""
    odds = scores(net, images)
    slices = fit_scaling(spots.ravel(), odds[:, 1:].ravel(), bias=True)
    series = fit_scaling(spots.any(1), odds[:, 0], bias=True)
    slices.fold_into(net.head[1])
    with torch.no_grad():  # first undo for the series what was done to its slices
        net.shift -= net.scale * slices.temperature * slices.bias
        net.scale *= slices.temperature / series.temperature
        net.shift.copy_(net.shift / series.temperature + series.bias)
    return series


def scores(net: SliceSequenceNet, images: torch.Tensor) -> Floats:
    """Log-odds `(n, 1 + slices)`."""
    return np.stack([predict(net, v[None].float() / 255)[:, 0].numpy() for v in images])


def figures(
    y: NDArray[np.bool_],
    spots: NDArray[np.bool_],
    diameters: Floats,
    odds: Floats,
    scaling: Scaling,
) -> dict[str, Any]:
    """AUC of series and of slices, by size of nodule, calibration."""
    who, p = np.arange(len(y)), sigmoid(odds[:, 0])
    small = ~y | (diameters < 9)
    every = np.repeat(who, spots.shape[1])
    at_half = sensitivity_specificity(y, p >= 0.5)
    return {
        "auc_series": bootstrap(auc, who, y, p).as_json(),
        "auc_nodules_under_9_mm": bootstrap(auc, who[small], y[small], p[small]).as_json(),
        "auc_slices": bootstrap(
            auc, every, spots.ravel(), odds[:, 1:].ravel(), draws=200
        ).as_json(),
        "sensitivity_specificity": [round(v, 4) for v in at_half],
        "ece": round(expected_calibration_error(y, p), 4),
        "brier": round(brier(y, p), 4),
        "temperature": round(scaling.temperature, 4),
    }


def where(
    net: SliceSequenceNet, images: torch.Tensor, spots: NDArray[np.bool_]
) -> dict[str, float]:
    """How often the likeliest slice, the weightiest slice and the most missed stretch hold the nodule."""
    hits: dict[str, list[bool]] = {"likeliest_slice": [], "attention": [], "occlusion": []}
    for volume, mine in zip(images, spots, strict=True):
        if not mine.any():
            continue
        x = volume[None].float() / 255
        with torch.inference_mode():
            odds = predict(net, x)[1:, 0]
            weights = net.attention(x[None])[0, 0]
        hits["likeliest_slice"].append(bool(mine[int(odds.argmax())]))
        hits["attention"].append(bool(mine[int(weights.argmax())]))
        if len(hits["occlusion"]) < 50:  # 12 passes a series
            window, step = (*x.shape[1:3], 4), (*x.shape[1:3], 2)
            heat = occlusion(net, x[None], window, step)[0, 0]
            hits["occlusion"].append(bool(mine[int(heat.argmax())]))
    chance = float(np.mean([m.mean() for m in spots if m.any()]))
    return {k: round(float(np.mean(v)), 4) for k, v in hits.items()} | {"chance": round(chance, 4)}


def curves(
    net: SliceSequenceNet, images: torch.Tensor, spots: NDArray[np.bool_], odds: Floats
) -> None:
    """Probability of each slice, and its weight, for the surest hits and the worst misses."""
    ill = np.flatnonzero(spots.any(1))
    order = ill[np.argsort(odds[ill, 0])]
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.2), sharex=True, sharey=True)
    chosen = [*order[-3:], *order[:3]]
    for axis, k in zip(axes.flat, chosen, strict=True):
        x = images[k][None].float() / 255
        with torch.inference_mode():
            weights = net.attention(x[None])[0, 0].numpy()
        axis.fill_between(range(spots.shape[1]), spots[k], step="mid", color="0.85", label="nodule")
        axis.plot(sigmoid(odds[k, 1:]), label="probability of the slice")
        axis.plot(weights / weights.max(), "--", linewidth=0.9, label="attention, relative")
        axis.set_title(f"series: p = {sigmoid(odds[k, 0]):.2f}", fontsize=8)
    axes[0, 0].legend(fontsize=6)
    save(figure, DOCS / "slices.png")
