"""CNN + LSTM over slices: the network's promises, and the two bundles as they are shipped."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ai_models.data.regions import SOURCES, Region, from_dicom, phantom_series
from ai_models.data.sequences import nodule_series, windowed
from ai_models.data.series import shared_data
from ai_models.evaluation.statistics import auc
from ai_models.networks.slice_sequence import NOTHING, SliceSequenceNet
from ai_models.training import MODELS
from ai_models.training.bundles import prepared, preprocessing_of, shipped_network
from ai_models.training.ct_slice_nodule import draw
from ai_models.training.ct_slice_sequence import LPS_TO_RAS, SHIPPED, prepare
from ai_models.training.sequence_fit import predict

CLASSES = {"ct_slice_sequence": 4, "ct_slice_nodule": 1}


@pytest.fixture(scope="module", params=CLASSES)
def bundle(request: pytest.FixtureRequest) -> Path:
    torch.set_num_threads(1)
    return MODELS / request.param


def _volume(slices: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 1, 128, 128, slices, generator=torch.Generator().manual_seed(seed))


def test_committed_weights_load_and_score_series_and_slices(bundle: Path) -> None:
    net = shipped_network(bundle)
    classes = CLASSES[bundle.name]
    assert (bundle / "models" / "model.safetensors").stat().st_size < 8e6
    for slices in (1, 7, 40):
        out = net(_volume(slices))
        assert out.shape == (1, classes, 1 + slices)
        assert torch.isfinite(out).all()


def test_the_same_series_gets_the_same_answer(bundle: Path) -> None:
    assert torch.equal(shipped_network(bundle)(_volume(9)), shipped_network(bundle)(_volume(9)))


@pytest.mark.parametrize("value", [0.0, -1000.0, float("nan")])
def test_an_empty_series_has_no_finding(bundle: Path, value: float) -> None:
    volume = prepared(preprocessing_of(bundle), torch.full((1, 256, 256, 12), value), LPS_TO_RAS)
    assert float(torch.sigmoid(shipped_network(bundle)(volume[None])).max()) < 0.01


def test_an_empty_slice_has_no_finding_and_no_weight(bundle: Path) -> None:
    net, volume = shipped_network(bundle), _volume(10)
    volume[..., 4] = 0.0
    assert float(net(volume)[0, :, 1 + 4].max()) == NOTHING
    weights = net.attention(volume)
    assert float(weights[0, :, 4].max()) == 0.0
    torch.testing.assert_close(weights.sum(2), torch.ones_like(weights[..., 0]))


def test_preprocessing_finds_left_and_back_in_any_orientation(bundle: Path) -> None:
    steps = preprocessing_of(bundle)
    xyz = torch.randint(-1000, 400, (1, 128, 128, 6), generator=torch.Generator().manual_seed(5))
    straight = prepared(steps, xyz, LPS_TO_RAS)
    turned = np.diag([1.0, -1.0, 1.0, 1.0])  # i grows to the right, and the slices are unchanged
    turned[0, 3] = -127.0
    torch.testing.assert_close(prepared(steps, xyz.flip(1), turned), straight)


def test_regions_of_a_slice_are_exclusive_and_their_probabilities_add_up_to_one() -> None:
    net = SliceSequenceNet(classes=4, exclusive=True).eval()
    with torch.inference_mode():
        slices = torch.sigmoid(net(_volume(5)))[0, :, 1:]
    torch.testing.assert_close(slices.sum(0), torch.ones(5))


def test_without_an_lstm_a_slice_does_not_know_its_neighbours() -> None:
    volume = _volume(6)
    other = volume.clone()
    other[..., 0] = 1 - other[..., 0]
    for hidden, knows in ((0, False), (16, True)):
        net = SliceSequenceNet(classes=1, exclusive=False, hidden=hidden).eval()
        with torch.inference_mode():
            same = torch.equal(net(volume)[..., 1 + 5], net(other)[..., 1 + 5])
        assert same != knows


def test_places_are_judged_alone_and_a_slice_by_its_places() -> None:
    net = SliceSequenceNet(1, False, channels=(4, 8), grid=0, per_place=True, features=6, hidden=5)
    volume = _volume(5)
    with torch.inference_mode():
        seen = net.eval().look(volume)
        places = net.read_places(seen)[0]
        assert places.shape == (1, 5, 32 * 32, 1)
        torch.testing.assert_close(net.read(seen)[0], places.logsumexp(2))
        quarter = net.read_places(net.look(volume[:, :, :64, :64]))[0].unflatten(2, (16, 16))
    whole = places.unflatten(2, (32, 32))[:, :, :16, :16]
    inside = (slice(None), slice(None), slice(0, 14), slice(0, 14))  # the cut is seen from its rim
    torch.testing.assert_close(quarter[inside], whole[inside], atol=1e-4, rtol=1e-4)


def test_a_phantom_nodule_comes_and_goes_and_its_rivals_stay() -> None:
    ill, well = nodule_series(4_000_000), nodule_series(4_000_001)
    assert 2 <= int(ill.slices.sum()) <= 5
    assert not well.slices.any()
    assert 6 <= ill.diameter_mm <= 12
    for series in (ill, well):
        assert series.spots.any((1, 2)).all(), "every slice shows a straight vessel"
        assert windowed(series.hu).shape == (128, 128, 24)
    assert (ill.nodule & ~ill.spots).sum() <= 2, "the nodule is one of the spots"
    np.testing.assert_array_equal(ill.nodule.any((1, 2)), ill.slices)
    np.testing.assert_array_equal(ill.hu, nodule_series(4_000_000).hu)


def test_a_square_of_a_phantom_is_turned_with_its_nodule() -> None:
    images = np.zeros((2, 128, 128, 6), np.uint8)
    nodule = np.zeros((2, 6, 32, 32), bool)
    images[:, 40:44, 72:76, 2], nodule[:, 2, 10, 18] = 255, True
    images[:, 44:48, 72:76, 2], nodule[:, 2, 11, 18] = 255, True
    train = {"images": torch.from_numpy(images), "nodule": torch.from_numpy(nodule)}
    squares, there = draw(train, torch.Generator().manual_seed(0))
    bright = torch.nn.functional.avg_pool2d(squares.permute(0, 3, 1, 2), 4) > 0.5
    assert there.any((1, 2, 3)).sum() > len(there) / 2
    assert torch.equal(bright, there > 0)


def test_nodules_in_unseen_phantoms() -> None:
    net = shipped_network(MODELS / "ct_slice_nodule")
    series = [nodule_series(seed) for seed in range(5_000_000, 5_000_012)]
    said = [float(predict(net, torch.from_numpy(windowed(s.hu))[None] / 255)[0, 0]) for s in series]
    assert auc([s.slices.any() for s in series], said) > 0.9


def test_regions_of_an_unseen_phantom() -> None:
    net = shipped_network(MODELS / "ct_slice_sequence")
    (series,) = prepare([phantom_series(9_001)])
    right = predict(net, series.volume)[1:].argmax(1) == series.regions
    assert float(right.float().mean()) > 0.9


@pytest.mark.shared
def test_the_patient_held_out_from_the_shipped_weights() -> None:
    root = shared_data() / "ai"
    source = next(s for s in SOURCES if s.patient == SHIPPED)
    if not (root / source.folder).is_dir():
        pytest.skip(f"no real CT here: {root / source.folder} is not there")
    (series,) = prepare([from_dicom(root, source)])
    said = predict(shipped_network(MODELS / "ct_slice_sequence"), series.volume)[1:].argmax(1)
    trunk = (series.regions == Region.CHEST) | (series.regions == Region.ABDOMEN)
    assert float((said == series.regions)[trunk].float().mean()) > 0.9


def test_the_card_quotes_the_evaluation() -> None:
    docs = MODELS / "ct_slice_sequence" / "docs"
    card = (docs / "README.md").read_text(encoding="utf-8")
    found = json.loads((docs / "evaluation.json").read_text(encoding="utf-8"))["lstm"]
    for name in ("accuracy", "accuracy_chest_and_abdomen"):
        figure = found[name]
        assert f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})" in card
