"""Stated labels for real CT where nobody drew any: Hounsfield thresholds and morphology.

In: HU `(z, y, x)` (z to the head, x to the patient's left) and spacing. Out: labels uint8 of the same
shape with the values of `StatedLabel`. These labels define what the model learns and is judged by on real
images; they are a rule's opinion, not a radiologist's. What the rule holds to be lung: air-containing
tissue inside the body, connected, above 150 ml, together with the vessels inside it (closing by 7 mm);
what is denser than that, such as a tumour at the pleura or an effusion, is not lung. Where the rule
cannot tell bone from contrast medium or a sliver of lung from bowel it says `IGNORE`, and neither loss
nor Dice count the voxel.
"""

from __future__ import annotations

from enum import IntEnum

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ai_models.data.series import Spacing

Mask = NDArray[np.bool_]


class StatedLabel(IntEnum):
    """Classes of the model `ct_structures`, and the voxels that are left out of account."""

    BACKGROUND = 0
    LEFT_LUNG = 1
    RIGHT_LUNG = 2
    AIRWAY = 3
    BONE = 4
    IGNORE = 255


def label_by_rule(
    hu: NDArray[np.int16], spacing_mm: Spacing, *, contrast: bool
) -> NDArray[np.uint8]:
    """Labels lungs, trachea with main bronchi, and bone; see the module for what the words mean.

    `contrast` says that contrast medium was given: then dense matter away from the skeleton is IGNORE.
    """
    smooth = ndimage.gaussian_filter(hu.astype(np.float32), [0, 0.8, 0.8])
    body = body_mask(smooth, spacing_mm)
    airway = _airway(smooth, body, spacing_mm)
    left, right, perhaps_lung = _lungs(smooth, body, airway, spacing_mm)
    bone, perhaps_bone = _bone(smooth, body, spacing_mm, contrast)
    labels = np.zeros(hu.shape, np.uint8)
    labels[perhaps_lung | perhaps_bone] = StatedLabel.IGNORE
    labels[bone] = StatedLabel.BONE
    labels[left & ~bone] = StatedLabel.LEFT_LUNG
    labels[right & ~bone] = StatedLabel.RIGHT_LUNG
    labels[airway] = StatedLabel.AIRWAY
    return labels


def body_mask(smooth: NDArray[np.float32], spacing_mm: Spacing) -> Mask:
    """The patient without the couch, filled slice by slice."""
    solid = ndimage.binary_opening(smooth > -300, _disc(3.0, spacing_mm))
    solid = _largest(solid)
    return np.stack([ndimage.binary_fill_holes(plane) for plane in solid])


def _airway(smooth: NDArray[np.float32], body: Mask, spacing_mm: Spacing) -> Mask:
    """Follows the trachea's lumen from its top slice down through the carina, 30 mm into the bronchi."""
    air = (smooth < -880) & body
    pixel = spacing_mm[1] * spacing_mm[2]
    out = np.zeros(air.shape, bool)
    middle = np.argwhere(body.any(axis=0)).mean(0) if body.any() else np.zeros(2)
    start = None
    for z in range(len(air) - 1, -1, -1):
        parts, count = ndimage.label(air[z])
        for part in range(1, count + 1):
            spot = parts == part
            far = np.abs(np.argwhere(spot).mean(0) - middle) * spacing_mm[1:]
            if 80 < spot.sum() * pixel < 700 and far[1] < 30 and far[0] < 60 and _round(spot):
                start, out[z] = z, spot
                break
        if start is not None:
            break
    if start is None:
        return out
    split = None
    for z in range(start - 1, -1, -1):
        parts, _ = ndimage.label(air[z])
        reach = ndimage.binary_dilation(out[z + 1], _disc(2.0, spacing_mm)[0])
        for part in np.setdiff1d(np.unique(parts[reach]), [0]):
            spot = parts == part
            if 25 < spot.sum() * pixel < 800:
                out[z] |= spot
        count = ndimage.label(out[z])[1]
        split = z if split is None and count > 1 else split
        if not out[z].any() or (split is not None and (split - z) * spacing_mm[0] > 30):
            break
    if (start - z) * spacing_mm[0] < 30:  # a bubble elsewhere, no windpipe
        return np.zeros_like(out)
    return ndimage.binary_dilation(out, _disc(1.0, spacing_mm)) & (smooth < -700)


def _lungs(
    smooth: NDArray[np.float32], body: Mask, airway: Mask, spacing_mm: Spacing
) -> tuple[Mask, Mask, Mask]:
    """Left lung, right lung, and air-holding matter that may or may not be lung."""
    gas = ndimage.binary_opening((smooth < -935) & body, _disc(3.0, spacing_mm))
    taken = ndimage.binary_dilation(airway, _disc(2.5, spacing_mm))
    taken |= ndimage.binary_dilation(gas, _disc(4.0, spacing_mm))
    air = ndimage.binary_opening((smooth < -420) & body & ~taken, _disc(1.2, spacing_mm))
    spongy, unsure = _spongy_components(air, spacing_mm)
    if not spongy.any():
        return spongy, spongy.copy(), unsure
    owner = _owner(spongy, body, spacing_mm)
    left, right = (
        _close_vessels(spongy & (owner == side), smooth, spacing_mm) & body & ~airway
        for side in (1, 2)
    )
    return left, right & ~left, unsure & ~left & ~right


