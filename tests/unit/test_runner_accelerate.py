"""The compiled network gives what torch gives, or is not used; what came of compiling is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node.infer import accelerate
from dicom_node.infer.accelerate import accelerated, kept
from dicom_node.infer.allowed import make
from dicom_node.infer.bundle import LoadedBundle, load_bundle
from dicom_node.infer.engine import LocalEngine
from dicom_node.infer.runner import run
from dicom_node.records import Segmentation
from dicom_node.settings import InferSettings
from tests.builders.bundles import ARGMAX, INVERT, WINDOWS, configuration, write_bundle
from tests.builders.volumes import asymmetric_block, volume

pytest.importorskip("openvino")

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


def test_labels_of_the_compiled_network_are_those_of_torch(
    bundle: LoadedBundle, tmp_path: Path
) -> None:
    assert kept(bundle, tmp_path / "compiled") == (False, None)
    fast = accelerated(bundle, tmp_path / "compiled")
    assert fast is not None
    image = volume(asymmetric_block())
    by_torch, by_openvino = run(bundle, image), run(replace(bundle, fast=fast), image)
    assert isinstance(by_torch, Segmentation)
    assert isinstance(by_openvino, Segmentation)
    assert (by_torch.labels == by_openvino.labels).mean() > 0.9999
    tried, again = kept(bundle, tmp_path / "compiled")
    assert tried
    assert again is not None
    window = torch.rand(2, 1, 16, 16, 16)
    assert np.allclose(again(window), bundle.network(window), atol=1e-4)


def test_a_network_that_would_change_labels_is_not_used(
    bundle: LoadedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerate, "LABELS_MAY_DIFFER", -1.0)
    assert accelerated(bundle, tmp_path / "compiled") is None
    assert kept(bundle, tmp_path / "compiled") == (True, None)


def test_the_engine_compiles_each_model_once(bundle: LoadedBundle, tmp_path: Path) -> None:
    settings = InferSettings(device="cpu", threads=1)
    engine = LocalEngine(settings, compiled_dir=tmp_path / "compiled")
    assert engine.load(bundle.description, bundle.digest).fast is None
    assert engine.accelerate()
    assert engine.load(bundle.description, bundle.digest).fast is not None
    assert not engine.accelerate()
    next_start = LocalEngine(settings, compiled_dir=tmp_path / "compiled")
    assert next_start.load(bundle.description, bundle.digest).fast is not None
    assert not next_start.accelerate()
    plain = LocalEngine(
        InferSettings(device="cpu", cpu_engine="torch"), compiled_dir=tmp_path / "compiled"
    )
    assert plain.load(bundle.description, bundle.digest).fast is None
