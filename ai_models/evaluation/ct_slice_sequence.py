"""Judges the region-of-each-slice model: python -m ai_models.evaluate ct_slice_sequence

In: what training left in `training/ct_slice_sequence` (one network for each patient left out). Out: the
bundle's weights (the network that never saw Lung-Dx-A0001, calibrated on the other patients left out),
`docs/evaluation.json` and pictures. Five patients are five facts: the interval over patients is wide.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from ai_models.data.regions import Region, real_series
from ai_models.evaluation.calibration import expected_calibration_error
from ai_models.evaluation.plots import plt, save
from ai_models.evaluation.statistics import bootstrap
from ai_models.networks.slice_sequence import SliceSequenceNet
from ai_models.training import load_weights, run_folder, save_weights
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.ct_slice_sequence import BUNDLE, NAME, SHIPPED, Prepared, prepare
from ai_models.training.sequence_fit import predict

DOCS = BUNDLE / "docs"
Floats = NDArray[np.float64]


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog=f"ai_models.evaluate {NAME}", description=__doc__).parse_args(argv)
    real = [s for s in prepare(real_series()) if weights_of("lstm", s.patient).exists()]
    rivals = [s for s in real if weights_of("cnn", s.patient).exists()]
    odds = {
        "lstm": [left_out("lstm", s) for s in real],
        "cnn": [left_out("cnn", s) for s in rivals],
    }
    others = [k for k, s in enumerate(real) if s.patient != SHIPPED]
    temperature = fit_temperature([odds["lstm"][k] for k in others], [real[k] for k in others])
    net = trained("lstm", SHIPPED)
    with torch.no_grad():
        net.head[1].weight /= temperature
        net.head[1].bias /= temperature
    save_weights(net, BUNDLE / WEIGHTS, {"format": "pt", "model": NAME, "held_out": SHIPPED})
    shipped = [(s, predict(net, s.volume).numpy()) for s in real if s.patient == SHIPPED]
    report = {
        "series": len(real),
        "patients": len({s.patient for s in real}),
        "slices": int(sum(len(s.regions) for s in real)),
        "lstm": figures(real, odds["lstm"]),
        "cnn_without_lstm": figures(rivals, odds["cnn"]) if rivals else None,
        "shipped_on_its_patient": figures([s for s, _ in shipped], [o for _, o in shipped]),
        "calibration": {"temperature": round(temperature, 4), **calibration(real, odds["lstm"])},
    }
    (DOCS / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    picture(real, odds["lstm"])
    print(json.dumps(report, indent=2))


def trained(kind: str, without: str) -> SliceSequenceNet:
    """The network that never saw this patient."""
    net = network_of(BUNDLE, **({"hidden": 0} if kind == "cnn" else {}))
    return load_weights(net, weights_of(kind, without))


def weights_of(kind: str, without: str) -> Path:
    """Where training leaves the network that never saw this patient."""
    return run_folder(NAME) / f"{kind}-without-{without}.safetensors"


def left_out(kind: str, series: Prepared) -> Floats:
    """Log-odds `(1 + s, c)` by the network that never saw the patient."""
    return predict(trained(kind, series.patient), series.volume).numpy().astype(np.float64)


def figures(real: list[Prepared], odds: list[Floats]) -> dict[str, Any]:
    """Share of right slices: all, by patient, by region, away from boundaries; regions of a series."""
    right = [(o[1:].argmax(1) == s.regions.numpy()) for s, o in zip(real, odds, strict=True)]
    lenient = [r | _near(s.regions.numpy()) for s, r in zip(real, right, strict=True)]
    who = np.concatenate([[s.patient] * len(s.regions) for s in real])
    y = torch.cat([s.regions for s in real]).numpy()
    hit, near = np.concatenate(right), np.concatenate(lenient)
    said = np.concatenate([o[1:].argmax(1) for o in odds])
    matrix = [[int(((y == a) & (said == b)).sum()) for b in Region] for a in Region]
    present = [np.isin(list(Region), s.regions.numpy()) for s in real]
    claimed = [o[0] > 0 for o in odds]
    trunk = np.isin(y, (Region.CHEST, Region.ABDOMEN))
    return {
        "accuracy": bootstrap(lambda h: float(h.mean()), who, hit).as_json(),
        "accuracy_chest_and_abdomen": bootstrap(
            lambda h: float(h.mean()), who[trunk], hit[trunk]
        ).as_json(),
        "accuracy_beyond_one_slice_of_a_boundary": round(float(near.mean()), 4),
        "by_patient": {p: round(float(hit[who == p].mean()), 4) for p in np.unique(who).tolist()},
        "by_region": {
            r.name: round(float(hit[y == r].mean()), 4) for r in Region if (y == r).any()
        },
        "confusion_rows_are_labels": matrix,
        "regions_of_series_right": round(float(np.mean(np.equal(present, claimed))), 4),
    }


def _near(regions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Slices next to a change of region, on either side of it."""
    change = np.flatnonzero(np.diff(regions))
    near = np.zeros(len(regions), bool)
    near[np.concatenate([change, change + 1]).astype(int)] = True
    return near


def _log_p(odds: Floats) -> Floats:
    return -np.logaddexp(0, -odds[1:])


def fit_temperature(odds: list[Floats], real: list[Prepared]) -> float:
    """The temperature of the slices' softmax with the least log loss, patients weighing alike."""

    def loss(log_t: float) -> float:
        total: dict[str, list[float]] = {}
        for o, s in zip(odds, real, strict=True):
            z = _log_p(o) / np.exp(log_t)
            z = z - np.logaddexp.reduce(z, axis=1, keepdims=True)
            total.setdefault(s.patient, []).extend(-z[np.arange(len(z)), s.regions.numpy()])
        return float(np.mean([np.mean(v) for v in total.values()]))

    return float(np.exp(minimize_scalar(loss, bounds=(-1, 3), method="bounded").x))


def calibration(real: list[Prepared], odds: list[Floats]) -> dict[str, float]:
    """Error of the likeliest region's probability, each patient scaled by the others."""
    said, scaled, right = [], [], []
    for o, s in zip(odds, real, strict=True):
        others = [k for k, t in enumerate(real) if t.patient != s.patient]
        t = fit_temperature([odds[k] for k in others], [real[k] for k in others])
        z = _log_p(o)
        said.append(np.exp(z).max(1))
        scaled.append(np.exp(z / t - np.logaddexp.reduce(z / t, axis=1, keepdims=True)).max(1))
        right.append(z.argmax(1) == s.regions.numpy())
    y = np.concatenate(right)
    return {
        "ece_before": round(expected_calibration_error(y, np.concatenate(said)), 4),
        "ece_after": round(expected_calibration_error(y, np.concatenate(scaled)), 4),
    }


def picture(real: list[Prepared], odds: list[Floats]) -> None:
    """Probability of each region slice by slice, above the label as a strip."""
    figure, axes = plt.subplots(2, 4, figsize=(11, 4.4))
    for axis in axes.flat[len(real) :]:
        axis.axis("off")
    for axis, series, o in zip(axes.flat, real, odds, strict=False):
        for region in Region:
            axis.plot(np.exp(_log_p(o))[:, region], color=f"C{region}", label=region.name.lower())
            mine = np.flatnonzero(series.regions.numpy() == region)
            axis.scatter(mine, np.full(len(mine), -0.06), color=f"C{region}", s=4)
        axis.set_title(series.patient, fontsize=7)
    axes.flat[0].legend(fontsize=6)
    save(figure, DOCS / "slices.png")
