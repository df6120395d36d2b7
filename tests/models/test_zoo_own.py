"""The models that the project ships: each is loaded by the runner, and answers as MONAI itself would."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ai_models.evaluation.bundle import Bundle
from dicom_node.catalogue import SIDECAR, catalogue
from dicom_node.infer.bundle import load_bundle
from dicom_node.infer.runner import run
from dicom_node.records import Classification, Denoised, Segmentation
from dicom_node.settings import BUNDLED_MODELS
from tests.builders.volumes import asymmetric_block, oblique, projection, volume

CPU = torch.device("cpu")
SHIPPED = sorted(
    path.parent.name
    for path in BUNDLED_MODELS.glob(f"*/{SIDECAR}")
    if (path.parent / "models").is_dir() and any((path.parent / "models").iterdir())
)


def test_every_shipped_model_has_weights() -> None:
    assert sorted(catalogue(BUNDLED_MODELS)) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_runs_on_the_source_grid(name: str) -> None:
    bundle = load_bundle(catalogue(BUNDLED_MODELS)[name], CPU)
    block = asymmetric_block((12, 40, 44), 900.0) - 900.0
    block += np.random.default_rng(0).normal(0, 20, block.shape).astype(np.float32)
    wanted = bundle.description.input.dimensions
    image = projection(block[4]) if wanted == 2 else volume(block, spacing=(3.0, 2.0, 2.0))
    found = run(bundle, image)
    if isinstance(found, Segmentation):
        known = {0, *(segment.value for segment in bundle.description.segments)}
        assert found.labels.shape == image.array.shape
        assert set(np.unique(found.labels).tolist()) <= known
    elif isinstance(found, Denoised):
        assert found.array.shape == image.array.shape
        assert np.isfinite(found.array).all()
    else:
        assert isinstance(found, Classification)
        assert all(0 <= value <= 1 for value in found.probabilities.values())


@pytest.mark.parametrize("name", [name for name in SHIPPED if name == "ct_structures"])
def test_labels_are_those_of_monais_own_pipeline(name: str) -> None:
    """The project's evaluation judges models by MONAI's pipeline; what the node runs is the same."""
    array = asymmetric_block((14, 60, 70), 900.0) - 850.0
    array += np.random.default_rng(1).normal(0, 30, array.shape).astype(np.float32)
    image = volume(array, oblique(12.0), spacing=(4.1, 2.3, 2.2))
    by_columns = image.affine[:, [2, 1, 0, 3]]
    theirs = Bundle(name).run(image.array, by_columns)
    ours = run(load_bundle(catalogue(BUNDLED_MODELS)[name], CPU), image)
    assert isinstance(ours, Segmentation)
    assert (ours.labels == theirs).mean() > 0.999


def test_metadata_says_what_every_bundle_of_the_zoo_says(shared: Path) -> None:
    """`monai.bundle verify_metadata` fetches its schema from the network; the zoo's own bundles passed it."""
    zoo = [json.loads(path.read_text()) for path in shared.glob("zoo/*/configs/metadata.json")]
    wanted = set.intersection(*(set(one) for one in zoo)) - {"schema"}
    parts = {
        side: [part for one in zoo for part in _parts(one, side)] for side in ("inputs", "outputs")
    }
    for name in SHIPPED:
        own = json.loads((BUNDLED_MODELS / name / "configs/metadata.json").read_text())
        assert wanted <= set(own), name
        for side, theirs in parts.items():
            fields = set.intersection(*(set(part) for part in theirs))
            assert _parts(own, side), name
            assert all(fields <= set(part) for part in _parts(own, side)), (name, side)


def _parts(metadata: Any, side: str) -> list[Any]:
    return list(metadata.get("network_data_format", {}).get(side, {}).values())


def test_no_shipped_model_needs_a_file_outside_its_folder() -> None:
    for name in SHIPPED:
        for path in (BUNDLED_MODELS / name).rglob("*"):
            assert not path.is_symlink(), path
            assert Path(path).resolve().is_relative_to(BUNDLED_MODELS.resolve())
