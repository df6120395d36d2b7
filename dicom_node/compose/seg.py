"""Segmentation objects (PS3.3 A.51), BINARY, LABELMAP or FRACTIONAL, on the source's grid exactly.

What comes in: findings on a volume. What goes out: one SEG, a segment for each finding, a frame for each
slice that a segment touches. It owns the invariant that a voxel of the prediction is a bit of the SEG at the
same place of the source. Functional groups are encoded by hand: there is one for each frame, of which all
but three values are the slice's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLSLossless, SegmentationStorage

from dicom_node.catalogue import Code
from dicom_node.compose import encoding as e
from dicom_node.compose.codes import SEGMENTATION, SOURCE_IMAGE, coded
from dicom_node.compose.color import cielab
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.equipment import (
    Output,
    algorithm_identification,
    common,
    content_creator,
    content_description,
    content_label,
    copy,
)
from dicom_node.compose.findings import Finding, Findings
from dicom_node.compose.grid import Grid, frame_of_reference, grid_of, referenced_series
from dicom_node.compose.kernels import pack_slice
from dicom_node.compose.measure import for_each_slice
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError
from dicom_node.records import SourceFrame, Volume

OUTPUT = Output("seg", 0, SegmentationStorage, "SEG")
LABELMAP_OUTPUT = Output("seg-labelmap", 0, "1.2.840.10008.5.1.4.1.1.66.7", "SEG")
FRACTIONAL_OUTPUT = Output("seg-fractional", 0, SegmentationStorage, "SEG")
SEGMENT_DIMENSION = (0x0062000B, 0x0062000A, "Segment")
POSITION_DIMENSION = (0x00200032, 0x00209113, "Position")
PER_FRAME, PIXEL_DATA = 0x52009230, 0x7FE00010


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame of the SEG: which segment on which slice."""

    segment: int
    slice: int


def frames_of(findings: Findings) -> list[Frame]:
    """The frames that are not empty, by segment and then along the slices."""
    return [
        Frame(finding.number, int(z))
        for finding in findings.found
        for z in np.flatnonzero(finding.measured.areas)
    ]


def segmentation_object(ctx: ComposeContext, volume: Volume, findings: Findings) -> DicomFile:
    """A SEG of every finding, encoded as the destination's profile says.

    Raises:
        ComposeError: nothing was found; a SEG without frames does not exist.
    """
    made = {"binary": binary_seg, "labelmap": labelmap_seg, "fractional": fractional_seg}
    return made[encoding_of(ctx, findings)](ctx, volume, findings)


def encoding_of(
    ctx: ComposeContext, findings: Findings
) -> Literal["binary", "labelmap", "fractional"]:
    """As the profile says; BINARY for one of probabilities where the prediction has none."""
    if ctx.segmentation == "fractional" and not all(
        one.segment.value in findings.probabilities for one in findings.found
    ):
        return "binary"
    return ctx.segmentation


def binary_seg(ctx: ComposeContext, volume: Volume, findings: Findings) -> DicomFile:
    """A BINARY SEG: a frame for each segment on each slice that it touches."""
    frames = frames_of(findings)
    made, grid = _object(ctx, volume, findings, OUTPUT, len(frames))
    made.SegmentationType = "BINARY"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    _dimensions(ctx, made, OUTPUT, (SEGMENT_DIMENSION, POSITION_DIMENSION))
    groups = per_frame_groups(frames, volume.frames, grid)
    bits = packed_bits(findings.numbers, frames)
    return dicom_file("seg", made, groups, e.head(PIXEL_DATA, b"OB", len(bits)), bits)


def projection_seg(ctx: ComposeContext, image: Volume, findings: Findings) -> DicomFile:
    """A BINARY SEG of a projection image, which has no frame of reference (PS3.3 A.51.3): its frames lie on
    the source image, a pixel on a pixel, and nowhere else.

    Args:
        image: the projection as a volume of one slice.
    """
    frames = frames_of(findings)
    made = _plain_object(ctx, image, findings, OUTPUT, len(frames))
    made.SegmentationType = "BINARY"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    made.SharedFunctionalGroupsSequence = [Dataset()]
    made.PatientOrientation = None  # PS3.3 C.7.6.1: there, if empty, where no orientation is
    copy(image.headers[0], made, ("PatientOrientation",))
    _dimensions(ctx, made, OUTPUT, (SEGMENT_DIMENSION,))
    derived = derivation(image.frames[0], SEGMENTATION)
    items = [
        derived
        + e.sequence(0x00209111, e.unsigned_long(0x00209157, frame.segment))
        + e.sequence(0x0062000A, e.unsigned(0x0062000B, frame.segment))
        for frame in frames
    ]
    bits = packed_bits(findings.numbers, frames)
    groups = e.sequence(PER_FRAME, *items)
    return dicom_file("seg", made, groups, e.head(PIXEL_DATA, b"OB", len(bits)), bits)