def _owner(spongy: Mask, body: Mask, spacing_mm: Spacing) -> NDArray[np.int32]:
    """1 where the nearest lung core is a left one, 2 where it is a right one.

    The cores come apart under the mildest erosion that leaves a large piece on either side; where none does,
    the body's midplane cuts.
    """
    columns = np.arange(spongy.shape[2])
    weight = body.sum(axis=(0, 1))
    middle = float((columns * weight).sum() / weight.sum())
    inside = ndimage.distance_transform_edt(spongy, sampling=(1e3, *spacing_mm[1:]))
    marked = np.where(columns > middle, 1, 2)[None, None, :] * (inside > 2.5)
    for radius in (1.0, 2.5, 4.0, 6.0, 9.0, 12.0):
        parts = cc3d.connected_components(inside > radius, connectivity=6)
        sizes = np.bincount(parts.ravel())
        sizes[0] = 0
        big = np.flatnonzero(sizes > 0.08 * sizes.sum())
        sides = [1 if c[2] > middle else 2 for c in ndimage.center_of_mass(parts > 0, parts, big)]
        if {1, 2} <= set(sides):
            table = np.zeros(len(sizes), np.int32)
            table[big] = sides
            marked = table[parts]
            break
    nearest = ndimage.distance_transform_edt(
        marked == 0, sampling=spacing_mm, return_distances=False, return_indices=True
    )
    return np.asarray(marked[tuple(nearest)])


def _spongy_components(air: Mask, spacing_mm: Spacing) -> tuple[Mask, Mask]:
    """Large components, at least an eighth of the largest; and the middling ones, which stay undecided."""
    parts = cc3d.connected_components(air, connectivity=6)
    volumes = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) / 1000
    volumes[0] = 0
    keep = (volumes > 150) & (volumes > volumes.max() / 8)
    unsure = ~keep & (volumes > 1)
    return keep[parts], unsure[parts]


def _close_vessels(lung: Mask, smooth: NDArray[np.float32], spacing_mm: Spacing) -> Mask:
    if not lung.any():
        return lung
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    pad = int(np.ceil(10 / min(spacing_mm[1:])))
    roomy = np.pad(lung[box], ((0, 0), (pad, pad), (pad, pad)))
    outside = ndimage.distance_transform_edt(~roomy, sampling=(1e3, *spacing_mm[1:]))
    grown = outside < 7.0
    inside = ndimage.distance_transform_edt(grown, sampling=(1e3, *spacing_mm[1:]))
    closed = (inside > 7.0) | roomy
    closed = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    out = np.zeros_like(lung)
    out[box] = closed[:, pad:-pad, pad:-pad]
    return out & (smooth < 160)


def _bone(
    smooth: NDArray[np.float32], body: Mask, spacing_mm: Spacing, contrast: bool
) -> tuple[Mask, Mask]:
    dense = (smooth > 170) & body
    parts = cc3d.connected_components(dense, connectivity=6)
    sizes = np.bincount(parts.ravel()) * float(np.prod(spacing_mm)) / 1000
    hard = np.zeros(len(sizes))
    np.maximum.at(hard, parts.ravel(), smooth.ravel())
    keep = (sizes > 0.3) & (hard > 350)
    keep[0] = False
    depth = ndimage.distance_transform_edt(body, sampling=(1e3, *spacing_mm[1:]))
    unsure = np.zeros_like(dense)
    if contrast:
        bone = keep[parts]
        trunk = _skeleton_zone(body, spacing_mm)
        unsure = dense & ~trunk
        dense = bone & trunk
    else:
        dense = keep[parts]
    dense &= depth > 3
    closed = ndimage.binary_closing(dense, _disc(3.0, spacing_mm))
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    bone = dense | (filled & (smooth > 90))
    return bone, (unsure | filled) & ~bone


def _skeleton_zone(body: Mask, spacing_mm: Spacing) -> Mask:
    """Where the skeleton of the trunk lies: near the skin's side, or in the strip around the spine."""
    depth = ndimage.distance_transform_edt(body, sampling=(1e3, *spacing_mm[1:]))
    zone = np.zeros_like(body)
    for z, plane in enumerate(body):
        if not plane.any():
            continue
        rows, columns = np.nonzero(plane)
        back, middle = np.percentile(rows, 99), columns.mean()
        y, x = np.indices(plane.shape, sparse=True)
        from_back = (back - y) * spacing_mm[1]
        spine = (np.abs(x - middle) * spacing_mm[2] < 30) & (from_back < 95)
        zone[z] = spine
    return (zone | (depth < 32)) & body


def _round(spot: Mask) -> bool:
    rows, columns = np.nonzero(spot)
    tall, wide = np.ptp(rows) + 1, np.ptp(columns) + 1
    return bool(max(tall, wide) < 2.2 * min(tall, wide) and spot.sum() > 0.5 * tall * wide)


def _largest(mask: Mask) -> Mask:
    parts = cc3d.connected_components(mask, connectivity=6)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax()) if sizes.max() > 0 else mask


def _disc(radius_mm: float, spacing_mm: Spacing) -> Mask:
    """A flat disc in the slice plane, as a `(1, y, x)` structuring element."""
    ry, rx = (int(np.ceil(radius_mm / s)) for s in spacing_mm[1:])
    y, x = np.mgrid[-ry : ry + 1, -rx : rx + 1]
    inside = (y * spacing_mm[1]) ** 2 + (x * spacing_mm[2]) ** 2 <= radius_mm**2 + 1e-6
    return np.asarray(inside)[None]
