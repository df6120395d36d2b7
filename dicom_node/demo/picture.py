"""Pictures of what came back: each SEG in the PACS, drawn over the series that was sent."""

from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset, dcmread

from dicom_node.compose.show import overlay_png
from dicom_node.demo.pacs import Pacs
from dicom_node.read.part10 import raw_instance
from dicom_node.read.volume import read_image
from dicom_node.records import Volume


def draw_overlays(sent: Iterable[Path], pacs: Pacs, folder: Path) -> list[Path]:
    """Draw every SEG that the PACS holds over its source.

    Args:
        sent: the files that were sent.
        pacs: the PACS that holds the results.
        folder: where the pictures go, `overlay-1.png` and so on.
    """
    results = [pacs.read(uid) for uid in pacs.received()]
    pictures: list[Path] = []
    for seg in (found for found in results if found.Modality == "SEG"):
        volume = _source(seg, sent)
        if volume is not None:
            path = folder / f"overlay-{len(pictures) + 1}.png"
            overlay_png(volume, seg, path)
            pictures.append(path)
    return pictures


def _source(seg: Dataset, sent: Iterable[Path]) -> Volume | None:
    wanted = str(seg.ReferencedSeriesSequence[0].SeriesInstanceUID)
    tag = ["SeriesInstanceUID"]
    members = [
        path
        for path in sent
        if str(dcmread(path, specific_tags=tag).get("SeriesInstanceUID")) == wanted
    ]
    image = read_image([raw_instance(path) for path in members])
    return image if isinstance(image, Volume) else None