def labelmap_seg(ctx: ComposeContext, volume: Volume, findings: Findings) -> DicomFile:
    """A LABELMAP SEG (PS3.3 A.51, 2024d): a frame of segment numbers for each slice, JPEG-LS lossless.

    It describes no background segment: 0 is Pixel Padding Value, and a viewer counts segments from 1.
    """
    slices = sorted({frame.slice for frame in frames_of(findings)})
    made, grid = _object(ctx, volume, findings, LABELMAP_OUTPUT, len(slices))
    bits = 8 if len(findings.found) < 256 else 16
    made.SegmentationType = "LABELMAP"
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit = bits - 1
    made.add_new("PixelPaddingValue", "US", 0)
    _dimensions(ctx, made, LABELMAP_OUTPUT, (POSITION_DIMENSION,))
    groups = per_slice_groups(slices, volume.frames, grid)
    kind = np.dtype(f"u{bits // 8}")
    return _compressed(made, groups, [findings.numbers[z].astype(kind) for z in slices])


def fractional_seg(ctx: ComposeContext, volume: Volume, findings: Findings) -> DicomFile:
    """A FRACTIONAL SEG of probabilities, 255 for 1, JPEG-LS lossless: no viewer's first choice.

    A frame for each finding on each slice where its probability rounds to more than nothing. Of a segment
    whose parts are findings of their own, each has the probabilities of its own voxels.
    """
    frames, pixels = [], []
    for finding in findings.found:
        shares = findings.probabilities[finding.segment.value]
        for z in range(len(volume.frames)):
            frame = shares[z]
            if finding.segment.lesion:
                frame = np.where(findings.numbers[z] == finding.number, frame, 0).astype(np.uint8)
            if frame.any():
                frames.append(Frame(finding.number, z))
                pixels.append(frame)
    made, grid = _object(ctx, volume, findings, FRACTIONAL_OUTPUT, len(frames))
    made.SegmentationType = "FRACTIONAL"
    made.SegmentationFractionalType, made.MaximumFractionalValue = "PROBABILITY", 255
    made.SegmentsOverlap = "YES"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    _dimensions(ctx, made, FRACTIONAL_OUTPUT, (SEGMENT_DIMENSION, POSITION_DIMENSION))
    return _compressed(made, per_frame_groups(frames, volume.frames, grid), pixels)


def _compressed(
    made: Dataset, groups: bytes, frames: Sequence[npt.NDArray[np.unsignedinteger]]
) -> DicomFile:
    """The object with its frames in JPEG-LS lossless."""
    streams: dict[int, bytes] = {}

    def compress(index: int) -> None:
        streams[index] = bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(frames[index])))

    for_each_slice(compress, range(len(frames)))
    pixels = encapsulate([streams[index] for index in range(len(frames))])
    start, end = e.head(PIXEL_DATA, b"OB", 0xFFFFFFFF), b"\xfe\xff\xdd\xe0\0\0\0\0"
    return dicom_file("seg", made, groups, start, pixels, end, transfer_syntax_uid=JPEGLSLossless)


def _object(
    ctx: ComposeContext, volume: Volume, findings: Findings, output: Output, frames: int
) -> tuple[Dataset, Grid]:
    """What every SEG of a volume has."""
    made, grid = _plain_object(ctx, volume, findings, output, frames), grid_of(volume)
    frame_of_reference(volume.headers[0], made)
    made.SharedFunctionalGroupsSequence = [shared_groups(grid)]
    return made, grid


def _plain_object(
    ctx: ComposeContext, volume: Volume, findings: Findings, output: Output, frames: int
) -> Dataset:
    """What every SEG has, wherever it lies."""
    if not frames:
        raise ComposeError("a segmentation object needs at least one voxel")
    source = volume.headers[0]
    made = common(ctx, source, output)
    _image(ctx, made, source, volume, frames)
    made.SegmentsOverlap = "NO"
    made.SegmentSequence = [segment_description(ctx, finding) for finding in findings.found]
    made.ReferencedSeriesSequence = [
        referenced_series(str(source.SeriesInstanceUID), volume.frames)
    ]
    return made


def _image(
    ctx: ComposeContext, made: Dataset, source: Dataset, volume: Volume, frames: int
) -> None:
    made.ImageType = ["DERIVED", "PRIMARY"]
    made.ContentLabel = content_label(ctx)
    made.ContentDescription = content_description(ctx)
    made.ContentCreatorName = content_creator(ctx)
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.NumberOfFrames = frames
    made.Rows, made.Columns = volume.array.shape[1:]
    made.PixelRepresentation = 0
    made.LossyImageCompression = "00"
    if source.get("LossyImageCompression") == "01":
        # PS3.3 C.7.6.1.1.5: once lossy, everything derived from it says so
        copied = (
            "LossyImageCompression",
            "LossyImageCompressionRatio",
            "LossyImageCompressionMethod",
        )
        copy(source, made, copied)


