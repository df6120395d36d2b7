"""The Model Zoo's 31 bundles as the runner's tests see them: what each needs beside its configuration.

The configurations are public data; weights are random, of the right shapes; windows and images are made
small where a test would take minutes otherwise, which the table says. What is refused stands here with the
reason that an admin reads.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dicom_node.catalogue import ModelDescription, describe
from dicom_node.infer.bundle import INFERENCE, parse
from dicom_node.infer.resolve import Resolver

SCRIPT = "is not on the list of allowed classes; it is code of the bundle's own"


@dataclass(frozen=True)
class Zoo:
    """One bundle of the zoo.

    Attributes:
        task: as a sidecar would say.
        dimensions: 2 or 3.
        refused: part of the reason, for a bundle that is not run.
        needs: a package that is not one of the node's own.
        changes: configuration ids that the test sets, to keep it short: smaller windows.
        series: how many series the model takes at once.
        prompts: what a person gives: a click, the mask of a nucleus.
    """

    task: str = "segmentation"
    dimensions: int = 3
    refused: str = ""
    needs: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    series: int = 1
    prompts: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (12, 40, 44)


_SMALL = {"inferer#roi_size": [32, 32, 32], "inferer#overlap": 0.25}

ZOO: Mapping[str, Zoo] = {
    "brats_mri_axial_slices_generative_diffusion": Zoo(refused="is not on the list"),
    "brats_mri_generative_diffusion": Zoo(refused="is not on the list"),
    "brats_mri_segmentation": Zoo(changes=_SMALL, series=4),
    "breast_density_classification": Zoo("classification", 2, needs="torchvision", shape=(90, 80)),
    "classification_template": Zoo("classification", 2, shape=(90, 80)),
    "endoscopic_inbody_classification": Zoo("classification", 2, shape=(90, 80)),
    "endoscopic_tool_segmentation": Zoo(dimensions=2, shape=(60, 50)),
    "lung_nodule_ct_detection": Zoo(refused="RetinaNet is not on the list"),
    "maisi_ct_generative": Zoo(refused="network_def: is missing"),
    "mednist_gan": Zoo(refused="preprocessing: is missing, so the bundle takes no image"),
    "mednist_reg": Zoo(refused=f"scripts.net.RegResNet {SCRIPT}"),
    "multi_organ_segmentation": Zoo(changes=_SMALL),
    "pancreas_ct_dints_segmentation": Zoo(changes=_SMALL),
    "pathology_nuclei_classification": Zoo(
        "classification", 2, shape=(64, 64), prompts={"label": torch.ones(1, 64, 64)}
    ),
    "pathology_nuclei_segmentation_classification": Zoo(dimensions=2, shape=(100, 90)),
    "pathology_nuclick_annotation": Zoo(
        dimensions=2, shape=(150, 140), prompts={"foreground": [[70, 75]]}
    ),
    "pathology_tumor_detection": Zoo("classification", 2, needs="torchvision", shape=(224, 224)),
    "pediatric_abdominal_ct_segmentation": Zoo(changes=_SMALL),
    "prostate_mri_anatomy": Zoo(changes=_SMALL, shape=(6, 14, 16)),
    "renalStructures_CECT_segmentation": Zoo(refused=f"ConcatImages {SCRIPT}"),
    "renalStructures_UNEST_segmentation": Zoo(refused=f"scripts.networks.unest.UNesT {SCRIPT}"),
    "segmentation_template": Zoo(shape=(16, 24, 32)),
    "spleen_ct_segmentation": Zoo(changes=_SMALL),
    "spleen_deepedit_annotation": Zoo(refused=SCRIPT),
    "swin_unetr_btcv_segmentation": Zoo(changes={**_SMALL, "inferer#roi_size": [64, 64, 32]}),
    "valve_landmarks": Zoo(refused=f"scripts.valve_landmarks.PointRegressor {SCRIPT}"),
    "ventricular_short_axis_3label": Zoo(changes={"inferer#roi_size": [64, 64]}, shape=(3, 50, 60)),
    "vista2d": Zoo(refused="CellSamWrapper is not on the list"),
    "vista3d": Zoo(refused="is not on the list"),
    "wholeBody_ct_segmentation": Zoo(changes=_SMALL),
    "wholeBrainSeg_Large_UNEST_segmentation": Zoo(refused=f"UNesT {SCRIPT}"),
}

_SEGMENT = """
[[segments]]
value = 1
label = "Something"
category = ["123037004", "SCT", "Anatomical Structure"]
type = ["39607008", "SCT", "Lung"]
color_rgb = [200, 40, 40]
"""
_CLASS = """
[[classes]]
index = 0
label = "Something"
finding = ["233604007", "SCT", "Pneumonia"]
"""


def install(name: str, zoo: Path, folder: Path) -> ModelDescription:
    """Copy a bundle's configuration, give it a sidecar and random weights, as far as they can be made."""
    entry, to = ZOO[name], folder / name.lower()[:40]
    shutil.copytree(zoo / name / "configs", to / "configs")
    (to / "models").mkdir()
    file = next(part for part in INFERENCE if (to / part).exists())
    config = parse(file, (to / file).read_bytes())
    for key, value in entry.changes.items():
        _set(config, key, value)
    (to / file).unlink()
    (to / INFERENCE[0]).write_text(json.dumps(config))
    metadata = json.loads((to / "configs/metadata.json").read_text())
    (to / "dicom.toml").write_text(
        f"""
[model]
name = "{to.name}"
title = "A bundle of the zoo"
version = "{metadata["version"]}"
task = "{entry.task}"
limits = "Random weights."
[input]
modality = ["CT"]
dimensions = {entry.dimensions}
{_CLASS if entry.task == "classification" else _SEGMENT}
"""
    )
    if not entry.refused:
        _random_weights(to, config)
    return describe(to)


def _set(config: Any, key: str, value: Any) -> None:
    *path, last = key.split("#")
    for part in path:
        config = config[part]
    config[last] = value


def _random_weights(folder: Path, config: Mapping[str, Any]) -> None:
    files = {}
    if "arch_ckpt_path" in config:
        files = _architecture(folder)
    torch.manual_seed(0)
    resolver = Resolver(config, INFERENCE[0], torch.device("cpu"), files)
    network = resolver.resolve("network_def")
    assert isinstance(network, nn.Module)
    torch.save(network.state_dict(), folder / "models/model.pt")


def _architecture(folder: Path) -> dict[str, bytes]:
    """An architecture as a DiNTS search leaves it: every second path of 12 blocks over 4 depths."""
    rng = np.random.default_rng(0)
    edges = np.zeros((12, 10), dtype=int)
    edges[:, [0, 3, 6, 9]] = 1
    code = {
        "arch_code_a": edges,
        "arch_code_c": rng.integers(1, 4, (12, 10)),
        "node_a": np.ones((13, 4), dtype=int),
    }
    path = folder / "models/search_code_18590.pt"
    torch.save(code, path)
    return {"models/search_code_18590.pt": path.read_bytes()}
