"""Between the source grid and the network's grid.

What comes in: our images, `(z, y, x)` with an LPS affine. What goes out: MONAI's `MetaTensor`, `(C, i, j, k)`
with an RAS affine, where i runs along a row (x), j along a column (y), k along the slices (z); and, after
the network, labels or values back on the source grid, of exactly the source's shape.

The way back is one affine: whatever the preprocessing did (flips, permutations, resampling, cropping,
padding), the tensor that the network saw says where each of its voxels lies in space. So nothing is
inverted step by step, and float logits of many classes never exist on the source grid.

Invariant: a label comes back to the voxel that it was computed for; outside the network's grid it is 0.
"""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import SpaceKeys

from dicom_node.infer import kernels
from dicom_node.records import Float32, Float64, Labels, ProjectionImage, Volume

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def to_meta_tensor(
    image: Volume | ProjectionImage, channels: int = 1, rows_first: bool = False
) -> MetaTensor:
    """The image as MONAI would have loaded it, channel first.

    A volume becomes `(C, i, j, k)`, a projection `(C, i, j)`; i is the column index x, j the row index y,
    as MONAI's own readers have it. A grey image is repeated where a network wants several channels.

    Args:
        image: the source.
        channels: how many the network takes.
        rows_first: a projection becomes `(C, y, x)`: what `reverse_indexing = false` means in a bundle.
    """
    array = torch.from_numpy(np.ascontiguousarray(image.array))
    if not (rows_first and array.ndim == 2):
        array = array.permute(*reversed(range(array.ndim)))
    array = array[None].expand(channels, *array.shape).contiguous()
    return _with_meta(array, image)


def without_values(image: Volume) -> MetaTensor:
    """A tensor of the shape and affine that `to_meta_tensor` gives, whose values take no memory."""
    return _with_meta(torch.zeros(1).expand(1, *reversed(image.array.shape)), image)


def _with_meta(array: torch.Tensor, image: Volume | ProjectionImage) -> MetaTensor:
    affine = torch.from_numpy(_source_affine(image))
    meta = {
        "space": SpaceKeys.RAS,
        "original_channel_dim": 0,
        "spatial_shape": np.array(array.shape[1:]),
        "original_affine": affine.numpy(),
    }
    return MetaTensor(array, affine=affine, meta=meta)


