"""sRGB to the CIELab encoding that DICOM uses for recommended display colours (PS3.3 C.10.7.1.1)."""

import numpy as np

_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
"""Linear sRGB to XYZ under D65."""
_WHITE = np.array([0.95047, 1.0, 1.08883])
"""D65. The profile connection space that PS3.3 names has D50, but the readers in use (dcmjs in OHIF, dcmqi,
highdicom) take D65; a colour is worth what a viewer makes of it."""


def cielab(rgb: tuple[int, int, int]) -> list[int]:
    """L*, a*, b* as three US values: L* 0..100 and a*, b* -128..127, each scaled to 0..65535."""
    srgb = np.array(rgb, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = _TO_XYZ @ linear / _WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    lightness, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
    scaled = lightness * 65535 / 100, (a + 128) * 65535 / 255, (b + 128) * 65535 / 255
    return [int(np.clip(round(float(value)), 0, 65535)) for value in scaled]


def rgb_of(lab: list[int]) -> tuple[int, int, int]:
    """The sRGB colour of an encoded CIELab value, the inverse of `cielab` within one step."""
    lightness = lab[0] * 100 / 65535
    a, b = (value * 255 / 65535 - 128 for value in lab[1:])
    fy = (lightness + 16) / 116
    f = np.array([fy + a / 500, fy, fy - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * _WHITE
    linear = np.clip(np.linalg.solve(_TO_XYZ, xyz), 0, 1)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in srgb)
    return red, green, blue
