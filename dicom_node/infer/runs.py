"""Several looks at one image: members of an ensemble, mirrored windows, and what they doubt.

What comes in: a bundle whose sidecar asks for it (`inference`). What goes out: a network that shows each
window to every member, as it is and mirrored, turns the answers back, and gives the mean of their
probabilities, with their spread as one more channel where it is wanted.

Invariants: a mirrored answer is mirrored back, and where labels are of one side, left and right change
places with it (the sidecar must say which; `catalogue` refuses it otherwise); an axis of the patient is
found from the affine of the grid that the network sees, never by its place in the tensor; nothing larger
than a window's answer is kept.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dicom_node.errors import BundleRefused
from dicom_node.infer import postprocess
from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.windows import Network, Reduce, first_tensor
from dicom_node.records import Image, ProjectionImage

STRAIGHT = 0.8
"""Cosine to the patient's axis above which an axis of the grid is taken for it."""
_AXES = {"left_right": 0, "front_back": 1, "head_foot": 2}

Kind = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, slots=True)
class Runs:
    """What is shown to whom.

    Attributes:
        networks: each takes `(N, C, ...)`.
        flips: the axes of a window that are mirrored in each look, the spatial ones counted from 0;
            the empty one is the image as it is.
        mirrors: for each look, whether it is a mirror image of the patient from left to right.
        swap: for each output channel the one that it is in a mirror image.
        activate: from scores `(N, C, ...)` to what is averaged.
        spread: whether the last channel is to say how far the looks lie apart.
    """

    networks: tuple[Network, ...]
    flips: tuple[tuple[int, ...], ...] = ((),)
    mirrors: tuple[bool, ...] = (False,)
    swap: tuple[tuple[int, int], ...] = ()
    activate: Callable[[torch.Tensor], torch.Tensor] = lambda scores: scores
    spread: bool = False

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """`(N, C, ...)` -> the mean, `(N, C', ...)`; with `spread`, `(N, C' + 1, ...)`."""
        mean = squares = torch.empty(0)
        looks = itertools.product(self.networks, zip(self.flips, self.mirrors, strict=True))
        for count, (network, (axes, mirrored)) in enumerate(looks, start=1):
            seen = windows.flip([axis + 2 for axis in axes]) if axes else windows
            given = self.activate(first_tensor(network(seen)).float())
            given = given.flip([axis + 2 for axis in axes]) if axes else given
            given = swapped(given, self.swap, 1) if mirrored else given
            if count == 1:
                mean, squares = given.clone(), torch.zeros_like(given)
                continue
            apart = given - mean
            mean += apart / count
            squares += apart * (given - mean)
        if not self.spread:
            return mean
        return torch.cat([mean, spread_of(squares, self.count)], dim=1)

    @property
    def count(self) -> int:
        """How often each window is looked at."""
        return len(self.networks) * len(self.flips)


def spread_of(squares: torch.Tensor, count: int) -> torch.Tensor:
    """Standard deviation of the channel where it is largest, times two, so that it lies in 0 to 1."""
    return 2.0 * (squares.amax(dim=1, keepdim=True) / count).sqrt()


def wanted(bundle: LoadedBundle) -> bool:
    """Whether the sidecar asks for more than one look, or for what is doubted."""
    options = bundle.description.inference
    return options.runs > 1 or options.uncertainty is not None


def runs_of(
    bundle: LoadedBundle,
    networks: Sequence[Network],
    image: Image,
    affine: torch.Tensor,
    slice_axis: int | None = None,
) -> tuple[Runs, tuple[str, ...]]:
    """The looks that the sidecar asks for, and notes on those that this image does not allow.

    Args:
        networks: the bundle's, or what was compiled of them.
        affine: `(i, j[, k], 1)` -> RAS of the grid that the network sees.
        slice_axis: the axis that windows come without, for a network of slices.
    """
    options, notes = bundle.description.inference, []
    axes: dict[str, int] = {}
    for name in options.flips:
        axis = patient_axis(name, affine, image, bundle.rows_first)
        if axis is None:
            notes.append(
                f"{name.replace('_', '-')} mirrored windows were left out: the grid is oblique"
            )
        elif axis != slice_axis:  # mirroring across slices is nothing to a network that sees one
            axes[name] = axis - (slice_axis is not None and axis > slice_axis)
    looks = [
        names for count in range(len(axes) + 1) for names in itertools.combinations(axes, count)
    ]
    runs = Runs(
        networks=tuple(networks),
        flips=tuple(tuple(axes[name] for name in names) for names in looks),
        mirrors=tuple("left_right" in names for names in looks),
        swap=options.mirrored,
    )
    if runs.count > 1:
        notes.append(f"the mean of {runs.count} runs ({_told(len(networks), len(looks))})")
    return runs, tuple(notes)


def _told(networks: int, looks: int) -> str:
    parts = [f"{networks} networks"] * (networks > 1) + [f"{looks} mirrorings"] * (looks > 1)
    return ", ".join(parts)


