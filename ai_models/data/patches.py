"""Patches of CT around lung tumours with an expert's masks (Medical Segmentation Decathlon, Task06
Lung).

In: `ai/msd-lung-patches/val_patches.h5.gz` of the shared folder. Out: `Patches`. Licence CC BY-SA
4.0. The file names no patients; ten patches in a row show one lung, so patch k is patient k //
10's. The patches come scaled to [0, 1]; the window they were cut with is not stated there.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from ai_models.data.series import shared_data

FILE = "ai/msd-lung-patches/val_patches.h5.gz"
PER_PATIENT = 10


@dataclass(frozen=True, slots=True)
class Patches:
    """`images` float32 in [0, 1] and `masks` bool, both `(130, 48, 48)` at 2 mm; `patients` `(130,)`."""

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    patients: NDArray[np.int64]


def read_patches() -> Patches:
    """All 130 patches of 13 patients.

    Raises:
        FileNotFoundError: the shared folder is not there.
    """
    content = gzip.decompress((shared_data() / FILE).read_bytes())
    with h5py.File(io.BytesIO(content)) as file:
        images = np.asarray(file["images"][:, 0], np.float32)
        masks = np.asarray(file["labels"][:, 0]) > 0.5
    return Patches(images, masks, np.arange(len(images)) // PER_PATIENT)
