"""What `ct_denoise` gains over Gaussian, NLM and BM3D at a quarter of the dose, and what it might do wrong.

    python -m ai_models.evaluate ct_denoise --ship plain

In: what the runs of the training left, the network alone (`plain`), after the game against the discriminator
(`gan`) and trained on for as long without it (`longer`); slices of the patient that none has seen, phantoms
of seeds that training never uses. Out: the weights of the run named by `--ship`, `docs/evaluation.json`,
`docs/noise.png` (pictures of a phantom, noise power spectra) in the bundle.

- PSNR against a peak of 2000 HU, and SSIM (over 2000 HU, and in the window -160..240 HU), on the
  middle 256 x 256 pixels. On the real patient the target is the scan at its own dose, with its own
  noise, which no method can or should reproduce: that caps every method. Phantoms' targets have none.
- The baselines' strengths are tuned for PSNR on the first of the very slices they are judged on, in
  their favour. The network leaves a share of the noise, since a noisy target has some that nobody can
  know; the baselines are judged as they are, and again with a share left, tuned like their strengths.
- Intervals: bootstrap over slices of one patient, or over phantoms; the former says nothing about
  other patients.
- Hounsfield units: mean shift in uniform squares of soft tissue. Invented structure: water with noise
  must stay water; on phantoms, the share of pixels whose error, smoothed over 2 pixels, exceeds 30 HU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_nl_means

from ai_models.data.ct_noise import (
    NoisySeries,
    measured_noise,
    patches_of,
    phantom_noisy,
    real_noisy,
    uniform_patches,
)
from ai_models.data.ct_sets import held_out, read, source
from ai_models.evaluation import card
from ai_models.evaluation.bm3d import bm3d
from ai_models.evaluation.plots import save
from ai_models.evaluation.statistics import bootstrap
from ai_models.networks.residual_denoiser import ResidualDenoiser
from ai_models.phantoms import STANDARD
from ai_models.phantoms.dose import NoiseModel, added_at_fraction
from ai_models.training import (
    MODELS,
    load_weights,
    progress,
    run_folder,
    save_weights,
    seed_everything,
)
from ai_models.training.bundles import WEIGHTS, network_of
from ai_models.training.ct_denoise import FIRST_TEST_PHANTOM, NAME, weights_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Floats = NDArray[np.float32]
PEAK_HU = 2000.0
CROP = 256
QUARTER = 0.25
PHANTOM_NOISE_HU = 40.0
INVENTED_HU = 30.0
LEFT = ", a share left"
RUNS = ("plain", "gan", "longer")


class Pair:
    """One slice to judge: three noisy slices, the middle one's target, and the added noise in HU."""

    def __init__(self, series: NoisySeries, middle: int, added_hu: float) -> None:
        rows, columns = series.hu.shape[1:]
        y, x = (rows - CROP) // 2, (columns - CROP) // 2
        window = (slice(middle - 1, middle + 2), slice(y, y + CROP), slice(x, x + CROP))
        self.target = series.hu[window][1].astype(np.float32)
        self.noisy = (series.hu[window] + np.float32(added_hu) * series.noise[window]).astype(
            np.float32
        )
        self.added_hu = added_hu


def network_answer(net: ResidualDenoiser, stack: Floats) -> Floats:
    """The middle of three slices `(3, y, x)`, denoised."""
    with torch.inference_mode():
        noise = net.noise(torch.from_numpy(stack)[None].transpose(2, 3))[0, 0].T
    return np.asarray(stack[1] - (1 - net.keep) * noise.numpy(), np.float32)


def baselines(sigma: float) -> dict[str, Callable[[Floats, float], Floats]]:
    """Each takes a slice and a strength, which is 1 where the method believes the noise's true size."""

    def nlm(image: Floats, strength: float) -> Floats:
        return np.asarray(
            denoise_nl_means(
                image, patch_size=5, patch_distance=9, h=0.8 * strength * sigma, sigma=0.0
            ),
            np.float32,
        )

    return {
        "gaussian": lambda image, s: ndimage.gaussian_filter(image, 0.9 * s),
        "nlm": nlm,
        "bm3d": lambda image, s: bm3d(image, s * sigma),
    }


