"""Pictures of an image: windowed grey values, outlines in the segments' colours, legend and mark.

Arrays in, Pillow images out; it knows no DICOM beyond colours and windows. Pixels are shown square: a picture
is scaled so that a millimetre is equally long in both directions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dicom_node.compose.contour import outer_contours
from dicom_node.records import Float32

Rgb = tuple[int, int, int]
_MARGIN = 12
_SUPERSAMPLED = 2
"""Outlines are drawn twice as large and scaled down, so that their edges are smooth."""


@dataclass(frozen=True, slots=True)
class Outlined:
    """What is drawn over a picture: `mask` is `(y, x)`, bool."""

    mask: npt.NDArray[np.bool_]
    color: Rgb


def windowed(values: Float32, centre: float, width: float) -> npt.NDArray[np.uint8]:
    """Grey values 0..255 through a linear window (PS3.3 C.11.2.1.2)."""
    low = centre - 0.5 - (width - 1) / 2
    grey = (values - low) * (255.0 / max(width - 1, 1e-6))
    shown: npt.NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return shown


def heated(grey: npt.NDArray[np.uint8], heat: Float32) -> npt.NDArray[np.uint8]:
    """Grey values `(y, x)` with a map in [0, 1] laid over them, from red to yellow; cold is clear."""
    hot = np.clip(heat, 0, 1)[:, :, None]
    color = np.concatenate(
        [np.full_like(hot, 255.0), np.clip((hot - 0.3) * 364, 0, 255), np.zeros_like(hot)], axis=2
    )
    opacity = np.clip(hot * 0.8 - 0.1, 0, 0.6)
    made: npt.NDArray[np.uint8] = (grey[:, :, None] * (1 - opacity) + color * opacity).astype(
        np.uint8
    )
    return made


def panel_rgb(
    picture: npt.NDArray[np.uint8], spacing: tuple[float, float], height: int
) -> npt.NDArray[np.uint8]:
    """A picture `(y, x, 3)` scaled to `height`, a millimetre equally long in both directions."""
    rows, columns = picture.shape[:2]
    width = max(1, round(columns * spacing[1] * height / (rows * spacing[0])))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def panel(
    grey: npt.NDArray[np.uint8],
    outlined: Sequence[Outlined],
    spacing: tuple[float, float],
    height: int,
    fill: float = 0.25,
) -> Image.Image:
    """One slice with its outlines.

    Args:
        grey: `(y, x)` uint8.
        spacing: mm along `(y, x)`.
        height: of the picture in pixels; its width follows.
        fill: how much of its colour the inside of an outline takes on.
    """
    rows, columns = grey.shape
    scale = height / (rows * spacing[0])
    size = (max(1, round(columns * spacing[1] * scale)), height)
    shown = np.repeat(grey[:, :, None], 3, axis=2).astype(np.float32)
    for one in outlined:
        shown[one.mask] = shown[one.mask] * (1 - fill) + np.array(one.color) * fill
    big = (size[0] * _SUPERSAMPLED, size[1] * _SUPERSAMPLED)
    picture = Image.fromarray(shown.astype(np.uint8)).resize(big, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for one in outlined:
        for contour in outer_contours(one.mask):
            points = [((x + 0.5) * big[0] / columns, (y + 0.5) * big[1] / rows) for y, x in contour]
            draw.line([*points, points[0]], fill=one.color, width=_SUPERSAMPLED + 1, joint="curve")
    return picture.resize(size, Image.Resampling.LANCZOS)


def font(size: int) -> Any:
    """Pillow's own font: nothing to install."""
    return ImageFont.load_default(size=size)


def sheet(
    panels: Sequence[Image.Image],
    legend: Sequence[tuple[Rgb | None, str]],
    title: str,
    mark: str | None,
) -> Image.Image:
    """Panels side by side, title above, mark below, legend at the right."""
    text, small = font(18), font(15)
    legend_width = max([int(small.getlength(line)) for _, line in legend] or [0]) + 60
    title_width = int(text.getlength(title)) + 2 * _MARGIN
    width = sum(one.width + _MARGIN for one in panels) + legend_width + _MARGIN
    top, bottom = 40, 40
    tallest = max([one.height for one in panels] + [24 * len(legend)])
    made = Image.new("RGB", (max(width, title_width), tallest + top + bottom), (16, 16, 18))
    draw = ImageDraw.Draw(made)
    draw.text((_MARGIN, 10), title, font=text, fill=(230, 230, 230))
    x = _MARGIN
    for one in panels:
        made.paste(one, (x, top))
        x += one.width + _MARGIN
    for row, (color, line) in enumerate(legend):
        y = top + 24 * row
        if color is not None:
            draw.rectangle((x, y + 2, x + 16, y + 18), fill=color)
        draw.text((x + 26, y), line, font=small, fill=(220, 220, 220))
    if mark:
        draw.text((_MARGIN, made.height - 30), mark, font=text, fill=(255, 180, 60))
    return made
