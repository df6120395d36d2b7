"""What may be burned into pixels: which images are refused, and what a rule blacks out (PS3.15 E.3.1).

What comes in: an object before it is cleaned, and the administrator's rules. What goes out: a verdict, and
pixels of which the named regions are gone for good. It owns the invariant that an image of a kind that
carries burned-in text leaves only under a rule that a person wrote for that device and size.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_node.errors import ConfigurationError, ReadError
from dicom_node.read.pixels import BUDGET

_RISKY_MODALITIES = frozenset(
    {"US", "IVUS", "ES", "XC", "GM", "OP", "OPT", "OT", "SC", "DG", "BDUS"}
)
_RISKY_CLASSES = ("Ultrasound", "Secondary Capture", "VL ", "Video", "Ophthalmic", "Dermoscopic")
_RISKY_TYPES = ("SCREEN", "SAVE", "REPORT", "DOSE", "SECONDARY CAPTURE", "CAPTURE", "PHOTO")

Region = tuple[int, int, int, int]


class Rule(BaseModel):
    """What a person knows of the pictures of one device: where it burns text in.

    Every clause that is given must fit exactly; where there are regions, `rows` and `columns` must be given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    modality: str = Field(min_length=1)
    manufacturer: str = ""
    model: str = ""
    rows: int | None = None
    columns: int | None = None
    regions: tuple[Region, ...]
    """x, y, width, height in pixels, to be blacked out; none: it was looked at, and nothing is burned in."""

    def fits(self, dataset: Dataset) -> bool:
        """Whether the rule speaks of an image like this."""
        wanted = {
            "Modality": self.modality,
            "Manufacturer": self.manufacturer or None,
            "ManufacturerModelName": self.model or None,
            "Rows": self.rows,
            "Columns": self.columns,
        }
        return all(
            value is None or str(dataset.get(keyword, "")).strip() == str(value)
            for keyword, value in wanted.items()
        )


def read_rules(path: Path | None) -> tuple[Rule, ...]:
    """The rules of a file, `[[picture]]` by `[[picture]]`.

    Raises:
        ConfigurationError: it cannot be read, or a rule is wrong or so broad that it fits any device.
    """
    if path is None:
        return ()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        if set(raw) - {"picture"}:
            raise ValueError(f"unknown key {min(set(raw) - {'picture'})!r}")
        rules = tuple(Rule.model_validate(one) for one in raw.get("picture", ()))
    except (OSError, ValueError, ValidationError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    for rule in rules:
        if not (rule.manufacturer and rule.model):
            raise ConfigurationError(f"{path}: a rule names no manufacturer and model")
        if rule.regions and not (rule.rows and rule.columns):
            raise ConfigurationError(
                f"{path}: regions are of one image size; give rows and columns"
            )
    return rules


def regions_of(dataset: Dataset, rules: Sequence[Rule]) -> tuple[Region, ...]:
    """What is to be blacked out before this image may leave; nothing, where nothing is burned in.

    Raises:
        ReadError: something is or may be burned in, and no rule says where.
    """
    if "Rows" not in dataset:
        return ()
    fitting = [rule for rule in rules if rule.fits(dataset)]
    regions = tuple(region for rule in fitting for region in rule.regions)
    burned = str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    if burned and not regions:
        raise ReadError("the image says that identities are burned in, and no rule says where")
    if not fitting and (why := _risk(dataset)):
        raise ReadError(f"{why}: identities may be burned in, and no rule speaks of this device")
    return regions


def _risk(dataset: Dataset) -> str:
    name = UID(str(dataset.get("SOPClassUID", ""))).name
    modality = str(dataset.get("Modality", "")).strip()
    image_type = "\\".join(map(str, dataset.get("ImageType") or ())).upper()
    if modality == "SEG" or "Segmentation" in name or "Parametric Map" in name:
        return ""
    if any(part in name for part in _RISKY_CLASSES):
        return f"a picture ({name})"
    if modality in _RISKY_MODALITIES or "ConversionType" in dataset:
        return f"a picture (modality {modality or 'unknown'})"
    if any(part in image_type for part in _RISKY_TYPES):
        return f"a picture (image type {image_type})"
    return ""


def black_out(dataset: Dataset, regions: Sequence[Region]) -> None:
    """Take regions out of the pixels of every frame; they are stored anew, uncompressed.

    Raises:
        ReadError: the pixels cannot be decoded, or are more than the budget.
    """
    frames = int(dataset.get("NumberOfFrames") or 1)
    size = dataset.Rows * dataset.Columns * frames * dataset.SamplesPerPixel * 4
    if size > BUDGET:
        raise ReadError("the pixels are more than can be decoded here")
    try:
        if UID(dataset.file_meta.TransferSyntaxUID).is_compressed:
            dataset.decompress(generate_instance_uid=False)
        pixels = np.array(dataset.pixel_array)
    except Exception as error:
        raise ReadError(f"the pixels cannot be decoded ({type(error).__name__})") from error
    samples = int(dataset.SamplesPerPixel)
    shape = (frames, int(dataset.Rows), int(dataset.Columns), samples)
    pixels = pixels.reshape(shape)
    darkest = _darkest(dataset, pixels)
    for x, y, width, height in regions:
        pixels[:, max(y, 0) : y + height, max(x, 0) : x + width] = darkest
    if dataset.get("PlanarConfiguration") == 1 and samples > 1:
        dataset.PlanarConfiguration = 0
    content = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    dataset["PixelData"].VR = "OW" if dataset.BitsAllocated > 8 else "OB"
    dataset.BurnedInAnnotation = "NO"


def _darkest(dataset: Dataset, pixels: "np.ndarray[Any, Any]") -> Any:
    photometric = str(dataset.PhotometricInterpretation)
    if photometric.startswith("YBR"):
        return np.array([0, 128, 128], pixels.dtype)
    if photometric == "MONOCHROME1":
        return pixels.max()
    return pixels.min() if photometric == "MONOCHROME2" else 0