def scores(answer: Floats, target: Floats) -> tuple[float, float, float]:
    """PSNR in dB, SSIM over 2000 HU, SSIM in the soft-tissue window."""
    error = float(np.mean((answer - target) ** 2))
    similar = [
        float(
            structural_similarity(
                np.clip(answer, low, high),
                np.clip(target, low, high),
                data_range=high - low,
                gaussian_weights=True,
            )
        )
        for low, high in ((-1000.0, 1000.0), (-160.0, 240.0))
    ]
    return 10 * np.log10(PEAK_HU**2 / error), similar[0], similar[1]


def compare(pairs: Sequence[Pair], nets: dict[str, ResidualDenoiser], ship: str) -> dict[str, Any]:
    """Every method on every slice, with intervals, also of the gain of the network `ship` over the best
    baseline, without and with a share of the noise left."""
    first = pairs[0]
    table: dict[str, list[tuple[float, float, float]]] = {"noisy": []}
    strengths, shares = {}, {}
    for name, method in baselines(first.added_hu).items():
        answers = {s: method(first.noisy[1], s) for s in (0.6, 0.8, 1.1, 1.5, 2.0)}
        strengths[name] = max(answers, key=lambda s, a=answers: scores(a[s], first.target)[0])
        answer = answers[strengths[name]]
        shares[name] = max(
            (0.0, 0.1, 0.2, 0.3),
            key=lambda k, a=answer: scores(blend(a, first.noisy[1], k), first.target)[0],
        )
    for pair in progress(pairs, "slices", len(pairs)):
        table["noisy"].append(scores(pair.noisy[1], pair.target))
        for name, method in baselines(pair.added_hu).items():
            answer = method(pair.noisy[1], strengths[name])
            table.setdefault(name, []).append(scores(answer, pair.target))
            left = blend(answer, pair.noisy[1], shares[name])
            table.setdefault(f"{name}{LEFT}", []).append(scores(left, pair.target))
        for name, net in nets.items():
            answer = network_answer(net, pair.noisy)
            table.setdefault(name, []).append(scores(answer, pair.target))
    mean = {name: float(np.mean([row[0] for row in rows])) for name, rows in table.items()}
    psnr = {name: np.array([row[0] for row in rows]) for name, rows in table.items()}
    best = {end: max((f"{n}{end}" for n in strengths), key=mean.__getitem__) for end in ("", LEFT)}
    return {
        "slices": len(pairs),
        "baseline_strengths": strengths,
        "baseline_shares_left": shares,
        "gain_db": {name: _mean(psnr[ship] - psnr[name], 2) for name in best.values()},
        **{
            name: {
                "psnr_db": _mean([row[0] for row in rows], 2),
                "ssim_2000": _mean([row[1] for row in rows], 4),
                "ssim_soft_tissue": _mean([row[2] for row in rows], 4),
            }
            for name, rows in table.items()
        },
    }


def blend(answer: Floats, noisy: Floats, share: float) -> Floats:
    """The answer with a share of what it took away."""
    return np.asarray(answer + np.float32(share) * (noisy - answer), np.float32)


def fidelity(series: NoisySeries, net: ResidualDenoiser, added_hu: float) -> dict[str, float]:
    """Mean shift in HU over uniform squares, by square and overall, and the noise before and after."""
    corners = uniform_patches(series.hu[1::3])
    corners[:, 0] = 1 + 3 * corners[:, 0]
    noisy = series.at(added_hu)
    clean = noisy.copy()
    for z in np.unique(corners[:, 0]):
        clean[z] = network_answer(net, np.ascontiguousarray(noisy[z - 1 : z + 2]))
    side = patches_of(noisy, corners).shape[1]
    shift = [float((clean - noisy)[z, y : y + side, x : x + side].mean()) for z, y, x in corners]
    return {
        "squares": len(shift),
        "mean_shift_hu": round(float(np.mean(shift)), 3),
        "largest_shift_of_a_square_hu": round(float(np.abs(shift).max()), 2),
        "noise_at_own_dose_hu": round(measured_noise(series.hu, corners)[0], 1),
        "noise_at_quarter_dose_hu": round(measured_noise(noisy, corners)[0], 1),
        "noise_denoised_hu": round(measured_noise(clean, corners)[0], 1),
    }


