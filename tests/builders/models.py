"""Model descriptions for tests: a sidecar is written and read back, so that its digest is a real one."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_node.catalogue import ModelDescription, describe
from dicom_node.compose.context import ComposeContext

_SEGMENTS = """
[[segments]]
value = 1
label = "Left lung"
category = ["123037004", "SCT", "Anatomical Structure"]
type = ["39607008", "SCT", "Lung"]
modifier = ["7771000", "SCT", "Left"]
color_rgb = [70, 130, 240]

[[segments]]
value = 2
label = "Liver"
category = ["123037004", "SCT", "Anatomical Structure"]
type = ["10200004", "SCT", "Liver"]
color_rgb = [200, 90, 60]

[[segments]]
value = 3
label = "Nodule"
category = ["49755003", "SCT", "Morphologically Altered Structure"]
type = ["27925004", "SCT", "Nodule"]
region = ["39607008", "SCT", "Lung"]
color_rgb = [250, 220, 40]
lesion = LESION
"""
_CLASSES = """
[[classes]]
index = 0
label = "No finding"
finding = ["373572006", "SCT", "Clinical finding absent"]

[[classes]]
index = 1
label = "Pneumonia"
finding = ["233604007", "SCT", "Pneumonia"]
threshold = 0.6
"""


def model(
    folder: Path, task: str = "segmentation", *, lesion: bool = False, modality: str = "CT"
) -> ModelDescription:
    """A model's description; its folder is made under `folder`."""
    home = folder / f"test_{task}"
    home.mkdir(parents=True, exist_ok=True)
    body = {"segmentation": _SEGMENTS, "classification": _CLASSES}.get(task, "")
    (home / "dicom.toml").write_text(
        f"""
[model]
name = "test_{task}"
title = "Test {task}"
version = "1.2.3"
task = "{task}"
limits = "Made for tests."
[input]
modality = ["{modality}"]
dimensions = {2 if modality in ("CR", "DX", "MG") else 3}
[outputs]
series_number = 9100
heatmap = {"true" if task == "classification" else "false"}
"""
        + body.replace("LESION", "true" if lesion else "false"),
        encoding="utf-8",
    )
    return describe(home)


def context(description: ModelDescription, **changes: Any) -> ComposeContext:
    """A compose context with a fixed clock."""
    values: dict[str, Any] = {
        "model": description,
        "job_key": "job-1",
        "node_version": "0.1.0",
        "created_at": datetime(2026, 1, 5, 12, 30, 15),
    }
    return ComposeContext(**(values | changes))
