"""A network on windows of an image, blended; only a slab of the image is ever in the accumulator.

What comes in: an image `(C, ...)` on any device, a `WindowPlan`, a network. What goes out: the blended
output, or what `reduce` makes of each finished slab (its argmax, say), so that many classes on a large
grid need memory for one window's depth and not for the whole grid.

Windows, padding and weights are those of MONAI's `sliding_window_inference`; a test holds the two equal.
The network's own output tensor is never written to.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.data.utils import compute_importance_map
from torch.nn import functional

from dicom_node.errors import ModelFailed

SHARE_FOR_ACCUMULATOR = 0.4
"""Of a GPU's free memory; the rest is for what the network makes of its windows."""

Network = Callable[[torch.Tensor], Any]
Reduce = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """How an image is cut: sizes in voxels of the network's grid, one number for each axis.

    `size` of 0 or less along an axis means the whole image. `slice_axis` is for networks that see slices:
    windows are one voxel thick along it, and the network is given them without that axis.
    """

    size: tuple[int, ...]
    overlap: tuple[float, ...]
    batch: int = 1
    gaussian: bool = False
    sigma_scale: float | Sequence[float] = 0.125
    padding: str = "constant"
    padding_value: float = 0.0
    slice_axis: int | None = None

    def smaller(self) -> "WindowPlan | None":
        """The next smaller plan after running out of memory; None where there is none left."""
        if self.batch > 1:
            return replace(self, batch=1)
        halved = tuple(max(size // 2, 32) if size > 32 else size for size in self.size)
        if halved == self.size or any(size % 32 for size in halved if size > 1):
            return None
        return replace(self, size=halved)


def whole_image(dimensions: int) -> WindowPlan:
    """One window: the image."""
    return WindowPlan(size=(0,) * dimensions, overlap=(0.0,) * dimensions)


def slide(
    image: torch.Tensor,
    plan: WindowPlan,
    network: Network,
    *,
    device: torch.device,
    reduce: Reduce | None = None,
) -> torch.Tensor:
    """Run the network over the image.

    Args:
        image: `(C, *spatial)` float32.
        plan: the windows.
        network: takes `(N, C, *window)`, gives `(N, C', *window)`, or a sequence that begins with it.
        device: where the network is.
        reduce: from a finished slab `(C', depth, ...)` of blended output to what is kept of it,
            `(K, depth, ...)`; default: all of it.

    Returns:
        `(K, *spatial)` on the CPU, the image's spatial shape.
    """
    spatial = tuple(image.shape[1:])
    size = tuple(want if want > 0 else have for want, have in zip(plan.size, spatial, strict=True))
    padded, crop = _pad(image, size, plan)
    padded = padded.contiguous()  # windows are cut from rows, not across them
    starts = [
        _starts(length, window, overlap)
        for length, window, overlap in zip(padded.shape[1:], size, plan.overlap, strict=True)
    ]
    weight = compute_importance_map(
        size, mode="gaussian" if plan.gaussian else "constant", sigma_scale=plan.sigma_scale, device=device
    )  # fmt: skip
    inside = (slice(None), slice(None), *crop[1:])
    slabs = _slabs(padded, starts, size, weight, plan, network, device)
    # a slab is a view of the accumulator: copied, so that the accumulator is not kept with it
    kept = [(slab.contiguous() if reduce is None else reduce(slab[inside])).cpu() for slab in slabs]
    whole = kept[0] if len(kept) == 1 else torch.cat(kept, dim=1)
    return whole[:, crop[0]] if reduce is not None else whole[(slice(None), *crop)]


def accumulator_device(
    device: torch.device, needed: int, free: Callable[[torch.device], int] | None = None
) -> torch.device:
    """Where blended output is kept: on the network's device, or in the host's memory where it is short.

    Args:
        device: the network's.
        needed: bytes.
        free: bytes that a GPU has left; default: what its driver says.
    """
    if device.type != "cuda":
        return device
    left = free(device) if free is not None else int(torch.cuda.mem_get_info(device)[0])
    return device if needed <= SHARE_FOR_ACCUMULATOR * left else torch.device("cpu")


def check_finite(values: torch.Tensor) -> None:
    """Raise `ModelFailed` where a network gave values that are no numbers."""
    # the sum is finite only where every value is, and costs one pass
    if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
        raise ModelFailed("the network gave values that are no numbers")


def _slabs(
    image: torch.Tensor,
    starts: list[list[int]],
    size: tuple[int, ...],
    weight: torch.Tensor,
    plan: WindowPlan,
    network: Network,
    device: torch.device,
) -> Iterator[torch.Tensor]:
    """Blended output along the first axis, slab by slab: what no later window touches."""
    depth = size[0]
    total: torch.Tensor | None = None
    count = torch.zeros((depth, *image.shape[2:]), device=device)
    for index, first in enumerate(starts[0]):
        positions = [(first, *rest) for rest in itertools.product(*starts[1:])]
        for some in _batches(positions, plan.batch):
            windows = torch.stack([image[_window(at, size)] for at in some]).to(device)
            output = first_tensor(network(_squeezed(windows, plan.slice_axis)))
            output = _unsqueezed(output, plan.slice_axis).float()
            if output.shape[2:] != windows.shape[2:]:
                raise ValueError(
                    f"the network gives windows of {tuple(output.shape[2:])} for {tuple(windows.shape[2:])}"
                )
            if total is None:
                held = (output.shape[1], *count.shape)
                where = accumulator_device(device, 4 * (math.prod(held) + 2 * count.numel()))
                total = torch.zeros(held, device=where)
                count, weight = count.to(where), weight.to(where)
            output = output.to(total.device)
            for at, one in zip(some, output, strict=True):
                there = (slice(None), slice(None), *_window(at, size)[2:])
                total[there].addcmul_(one, weight)
                count[there[1:]] += weight
        assert total is not None
        is_last = index + 1 == len(starts[0])
        done = depth if is_last else starts[0][index + 1] - first
        yield total[:, :done].div_(count[:done])
        if not is_last:
            total, count = _moved_on(total, done, 1), _moved_on(count, done, 0)


def _moved_on(buffer: torch.Tensor, done: int, axis: int) -> torch.Tensor:
    """The buffer without its finished part, and as much empty space at the end."""
    rest = buffer.narrow(axis, done, buffer.shape[axis] - done)
    empty = torch.zeros_like(buffer.narrow(axis, 0, done))
    return torch.cat([rest, empty], dim=axis)


def _pad(
    image: torch.Tensor, size: tuple[int, ...], plan: WindowPlan
) -> tuple[torch.Tensor, tuple[slice, ...]]:
    """The image, at least as large as a window, and where the original lies in it."""
    before = [max(want - have, 0) // 2 for want, have in zip(size, image.shape[1:], strict=True)]
    after = [
        max(want - have, 0) - half
        for want, have, half in zip(size, image.shape[1:], before, strict=True)
    ]
    crop = tuple(
        slice(start, start + length) for start, length in zip(before, image.shape[1:], strict=True)
    )
    if not any(before) and not any(after):
        return image, crop
    amounts = [
        amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair
    ]
    value = plan.padding_value if plan.padding == "constant" else None
    return functional.pad(image[None], amounts, mode=plan.padding, value=value)[0], crop


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along one axis; the last one ends with the image."""
    if length == window:
        return [0]
    step = max(int(window * (1 - overlap)), 1)
    starts = list(range(0, length - window, step))
    return [*starts, length - window]


def _batches(positions: list[tuple[int, ...]], batch: int) -> Iterator[list[tuple[int, ...]]]:
    for start in range(0, len(positions), batch):
        yield positions[start : start + batch]


def _window(at: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    spatial = (slice(start, start + length) for start, length in zip(at, size, strict=True))
    return (slice(None), *spatial)


def first_tensor(output: Any) -> torch.Tensor:
    """Networks with auxiliary heads give a sequence or a mapping; the first is the prediction."""
    while not isinstance(output, torch.Tensor):
        output = next(iter(output.values() if isinstance(output, dict) else output))
    return output


def _squeezed(windows: torch.Tensor, axis: int | None) -> torch.Tensor:
    return windows if axis is None else windows.squeeze(axis + 2)


def _unsqueezed(output: torch.Tensor, axis: int | None) -> torch.Tensor:
    return output if axis is None else output.unsqueeze(axis + 2)
