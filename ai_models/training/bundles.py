"""What training and evaluation take from a bundle, so that they see what the node will see.

In: the bundle's `configs/inference.json`. Out: its network, and its preprocessing without the
reader.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose

from ai_models.training import load_weights

READERS = ("LoadImaged", "EnsureChannelFirstd")
WEIGHTS = Path("models") / "model.safetensors"


def _config(bundle: Path) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.json")
    return parser


def network_of(bundle: Path, **changes: Any) -> torch.nn.Module:
    """The bundle's network with random weights; `changes` replace arguments, for ablations."""
    parser = _config(bundle)
    for name, value in changes.items():
        parser["network_def"][name] = value
    return parser.get_parsed_content("network_def")


def shipped_network(bundle: Path) -> torch.nn.Module:
    """The bundle's network with its committed weights, set to evaluation."""
    return load_weights(network_of(bundle), bundle / WEIGHTS).requires_grad_(False)


def preprocessing_of(bundle: Path) -> Compose:
    """The bundle's preprocessing from the loaded image on."""
    parser = _config(bundle)
    steps = parser["preprocessing"]["transforms"]
    parser["preprocessing"]["transforms"] = [s for s in steps if s["_target_"] not in READERS]
    return parser.get_parsed_content("preprocessing")


def prepared(steps: Compose, image: torch.Tensor, affine: Any = None) -> torch.Tensor:
    """`image` `(1, i, j[, k])` through the steps, as a plain float32 tensor.

    Args:
        affine: voxel indices to RAS in mm, `(4, 4)`; the identity where it is not given.
    """
    loaded = MetaTensor(image.float(), affine=torch.eye(4) if affine is None else affine)
    return steps({"image": loaded})["image"].as_tensor()
