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
from scipy.optimize import minimize_scalar

from ai_models.evaluation import card
from ai_models.evaluation.calibration import (
    Scaling,
    brier,
    expected_calibration_error,
    fit_scaling,
    log_loss,
    sigmoid,
)
from ai_models.evaluation.plots import plt, reliability_plot, roc_plot, save
from ai_models.evaluation.statistics import auc, bootstrap, sensitivity_specificity
from ai_models.explain import occlusion
from ai_models.networks.slice_sequence import SliceSequenceNet
from ai_models.training import load_weights, save_weights
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.ct_slice_nodule import BUNDLE, NAME, RUNS, TEST, WATCH, cached, weights_of
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
        "where": where(shipped, images, spots) | {"place": place(shipped, images, test["nodule"])},
    }
    DOCS.mkdir(exist_ok=True)
    (DOCS / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    roc_plot(DOCS / "roc.png", y, {"CNN + LSTM": series["lstm"], "CNN alone": series["cnn"]})
    reliability_plot(DOCS / "reliability.png", y, {"CNN + LSTM": sigmoid(series["lstm"])})
    curves(shipped, images, spots, odds["lstm"])
    card.fill(DOCS / "README.md", table(report))
    print(json.dumps(report, indent=2))


def table(report: dict[str, Any]) -> str:
    """The report as the card shows it."""
    lines = [
        ["AUC, series", "auc_series"],
        ["AUC, nodules under 9 mm", "auc_nodules_under_9_mm"],
        ["AUC, slices", "auc_slices"],
        ["calibration error (10 bins)", "ece"],
        ["Brier score", "brier"],
    ]
    rows = [
        [
            title,
            *(
                card.with_interval(v) if isinstance(v := report[run][key], dict) else f"{v:.3f}"
                for run in RUNS
            ),
        ]
        for title, key in lines
    ]
    gain = card.with_interval(report["gain_of_the_lstm"])
    found = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in report["where"].items())
    head = [
        f"{report['series']} series, {report['with_nodule']} with a nodule",
        "CNN + LSTM",
        "CNN",
    ]
    return (
        f"{card.table(head, rows)}\n\nGain of the LSTM in AUC: {gain}. Share of series with a nodule "
        f"where the answer lies on it: {found}."
    )


def trained(run: str) -> SliceSequenceNet:
    """The network of one run."""
    return load_weights(network_of(BUNDLE, **RUNS[run]), weights_of(run))


def calibrate(net: SliceSequenceNet, images: torch.Tensor, spots: NDArray[np.bool_]) -> Scaling:
    """Shift the slices' log-odds, scale and shift the series', in place; returns the series' scaling.

    A slice says as much as its places together, so a number added to each place is added to the slice.
    """
    odds = scores(net, images)
    said, was = odds[:, 1:].ravel(), spots.ravel()
    bias = float(minimize_scalar(lambda b: log_loss(was, said + b), bounds=(-8, 8)).x)
    series = fit_scaling(spots.any(1), odds[:, 0], bias=True)
    with torch.no_grad():
        net.head[1].bias += bias
        net.shift -= net.scale * bias  # the series stays as it was
        net.scale /= series.temperature
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


def place(net: SliceSequenceNet, images: torch.Tensor, nodules: torch.Tensor) -> float:
    """How often the likeliest of all places of a series with a nodule shows the nodule, or is next to one."""
    hits = []
    for volume, nodule in zip(images, nodules.float(), strict=True):
        if not nodule.any():
            continue
        with torch.inference_mode():
            odds = net.read_places(net.look(volume[None, None].float() / 255))[0][0, ..., 0]
        beside = torch.nn.functional.max_pool2d(nodule[:, None], 3, 1, 1).flatten(1)
        hits.append(bool(beside.flatten()[int(odds.argmax())]))
    return round(float(np.mean(hits)), 4)


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
