"""Every bundle of the Model Zoo: run to a result on the source grid, or refused with a clear reason."""

from pathlib import Path

import numpy as np
import pytest

from dicom_node.errors import BundleRefused
from dicom_node.infer.bundle import INFERENCE, load_bundle
from dicom_node.infer.runner import run
from dicom_node.infer.weights import torch
from dicom_node.records import Classification, Image, Segmentation
from tests.builders.volumes import projection, volume
from tests.models.zoo import ZOO, install

CPU = torch.device("cpu")
RUN = [name for name, entry in ZOO.items() if not entry.refused]


@pytest.fixture(scope="module")
def zoo(shared: Path) -> Path:
    return shared / "zoo"


def image_of(name: str, seed: int = 0) -> Image:
    shape = ZOO[name].shape
    array = np.random.default_rng(seed).normal(0, 300, shape).astype(np.float32)
    return projection(array) if len(shape) == 2 else volume(array)


def test_the_table_names_every_bundle_of_the_zoo(zoo: Path) -> None:
    assert {path.name for path in zoo.iterdir() if path.is_dir()} == set(ZOO)


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(RUN)))
def test_what_is_refused_needs_code_of_its_own_or_takes_no_image(name: str, zoo: Path) -> None:
    file = next(zoo / name / part for part in INFERENCE if (zoo / name / part).exists())
    text = file.read_text()
    takes_no_image = not any(part in text for part in ('"preprocessing"', "preprocessing:"))
    assert "scripts." in text or takes_no_image


@pytest.mark.parametrize("name", RUN)
def test_a_bundle_runs_to_a_result_on_the_source_grid(name: str, zoo: Path, tmp_path: Path) -> None:
    entry = ZOO[name]
    if entry.needs:
        pytest.importorskip(entry.needs, exc_type=(ImportError, RuntimeError))
    bundle = load_bundle(install(name, zoo, tmp_path), CPU)
    image = image_of(name)
    others = [image_of(name, seed) for seed in range(1, entry.series)]
    found = run(bundle, image, others, entry.prompts)
    if entry.task == "classification":
        assert isinstance(found, Classification)
        assert 0 <= found.probabilities[0] <= 1
    else:
        assert isinstance(found, Segmentation)
        assert found.labels.shape == image.array.shape
        assert found.labels.dtype == np.uint8


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(RUN)))
def test_a_bundle_that_cannot_be_run_is_refused_with_the_reason(
    name: str, zoo: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleRefused) as refused:
        load_bundle(install(name, zoo, tmp_path), CPU)
    assert ZOO[name].refused in str(refused.value)
    assert str(refused.value).startswith(f"{name.lower()[:40]}: configs/inference.json: ")
