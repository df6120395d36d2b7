"""How an inferer of MONAI cuts an image, as a `WindowPlan`.

What comes in: the inferer that a bundle made. What goes out: the plan that `windows.slide` follows, and the
size of its windows where every image is cut alike.
"""

from typing import Any

from dicom_node.errors import BundleRefused
from dicom_node.infer.windows import WindowPlan, whole_image


def window_plan(inferer: Any, dimensions: int) -> WindowPlan:
    """How an inferer of MONAI would cut an image of so many axes.

    Raises:
        BundleRefused: an inferer of another kind.
    """
    name = type(inferer).__name__
    if name == "SimpleInferer":
        return whole_image(dimensions)
    if name not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        raise BundleRefused(f"inferer: {name} is not handled")
    axis = inferer.spatial_dim if name == "SliceInferer" else None
    size = _each(inferer.roi_size, dimensions - (axis is not None))
    overlap = _each(inferer.overlap, dimensions - (axis is not None))
    if axis is not None:
        size = (*size[:axis], 1, *size[axis:])
        overlap = (*overlap[:axis], 0.0, *overlap[axis:])
    return WindowPlan(
        size=tuple(int(length or 0) for length in size),
        overlap=tuple(float(share) for share in overlap),
        batch=int(inferer.sw_batch_size),
        gaussian=str(getattr(inferer.mode, "value", inferer.mode)) == "gaussian",
        sigma_scale=inferer.sigma_scale,
        padding=str(getattr(inferer.padding_mode, "value", inferer.padding_mode)),
        padding_value=float(inferer.cval),
        slice_axis=axis,
    )


def _each(value: Any, count: int) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * count


def window_size(inferer: Any) -> tuple[int, ...] | None:
    """The spatial shape of every window as the network sees it; None where it depends on the image."""
    if type(inferer).__name__ not in ("SlidingWindowInferer", "SliceInferer"):
        return None
    if not isinstance(inferer.roi_size, list | tuple):
        return None
    by_slices = type(inferer).__name__ == "SliceInferer"
    plan = window_plan(inferer, len(inferer.roi_size) + by_slices)
    size = tuple(length for axis, length in enumerate(plan.size) if axis != plan.slice_axis)
    return None if min(size) <= 0 else size
