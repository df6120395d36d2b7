"""The catalogue: which sidecars are refused, what the digest covers, what a contract says."""

from pathlib import Path
from typing import Any

import pytest

from dicom_node.catalogue import InputContract, catalogue, describe
from dicom_node.errors import BundleRefused

GOOD = """
[model]
name = "m1"
title = "T"
version = "1"
task = "segmentation"
limits = "None."
[input]
modality = ["CT"]
dimensions = 3
[[segments]]
value = 1
label = "Lung"
category = ["123037004", "SCT", "Anatomical Structure"]
type = ["39607008", "SCT", "Lung"]
color_rgb = [1, 2, 3]
"""


def bundle(tmp_path: Path, toml: str = GOOD, name: str = "m1") -> Path:
    folder = tmp_path / name
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "inference.json").write_text("{}")
    (folder / "dicom.toml").write_text(toml)
    return folder


def test_a_good_sidecar_is_read(tmp_path: Path) -> None:
    bundle(tmp_path)
    (tmp_path / "no_bundle").mkdir()
    assert list(catalogue(tmp_path)) == ["m1"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (('name = "m1"', 'name = "m2"'), "model.name is 'm2', the folder 'm1'"),
        (('task = "segmentation"', 'task = "magic"'), "model.task"),
        (('task = "segmentation"', 'task = "classification"'), "names its classes"),
        (("dimensions = 3", "dimensions = 4"), "input.dimensions"),
        (("value = 1", "value = 0"), "segments.0.value"),
        (("value = 1", "value = 256"), "segments.0.value"),
        (("color_rgb = [1, 2, 3]", "color_rgb = [1, 2, 300]"), "segments.0.color_rgb"),
        (('modality = ["CT"]', ""), "input.modality"),
        (('limits = "None."', 'limit = "None."'), "model.limit"),
        (("[input]", "[inputs]"), "input"),
        (("[input]", "folder = 1\n[input]"), "folder"),
        ((GOOD, GOOD + GOOD[GOOD.index("[[seg") :]), "same value"),
        ((GOOD, GOOD[: GOOD.index("[[seg")]), "names its segments"),
        ((GOOD, "x ="), "dicom.toml"),
        ((GOOD, "folder = 'elsewhere'\n" + GOOD), "folder"),
    ],
)
def test_refused_with_file_key_and_reason(
    tmp_path: Path, change: tuple[str, str], reason: str
) -> None:
    with pytest.raises(BundleRefused, match=reason):
        describe(bundle(tmp_path, GOOD.replace(*change)))


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused, match="no such folder"):
        catalogue(tmp_path / "none")


def test_the_digest_follows_every_file_but_the_docs(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    base = describe(folder).digest
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("for people")
    assert describe(folder).digest == base
    (folder / "configs" / "inference.json").write_text("{ }")
    changed = describe(folder).digest
    assert changed != base
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(b"w")
    assert describe(folder).digest not in (base, changed)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "configs" / "more.json").symlink_to("/etc/hostname")
    with pytest.raises(BundleRefused, match="link"):
        _ = describe(folder).digest


@pytest.mark.parametrize(
    ("attributes", "slices", "reason"),
    [
        ({"modality": "CT"}, 10, None),
        ({"modality": "CT", "body_part": "chest"}, 10, None),
        ({"modality": "MR"}, 10, "modality is MR"),
        ({}, 10, "modality is unknown"),
        ({"modality": "CT", "body_part": "HEAD"}, 10, "body part is HEAD"),
        ({"modality": "CT", "image_type": ["ORIGINAL", "LOCALIZER"]}, 10, "LOCALIZER"),
        ({"modality": "CT"}, 9, "9 slices, the model takes 10 or more"),
        ({"modality": "CT"}, 21, "21 slices, the model takes 20 or fewer"),
    ],
)
def test_the_input_contract(attributes: dict[str, Any], slices: int, reason: str | None) -> None:
    contract = InputContract(
        modality=("CT",), dimensions=3, body_part=("CHEST",), min_slices=10, max_slices=20
    )
    said = contract.violated_by(attributes, slices)
    assert said is None if reason is None else reason in (said or "")
