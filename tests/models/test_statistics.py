"""Figures and intervals: against values worked out by hand, and against the properties they must have."""

import numpy as np
import pytest
import torch

from ai_models.evaluation.calibration import (
    Scaling,
    expected_calibration_error,
    fit_scaling,
    log_loss,
    sigmoid,
)
from ai_models.evaluation.statistics import (
    auc,
    auc_within,
    bootstrap,
    dice,
    patient_folds,
    roc_curve,
    sensitivity_specificity,
)


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == 0.75
    assert auc([0, 1], [0.5, 0.5]) == 0.5
    assert auc([1, 1, 0], [3, 2, 1]) == 1.0
    assert np.isnan(auc([1, 1], [0.1, 0.2]))


def test_the_area_under_the_roc_curve_is_the_auc() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.4
    scores = np.round(rng.normal(labels * 1.0, 1.0), 1)
    fpr, tpr, thresholds = roc_curve(labels, scores)
    assert np.trapezoid(tpr, fpr) == pytest.approx(auc(labels, scores))
    assert (fpr[-1], tpr[-1]) == (1.0, 1.0)
    assert np.all(np.diff(thresholds) < 0)


def test_a_score_that_only_knows_the_nuisance_is_worth_nothing_within_it() -> None:
    rng = np.random.default_rng(1)
    nuisance = rng.integers(0, 8, 4000).astype(float)
    labels = rng.random(4000) < nuisance / 8
    assert auc(labels, nuisance) > 0.8
    assert auc_within(labels, nuisance, nuisance) == pytest.approx(0.5, abs=0.01)


def test_dice_by_hand() -> None:
    assert dice([1, 1, 0, 0], [0, 1, 1, 0]) == 0.5
    assert dice([0, 0], [0, 0]) == 1.0
    assert dice([0, 0], [1, 0]) == 0.0


def test_sensitivity_and_specificity_by_hand() -> None:
    assert sensitivity_specificity([1, 1, 1, 0, 0], [1, 1, 0, 0, 1]) == (2 / 3, 0.5)


def test_images_of_one_patient_widen_the_interval() -> None:
    rng = np.random.default_rng(2)
    of_patient = rng.normal(size=20)
    values = np.repeat(of_patient, 10)
    by_patient = bootstrap(lambda v: float(v.mean()), np.repeat(range(20), 10), values)
    by_image = bootstrap(lambda v: float(v.mean()), range(200), values)
    assert by_patient.low < by_patient.value < by_patient.high
    assert by_patient.high - by_patient.low > 2 * (by_image.high - by_image.low)
    assert by_patient == bootstrap(lambda v: float(v.mean()), np.repeat(range(20), 10), values)


def test_no_patient_is_in_two_folds_and_labels_are_spread() -> None:
    rng = np.random.default_rng(3)
    patients = rng.integers(0, 80, 400)
    labels = patients % 2
    folds = patient_folds(patients, labels, 5, seed=1)
    for patient in np.unique(patients):
        assert len(np.unique(folds[patients == patient])) == 1
    for fold in range(5):
        mine = np.unique(patients[folds == fold])
        assert len(mine) in range(14, 19)
        assert abs(int((mine % 2).sum()) - len(mine) / 2) <= 2


def test_scaling_finds_the_temperature_it_was_given() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(0, 1.5, 20_000)
    labels = rng.random(20_000) < sigmoid(truth)
    found = fit_scaling(labels, 3.0 * (truth - 0.4), bias=True)
    assert found.temperature == pytest.approx(3.0, rel=0.05)
    assert found.bias == pytest.approx(0.4, abs=0.05)
    said = sigmoid(found(3.0 * (truth - 0.4)))
    assert expected_calibration_error(labels, said) < 0.02
    assert log_loss(labels, found(3.0 * (truth - 0.4))) < log_loss(labels, 3.0 * (truth - 0.4))


def test_scaling_folded_into_a_layer_is_scaling_of_its_output() -> None:
    layer, x = torch.nn.Linear(4, 1), torch.randn(5, 4)
    scaling = Scaling(1.7, -0.3)
    wanted = scaling(layer(x).detach().numpy())
    scaling.fold_into(layer)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_calibration_error_of_one_who_always_says_ninety_and_is_right_half_the_time() -> None:
    labels = np.tile([0, 1], 50)
    assert expected_calibration_error(labels, np.full(100, 0.9)) == pytest.approx(0.4, abs=1e-9)
