"""The compiled network gives what torch gives, or is not used; what came of compiling is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.infer import accelerate
from dicom_node.infer.accelerate import Choice, kept, try_next
from dicom_node.infer.allowed import make
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.engine import LocalEngine
from dicom_node.infer.engines import ENGINES
from dicom_node.infer.runner import run
from dicom_node.records import Segmentation
from dicom_node.settings import InferSettings
from tests.builders.bundles import ARGMAX, INVERT, WINDOWS, configuration, write_bundle
from tests.builders.volumes import asymmetric_block, volume

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

NETWORK = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
}


@pytest.fixture
def bundle(tmp_path: Path) -> LoadedBundle:
    torch.manual_seed(0)
    network = make("UNet", {key: value for key, value in NETWORK.items() if key != "_target_"})
    config = configuration(network=NETWORK, inferer=WINDOWS, postprocessing=(INVERT, ARGMAX))
    description = write_bundle(tmp_path / "model_a", config, network.state_dict())
    return load_bundle(description, torch.device("cpu"))


@pytest.fixture
def any_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On windows this small and a machine this busy, speed is chance; the gate of labels is not."""
    monkeypatch.setattr(accelerate, "WORTH", 0.0)


@pytest.mark.parametrize("engine", ENGINES)
def test_labels_of_every_engine_are_those_of_torch(
    engine: str,
    bundle: LoadedBundle,
    tmp_path: Path,
    any_speed: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(accelerate, "ENGINES", {engine: ENGINES[engine]})
    assert not kept(bundle, tmp_path / "compiled").complete
    choice = try_next(bundle, tmp_path / "compiled")
    assert choice.engine == engine
    assert choice.complete
    image = volume(asymmetric_block())
    by_torch, by_engine = run(bundle, image), run(replace(bundle, fast=choice.networks), image)
    assert isinstance(by_torch, Segmentation)
    assert isinstance(by_engine, Segmentation)
    assert (by_torch.labels == by_engine.labels).mean() > 0.9999
    again = kept(bundle, tmp_path / "compiled")
    assert (again.engine, again.complete) == (engine, True)
    window = torch.rand(2, 1, 16, 16, 16)
    assert np.allclose(again.networks[0](window), bundle.network(window), atol=1e-4)


def test_a_network_that_would_change_labels_is_not_used(
    bundle: LoadedBundle, tmp_path: Path, any_speed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "LABELS_MAY_DIFFER", -1.0)
    choice = try_all(bundle, tmp_path / "compiled")
    assert choice == kept(bundle, tmp_path / "compiled")
    assert (choice.engine, choice.networks) == (None, ())
    assert [path.suffix for path in (tmp_path / "compiled").iterdir()] == [".json"]


def test_the_fastest_engine_is_the_one_in_use(
    bundle: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([1.3, 2.5, 1.9])
    monkeypatch.setattr(accelerate, "_speedup", lambda *_: next(speeds))
    assert try_all(bundle, tmp_path / "compiled").engine == "openvino"
    speeds = iter([1.05, 1.0, 0.7])
    assert try_all(bundle, tmp_path / "slower").engine is None, "torch was as fast"


def test_bfloat16_is_tried_where_it_is_asked_for_and_never_for_values(
    bundle: LoadedBundle, tmp_path: Path, any_speed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "HALF_LABELS_MAY_DIFFER", 1.0)
    half = try_next(bundle, tmp_path / "compiled", "bfloat16")
    assert half.engine == "channels_last"
    window = torch.rand(1, 1, 16, 16, 16)
    apart = (half.networks[0](window) - bundle.network(window)).abs().max()
    assert 1e-5 < apart < 0.1, "rounded to eight bits"
    head = bundle.description.model.model_copy(update={"task": "denoising"})
    values = replace(bundle, description=bundle.description.model_copy(update={"model": head}))
    exact = try_next(values, tmp_path / "values", "bfloat16")
    assert torch.allclose(exact.networks[0](window), bundle.network(window), atol=1e-5)


def try_all(bundle: LoadedBundle, cache: Path) -> Choice:
    choice = kept(bundle, cache)
    while not choice.complete:
        choice = try_next(bundle, cache)
    return choice


def test_the_engines_are_tried_once_a_model(
    bundle: LoadedBundle, tmp_path: Path, any_speed: None
) -> None:
    settings = InferSettings(device="cpu", threads=1)
    engine = LocalEngine(settings, compiled_dir=tmp_path / "compiled")
    assert not engine.load(bundle.description, bundle.digest).fast
    tries = 0
    while engine.accelerate():
        tries += 1
    assert tries == len(ENGINES)
    assert engine.load(bundle.description, bundle.digest).fast
    assert engine.choice(bundle.description).engine in ENGINES
    next_start = LocalEngine(settings, compiled_dir=tmp_path / "compiled")
    assert next_start.load(bundle.description, bundle.digest).fast
    assert not next_start.accelerate()
    plain = LocalEngine(
        InferSettings(device="cpu", cpu_engine="torch"), compiled_dir=tmp_path / "compiled"
    )
    assert not plain.load(bundle.description, bundle.digest).fast
