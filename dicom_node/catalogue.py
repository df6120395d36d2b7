"""The catalogue of models: what each `dicom.toml` says, and the digest of each bundle.

What comes in: the folder of bundles. What goes out: a frozen `ModelDescription` for each, or a
`BundleRefused` that names file, key and reason. It reads text and hashes files; it never imports,
unpickles or runs anything of a bundle.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dicom_node.errors import BundleRefused

SIDECAR = "dicom.toml"
SIDES = ("7771000", "24028007", "G-A101", "G-A100")
"""SNOMED CT for left and right, new and old style."""
_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)

Code = tuple[str, str, str]
"""Code Value, Coding Scheme Designator, Code Meaning (PS3.3 8.8)."""
Byte = Annotated[int, Field(ge=0, le=255)]


StackAttribute = Literal[
    "stack_id",
    "echo_time",
    "echo_number",
    "b_value",
    "inversion_time",
    "flip_angle",
    "temporal_position",
    "frame_reference_time",
    "trigger_time",
    "cardiac_phase",
    "acquisition_number",
    "contrast_agent",
    "kvp",
    "kernel",
    "image_type",
    "diffusion_direction",
    "acquisition_time",
    "direction",
]
"""What may tell the stacks of one series apart."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Algorithm(_Part):
    """Algorithm identification (PS3.3 10.16)."""

    code: Code = Field(
        ("123110", "DCM", "Artificial Intelligence"), description="The family of algorithms."
    )


class ModelHead(_Part):
    """Who the model is."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{1,40}$", description="Equal to the folder's; routes name it."
    )
    title: str = Field(max_length=40, description="How results name it.")
    version: str = Field(description="Equal to the one in configs/metadata.json.")
    task: Literal["segmentation", "classification", "denoising"] = Field(
        description="What it gives."
    )
    enabled: bool = Field(True, description="Off: no route may run it.")
    limits: str = Field(description="What it must not be used for; in every report.")
    algorithm: Algorithm = Field(default_factory=Algorithm)


class InputContract(_Part):
    """Which series the model is meant for; outside it the answer is "not applicable"."""

    modality: tuple[str, ...] = Field(description="Modality is one of these.")
    dimensions: Literal[2, 3] = Field(description="2: single images, 3: volumes.")
    body_part: tuple[str, ...] = Field(
        (), description="Body Part Examined, where the series has one, is one of these."
    )
    min_slices: int = Field(1, description="It has so many slices or more.")
    max_slices: int = Field(2000, description="It has so many slices or fewer.")
    max_slice_spacing_mm: float | None = Field(None, description="Slices lie so far apart or less.")
    min_extent_mm: float | None = Field(None, description="The slices span so much or more.")
    image_type_excludes: tuple[str, ...] = Field(
        ("LOCALIZER",), description="Image Type has none of these."
    )
    stack: Mapping[StackAttribute, Annotated[str, BeforeValidator(str)]] = Field(
        {},
        description="Where a series holds several stacks, which of them: an attribute's value, lowest or "
        'highest (`stack = { b_value = "highest" }`). Without it the largest.',
    )

    def violated_by(self, attributes: Mapping[str, Any], slices: int) -> str | None:
        """Why a series with these header values lies outside the contract; None where it does not.

        Args:
            attributes: `modality`, `body_part`, `image_type` of the series.
            slices: how many slices (or frames) it has.
        """
        modality = attributes.get("modality") or "unknown"
        if modality not in self.modality:
            return f"modality is {modality}, the model takes {', '.join(self.modality)}"
        body_part = attributes.get("body_part")
        if self.body_part and body_part and body_part.upper() not in self.body_part:
            return f"body part is {body_part}, the model takes {', '.join(self.body_part)}"
        excluded = set(attributes.get("image_type") or ()) & set(self.image_type_excludes)
        if excluded:
            return f"image type has {', '.join(sorted(excluded))}, which the model does not take"
        if slices < self.min_slices:
            return f"{slices} slice{'s' * (slices != 1)}, the model takes {self.min_slices} or more"
        if slices > self.max_slices:
            return f"{slices} slices, the model takes {self.max_slices} or fewer"
        return None

    def violated_by_grid(self, slice_spacing_mm: float, slices: int) -> str | None:
        """Why the volume's grid lies outside the contract; None where it does not."""
        if self.max_slice_spacing_mm and slice_spacing_mm > self.max_slice_spacing_mm:
            return (
                f"slices lie {slice_spacing_mm:.2f} mm apart, "
                f"the model takes {self.max_slice_spacing_mm:g} mm or less"
            )
        if slices < self.min_slices:  # of several stacks in the series one was chosen
            return f"{slices} slice{'s' * (slices != 1)}, the model takes {self.min_slices} or more"
        extent = slice_spacing_mm * slices
        if self.min_extent_mm and extent < self.min_extent_mm:
            return f"the slices span {extent:.0f} mm, the model needs {self.min_extent_mm:g} mm or more"
        return None


