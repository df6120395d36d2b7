"""Judges the chest-film classifier: python -m ai_models.evaluate cxr_pneumonia

In: what `python -m ai_models.train cxr_pneumonia` left in `training/cxr_pneumonia` (weights and
held-out logits of five folds). Out: the bundle's weights (fold 0's network, calibrated on the other
folds' held-out films), `docs/evaluation.json` and the pictures of the model card. No film is judged
by a network, a temperature or a baseline that saw its patient.
"""

from __future__ import annotations

import argparse
import csv
import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from ai_models.data.films import Films, read_films
from ai_models.evaluation.calibration import (
    Scaling,
    brier,
    expected_calibration_error,
    fit_scaling,
    log_loss,
    sigmoid,
)
from ai_models.evaluation.plots import image_grid, reliability_plot, roc_plot
from ai_models.evaluation.statistics import (
    auc,
    auc_within,
    bootstrap,
    sensitivity_specificity,
)
from ai_models.explain import grad_cam
from ai_models.training import load_weights, run_folder, save_weights
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.cxr_pneumonia import BUNDLE, FOLDS, NAME, folds_of, predict, preprocess

LAYER = "backbone.layer3"
DOCS = BUNDLE / "docs"
Floats = NDArray[np.float64]


def main(argv: list[str]) -> None:
    argparse.ArgumentParser(prog=f"ai_models.evaluate {NAME}", description=__doc__).parse_args(argv)
    films, runs = read_films(), run_folder(NAME)
    images, folds, y = preprocess(films), folds_of(films), films.pneumonia
    raw = np.empty(len(y))
    for fold in range(FOLDS):
        raw[folds == fold] = np.load(runs / f"fold{fold}.npy")
    scalings = [fit_scaling(y[folds != k], raw[folds != k], bias=True) for k in range(FOLDS)]
    logits = np.choose(folds, [scale(raw) for scale in scalings])
    net = ship(scalings[0])
    test = folds == 0
    drift = float(np.abs(predict(net, images[test]) - logits[test]).max())
    baseline = logistic_regression(images, y, folds, inside=True)
    margins = logistic_regression(images, y, folds, inside=False)
    p = sigmoid(logits)
    report = {
        "films": len(y),
        "patients": len(np.unique(films.patients)),
        "cross_validation": {
            **figures(films, logits, np.ones(len(y), bool)),
            "auc_by_fold": [round(auc(y[folds == k], raw[folds == k]), 4) for k in range(FOLDS)],
            "baseline_intensities": bootstrap(auc, films.patients, y, baseline).as_json(),
            "auc_gain_over_baseline": bootstrap(
                lambda t, a, b: auc(t, a) - auc(t, b), films.patients, y, logits, baseline
            ).as_json(),
        },
        "shipped_on_fold_0": figures(films, logits, test) | {"largest_difference": drift},
        "calibration": calibration(y, raw, logits, scalings[0]),
        "confounders": confounders(films, images, logits, margins, net, test),
        "heat_map": deletion(net, images[test], y[test]),
    }
    (DOCS / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    curves = {"network": logits, "intensities": baseline, "margins only": margins}
    roc_plot(DOCS / "roc.png", y, curves)
    reliability_plot(DOCS / "reliability.png", y, {"before": sigmoid(raw), "after": p})
    pictures(net, images[test], films.names[test], y[test], p[test])
    print(json.dumps(report, indent=2))


def ship(scaling: Scaling) -> torch.nn.Module:
    """Fold 0's network with the scaling folded into its last layer, written to the bundle."""
    net = load_weights(network_of(BUNDLE), run_folder(NAME) / "fold0.safetensors")
    scaling.fold_into(net.classifier)
    save_weights(net, BUNDLE / WEIGHTS, {"format": "pt", "model": NAME, "held_out": "fold 0"})
    return net


def figures(films: Films, logits: Floats, rows: NDArray[np.bool_]) -> dict[str, Any]:
    """AUC with its interval, sensitivity and specificity at one half, of some rows."""
    y, who, p = films.pneumonia[rows], films.patients[rows], sigmoid(logits[rows])
    found = p >= 0.5
    return {
        "films": int(rows.sum()),
        "patients": len(np.unique(who)),
        "auc": bootstrap(auc, who, y, p).as_json(),
        "sensitivity": bootstrap(
            lambda t, f: sensitivity_specificity(t, f)[0], who, y, found
        ).as_json(),
        "specificity": bootstrap(
            lambda t, f: sensitivity_specificity(t, f)[1], who, y, found
        ).as_json(),
        "ece": round(expected_calibration_error(y, p), 4),
    }


def calibration(y: NDArray[np.bool_], raw: Floats, logits: Floats, s: Scaling) -> dict[str, Any]:
    """Before and after scaling; the scaling of a fold comes from the other folds."""
    parts = {"before": sigmoid(raw), "after": sigmoid(logits)}
    return {
        "shipped_temperature": round(s.temperature, 4),
        "shipped_bias": round(s.bias, 4),
        "ece": {k: round(expected_calibration_error(y, p), 4) for k, p in parts.items()},
        "brier": {k: round(brier(y, p), 4) for k, p in parts.items()},
        "log_loss": {"before": round(log_loss(y, raw), 4), "after": round(log_loss(y, logits), 4)},
    }


def logistic_regression(
    images: Tensor, y: NDArray[np.bool_], folds: NDArray[np.int64], *, inside: bool
) -> Floats:
    """Held-out log-odds from 32 x 32 intensities: of the inside, or of what the network never sees."""
    small = torch.nn.functional.adaptive_avg_pool2d(images, 32)[:, 0].numpy().astype(np.float64)
    margin = np.ones((32, 32), bool)
    margin[3:29, 3:29] = False
    x = small[:, ~margin if inside else margin]
    out = np.empty(len(y))
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        mean, scale = x[train].mean(0), x[train].std(0) + 1e-3
        a, b = (x[train] - mean) / scale, (x[test] - mean) / scale
        w = _fit(a, y[train].astype(np.float64), penalty=300.0)
        out[test] = b @ w[:-1] + w[-1]
    return out


def _fit(x: Floats, y: Floats, penalty: float) -> Floats:
    def loss(w: Floats) -> tuple[float, Floats]:
        z = x @ w[:-1] + w[-1]
        error = sigmoid(z) - y
        value = float(np.sum(np.logaddexp(0, z) - y * z) + 0.5 * penalty * w[:-1] @ w[:-1])
        return value, np.append(x.T @ error + penalty * w[:-1], error.sum())

    return minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x


def confounders(
    films: Films,
    images: Tensor,
    logits: Floats,
    margins: Floats,
    net: torch.nn.Module,
    test: NDArray[np.bool_],
) -> dict[str, Any]:
    """What else tells the two labels apart, and what the network does where that is taken away."""
    y, who, brightness = films.pneumonia, films.patients, images.mean((1, 2, 3)).numpy()
    follow_up = np.array([int(n[-7:-4]) for n in films.names])
    with (DOCS / "readings.tsv").open(encoding="utf-8") as file:
        readings = {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}
    read = [readings[n] for n in films.names[test]]
    marked = {k: np.array([r[k] == "1" for r in read]) for k in ("lettering", "devices")}
    ward = marked["lettering"] | marked["devices"]
    t, s, w = y[test], logits[test], who[test]
    return {
        "auc_follow_up_number": bootstrap(auc, who, y, follow_up).as_json(),
        "auc_patient_number": bootstrap(auc, who, y, -who.astype(int)).as_json(),
        "auc_darkness": bootstrap(auc, who, y, -brightness).as_json(),
        "auc_among_equally_bright": bootstrap(
            auc_within, who, y, logits, brightness, draws=500
        ).as_json(),
        "auc_margins_only": bootstrap(auc, who, y, margins).as_json(),
        "auc_first_films_only": bootstrap(
            auc, who[follow_up == 0], y[follow_up == 0], logits[follow_up == 0]
        ).as_json(),
        "patients_with_both_labels": pairs_within_patients(films, logits),
        "fold_0": {
            name: {"pneumonia": int((m & t).sum()), "no_finding": int((m & ~t).sum())}
            for name, m in marked.items()
        }
        | {
            "auc_of_the_marks": bootstrap(auc, w, t, ward).as_json(),
            "auc_without_marks": bootstrap(auc, w[~ward], t[~ward], s[~ward]).as_json(),
            "auc_with_marks": bootstrap(auc, w[ward], t[ward], s[ward]).as_json(),
            "auc_margins_widened_to_20_percent": round(
                auc(t, predict(net, _framed(images[test], 0.2))), 4
            ),
        },
    }


def _framed(images: Tensor, share: float) -> Tensor:
    edge = round(share * images.shape[-1])
    out = torch.zeros_like(images)
    out[..., edge:-edge, edge:-edge] = images[..., edge:-edge, edge:-edge]
    return out


def pairs_within_patients(films: Films, logits: Floats) -> dict[str, Any]:
    """Of all pairs of films of one patient with both labels: how often the ill one scores higher."""
    shares = []
    for patient in np.unique(films.patients):
        mine = films.patients == patient
        value = auc(films.pneumonia[mine], logits[mine])
        if not np.isnan(value):
            shares.append(value)
    interval = bootstrap(lambda s: float(np.mean(s)), range(len(shares)), shares)
    return {"patients": len(shares), "right": interval.as_json()}


def deletion(net: torch.nn.Module, images: Tensor, y: NDArray[np.bool_]) -> dict[str, Any]:
    """Does the heat map point at what the network uses? Blank its hottest tenth, or any tenth, and compare.

    Films with the label whose probability is above one half; the fall of the logit, averaged.
    """
    rng = np.random.default_rng(0)
    falls: dict[str, list[float]] = {LAYER: [], "backbone.layer4": [], "anywhere": []}
    called = predict(net, images) > 0
    for image in images[torch.from_numpy(y & called)]:
        before = predict(net, image[None])[0]
        inner = image.shape[-1] // 10
        for name, values in falls.items():
            if name == "anywhere":
                heat = torch.from_numpy(rng.random((8, 8), dtype=np.float32))[None, None]
                heat = torch.nn.functional.interpolate(heat, image.shape[-2:], mode="bicubic")[0, 0]
            else:
                heat = grad_cam(net, image[None], name)
            heat = heat[inner:-inner, inner:-inner]
            hot = heat >= heat.quantile(0.9)
            blanked = image.clone()
            part = blanked[0, inner:-inner, inner:-inner]
            part[hot] = part.mean()
            values.append(float(before - predict(net, blanked[None])[0]))
    means = {k: round(float(np.mean(v)), 4) for k, v in falls.items()}
    return {"films": int((y & called).sum()), "mean_fall_of_logit": means}


def pictures(
    net: torch.nn.Module, images: Tensor, names: NDArray[np.str_], y: NDArray[np.bool_], p: Floats
) -> None:
    """Heat maps of the surest hits, and the worst failures of both kinds."""
    order = np.argsort(-p)
    missed = [k for k in order[::-1] if y[k]][:4]
    alarms = [k for k in order if not y[k]][:4]
    for file, rows in (
        ("heatmaps.png", [k for k in order if y[k]][:4]),
        ("failures.png", [*missed, *alarms]),
    ):
        shown, titles = [], []
        for k in rows:
            grey = images[k, 0].numpy()
            heat = grad_cam(net, images[k][None], LAYER).numpy()
            colour = np.stack(
                [grey + 0.5 * heat, grey * (1 - 0.3 * heat), grey * (1 - 0.3 * heat)], -1
            )
            shown += [grey, colour]
            label = "pneumonia" if y[k] else "no finding"
            titles += [f"{names[k][-16:-4]}\nlabel: {label}", f"p = {p[k]:.2f}"]
        image_grid(DOCS / file, shown, titles)
