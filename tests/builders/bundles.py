"""Model bundles for tests: a folder as a hospital would install it, with weights of a known effect."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dicom_node.catalogue import ModelDescription, describe

THRESHOLD = 100.0
"""The threshold network calls everything above this value 1."""

THRESHOLD_NETWORK: Mapping[str, Any] = {
    "_target_": "AutoEncoder",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [1],
    "strides": [1],
    "kernel_size": 1,
    "up_kernel_size": 1,
    "act": None,
    "norm": None,
}
"""One voxel in, one voxel out: scores (0, value - threshold)."""


def threshold_weights(dimensions: int = 3, threshold: float = THRESHOLD) -> dict[str, torch.Tensor]:
    """Weights that make `THRESHOLD_NETWORK` a threshold."""
    ones = (1,) * dimensions
    return {
        "encode.encode_0.conv.weight": torch.ones(1, 1, *ones),
        "encode.encode_0.conv.bias": torch.zeros(1),
        "decode.decode_0.conv.conv.weight": torch.tensor([0.0, 1.0]).reshape(1, 2, *ones),
        "decode.decode_0.conv.conv.bias": torch.tensor([0.0, -threshold]),
    }


def identity_weights(dimensions: int = 3) -> dict[str, torch.Tensor]:
    """Weights that make the same network, with one output channel, give back what it is given."""
    weights = threshold_weights(dimensions, 0.0)
    return {
        name: value[:, 1:] if value.ndim > 1 and "decode" in name else value[-1:]
        for name, value in weights.items()
    }


LOAD = [
    {"_target_": "LoadImaged", "keys": "image"},
    {"_target_": "EnsureChannelFirstd", "keys": "image"},
]
RESAMPLE = [
    {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    {"_target_": "Spacingd", "keys": "image", "pixdim": [2.0, 2.0, 2.0], "mode": "bilinear"},
]
INVERT = {
    "_target_": "Invertd",
    "keys": "pred",
    "transform": "@preprocessing",
    "orig_keys": "image",
    "nearest_interp": False,
    "to_tensor": True,
}
SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
ARGMAX = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}
SAVE = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "/tmp/never"}
WINDOWS = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [16, 16, 16],
    "sw_batch_size": 4,
    "overlap": 0.5,
    "mode": "gaussian",
}
SEGMENT = """
[[segments]]
value = 1
label = "Bright"
category = ["123037004", "SCT", "Anatomical Structure"]
type = ["39607008", "SCT", "Lung"]
color_rgb = [200, 40, 40]
"""


def configuration(
    network: Mapping[str, Any] = THRESHOLD_NETWORK,
    preprocessing: Sequence[Mapping[str, Any]] = (),
    postprocessing: Sequence[Mapping[str, Any]] = (SOFTMAX, ARGMAX, INVERT, SAVE),
    inferer: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An `inference.json` with the keys that bundles of the zoo have."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": dict(network),
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": [*LOAD, *preprocessing]},
        "inferer": dict(inferer or {"_target_": "SimpleInferer"}),
        "postprocessing": {"_target_": "Compose", "transforms": list(postprocessing)},
        "run": ["$@evaluator.run()"],
        **more,
    }


def write_bundle(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
    *,
    task: str = "segmentation",
    dimensions: int = 3,
    channels: int = 1,
    details: str = SEGMENT,
) -> ModelDescription:
    """Write a bundle into `folder` and read its sidecar back."""
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "configs/inference.json").write_text(json.dumps(config or configuration()))
    image = {"type": "image", "num_channels": channels}
    metadata = {"version": "1.2.3", "network_data_format": {"inputs": {"image": image}}}
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    tensors = threshold_weights() if weights is None else weights
    save_file(
        {name: value.contiguous() for name, value in tensors.items()},
        folder / "models/model.safetensors",
    )
    (folder / "dicom.toml").write_text(
        f"""
[model]
name = "{folder.name}"
title = "A test's model"
version = "1.2.3"
task = "{task}"
limits = "For tests."
[input]
modality = ["CT"]
dimensions = {dimensions}
{details}
"""
    )
    return describe(folder)
