"""Takes the screenshots of results in OHIF: `python -m docs.screenshots_ohif`, into docs/screenshots.

A procedural phantom's CT, straight and oblique, goes through ct_structures and ct_denoise as any series does,
a chest film of the NIH (ChestX-ray8, from the folder of real DICOM) through cxr_pneumonia. What comes out
goes into Orthanc, and OHIF in Chromium shows it. Needs Orthanc with DICOMweb, Node.js, Chromium, the weights.
"""

import os
import tempfile
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset

from ai_models.phantoms.thorax import thorax
from dicom_node import __version__
from dicom_node.catalogue import describe
from dicom_node.compose.context import ComposeContext
from dicom_node.demo.pacs import Orthanc, orthanc_pacs
from dicom_node.infer.answer import answer, composed
from dicom_node.infer.engine import LocalEngine
from dicom_node.settings import BUNDLED_MODELS, InferSettings
from tests.builders import images
from tests.peers import ohif_viewer

OUT = Path(__file__).resolve().parent / "screenshots"
FILM = "ai/nih-cxr/full-size/pneumonia_00000061_012.png"
SPACING = (5.0, 1.8, 1.8)
SHAPE = (44, 200, 200)
COLOURS, WIDTH = 256, 960
"""A page of documentation needs no more of a picture."""


def put(pacs: Orthanc, content: bytes) -> None:
    """One file into the archive."""
    request = urllib.request.Request(f"{pacs.url}/instances", data=content, method="POST")
    with urllib.request.urlopen(request, timeout=60) as reply:
        assert reply.status == 200


def answered(pacs: Orthanc, sets: list[Dataset], *names: str) -> int:
    """A series and what models make of it, in the archive; returns how many series that is."""
    engine = LocalEngine(InferSettings(device="cpu", cpu_engine="torch"))
    instances = [images.raw(one) for one in sets]
    contents, series = [images.part10(one) for one in instances], {"source"}
    for name in names:
        model = describe(BUNDLED_MODELS / name)
        given = answer(engine, model, instances)
        key = f"{sets[0].StudyInstanceUID} {name}"
        ctx = ComposeContext(model, key, __version__, datetime.now(UTC))
        given, files = composed(ctx, given)
        print(name, given.outcome.value, given.reason)
        kept = [file for file in files if file.sop_class_uid != "1.2.840.10008.5.1.4.1.1.30"]
        contents += [file.content for file in kept]
        series |= {file.series_uid for file in kept}
    for content in contents:
        put(pacs, content)
    return len(series)


def small(path: Path, name: str) -> None:
    """A screenshot as the documentation keeps it."""
    with Image.open(path) as taken:
        height = round(taken.height * WIDTH / taken.width)
        shown = taken.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    shown.quantize(COLOURS).save(OUT / f"ohif-{name}.png", optimize=True)


def main() -> None:
    """All of them."""
    if why := ohif_viewer.missing():
        raise SystemExit(f"OHIF cannot be shown here: {why}")
    hu = thorax(SHAPE, SPACING, seed=3).hu
    stored = np.clip(np.rint(hu) + 1024, 0, 4095).astype(np.int16)
    settings = {
        "Plugins": [str(ohif_viewer.PLUGINS / "libOrthancDicomWeb.so")],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        with orthanc_pacs(home / "pacs", **settings) as pacs, ohif_viewer.ohif(pacs.url) as viewer:
            oblique = ((0.94, 0.34, 0.0), (-0.33, 0.9, 0.28))
            slanted = images.series(stored, images.affine(oblique, SPACING))
            shows = (
                (axial(stored), ("ct_structures",), ["SEG", "SR"], "axial"),
                (axial(stored), ("ct_denoise",), ["denoised"], "axial"),
                (slanted, ("ct_structures",), ["SEG"], "oblique"),
                ([film()], ("cxr_pneumonia",), ["heat map"], "radiograph"),
            )
            for sets, models, wanted, name in shows:
                expected = answered(pacs, sets, *models)
                taken = str(home / (name + "-{}.png"))
                uid = sets[0].StudyInstanceUID
                told = viewer.show(uid, wanted, expected=expected, screenshot=taken)
                if told["errors"]:
                    raise SystemExit(f"OHIF says: {told['errors']}")
                for one in wanted:
                    tag = one.replace(" ", "-")
                    small(home / f"{name}-{tag}.png", f"{name}-{tag.lower()}")


def axial(stored: np.ndarray) -> list[Dataset]:
    """The phantom as a study of its own, straight."""
    return images.series(stored, images.affine("axial", SPACING, (-180.0, -180.0, -60.0)))


def film() -> Dataset:
    """A chest film as a DX instance."""
    shared = os.environ.get("DICOM_NODE_SHARED", OUT.parent.parent.parent / "shared" / "data")
    with Image.open(Path(shared) / FILM) as opened:
        grey = opened.convert("L").resize((1024, 1024), Image.Resampling.LANCZOS)
        return images.radiograph(np.asarray(grey, dtype=np.uint16) * 16)


if __name__ == "__main__":
    main()
