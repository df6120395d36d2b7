"""The chest-film classifier as it is shipped: it loads, repeats itself, keeps its score, makes up nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ai_models.data.films import read_films
from ai_models.evaluation.calibration import expected_calibration_error, sigmoid
from ai_models.evaluation.statistics import auc
from ai_models.explain import grad_cam
from ai_models.training.bundles import prepared, preprocessing_of, shipped_network
from ai_models.training.cxr_pneumonia import BUNDLE, folds_of, predict


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.set_num_threads(1)
    return shipped_network(BUNDLE)


def test_weights_are_small_and_say_whose_they_are() -> None:
    weights = BUNDLE / "models" / "model.safetensors"
    assert weights.stat().st_size < 8e6
    assert b"held_out" in weights.read_bytes()[:20_000]


def test_a_film_of_any_size_becomes_one_probability(network: torch.nn.Module) -> None:
    steps = preprocessing_of(BUNDLE)
    for shape in ((1, 2048, 2500), (1, 301, 200)):
        film = prepared(steps, torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 4095)
        assert film.shape == (1, 160, 160)
        assert 0 <= float(film.min()) <= float(film.max()) <= 1
        assert network(film[None]).shape == (1, 1)


def test_the_same_film_gets_the_same_answer(network: torch.nn.Module) -> None:
    film = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(2))
    again = shipped_network(BUNDLE)
    assert torch.equal(network(film), network(film))
    assert torch.equal(network(film), again(film))


@pytest.mark.parametrize("value", [0.0, 1000.0, float("nan")])
def test_an_empty_film_has_no_finding(network: torch.nn.Module, value: float) -> None:
    film = prepared(preprocessing_of(BUNDLE), torch.full((1, 256, 256), value))
    probability = torch.sigmoid(network(film[None]))
    assert float(probability) < 0.01


def test_the_margin_is_hidden_from_the_network(network: torch.nn.Module) -> None:
    film = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(3))
    marked = film.clone()
    marked[..., :12, -40:] = 1.0
    assert torch.equal(network(film), network(marked))


def test_the_heat_map_of_the_named_layer_lies_on_the_films_grid(network: torch.nn.Module) -> None:
    film = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(4))
    heat = grad_cam(network, film, "backbone.layer3")
    assert heat.shape == (160, 160)
    assert 0 <= float(heat.min()) <= float(heat.max()) <= 1


@pytest.mark.shared
def test_patients_held_out_from_these_weights_are_still_told_apart(
    network: torch.nn.Module,
) -> None:
    try:
        films = read_films()
    except FileNotFoundError as error:
        pytest.skip(f"no real films here: {error}")
    held_out = np.flatnonzero(folds_of(films) == 0)
    steps = preprocessing_of(BUNDLE)
    images = torch.stack(
        [prepared(steps, torch.from_numpy(films.images[k][None])) for k in held_out]
    )
    logits = predict(network, images)
    assert auc(films.pneumonia[held_out], logits) > 0.87
    assert expected_calibration_error(films.pneumonia[held_out], sigmoid(logits)) < 0.12


def test_the_card_quotes_the_evaluation() -> None:
    card = (BUNDLE / "docs" / "README.md").read_text(encoding="utf-8")
    found = json.loads((BUNDLE / "docs" / "evaluation.json").read_text(encoding="utf-8"))
    for figure in (
        found["cross_validation"]["auc"]["value"],
        found["shipped_on_fold_0"]["auc"]["value"],
        found["cross_validation"]["baseline_intensities"]["value"],
        found["calibration"]["ece"]["after"],
        found["confounders"]["auc_margins_only"]["value"],
        found["confounders"]["auc_among_equally_bright"]["value"],
    ):
        assert f"{figure:.3f}" in card
    assert Path(BUNDLE / "docs" / "roc.png").exists()