def patient_axis(name: str, affine: torch.Tensor, image: Image, rows_first: bool) -> int | None:
    """Which axis of the network's grid runs along an axis of the patient; None where none does clearly.

    A projection has no orientation in space: left to right are its columns, head to foot its rows.
    """
    axes = np.asarray(affine, dtype=np.float64)[:-1, :-1]
    row = _AXES[name]
    if isinstance(image, ProjectionImage):
        row = {0: 0, 2: 1}[row] if not rows_first else {0: 1, 2: 0}[row]
        axes = axes[:2, :2]
    strength = np.abs(axes[row]) / np.maximum(np.linalg.norm(axes, axis=0), 1e-12)
    best = int(strength.argmax())
    return best if strength[best] >= STRAIGHT else None


@dataclass(frozen=True, slots=True)
class Doubt:
    """How a map of uncertainty comes to be.

    Attributes:
        way: as the sidecar has it.
        kind: what the averaged channels are: probabilities that sum to one, or each its own.
    """

    way: Literal["entropy", "spread"]
    kind: Kind

    def split(self, blended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Blended output `(C, ...)` -> probabilities and uncertainty `(1, ...)` in 0 to 1."""
        if self.way == "spread":
            return blended[:-1], blended[-1:].clamp(0, 1)
        return blended, entropy(blended, self.kind)

    def with_map(self, reduce: Reduce | None) -> Reduce:
        """`reduce`, with the map as one more channel; what it keeps becomes float32."""

        def both(slab: torch.Tensor) -> torch.Tensor:
            values, doubt = self.split(slab)
            kept = values if reduce is None else reduce(values).to(doubt)
            return torch.cat([kept, doubt])

        return both


def entropy(probabilities: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Shannon entropy of `(C, ...)` as a share of the largest possible one, `(1, ...)` in 0 to 1.

    Channels that are each their own mask give the entropy of the one that is least sure.
    """
    p = probabilities.clamp(0, 1)
    if kind == "softmax":
        doubt = -torch.xlogy(p, p).sum(0, keepdim=True) / np.log(max(len(p), 2))
    else:
        each = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / np.log(2)
        doubt = each.amax(0, keepdim=True)
    return torch.clamp(doubt, 0, 1)


def of_scores(runs: Runs, bundle: LoadedBundle) -> tuple[Runs, tuple[Any, ...], Doubt | None]:
    """The runs of a segmentation: what they average, the postprocessing that is left, the map of doubt.

    Raises:
        BundleRefused: the sidecar asks for what the bundle's postprocessing does not allow.
    """
    options, steps = bundle.description.inference, bundle.postprocessing
    activation, rest = postprocess.activation(steps)
    kind: Kind | None = None
    if activation is not None:
        kind = _kind_of(activation)
    elif postprocess.takes_argmax(steps):
        kind = "softmax"
    name = bundle.description.name
    if options.uncertainty is not None and kind is None:
        raise BundleRefused(
            f"{name}: dicom.toml: inference.uncertainty: postprocessing names no softmax, sigmoid or "
            "argmax, so the scores are no probabilities"
        )
    if options.mirrored and postprocess.renames_labels(steps):
        raise BundleRefused(
            f"{name}: dicom.toml: inference.mirrored: postprocessing gives labels other values than "
            "the network's channels"
        )
    first = 0 if postprocess.takes_argmax(steps) else 1
    swap = tuple((a - first, b - first) for a, b in options.mirrored)
    runs = replace(
        runs,
        swap=swap,
        activate=_activating(activation, kind),
        spread=options.uncertainty == "spread",
    )
    doubt = (
        None if options.uncertainty is None or kind is None else Doubt(options.uncertainty, kind)
    )
    return runs, rest, doubt


def _kind_of(step: Any) -> Kind | None:
    if postprocess.option(step, "other"):
        return None
    return "sigmoid" if postprocess.option(step, "sigmoid") else "softmax"


def _activating(step: Any, kind: Kind | None) -> Callable[[torch.Tensor], torch.Tensor]:
    if kind == "softmax":
        return _softmax
    if kind == "sigmoid":
        return torch.sigmoid
    if step is None:
        return lambda scores: scores
    return lambda scores: torch.stack([postprocess.apply(one, step) for one in scores])


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return scores.softmax(dim=1)


def swapped(values: torch.Tensor, swap: Sequence[tuple[int, int]], axis: int = 0) -> torch.Tensor:
    """The values with the channels of each pair exchanged.

    Raises:
        BundleRefused: the network gives fewer channels than the sidecar thinks.
    """
    if not swap:
        return values
    order = list(range(values.shape[axis]))
    for a, b in swap:
        if not 0 <= min(a, b) <= max(a, b) < len(order):
            raise BundleRefused(
                f"dicom.toml: inference.mirrored: the network gives {len(order)} channels, not these"
            )
        order[a], order[b] = b, a
    return values.index_select(axis, torch.tensor(order, device=values.device))