def invented(pairs: Sequence[Pair], net: ResidualDenoiser) -> dict[str, float]:
    """Structure that is not there: in noisy water, and in phantoms."""
    rng = np.random.default_rng(0)
    disc = np.hypot(*np.mgrid[-160:160, -160:160]) < 150
    water = np.where(disc, 0.0, -1000.0).astype(np.float32)
    noise = np.stack([NoiseModel(0.9, STANDARD).draw(water, rng) for _ in range(3)])
    noise *= PHANTOM_NOISE_HU / noise[:, 80:240, 80:240].std()
    core = (slice(60, 260), slice(60, 260))
    answer = network_answer(net, (water + noise).astype(np.float32))[core]
    errors = [ndimage.gaussian_filter(network_answer(net, p.noisy) - p.target, 2.0) for p in pairs]
    before = [ndimage.gaussian_filter(p.noisy[1] - p.target, 2.0) for p in pairs]
    return {
        "water_mean_hu": round(float(answer.mean()), 3),
        "water_noise_before_hu": round(float(noise[1][core].std()), 1),
        "water_noise_after_hu": round(float(answer.std()), 2),
        "water_largest_smoothed_hu": round(
            float(np.abs(ndimage.gaussian_filter(answer, 2.0)).max()), 1
        ),
        "water_largest_smoothed_before_hu": round(
            float(np.abs(ndimage.gaussian_filter(noise[1][core], 2.0)).max()), 1
        ),
        "share_of_pixels_off_by_30_hu": round(
            float(np.mean([np.abs(e) > INVENTED_HU for e in errors])), 6
        ),
        "share_before": round(float(np.mean([np.abs(e) > INVENTED_HU for e in before])), 6),
    }


def kernel_pair(net: ResidualDenoiser) -> dict[str, float]:
    """The sharp-kernel series of a scan against its soft-kernel twin, before and after (training has seen the
    twin): root mean square difference in the body, in HU."""
    sharp, soft = (read(source(f"dx-a0001-{k}")).hu.astype(np.float32) for k in ("l", "b"))
    differences = []
    for z in range(8, 60, 8):
        body = ndimage.uniform_filter(soft[z], 9) > -200
        answer = network_answer(net, np.ascontiguousarray(sharp[z - 1 : z + 2]))
        differences.append([((a - soft[z])[body] ** 2).mean() for a in (sharp[z], answer)])
    before, after = np.sqrt(np.mean(differences, 0))
    return {"before_hu": round(float(before), 1), "after_hu": round(float(after), 1)}


def spectrum(errors: Sequence[Floats], pixel_mm: float) -> tuple[Floats, Floats]:
    """Radial noise power spectrum: frequency in 1/mm, power in HU^2 mm^2."""
    power = np.mean(
        [np.abs(np.fft.fft2(e - e.mean())) ** 2 * pixel_mm**2 / e.size for e in errors], 0
    )
    f = np.fft.fftfreq(errors[0].shape[0], pixel_mm)
    radius = np.hypot(f[:, None], f[None, :])
    bins = np.linspace(0, f.max(), 40)
    which = np.digitize(radius.ravel(), bins)
    values = [power.ravel()[which == k].mean() for k in range(1, len(bins))]
    return bins[1:].astype(np.float32), np.array(values, np.float32)


