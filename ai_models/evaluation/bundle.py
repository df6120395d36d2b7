"""Runs one of our bundles as MONAI itself would, for evaluation: what is judged is what is shipped.

In: a bundle's folder, a CT as `(z, y, x)` HU with its LPS affine. Out: the prediction on the same
grid. Only the bundle's own `inference.json` decides the preprocessing, the windows and the way
back; files are neither read nor written on the way. The node's runner (`dicom_node.infer`) does the
same faster; this is the reference.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray

from ai_models.training import MODELS, load_weights

_FILES = ("LoadImage", "SaveImage", "EnsureChannelFirst")


class Bundle:
    """A bundle of `ai_models`, with its weights loaded; other weights may be given."""

    def __init__(self, name: str, weights: Path | None = None) -> None:
        folder = MODELS / name
        config = json.loads((folder / "configs" / "inference.json").read_text(encoding="utf-8"))
        for stage in ("preprocessing", "postprocessing"):
            steps = config[stage]["transforms"]
            config[stage]["transforms"] = [s for s in steps if not s["_target_"].startswith(_FILES)]
        parser = ConfigParser(config)
        network = parser.get_parsed_content("network_def")
        self.network = load_weights(network, weights or folder / "models" / "model.safetensors")
        self.before: Compose = parser.get_parsed_content("preprocessing")
        self.inferer = parser.get_parsed_content("inferer")
        self.after: Compose = parser.get_parsed_content("postprocessing")

    @torch.inference_mode()
    def run(self, hu: NDArray, affine: NDArray[np.float64]) -> NDArray[np.float32]:
        """The prediction `(z, y, x)` of HU `(z, y, x)`; `affine` maps `(x, y, z, 1)` indices to LPS mm."""
        ras = torch.from_numpy(np.diag((-1.0, -1.0, 1.0, 1.0)) @ affine)
        array = torch.from_numpy(np.ascontiguousarray(hu.transpose(2, 1, 0), np.float32))[None]
        data = self.before({"image": MetaTensor(array, affine=ras, meta={"space": "RAS"})})
        image = data["image"]
        data["pred"] = self.inferer(image[None].as_tensor(), self.network)[0]
        data["pred"] = MetaTensor(data["pred"], affine=image.affine, meta=image.meta)
        prediction = self.after(data)["pred"][0]
        return np.asarray(prediction.numpy(), np.float32).transpose(2, 1, 0)
