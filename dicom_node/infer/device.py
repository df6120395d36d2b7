"""A look at the device: what it is, what it has free, and whether it computes what a CPU computes.

What comes in: settings. What goes out: plain values, for `doctor` and the metrics. Nothing is loaded.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from dicom_node.infer.engine import choose_device
from dicom_node.settings import InferSettings

TOLERANCE = 1e-3
NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class DeviceState:
    """What was seen of a device."""

    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    wrong: str = ""
    """How its answer differs from a CPU's; empty where it does not."""
    overlooked: str = ""
    """A device that is there and that torch does not see."""

    @property
    def free_gib(self) -> float:
        """Free memory in GiB."""
        return self.free_bytes / 2**30


def memory_of(device: torch.device) -> tuple[int, int]:
    """Free and total bytes."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def name_of(device: torch.device) -> str:
    """What a person calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def examine_device(settings: InferSettings) -> DeviceState:
    """Convolve something on the device and compare it with the CPU.

    Raises:
        ConfigurationError: torch does not have the device.
    """
    device = choose_device(settings.device)
    free, total = memory_of(device)
    wrong, overlooked = "", ""
    if device.type == "cuda":
        wrong = _difference(device)
    elif settings.device == "auto" and NVIDIA.exists():
        overlooked = "an NVIDIA driver is loaded, which this torch does not use"
    return DeviceState(name_of(device), device.type, total, free, wrong, overlooked)


def _difference(device: torch.device) -> str:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand((1, 4, 16, 16, 16), generator=generator)
    kernel = torch.rand((8, 4, 3, 3, 3), generator=generator)
    try:
        there = torch.nn.functional.conv3d(image.to(device), kernel.to(device)).cpu()
    except RuntimeError as error:
        return type(error).__name__
    here = torch.nn.functional.conv3d(image, kernel)
    off = float((there - here).abs().max() / here.abs().max())
    return "" if off <= TOLERANCE else f"off by {off:.1e} of the largest value"