def _source_affine(image: Volume | ProjectionImage) -> Float64:
    """`(4, 4)`: `(i, j, k, 1)` -> RAS mm of the voxel's centre; for a projection, pixels in a plane."""
    if isinstance(image, ProjectionImage):
        return np.eye(4)
    to_ijk = np.eye(4)[[2, 1, 0, 3]]
    return np.asarray(_LPS_TO_RAS @ image.affine @ to_ijk, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class GridMap:
    """From voxels of the source `(z, y, x)` to voxels of the network's grid.

    Attributes:
        shape: of the source, `(z, y, x)`; a projection is one slice.
        matrix: `(3, 4)`, source `(z, y, x, 1)` -> the network's axes, in the order of `order`.
        order: how to transpose a network-grid array so that its axes run along the source's.
        flat: the network's grid has two axes.
    """

    shape: tuple[int, int, int]
    matrix: Float64
    order: tuple[int, int, int]
    flat: bool

    @property
    def is_identity(self) -> bool:
        """Whether network voxels are source voxels, one to one, up to flips and order of axes."""
        steps = np.abs(self.matrix[:, :3])
        shift = self.matrix[:, 3]
        whole = np.allclose(steps, np.eye(3), atol=1e-4)
        return bool(whole and np.allclose(shift, np.round(shift), atol=1e-3))


def grid_map(
    image: Volume | ProjectionImage, affine: torch.Tensor, dimensions: int, rows_first: bool = False
) -> GridMap:
    """How the source's voxels lie on a network's grid.

    Args:
        image: the source.
        affine: of the network's grid, `(i, j[, k], 1)` -> RAS.
        dimensions: how many spatial axes the network's grid has.
        rows_first: as it was given to `to_meta_tensor`.
    """
    network = np.eye(4)
    given = np.asarray(affine, dtype=np.float64)
    if given.shape == (3, 3):
        network[:2, :2], network[:2, 3] = given[:2, :2], given[:2, 2]
    else:
        network = given
    if dimensions == 2:
        network[2, :], network[:, 2] = (0, 0, 1, 0), (0, 0, 1, 0)
    by_rows = rows_first and isinstance(image, ProjectionImage)
    to_zyx = np.eye(4)[[1, 2, 0, 3] if by_rows else [2, 1, 0, 3]]
    full = np.linalg.inv(network) @ _source_affine(image) @ to_zyx
    order = _matching_axes(full[:3, :3])
    shape = image.array.shape if image.array.ndim == 3 else (1, *image.array.shape)
    full[np.abs(full) < 1e-9] = 0.0
    return GridMap(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        matrix=np.ascontiguousarray(full[list(order), :]),
        order=order,
        flat=dimensions == 2,
    )


def labels_to_source(labels: torch.Tensor, to: GridMap) -> Labels:
    """Labels `(i, j[, k])` -> `(z, y, x)` uint8 on the source grid, nearest neighbour."""
    values = _ordered(labels, to).astype(np.uint8, copy=False)
    out = np.zeros(to.shape, dtype=np.uint8)
    _in_slabs(lambda begin, end: kernels.nearest(values, to.matrix, out, begin, end), to.shape[0])
    return out


def values_to_source(values: torch.Tensor, to: GridMap, outside: float = 0.0) -> Float32:
    """Values `(i, j[, k])` -> `(z, y, x)` float32 on the source grid, trilinear."""
    ordered = _ordered(values, to).astype(np.float32, copy=False)
    out = np.full(to.shape, outside, dtype=np.float32)
    _in_slabs(lambda begin, end: kernels.linear(ordered, to.matrix, out, begin, end), to.shape[0])
    return out


def scores_to_source_labels(scores: torch.Tensor, to: GridMap) -> Labels:
    """The argmax on the source grid of scores `(C, i, j[, k])` interpolated trilinearly: smooth borders.

    Where all eight neighbours on the network's grid have the same best class, so has every point between
    them, whatever the scores; so only voxels at a border are interpolated at all.
    """
    values = scores.detach().float().cpu()
    if to.flat:
        values = values[:, :, :, None]
    # rows of the source must be rows in memory: read across, each value would cost a cache line
    ordered = values.permute(0, *(axis + 1 for axis in to.order)).contiguous().numpy()
    best = _ordered(argmax(scores)[0], to).astype(np.uint8, copy=False)
    cells = np.empty_like(best)
    out = np.zeros(to.shape, dtype=np.uint8)
    _in_slabs(lambda begin, end: kernels.agreed(best, cells, begin, end), best.shape[0])
    _in_slabs(
        lambda begin, end: kernels.linear_best(ordered, cells, to.matrix, out, begin, end),
        to.shape[0],
    )
    return out


def argmax(scores: torch.Tensor) -> torch.Tensor:
    """`(C, ...)` -> `(1, ...)` uint8: the best channel, the first of equals."""
    if scores.device.type != "cpu" or scores.ndim != 4:
        return scores.max(dim=0, keepdim=True).indices.to(torch.uint8)
    values = scores.detach().contiguous().numpy()
    best: Labels = np.empty(scores.shape[1:], dtype=np.uint8)
    _in_slabs(lambda begin, end: kernels.best_of(values, best, begin, end), best.shape[0])
    return torch.from_numpy(best)[None]


def resampled(
    volume: Volume, affine: npt.NDArray[np.float64], shape: tuple[int, ...], scale: "Scale"
) -> torch.Tensor:
    """The volume on another grid, trilinearly, its edge going on outside, with its values scaled.

    Args:
        volume: the source.
        affine: of the new grid, `(i, j, k, 1)` -> RAS.
        shape: of the new grid, `(i, j, k)`.
        scale: what becomes of a value.

    Returns:
        `(i, j, k)` float32; a view of an array that runs along the source's axes, which is what makes it
        fast to fill.
    """
    to_source = np.eye(4)[[2, 1, 0, 3]] @ np.linalg.inv(_source_affine(volume)) @ affine
    order = _matching_axes(np.asarray(np.linalg.inv(to_source)[:3, :3], dtype=np.float64))
    matrix = to_source[:3][:, [*order, 3]].copy()
    matrix[np.abs(matrix) < 1e-9] = 0.0
    out = np.empty([shape[axis] for axis in order], dtype=np.float32)
    values = np.ascontiguousarray(volume.array)
    _in_slabs(
        lambda begin, end: kernels.resample(
            values, matrix, scale.gain, scale.offset, scale.low, scale.high, out, begin, end
        ),
        out.shape[0],
    )
    return torch.from_numpy(out.transpose(np.argsort(order)))


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map of values, and the range that it is held in."""

    gain: float = 1.0
    offset: float = 0.0
    low: float = -np.inf
    high: float = np.inf


def _matching_axes(linear: Float64) -> tuple[int, int, int]:
    """For each source axis the network axis that runs along it most; a permutation, best match first."""
    strength = np.abs(linear) / np.maximum(np.abs(linear).max(axis=0, keepdims=True), 1e-12)
    chosen: dict[int, int] = {}
    for flat in np.argsort(-strength, axis=None):
        row, column = divmod(int(flat), 3)
        if row not in chosen.values() and column not in chosen:
            chosen[column] = row
    return chosen[0], chosen[1], chosen[2]


def _ordered(values: torch.Tensor, to: GridMap) -> npt.NDArray[np.generic]:
    array = values.detach().cpu().numpy()
    if to.flat:
        array = array[:, :, None]
    return np.ascontiguousarray(array.transpose(to.order))


def _in_slabs(work: Callable[[int, int], None], slices: int) -> None:
    """Run `work(begin, end)` over the slices in a few threads; the kernels release the GIL."""
    threads = max(1, min(torch.get_num_threads(), slices))
    if threads == 1:
        work(0, slices)
        return
    edges = [slices * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, *edge) for edge in itertools.pairwise(edges)]:
            done.result()
