"""What a bundle's preprocessing is given, and what comes out of it for the network.

What comes in: one image, or several on one grid for a model that takes several series at once; prompts
where the model asks a person for them. What goes out: the tensor that the network sees, with the affine of
its grid, and the data dictionary as the transforms left it.

Invariant: the image is not written to, and a model never sees an image that says nothing, nor fewer images
than it was made for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform

from dicom_node.errors import ModelFailed, NodeError, NotApplicable
from dicom_node.infer.bundle import LoadedBundle
from dicom_node.infer.fused import fused
from dicom_node.infer.grids import to_meta_tensor
from dicom_node.records import Image, ProjectionImage, Volume

MOST_NOT_FINITE = 0.5
"""Above this share of values that are no numbers there is no image to speak of."""
_PATCH = "bounding_boxes"
"""Where `AddClickSignalsd` leaves the corners of the patch that it cut."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the network sees.

    Attributes:
        tensor: `(C, i, j[, k])`, without metadata.
        affine: `(i, j[, k], 1)` -> RAS of its grid.
        data: the dictionary as the last transform left it.
    """

    tensor: torch.Tensor
    affine: torch.Tensor
    data: dict[str, Any]


def readable(image: Image) -> tuple[Image, tuple[str, ...]]:
    """The image with numbers only, and notes on what was replaced.

    Raises:
        NotApplicable: it is constant, or most of it is no number.
    """
    array, notes = image.array, image.notes
    # the sum of a float32 array is finite only where every value is, and costs one pass
    if not np.isfinite(np.add.reduce(array, axis=None, dtype=np.float64)):
        finite = np.isfinite(array)
        share = 1.0 - float(finite.mean())
        if share > MOST_NOT_FINITE:
            raise NotApplicable(f"{share:.0%} of the image's values are no numbers")
        lowest = np.float32(array[finite].min())
        array = np.where(finite, array, lowest)
        bad = int(finite.size - finite.sum())
        notes = (*notes, f"{bad} values were no numbers and were taken as {lowest:g}")
    if array.min() == array.max():
        raise NotApplicable("every value of the image is the same")
    return replace(image, array=array, notes=notes), notes


def check_dimensions(bundle: LoadedBundle, image: Image) -> None:
    """Raise `NotApplicable` where a model for volumes is given a projection, or the other way round."""
    wanted = bundle.description.input.dimensions
    given = 2 if isinstance(image, ProjectionImage) else 3
    if wanted != given:
        kinds = {2: "a single image", 3: "a volume"}
        raise NotApplicable(f"the series is {kinds[given]}, the model takes {kinds[wanted]}")


def prepare(
    bundle: LoadedBundle,
    image: Image,
    also: Sequence[Image] = (),
    prompts: Mapping[str, Any] | None = None,
) -> Prepared:
    """Run the preprocessing.

    Args:
        bundle: the model.
        image: what the result will lie on.
        also: further images on the same grid, in the order that the model takes them.
        prompts: what a person says for the model, by the key that its transforms know it by.

    Raises:
        NotApplicable: the model takes other images, or asks a person for what was not given.
        ModelFailed: a transform broke.
    """
    said = dict(prompts or {})
    keys = tuple(key for key in bundle.input_keys if key not in said)
    single = not bundle.is_colour and bundle.channels == 1 and len(keys) == 1 and not also
    done = fused(bundle.preprocessing, keys[0], image) if single else None
    if done is not None:
        data, left = {keys[0]: done[0], **said}, done[1]
    else:
        data, left = {**_images(bundle, keys, image, also), **said}, bundle.preprocessing
    for transform in left:
        for key in (getattr(transform, "source", None), getattr(transform, "foreground", None)):
            if isinstance(key, str) and key not in data:
                raise NotApplicable(f"the model asks a person for {key!r}, which a series has not")
        try:
            if isinstance(transform, MapTransform):
                data = transform(data)
            else:
                data[bundle.image_key] = transform(data[bundle.image_key])
        except NodeError:
            raise
        except Exception as error:
            name = type(transform).__name__
            raise ModelFailed(f"preprocessing: {name}: {type(error).__name__}: {error}") from error
    value = data[bundle.image_key]
    affine = getattr(value, "affine", torch.eye(4, dtype=torch.float64)).clone()
    if _PATCH in data:
        corner = torch.eye(4, dtype=affine.dtype)
        corner[:2, 3] = torch.as_tensor(data[_PATCH][0][:2], dtype=affine.dtype)
        affine = affine @ corner
    tensor = value.as_tensor() if isinstance(value, MetaTensor) else torch.as_tensor(value)
    return Prepared(tensor.float(), affine, data)


def _images(
    bundle: LoadedBundle, keys: Sequence[str], image: Image, also: Sequence[Image]
) -> dict[str, Any]:
    """The images under the keys that the bundle's reader would have read them to."""
    for other in also:
        _check_same_grid(image, other)
    given = [image, *(readable(other)[0] for other in also)]
    if len(keys) > 1:
        if len(given) != len(keys):
            raise NotApplicable(f"the model takes {len(keys)} images: {', '.join(keys)}")
        return {
            key: to_meta_tensor(
                one, 3 if bundle.is_colour and key == keys[0] else 1, bundle.rows_first
            )
            for key, one in zip(keys, given, strict=True)
        }
    if bundle.is_colour:
        return {keys[0]: to_meta_tensor(image, 3, bundle.rows_first)}
    if len(given) != bundle.channels:
        raise NotApplicable(
            f"the model takes {bundle.channels} series of one grid at once, {len(given)} given"
        )
    tensors = [to_meta_tensor(one, 1, bundle.rows_first) for one in given]
    if len(tensors) > 1:
        tensors[0].set_array(torch.cat([one.as_tensor() for one in tensors]))
    return {keys[0]: tensors[0]}


def _check_same_grid(image: Image, other: Image) -> None:
    same = image.array.shape == other.array.shape
    if same and isinstance(image, Volume) and isinstance(other, Volume):
        same = bool(np.allclose(image.affine, other.affine, atol=1e-2))
    if not same:
        raise NotApplicable("the series that the model takes together lie on different grids")