def segment_description(ctx: ComposeContext, finding: Finding) -> Dataset:
    """An item of Segment Sequence (PS3.3 C.8.20.4)."""
    segment = finding.segment
    item = Dataset()
    item.SegmentNumber = finding.number
    item.SegmentLabel = finding.label
    item.SegmentAlgorithmType = "AUTOMATIC"
    item.SegmentAlgorithmName = ctx.model.name
    item.SegmentationAlgorithmIdentificationSequence = [algorithm_identification(ctx)]
    item.SegmentedPropertyCategoryCodeSequence = [coded(segment.category)]
    item.SegmentedPropertyTypeCodeSequence = [_modified(segment.type, segment.modifier, "type")]
    if segment.region is not None:
        item.AnatomicRegionSequence = [_modified(segment.region, segment.modifier, "region")]
    item.TrackingID = finding.tracking_id
    item.TrackingUID = finding.tracking_uid
    item.RecommendedDisplayCIELabValue = cielab(segment.color_rgb)
    return item


def _modified(concept: Code, modifier: Code | None, of: str) -> Dataset:
    item = coded(concept)
    if modifier is not None:
        keyword = {
            "type": "SegmentedPropertyTypeModifierCodeSequence",
            "region": "AnatomicRegionModifierSequence",
        }[of]
        setattr(item, keyword, [coded(modifier)])
    return item


def _dimensions(
    ctx: ComposeContext, made: Dataset, output: Output, dimensions: Sequence[tuple[int, int, str]]
) -> None:
    """By what frames are indexed (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = derived_uid(ctx.job_key, output.name, "dimensions")
    made.DimensionOrganizationSequence = [organization]
    items = []
    for pointer, group, label in dimensions:
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer = pointer
        item.FunctionalGroupPointer = group
        item.DimensionDescriptionLabel = label
        items.append(item)
    made.DimensionIndexSequence = items


def shared_groups(grid: Grid) -> Dataset:
    """Pixel measures and orientation, equal for all frames."""
    measures = Dataset()
    measures.PixelSpacing = list(grid.pixel_spacing)
    measures.SliceThickness = grid.slice_thickness
    if grid.between_slices is not None:
        measures.SpacingBetweenSlices = grid.between_slices
    orientation = Dataset()
    orientation.ImageOrientationPatient = list(grid.orientation)
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    return shared


def per_frame_groups(frames: Sequence[Frame], sources: Sequence[SourceFrame], grid: Grid) -> bytes:
    """Per-Frame Functional Groups Sequence, encoded.

    Derivation, content, position and segment of each frame, in the order of their tags.
    """
    of_slice: dict[int, tuple[bytes, bytes]] = {}
    numbers: dict[int, bytes] = {}
    items = []
    for frame in frames:
        z, number = frame.slice, frame.segment
        if z not in of_slice:
            position = e.strings(0x00200032, b"DS", grid.positions[z])
            of_slice[z] = derivation(sources[z], SEGMENTATION), e.sequence(0x00209113, position)
        if number not in numbers:
            numbers[number] = e.sequence(0x0062000A, e.unsigned(0x0062000B, number))
        derived, placed = of_slice[z]
        content = e.sequence(0x00209111, e.unsigned_long(0x00209157, number, z + 1))
        items.append(derived + content + placed + numbers[number])
    return e.sequence(PER_FRAME, *items)


def per_slice_groups(slices: Sequence[int], sources: Sequence[SourceFrame], grid: Grid) -> bytes:
    """Per-Frame Functional Groups Sequence of frames that hold all segments of a slice."""
    items = []
    for z in slices:
        content = e.sequence(0x00209111, e.unsigned_long(0x00209157, z + 1))
        position = e.sequence(0x00209113, e.strings(0x00200032, b"DS", grid.positions[z]))
        items.append(derivation(sources[z], SEGMENTATION) + content + position)
    return e.sequence(PER_FRAME, *items)


def derivation(source: SourceFrame, how: Code) -> bytes:
    """Derivation Image Sequence of a slice (PS3.3 C.7.6.16.2.6)."""
    return e.sequence(
        0x00089124,
        e.sequence(0x00082112, source_image(source)) + e.sequence(0x00089215, e.code(how)),
    )


def source_image(source: SourceFrame) -> bytes:
    """An item of Source Image Sequence."""
    content = e.reference(source.sop_class_uid, source.sop_instance_uid, source.frame_number)
    content += e.string(0x0028135A, b"CS", "YES")
    return content + e.sequence(0x0040A170, e.code(SOURCE_IMAGE))


def packed_bits(numbers: npt.NDArray[np.unsignedinteger], frames: Sequence[Frame]) -> memoryview:
    """Pixel Data of the frames: one bit a pixel, no padding between frames, an even length."""
    slices, rows, columns = numbers.shape
    size = rows * columns
    length = (len(frames) * size + 7) // 8
    bits = np.zeros(length + length % 2, dtype=np.uint8)
    frame_of = np.full((slices, max(frame.segment for frame in frames) + 1), -1, dtype=np.int64)
    for at, frame in enumerate(frames):
        frame_of[frame.slice, frame.segment] = at
    touched = sorted({frame.slice for frame in frames})
    if size % 8:
        # neighbouring frames share a byte, so threads would overwrite each other's bits
        for z in touched:
            pack_slice(numbers[z], frame_of[z], bits)
    else:
        for_each_slice(lambda z: pack_slice(numbers[z], frame_of[z], bits), touched)
    return bits.data
