"""Weights from bytes that were hashed already: safetensors, or a pickle of tensors and nothing else.

What comes in: the bytes of a file. What goes out: a state dict of tensors on the CPU. A pickle is read
with `weights_only=True`, whose unpickler makes tensors and plain containers and calls nothing.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy._core import multiarray
from torch import nn

from dicom_node.errors import BundleRefused

_ARRAYS: list[Any] = [
    multiarray._reconstruct,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]
"""What a pickled numpy array is made of: constructors of arrays of numbers, nothing that runs code."""
_WRAPPERS = ("state_dict", "model", "network", "model_state_dict", "net")


def load_into(network: nn.Module, name: str, content: bytes) -> None:
    """Put the weights of a file into the network.

    Raises:
        BundleRefused: it holds more than tensors, or they are not of this network.
    """
    state = _read(name, content)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        _load(network, state)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]]
        raise BundleRefused(
            f"{name}: not the weights of network_def: {' '.join(lines)[:400]}"
        ) from error


def _load(network: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Strictly, but for tensors that the network shares under two names and safetensors keeps once."""
    shared: dict[int, list[str]] = {}
    for key, value in network.state_dict(keep_vars=True).items():
        shared.setdefault(id(value), []).append(key)
    completed = dict(state)
    for names in shared.values():
        known = next((name for name in names if name in state), None)
        if known is not None:
            completed |= {name: state[known] for name in names if name not in state}
    network.load_state_dict(completed, strict=True)


def read_tensors(name: str, content: bytes) -> Any:
    """What a pickle holds, if that is tensors, numpy arrays and plain containers alone.

    Raises:
        BundleRefused: it holds anything else, or cannot be read.
    """
    try:
        with torch.serialization.safe_globals(_ARRAYS):
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleRefused(f"{name}: not readable as tensors alone: {_reason(error)}") from error


def _read(name: str, content: bytes) -> dict[str, torch.Tensor]:
    if not name.endswith(".safetensors"):
        return _unwrapped(name, read_tensors(name, content))
    try:
        tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
    except Exception as error:
        raise BundleRefused(f"{name}: not readable as tensors alone: {_reason(error)}") from error
    return tensors


def _unwrapped(name: str, loaded: Any) -> dict[str, torch.Tensor]:
    for _ in range(3):
        if not isinstance(loaded, dict):
            break
        if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
            return loaded
        loaded = next((loaded[key] for key in _WRAPPERS if key in loaded), None)
    raise BundleRefused(f"{name}: holds no state dict")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