def picture(path: Path, pairs: Sequence[Pair], net: ResidualDenoiser, pixel_mm: float) -> None:
    """A phantom slice: target, quarter dose, denoised, what was taken away; and the noise power spectra."""
    pair = pairs[0]
    answers = [network_answer(net, p.noisy) for p in pairs]
    images = [
        ("target", pair.target, (-160, 240)),
        ("quarter dose", pair.noisy[1], (-160, 240)),
        ("denoised", answers[0], (-160, 240)),
        ("taken away", pair.noisy[1] - answers[0], (-80, 80)),
        ("error left", answers[0] - pair.target, (-80, 80)),
    ]
    figure, axes = plt.subplots(1, 6, figsize=(20, 3.6))
    for axis, (title, image, (low, high)) in zip(axes, images, strict=False):
        axis.imshow(image, cmap="gray", vmin=low, vmax=high)
        axis.set_title(title)
        axis.axis("off")
    for name, errors in (
        ("noisy", [p.noisy[1] - p.target for p in pairs]),
        ("denoised", [a - p.target for a, p in zip(answers, pairs, strict=True)]),
    ):
        axes[5].semilogy(*spectrum(errors, pixel_mm), label=name)
    axes[5].set(xlabel="1/mm", title="noise power, HU² mm²")
    axes[5].legend()
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of the evaluation; see the module."""
    parser = argparse.ArgumentParser(prog="ai_models.evaluate ct_denoise", description=__doc__)
    parser.add_argument("--hold-out", default="acrin-042", help="patient the weights never saw")
    parser.add_argument("--ship", choices=RUNS, default="plain", help="run to take the weights of")
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--phantoms", type=int, default=5)
    parser.add_argument("--out", type=Path, default=MODELS / NAME / "docs" / "evaluation.json")
    options = parser.parse_args(argv)
    seed_everything(0)
    ship = options.ship
    there = [run for run in RUNS if weights_of(run).exists()]
    nets = {run: load_weights(network_of(MODELS / NAME), weights_of(run)) for run in there}
    notes = {"held_out": options.hold_out, "run": ship}
    save_weights(nets[ship], MODELS / NAME / WEIGHTS, notes)
    cache = run_folder(NAME) / "cache"
    patient = real_noisy(held_out(options.hold_out)[1][0], cache, triples=options.slices)
    added = added_at_fraction(patient.own_noise_hu, QUARTER)
    real = [Pair(patient, 3 * k + 1, added) for k in range(options.slices)]
    seeds = range(FIRST_TEST_PHANTOM, FIRST_TEST_PHANTOM + options.phantoms)
    phantoms = [phantom_noisy(s, cache, 3) for s in progress(seeds, "phantoms", len(seeds))]
    made = [Pair(p, 1, PHANTOM_NOISE_HU) for p in phantoms]
    report = {
        "held out": options.hold_out,
        "shipped": ship,
        "keep": nets[ship].keep,
        "peak_hu": PEAK_HU,
        "quarter dose, real": {"added_noise_hu": round(added, 1), **compare(real, nets, ship)},
        "quarter dose, phantoms": {
            "added_noise_hu": PHANTOM_NOISE_HU,
            **compare(made, nets, ship),
        },
        "hounsfield_units": {k: fidelity(patient, n, added) for k, n in nets.items()},
        "invented_structure": {k: invented(made, n) for k, n in nets.items()},
        "sharp_kernel_against_its_soft_twin": kernel_pair(nets[ship]),
    }
    picture(options.out.with_name("noise.png"), made, nets[ship], 0.9)
    picture(run_folder(NAME) / "real.png", real, nets[ship], patient.pixel_mm)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    card.fill(options.out.with_name("README.md"), figures(report))
    print(json.dumps(report, indent=2))
    return 0


def figures(report: dict[str, Any]) -> str:
    """The report as the card shows it."""
    parts = []
    for key in ("quarter dose, real", "quarter dose, phantoms"):
        of = report[key]
        methods = [k for k, v in of.items() if isinstance(v, dict) and "psnr_db" in v]
        rows = [
            [
                name.replace("_", " "),
                card.with_interval(of[name]["psnr_db"], 2),
                card.with_interval(of[name]["ssim_2000"]),
                card.with_interval(of[name]["ssim_soft_tissue"]),
            ]
            for name in methods
        ]
        head = [f"{key} ({of['slices']} slices)", "PSNR, dB", "SSIM", "SSIM, soft tissue"]
        gains = [f"over {k}: {card.with_interval(v, 2)} dB" for k, v in of["gain_db"].items()]
        parts.append(f"{card.table(head, rows)}\n\nGain {'; '.join(gains)}.")
    for title, key in (("Hounsfield units", "hounsfield_units"), ("Made up", "invented_structure")):
        of = report[key]
        names = list(of[report["shipped"]])
        rows = [[n.replace("_", " "), *(f"{of[k][n]:g}" for k in of)] for n in names]
        parts.append(card.table([title, *(k.replace("_", " ") for k in of)], rows))
    return "\n\n".join(parts)


def _mean(values: Sequence[float] | NDArray, digits: int) -> dict[str, float]:
    interval = bootstrap(lambda v: float(np.mean(v)), list(range(len(values))), values)
    return {
        "value": round(interval.value, digits),
        "low": round(interval.low, digits),
        "high": round(interval.high, digits),
    }


if __name__ == "__main__":
    raise SystemExit(main())