class SegmentDescription(_Part):
    """One label of a segmentation, with its codes (PS3.3 C.8.20.2): value, scheme, meaning."""

    value: Annotated[int, Field(ge=1, le=255)] = Field(
        description="The label that the model gives."
    )
    label: str = Field(max_length=64, description="Its name for people.")
    category: Code = Field(description="Segmented Property Category.")
    type: Code = Field(description="Segmented Property Type.")
    modifier: Code | None = Field(None, description="Its modifier, left or right for instance.")
    region: Code | None = Field(None, description="Anatomic Region, of what is no anatomy itself.")
    color_rgb: tuple[Byte, Byte, Byte] = Field(description="How viewers show it.")
    lesion: bool = Field(
        False,
        description="Each connected component is a finding of its own, with diameters and a contour.",
    )
    surface: bool = Field(False, description="The report has its surface area (mesh, IBSI C0JK).")


class ClassDescription(_Part):
    """One class of a classifier."""

    index: Annotated[int, Field(ge=0)] = Field(description="Its place in the network's output.")
    label: str = Field(max_length=64, description="Its name for people.")
    finding: Code = Field(description="What it says of the image, coded.")
    threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="From this probability on, it counts as found."
    )


Flip = Literal["left_right", "front_back", "head_foot"]


class InferenceOptions(_Part):
    """How often the network looks, and what is made of its answers; by default once."""

    weights: tuple[Annotated[str, Field(pattern=r"^models/[\w.-]+\.\w+$")], ...] = Field(
        (),
        description="An ensemble: files such as models/fold_0.safetensors, whose answers are averaged. "
        "Default: the usual file.",
    )
    flips: tuple[Flip, ...] = Field(
        (),
        description="Each window is also shown mirrored along these axes of the patient (left_right, "
        "front_back, head_foot), and along all of them together. Where a label is of one side, only "
        "left_right, and only with `mirrored`.",
    )
    mirrored: tuple[tuple[int, int], ...] = Field(
        (),
        description="Pairs of segment values (class indices) that change places in a mirror image, "
        "[[1, 2]]; [[3, 3]] stays itself.",
    )
    uncertainty: Literal["entropy", "spread"] | None = Field(
        None,
        description="A map, 0 to 1, of where to doubt a segmentation: the entropy of the mean "
        "probabilities, or how far the runs lie apart (twice the standard deviation). In the report "
        "as a mean of each finding, and as a map for destinations whose `objects` has uncertainty. "
        "Of a classifier: spread, as a sentence in the report.",
    )

    @property
    def runs(self) -> int:
        """How often the network (or a member of the ensemble) sees each window."""
        return max(len(self.weights), 1) << len(self.flips)


class Outputs(_Part):
    """What the model's results look like in a study."""

    series_number: Annotated[int, Field(ge=1000, le=999999)] = Field(
        9000, description="Of its first series; each kind of result has a number after it."
    )
    heatmap: bool = Field(False, description="Heat maps of the classes that were found (Grad-CAM).")
    probabilities: bool = Field(
        False,
        description="A segmentation keeps each segment's probabilities, for destinations that take "
        "FRACTIONAL.",
    )
    heatmap_layer: str | None = Field(
        None, description="The layer of network_def that they are made of."
    )


