"""Maps: what spoke for a class, where a segmentation is to be doubted. Float32 Parametric Maps, and RGB
pictures of heat maps for viewers without them.

What comes in: maps in [0, 1] on the source's grid. What goes out: a Parametric Map (PS3.3 A.75) for a
volume, Secondary Captures of a heat map for any image. It owns the invariant that the map lies on the
source's grid, with a unit and a window, since uint16 maps and maps without a window are not shown by
viewers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import ParametricMapStorage

from dicom_node.catalogue import ClassDescription, Code
from dicom_node.compose import secondary
from dicom_node.compose.codes import BODY_PARTS, ENTIRE_BODY, SEGMENTATION, UNITS, coded
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.encoding import head
from dicom_node.compose.equipment import (
    Output,
    common,
    content_creator,
    content_description,
    content_label,
)
from dicom_node.compose.grid import frame_of_reference, grid_of, referenced_series, source_reference
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.picture import heated, panel_rgb, windowed
from dicom_node.compose.seg import shared_groups
from dicom_node.compose.show import window_of, window_of_image
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError
from dicom_node.records import Float32, ProjectionImage, Volume

OUTPUT = Output("heatmap", 3, ParametricMapStorage, "OT", "heat map")
UNCERTAINTY = Output("uncertainty", 8, ParametricMapStorage, "OT", "uncertainty")
PICTURES = secondary.output("heatmap-pictures", 4, "heat map pictures")
FLOAT_PIXEL_DATA = 0x7FE00008
COLD = 0.2
"""Slices whose hottest voxel lies under this are left out."""
MOST_FRAMES = 128
MOST_PICTURES = 24
HEIGHT = 768
_EXPLANATION: Code = ("130401", "DCM", "Visual explanation")
_UNCERTAIN: Code = ("64957009", "SCT", "Uncertain")
_QUANTITY: Code = ("246205007", "SCT", "Quantity")


def hot_slices(heat: Float32, most: int) -> npt.NDArray[np.intp]:
    """The slices from the first to the last hot one, at most `most` of them around the hottest."""
    highest = heat.max(axis=(1, 2))
    hot = np.flatnonzero(highest >= COLD)
    if not len(hot):
        hot = np.array([int(highest.argmax())])
    first, last = int(hot[0]), int(hot[-1])
    if last - first >= most:
        first = max(first, min(int(highest.argmax()) - most // 2, last - most + 1))
        last = first + most - 1
    return np.arange(first, last + 1)


def check(heat: Float32, shape: tuple[int, ...]) -> None:
    """
    Raises:
        ComposeError: the map lies on another grid or leaves [0, 1].
    """
    if heat.shape != shape:
        raise ComposeError(f"the heat map is {heat.shape}, the source {shape}: not on one grid")
    if not (np.isfinite(heat).all() and heat.min() >= 0 and heat.max() <= 1):
        raise ComposeError("a heat map leaves the range from 0 to 1")


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a map shows.

    Attributes:
        number: of the instance in its series.
        means: what a value of it says.
        quantity: the same, coded.
        derivation: how it came to be.
    """

    output: Output
    kind: str
    number: int
    label: str
    means: str
    quantity: Code
    derivation: Code


def parametric_map(
    ctx: ComposeContext, volume: Volume, of_class: ClassDescription, heat: Float32
) -> DicomFile:
    """A heat map of one class as a float32 Parametric Map of the slices that are not cold."""
    means = f"What spoke for {of_class.label}"
    subject = _Subject(
        OUTPUT, "heatmap", of_class.index + 1, of_class.label, means, _EXPLANATION, _EXPLANATION
    )
    return _map(ctx, volume, subject, heat)


def uncertainty_map(ctx: ComposeContext, volume: Volume, doubt: Float32) -> DicomFile:
    """Where a segmentation is to be doubted, 0 to 1, as a float32 Parametric Map of the slices with doubt."""
    means = "0: sure, 1: a guess"
    subject = _Subject(
        UNCERTAINTY, "uncertainty", 1, "Uncertainty", means, _UNCERTAIN, SEGMENTATION
    )
    return _map(ctx, volume, subject, doubt)


