"""The networks of a bundle: from its files, in evaluation mode, on the device.

What comes in: the bundle's files, what its sidecar says of weights, and a way to make `network_def`. What
goes out: one module for each file of weights; the mean of what they give is the model's answer.

Invariant: a file that is code (`programs.is_code`) is read only where `trusted` says that the admin named
these very bytes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.fx import GraphModule

from dicom_node.catalogue import ModelDescription
from dicom_node.errors import BundleRefused
from dicom_node.infer import programs, weights

STATE_DICTS = ("models/model.safetensors", "models/model.pt", "models/model.pth")
PROGRAMS = ("models/model.onnx", "models/model.ts", "models/model.pt2")
TRUST = "infer.trusted_bundles may allow"
"""What a refusal says where the admin's word is missing."""


def weight_files(description: ModelDescription, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """The files that hold the networks: those that the sidecar names, or the first of the usual ones.

    Raises:
        BundleRefused: one that the sidecar names is not there.
    """
    for name in description.inference.weights:
        if name not in files:
            raise BundleRefused(f"dicom.toml: inference.weights: {name}: no such file")
    usual = (name for name in (*STATE_DICTS, *PROGRAMS) if name in files)
    return description.inference.weights or tuple(usual)[:1]


def make_networks(
    names: Sequence[str],
    files: Mapping[str, bytes],
    network_def: Callable[[], nn.Module],
    device: torch.device,
    *,
    trusted: bool,
) -> tuple[nn.Module, ...]:
    """A network for each of `names`, at least one.

    Args:
        names: of `weight_files`.
        files: the bundle's.
        network_def: makes the network that state dicts belong to; not called where there are none.
        device: where the networks go.
        trusted: the admin's word for these bytes.

    Raises:
        BundleRefused: there is no file, or one cannot be read, is not of this network, or may not be read.
    """
    if not names:
        raise BundleRefused(f"models: none of {', '.join((*STATE_DICTS, *PROGRAMS))} is there")
    made: list[nn.Module] = []
    for name in names:
        if programs.is_program(name):
            if programs.is_code(name) and not trusted:
                raise BundleRefused(f"{name}: is code and not data, which {TRUST}")
            network = programs.load_program(name, files[name], device)
        else:
            network = copy.deepcopy(network_def()) if made else network_def()
            weights.load_into(network, name, files[name])
            network = network.eval().to(device)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        made.append(network)
    return tuple(made)


def check_windows(
    names: Sequence[str], networks: Sequence[nn.Module], channels: int, window: Sequence[int] | None
) -> None:
    """Refuse now what would break at the first image: a program for other channels or other windows.

    Args:
        window: `(...)` in voxels where every window has this size; None where that depends on the image.

    Raises:
        BundleRefused: it takes something else; the message names the file.
    """
    for name, network in zip(names, networks, strict=True):
        shape = programs.shape_of(network)
        if not shape:
            continue
        if shape[1] not in (None, channels):
            raise BundleRefused(
                f"{name}: takes {shape[1]} channels, configs/metadata.json gives {channels}"
            )
        if window is None:
            continue
        fits = len(shape) == len(window) + 2 and all(
            takes in (None, gets) for takes, gets in zip(shape[2:], window, strict=True)
        )
        if not fits:
            takes = " x ".join("any" if one is None else str(one) for one in shape[2:])
            raise BundleRefused(
                f"{name}: takes windows of {takes}, inferer cuts {' x '.join(map(str, window))}"
            )


def is_own_module(network: nn.Module) -> bool:
    """Whether the network was made here from `network_def`, and is no program that came as a file."""
    return not isinstance(
        network, programs.OnnxNetwork | programs.OneByOne | torch.jit.ScriptModule | GraphModule
    )
