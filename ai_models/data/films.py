"""Chest films of the NIH Clinical Center (ChestX-ray8) with their text-mined labels.

In: `ai/nih-cxr/nih_cxr_dev.zip` of the shared folder, read in place. Out: `Films`. Wang X. et al.,
"ChestX-ray8", CVPR 2017; no restriction on use, attribution asked for. The labels were mined from
reports and are noisy.
"""

from __future__ import annotations

import csv
import io
import zipfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ai_models.data.series import shared_data

ARCHIVE = "ai/nih-cxr/nih_cxr_dev.zip"


@dataclass(frozen=True, slots=True)
class Films:
    """`images` uint8 `(n, 256, 256)`, bright is dense; `pneumonia` bool, `patients`, `names` `(n,)`."""

    images: NDArray[np.uint8]
    pneumonia: NDArray[np.bool_]
    patients: NDArray[np.str_]
    names: NDArray[np.str_]


def read_films() -> Films:
    """All 724 films, in the order of the archive's index.

    Raises:
        FileNotFoundError: the shared folder is not there.
    """
    with zipfile.ZipFile(shared_data() / ARCHIVE) as archive:
        text = archive.read("index.csv").decode()
        rows = list(csv.DictReader(io.StringIO(text)))
        images = np.stack([_grey(archive.read(row["path"])) for row in rows])
    return Films(
        images=images,
        pneumonia=np.array([row["label"] == "pneumonia" for row in rows]),
        patients=np.array([row["patient"] for row in rows]),
        names=np.array([row["path"] for row in rows]),
    )


def _grey(jpeg: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"))