class ModelDescription(_Part):
    """A bundle's sidecar `dicom.toml`, checked, with where the bundle lies."""

    model: ModelHead
    input: InputContract
    segments: tuple[SegmentDescription, ...] = ()
    classes: tuple[ClassDescription, ...] = ()
    inference: InferenceOptions = Field(default_factory=InferenceOptions)
    outputs: Outputs = Field(default_factory=Outputs)
    folder: Path

    @model_validator(mode="after")
    def _has_what_its_task_needs(self) -> "ModelDescription":
        if self.model.task == "segmentation" and not self.segments:
            raise ValueError("a segmentation model names its segments")
        if self.model.task == "classification" and not self.classes:
            raise ValueError("a classification model names its classes")
        values = [segment.value for segment in self.segments]
        if len(values) != len(set(values)):
            raise ValueError("two segments have the same value")
        return self

    @model_validator(mode="after")
    def _keeps_left_and_right_apart(self) -> "ModelDescription":
        """A mirror image has its left on the right: what is named by its side must be named back."""
        options, told = self.inference, "inference.flips:"
        if len(set(options.flips)) != len(options.flips):
            raise ValueError(f"{told} an axis is named twice")
        if self.input.dimensions == 2 and "front_back" in options.flips:
            raise ValueError(f"{told} front_back: a single image has no such axis")
        if not options.flips:
            return self
        entries: list[SegmentDescription | ClassDescription] = [*self.segments, *self.classes]
        sided = [entry for entry in entries if _names_a_side(entry)]
        others = [name for name in options.flips if name != "left_right"]
        if sided and others:
            raise ValueError(
                f"{told} {others[0]} turns the anatomy by which a network tells left from right, "
                f"and {sided[0].label!r} is of one side"
            )
        paired = {value for pair in options.mirrored for value in pair}
        for entry in sided:
            if _index(entry) not in paired:
                raise ValueError(
                    f"{told} left_right: {entry.label!r} is of one side, and inference.mirrored does "
                    "not say what it is in a mirror image"
                )
        return self

    @model_validator(mode="after")
    def _can_say_what_it_doubts(self) -> "ModelDescription":
        options, told = self.inference, "inference.uncertainty:"
        if options.uncertainty == "spread" and options.runs < 2:
            raise ValueError(f"{told} spread: one run has none; name weights or flips")
        if options.uncertainty is not None and self.model.task == "denoising":
            raise ValueError(f"{told} values have no probability")
        if options.uncertainty == "entropy" and self.model.task == "classification":
            raise ValueError(
                f"{told} entropy: a class's probability says as much; spread is possible"
            )
        return self

    @property
    def name(self) -> str:
        """The model's name, equal to its folder's."""
        return self.model.name

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the names and contents of the bundle's files; hidden files are left out."""
        return bundle_digest(self.folder)


def _index(entry: SegmentDescription | ClassDescription) -> int:
    return entry.value if isinstance(entry, SegmentDescription) else entry.index


def _names_a_side(entry: SegmentDescription | ClassDescription) -> bool:
    """Whether a label or its codes say left or right."""
    if isinstance(entry, SegmentDescription):
        codes = [entry.type, entry.modifier, entry.region]
        if entry.modifier is not None and entry.modifier[0] in SIDES:
            return True
    else:
        codes = [entry.finding]
    texts = (entry.label, *(code[2] for code in codes if code is not None))
    return any(_SIDE.search(text) for text in texts)


def bundle_files(folder: Path) -> list[Path]:
    """The files that make up a bundle, sorted; docs are for people and do not change the digest.

    Raises:
        BundleRefused: a link, which could lead out of the bundle.
    """
    found = [folder / SIDECAR]
    for part in ("configs", "models", "scripts"):
        found += [path for path in (folder / part).rglob("*") if not path.name.startswith(".")]
    for path in found:
        if path.is_symlink():
            raise BundleRefused(f"{path}: a link; a bundle holds plain files only")
    return sorted(path for path in found if path.is_file() and "__pycache__" not in path.parts)


def bundle_digest(folder: Path) -> str:
    """SHA-256 (hex) over each file's relative name, length and content."""
    return contents_digest(
        (path.relative_to(folder).as_posix(), path.read_bytes()) for path in bundle_files(folder)
    )


def contents_digest(files: Iterable[tuple[str, bytes]]) -> str:
    """The digest of files that were read already: `(relative name, content)`, in `bundle_files` order."""
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def describe(folder: Path) -> ModelDescription:
    """Read one bundle's sidecar.

    Raises:
        BundleRefused: it is missing, not TOML, or says something that it may not.
    """
    file = folder / SIDECAR
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleRefused(f"{file}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BundleRefused(f"{file}: {error}") from error
    try:
        description = ModelDescription(folder=folder.resolve(), **values)
    except (ValidationError, TypeError) as error:
        raise BundleRefused(f"{file}: {_explain(error)}") from error
    if description.name != folder.name:
        raise BundleRefused(
            f"{file}: model.name is {description.name!r}, the folder {folder.name!r}"
        )
    return description


def catalogue(models_dir: Path) -> dict[str, ModelDescription]:
    """Every bundle under `models_dir` that has a sidecar, by name.

    Raises:
        BundleRefused: the folder does not exist, or a sidecar is wrong.
    """
    if not models_dir.is_dir():
        raise BundleRefused(f"{models_dir}: no such folder of models")
    folders = sorted(path.parent for path in models_dir.glob(f"*/{SIDECAR}"))
    return {folder.name: describe(folder) for folder in folders}


def _explain(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or 'file'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
    return str(error)