def _map(ctx: ComposeContext, volume: Volume, subject: _Subject, heat: Float32) -> DicomFile:
    check(heat, volume.array.shape)
    slices = hot_slices(heat, MOST_FRAMES)
    source, grid = volume.headers[0], grid_of(volume)
    made = common(ctx, source, subject.output, subject.number)
    frame_of_reference(source, made)
    kind = ["DERIVED", "PRIMARY", "VOLUME", "QUANTITY"]
    made.ImageType = kind
    made.ContentLabel = content_label(ctx)
    made.ContentDescription = content_description(ctx)
    made.ContentCreatorName = content_creator(ctx)
    made.ContentQualification = "RESEARCH"
    made.BurnedInAnnotation = made.RecognizableVisualFeatures = "NO"
    made.LossyImageCompression = "00"
    made.PresentationLUTShape = "IDENTITY"
    made.VolumetricProperties, made.VolumeBasedCalculationTechnique = "VOLUME", "NONE"
    made.AcquisitionContextSequence = []
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.Rows, made.Columns = heat.shape[1:]
    made.BitsAllocated = 32
    made.NumberOfFrames = len(slices)
    made.ReferencedSeriesSequence = [
        referenced_series(str(source.SeriesInstanceUID), [volume.frames[z] for z in slices])
    ]
    _dimensions(ctx, subject, made)
    shared = shared_groups(grid)
    _map_groups(shared, subject, kind)
    shared.FrameAnatomySequence = [_anatomy(source)]
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [
        _frame(volume, subject, grid.positions[z], int(z), index)
        for index, z in enumerate(slices, start=1)
    ]
    pixels = np.ascontiguousarray(heat[slices], dtype="<f4").reshape(-1).view(np.uint8).data
    return dicom_file(subject.kind, made, head(FLOAT_PIXEL_DATA, b"OF", len(pixels)), pixels)


def _anatomy(source: Dataset) -> Dataset:
    """Frame Anatomy; dcmqi does not read a map without it."""
    item = Dataset()
    item.FrameLaterality = "U"
    part = str(source.get("BodyPartExamined") or "").upper()
    item.AnatomicRegionSequence = [coded(BODY_PARTS.get(part, ENTIRE_BODY))]
    return item


def _dimensions(ctx: ComposeContext, subject: _Subject, made: Dataset) -> None:
    organization, index = Dataset(), Dataset()
    name = subject.output.name
    organization.DimensionOrganizationUID = derived_uid(ctx.job_key, name, "dimensions")
    index.DimensionOrganizationUID = organization.DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = 0x00200032, 0x00209113
    index.DimensionDescriptionLabel = "Position"
    made.DimensionOrganizationSequence, made.DimensionIndexSequence = [organization], [index]


def _map_groups(shared: Dataset, subject: _Subject, kind: Sequence[str]) -> None:
    """What the values mean, their unit, and the window to show them by."""
    frame_type, window, mapping, quantity = Dataset(), Dataset(), Dataset(), Dataset()
    frame_type.FrameType = list(kind)
    shared.ParametricMapFrameTypeSequence = [frame_type]
    window.WindowCenter, window.WindowWidth = "0.5", "1"
    window.WindowCenterWidthExplanation = subject.label[:16]
    shared.FrameVOILUTSequence = [window]
    transform = Dataset()
    transform.RescaleIntercept, transform.RescaleSlope, transform.RescaleType = "0", "1", "US"
    shared.PixelValueTransformationSequence = [transform]
    mapping.LUTExplanation = subject.means[:64]
    mapping.LUTLabel = subject.label[:16]
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = 0.0, 1.0
    mapping.DoubleFloatRealWorldValueFirstValueMapped = 0.0
    mapping.DoubleFloatRealWorldValueLastValueMapped = 1.0
    mapping.MeasurementUnitsCodeSequence = [coded(UNITS["1"])]
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = [coded(_QUANTITY)]
    quantity.ConceptCodeSequence = [coded(subject.quantity)]
    mapping.QuantityDefinitionSequence = [quantity]
    shared.RealWorldValueMappingSequence = [mapping]


def _frame(
    volume: Volume, subject: _Subject, position: Sequence[str], z: int, index: int
) -> Dataset:
    content, place, derivation, frame = Dataset(), Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [index]
    place.ImagePositionPatient = list(position)
    derivation.SourceImageSequence = [source_reference(volume.frames[z])]
    derivation.DerivationCodeSequence = [coded(subject.derivation)]
    frame.FrameContentSequence = [content]
    frame.PlanePositionSequence = [place]
    frame.DerivationImageSequence = [derivation]
    return frame


def pictures(
    ctx: ComposeContext,
    image: Volume | ProjectionImage,
    of_class: ClassDescription,
    heat: Float32,
    probability: float,
    first_number: int,
) -> list[DicomFile]:
    """The map in colours over the source, a Secondary Capture for each hot slice, or one in all."""
    check(heat, image.array.shape)
    line = f"{of_class.label}: {probability:.0%}"
    if isinstance(image, ProjectionImage):
        grey = windowed(image.array, *window_of_image(image))
        picture = secondary.burned(ctx, panel_rgb(heated(grey, heat), (1.0, 1.0), HEIGHT), [line])
        made = secondary.capture(
            ctx, image.header, PICTURES, first_number, picture, image.frame, "heatmap"
        )
        return [made]
    window, header = window_of(image), image.headers[0]
    files: list[DicomFile] = []
    for z in hot_slices(heat, MOST_PICTURES):
        coloured = heated(windowed(image.array[z], *window), heat[z])
        drawn = panel_rgb(coloured, (image.spacing[1], image.spacing[2]), HEIGHT)
        picture = secondary.burned(ctx, drawn, [line, f"slice {z + 1} of {len(image.frames)}"])
        number = first_number + len(files)
        files.append(
            secondary.capture(ctx, header, PICTURES, number, picture, image.frames[z], "heatmap")
        )
    return files
