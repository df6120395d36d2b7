"""The denoiser and the noise it was made for: strength, Hounsfield units, bounds, neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ai_models.data.ct_noise import NoisySeries
from ai_models.evaluation.bm3d import bm3d
from ai_models.evaluation.bundle import Bundle
from ai_models.evaluation.ct_denoise import network_answer
from ai_models.networks.residual_denoiser import ResidualDenoiser
from ai_models.phantoms import SHARP, SOFT, STANDARD, thorax
from ai_models.phantoms.dose import NoiseModel, added_at_fraction
from ai_models.training import MODELS
from ai_models.training.ct_denoise import (
    KEEP,
    NAME,
    PATCH,
    discriminator,
    discriminator_loss,
    draw_pair,
)

Floats = np.ndarray


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    torch.set_num_threads(1)
    return Bundle(NAME)


@pytest.fixture(scope="module")
def scan() -> tuple[Floats, Floats]:
    """A phantom without noise and the same with noise of 35 HU in the body, `(z, y, x)`."""
    phantom = thorax((3, 160, 160), (4.0, 1.6, 1.6), 9200, kernel=SOFT, noise_hu=0.0)
    clean = phantom.hu.astype(np.float32)
    model, rng = NoiseModel(0.9, SOFT), np.random.default_rng(0)
    noise = np.stack([model.draw(plane, rng) for plane in clean])
    return clean, clean + noise * np.float32(35 / noise[clean > -100].std())


def test_a_quarter_of_the_dose_adds_three_times_the_variance() -> None:
    assert added_at_fraction(10.0, 0.25) == pytest.approx(10 * np.sqrt(3))
    with pytest.raises(ValueError, match="between 0 and 1"):
        added_at_fraction(10.0, 1.0)


@pytest.mark.parametrize("own", [0.0, 12.0])
def test_the_target_has_the_noise_of_four_times_the_dose(own: float) -> None:
    rng = np.random.default_rng(2)
    shape = (9, PATCH + 8, PATCH + 8)
    tissue = 40 + np.round(own * rng.standard_normal(shape))
    noise = rng.standard_normal(shape).astype(np.float16)
    series = NoisySeries("even", tissue.astype(np.int16), noise, 0.8, own, "SOFT")
    for _ in range(12):
        pair = draw_pair([series], 0, rng)
        before = pair.noisy[1].std()
        assert before < 75
        assert pair.full_dose.std() == pytest.approx(before / 2, rel=0.1, abs=0.01)
        # no more of the noise than can be known of it: what is left unknown is the series' own
        assert np.cov(pair.noisy[1].ravel(), pair.target.ravel())[0, 1] == pytest.approx(
            KEEP * before**2, rel=0.15, abs=0.01
        )


def test_projection_noise_has_no_mean_and_grows_behind_bone_and_with_the_kernel() -> None:
    y, x = np.mgrid[-64:64, -64:64]
    water = np.where(np.hypot(x, y) < 50, 0.0, -1000.0).astype(np.float32)
    bone = np.where(np.hypot(x, y) < 50, 900.0, -1000.0).astype(np.float32)
    core = np.hypot(x, y) < 30

    def noise(hu: Floats, kernel: object) -> Floats:
        return NoiseModel(1.0, kernel).draw(hu, np.random.default_rng(1))[core]  # type: ignore[arg-type]

    soft = noise(water, SOFT)
    assert abs(soft.mean()) < 0.1 * soft.std()
    assert noise(bone, SOFT).std() > 1.5 * soft.std()
    assert noise(water, SHARP).std() > 1.1 * noise(water, STANDARD).std() > 1.3 * soft.std()


def test_most_noise_goes(bundle: Bundle, scan: tuple[Floats, Floats]) -> None:
    clean, noisy = scan
    body = clean > -300
    before, after = (
        float(np.std((v - clean)[body])) for v in (noisy, bundle.run(noisy, np.eye(4)))
    )
    assert after < 0.6 * before


def test_some_noise_goes_and_hounsfield_units_stay(
    bundle: Bundle, scan: tuple[Floats, Floats]
) -> None:
    clean, noisy = scan
    answer = bundle.run(noisy, np.eye(4))
    assert answer.shape == noisy.shape
    body = clean > -300
    before, after = (float(np.std((v - clean)[body])) for v in (noisy, answer))
    assert after < before
    tissue = (clean > 0) & (clean < 80)
    assert abs(float((answer - noisy)[tissue].mean())) < 1.5


def test_no_voxel_changes_by_more_than_the_limit() -> None:
    net = ResidualDenoiser(limit_hu=50.0)
    wild = torch.randn(1, 1, 24, 20, 4, generator=torch.Generator().manual_seed(0)) * 2000
    assert (net(wild) - wild).abs().max() <= 50.01


def test_a_volume_is_its_slices_with_their_neighbours(bundle: Bundle) -> None:
    net = bundle.network
    assert isinstance(net, ResidualDenoiser)
    volume = torch.randn(1, 1, 30, 22, 5, generator=torch.Generator().manual_seed(0)) * 50
    with torch.inference_mode():
        whole = net(volume)
    stack = volume[0, 0, :, :, 1:4].permute(2, 1, 0).numpy()
    assert np.allclose(whole[0, 0, :, :, 2].numpy().T, network_answer(net, stack), atol=0.05)


def test_constant_images_stay_constant(bundle: Bundle) -> None:
    for value in (-1000.0, 0.0, 60.0):
        flat = np.full((4, 40, 40), value, np.float32)
        assert np.abs(bundle.run(flat, np.eye(4)) - value).max() < 12


def test_a_broken_image_gives_numbers(bundle: Bundle) -> None:
    broken = np.full((4, 40, 40), np.nan, np.float32)
    assert np.isfinite(bundle.run(broken, np.eye(4))).all()


def test_the_discriminator_is_paid_for_telling_the_two_apart() -> None:
    torch.manual_seed(0)
    judge = discriminator()
    one, other = torch.zeros(2, 1, 64, 64), torch.randn(2, 1, 64, 64) * 40
    optimiser = torch.optim.Adam(judge.parameters(), 1e-3)
    first = discriminator_loss(judge, one, other)
    for _ in range(40):
        optimiser.zero_grad()
        loss = discriminator_loss(judge, one, other)
        loss.backward()
        optimiser.step()
    assert loss.item() < first.item()


def test_bm3d_takes_white_noise_away() -> None:
    y, x = np.mgrid[:64, :64]
    clean = (100.0 * (x > 30) + 50.0 * (y > 20)).astype(np.float32)
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape).astype(np.float32)
    assert np.std(bm3d(noisy, 20.0) - clean) < 0.35 * 20
    with pytest.raises(ValueError, match="positive"):
        bm3d(noisy, 0.0)


def test_the_weights_are_small() -> None:
    assert (MODELS / NAME / "models" / "model.safetensors").stat().st_size < 8_000_000
