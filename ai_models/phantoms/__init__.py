"""Procedural CT of a trunk: images with a known truth, where no patient's images may be used.

In: a shape, a spacing and a seed. Out: a `Phantom` (HU, labels, nodules), or CT instances written as a
scanner sends them. Deterministic, quick (seconds for 80 x 512 x 512), NumPy, SciPy and pydicom only.
"""

from ai_models.phantoms.anatomy import Label, Nodule
from ai_models.phantoms.dicom import write_ct_series
from ai_models.phantoms.physics import SHARP, SOFT, STANDARD, Kernel
from ai_models.phantoms.thorax import Phantom, thorax

__all__ = [
    "SHARP",
    "SOFT",
    "STANDARD",
    "Kernel",
    "Label",
    "Nodule",
    "Phantom",
    "thorax",
    "write_ct_series",
]
