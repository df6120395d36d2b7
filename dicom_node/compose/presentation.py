"""Grayscale Softcopy Presentation States (PS3.3 A.33.1): outlines over the source's own images.

What comes in: findings on a volume. What goes out: a presentation state of the slices that hold one, a layer
for each finding in its colour, names beside the largest outlines, and the mark on every image; or several,
where slices have rescales of their own, since a state has one. It owns the invariant that images are shown
whole, in their own values, window and pixel spacing.
"""

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage

from dicom_node.compose.color import cielab
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.contour import outlines
from dicom_node.compose.equipment import (
    Output,
    common,
    content_creator,
    content_description,
    content_label,
)
from dicom_node.compose.findings import Finding, Findings
from dicom_node.compose.grid import decimal, grid_of, reference
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.show import window_of
from dicom_node.records import SourceFrame, Volume

OUTPUT = Output(
    "presentation-state", 8, GrayscaleSoftcopyPresentationStateStorage, "PR", "outlines over images"
)
MARK_LAYER, MARK_COLOR = "AI_MARK", (255, 200, 60)


def presentation_states(ctx: ComposeContext, volume: Volume, findings: Findings) -> list[DicomFile]:
    """The states of all slices that hold a finding; none where nothing was found."""
    touched = np.zeros(len(volume.frames), dtype=bool)
    for finding in findings.found:
        touched |= finding.measured.areas > 0
    by_rescale: dict[tuple[float, float], list[int]] = {}
    for z in np.flatnonzero(touched).tolist():
        slope, intercept = volume.rescale[z].tolist()
        by_rescale.setdefault((slope, intercept), []).append(z)
    return [
        _state(ctx, volume, findings, slices, number)
        for number, slices in enumerate(by_rescale.values(), start=1)
    ]


def _state(
    ctx: ComposeContext, volume: Volume, findings: Findings, slices: Sequence[int], number: int
) -> DicomFile:
    made = common(ctx, volume.headers[0], OUTPUT, number)
    made.PresentationCreationDate, made.PresentationCreationTime = (
        made.ContentDate,
        made.ContentTime,
    )
    del made.ContentDate, made.ContentTime
    made.ContentLabel = content_label(ctx)
    made.ContentDescription = content_description(ctx)
    made.ContentCreatorName = content_creator(ctx)
    images = _referenced(volume, slices)
    series = Dataset()
    series.SeriesInstanceUID = str(volume.headers[0].SeriesInstanceUID)
    series.ReferencedImageSequence = images
    made.ReferencedSeriesSequence = [series]
    _shown(made, volume, slices[0])
    here = [one for one in findings.found if one.measured.areas[list(slices)].any()]
    made.GraphicLayerSequence = [
        _layer(MARK_LAYER, 1, MARK_COLOR, "AI"),
        *(
            _layer(_name(one), order, one.segment.color_rgb, one.label)
            for order, one in enumerate(here, start=2)
        ),
    ]
    made.GraphicAnnotationSequence = [_mark(ctx)]
    for one in here:
        made.GraphicAnnotationSequence += _outlined(volume, findings, one, slices)
    return dicom_file("presentation_state", made)


def _referenced(volume: Volume, slices: Sequence[int]) -> list[Dataset]:
    """An item for each instance; of a multi-frame one with the frames that are meant."""
    frames: dict[tuple[str, str], list[int]] = {}
    for z in slices:
        frame = volume.frames[z]
        of_instance = frames.setdefault((frame.sop_class_uid, frame.sop_instance_uid), [])
        if frame.frame_number is not None:
            of_instance.append(frame.frame_number)
    items = []
    for instance, numbers in frames.items():
        item = reference(SourceFrame(*instance))
        if numbers:
            item.ReferencedFrameNumber = sorted(numbers)
        items.append(item)
    return items


def _shown(made: Dataset, volume: Volume, z: int) -> None:
    """Values, window and area: those of the images (PS3.3 C.10.4, C.11.1, C.11.8, C.11.6)."""
    slope, intercept = volume.rescale[z]
    made.RescaleSlope, made.RescaleIntercept = decimal(slope), decimal(intercept)
    made.RescaleType = "HU" if volume.headers[0].get("Modality") == "CT" else "US"
    centre, width = window_of(volume)
    window = Dataset()
    window.WindowCenter, window.WindowWidth = decimal(centre), decimal(width)
    made.SoftcopyVOILUTSequence = [window]
    made.PresentationLUTShape = "IDENTITY"
    area = Dataset()
    rows, columns = volume.array.shape[1:]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [columns, rows]
    area.PresentationSizeMode = "SCALE TO FIT"
    area.PresentationPixelSpacing = list(grid_of(volume).pixel_spacing)
    made.DisplayedAreaSelectionSequence = [area]


def _layer(name: str, order: int, color: tuple[int, int, int], said: str) -> Dataset:
    item = Dataset()
    item.GraphicLayer, item.GraphicLayerOrder = name, order
    item.GraphicLayerRecommendedDisplayCIELabValue = cielab(color)
    item.GraphicLayerDescription = said[:64]
    return item


def _name(finding: Finding) -> str:
    return f"AI_{finding.number}"


def _mark(ctx: ComposeContext) -> Dataset:
    """The mark in the upper left corner of the display, over every image of the state."""
    mark = f" - {ctx.mark}" if ctx.mark else ""
    text = Dataset()
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.UnformattedTextValue = f"AI: {ctx.model.model.title}{mark}"
    text.BoundingBoxTopLeftHandCorner = [0.01, 0.01]
    text.BoundingBoxBottomRightHandCorner = [0.6, 0.05]
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    item = Dataset()
    item.GraphicLayer, item.TextObjectSequence = MARK_LAYER, [text]
    return item


def _outlined(
    volume: Volume, findings: Findings, finding: Finding, slices: Sequence[int]
) -> list[Dataset]:
    """The contours of a finding, an item for each of its slices."""
    (top, bottom), (left, right) = finding.measured.box[1:]
    items = []
    for z in slices:
        if not finding.measured.areas[z]:
            continue
        mask = findings.numbers[z, top : bottom + 1, left : right + 1] == finding.number
        contours = [[(x + left, y + top) for x, y in points] for points in outlines(mask)]
        item = Dataset()
        item.ReferencedImageSequence = _referenced(volume, [z])
        item.GraphicLayer = _name(finding)
        item.GraphicObjectSequence = [_polyline(points) for points in contours]
        label = Dataset()
        label.AnchorPointAnnotationUnits = "PIXEL"
        label.UnformattedTextValue = finding.label
        label.AnchorPoint = list(max(contours[0]))
        label.AnchorPointVisibility = "N"
        item.TextObjectSequence = [label]
        items.append(item)
    return items


def _polyline(points: Sequence[tuple[float, float]]) -> Dataset:
    """A closed contour; (0, 0) is the upper left corner of the first pixel (PS3.3 C.10.5.1.2)."""
    closed = [*points, points[0]]
    item = Dataset()
    item.GraphicAnnotationUnits, item.GraphicDimensions = "PIXEL", 2
    item.NumberOfGraphicPoints = len(closed)
    item.GraphicData = [value for point in closed for value in point]
    item.GraphicType, item.GraphicFilled = "POLYLINE", "N"
    return item
