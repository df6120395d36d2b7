"""Measurement reports: TID 1500 in Comprehensive 3D SR (PS3.16 TID 1500, PS3.3 A.35.13).

What comes in: findings, or an outcome with its reason. What goes out: always a report, so that absence never
reads as negative. It owns the invariant that every group is tracked and that its tracking UID is the SEG's.
"""

from collections.abc import Sequence

import numpy as np
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage

from dicom_node.catalogue import ClassDescription, Code
from dicom_node.compose import codes
from dicom_node.compose.axes import axes
from dicom_node.compose.codes import coded
from dicom_node.compose.content import (
    CONTENT_SEQUENCE,
    code_item,
    container,
    image,
    number,
    polyline,
    template,
    text,
    uid,
)
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.contour import outline
from dicom_node.compose.document import BySeries, document, evidence, language, observer
from dicom_node.compose.encoding import sequence
from dicom_node.compose.equipment import Output
from dicom_node.compose.findings import Finding, Findings
from dicom_node.compose.grid import instances
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.projection import is_calibrated
from dicom_node.compose.seg import encoding_of
from dicom_node.compose.uids import derived_uid
from dicom_node.records import Classification, Image, Outcome, SourceFrame, Volume

OUTPUT = Output("sr", 1, Comprehensive3DSRStorage, "SR", "report")
_OUTPUTS = {
    "binary": OUTPUT,
    "labelmap": Output("sr-labelmap", 1, Comprehensive3DSRStorage, "SR", "report"),
    "fractional": Output("sr-fractional", 1, Comprehensive3DSRStorage, "SR", "report"),
}

_PROCEDURES: dict[str, Code] = {
    "CT": ("25045-6", "LN", "CT unspecified body region"),
    "MR": ("25056-3", "LN", "MRI unspecified body region"),
    "PT": ("44136-0", "LN", "PET unspecified body region"),
    "MG": ("43468-8", "LN", "XR unspecified body region"),
}
_XRAY: Code = ("43468-8", "LN", "XR unspecified body region")
_LATERALITIES = ("7771000", "24028007", "51440002")

REPORT: Code = ("126000", "DCM", "Imaging Measurement Report")
TEXT_REPORT: Code = ("18748-4", "LN", "Diagnostic Imaging Report")
"""The title where no group has a contour: OHIF shows an "Imaging Measurement Report" as contours over images,
that is as a black screen where there are none, and any other title as text."""
MEASUREMENTS: Code = ("126010", "DCM", "Imaging Measurements")
GROUP: Code = ("125007", "DCM", "Measurement Group")
EVALUATIONS: Code = ("C0034375", "UMLS", "Qualitative Evaluations")
SUMMARY: Code = ("111017", "DCM", "CAD Processing and Findings Summary")
ANALYSES: Code = ("111065", "DCM", "Summary of Analyses")
COMMENT: Code = ("121106", "DCM", "Comment")
TRACKING_ID: Code = ("112039", "DCM", "Tracking Identifier")
TRACKING_UID: Code = ("112040", "DCM", "Tracking Unique Identifier")

_SUCCEEDED: Code = ("111222", "DCM", "Succeeded")
_FAILED: Code = ("111224", "DCM", "Failed")
_NOT_ATTEMPTED: Code = ("111225", "DCM", "Not Attempted")
_WITH_FINDINGS: Code = ("111242", "DCM", "All algorithms succeeded; with findings")
_WITHOUT_FINDINGS: Code = ("111241", "DCM", "All algorithms succeeded; without findings")
_NONE_SUCCEEDED: Code = ("111245", "DCM", "No algorithms succeeded; without findings")


def segmentation_report(
    ctx: ComposeContext,
    volume: Volume,
    findings: Findings,
    seg: DicomFile | None,
    notes: Sequence[str],
) -> DicomFile:
    """Measurements of each finding, or that nothing was found.

    Args:
        seg: the SEG that holds the findings; None where nothing was found.
        notes: what was unusual, for the reader.
    """
    header = volume.headers[0]
    groups: list[bytes] = []
    if seg is not None:
        square = _square_pixels(volume)
        for finding in findings.found:
            groups.append(_volumetric_group(ctx, header, finding, seg))
            if square:
                groups.append(_planar_group(ctx, volume, findings, finding))
        if not square:
            notes = (*notes, "Pixels are not square: contours are left out, the SEG shows them")
    found = bool(findings.found)
    absent = [f"Not found: {', '.join(findings.absent)}."] if findings.absent else []
    evaluations = [
        code_item("CONTAINS", ANALYSES, _SUCCEEDED),
        code_item("CONTAINS", SUMMARY, _WITH_FINDINGS if found else _WITHOUT_FINDINGS),
        *_comments(ctx, [*_in_words(header, findings), *absent, *notes]),
    ]
    made = [(seg.series_uid, [(seg.sop_class_uid, seg.sop_instance_uid)])] if seg else []
    sources = (str(header.SeriesInstanceUID), instances(volume.frames))
    contours = bool(groups) and _square_pixels(volume)
    # it refers to another object than the report that goes with a BINARY one
    output = OUTPUT if seg is None else _OUTPUTS[encoding_of(ctx, findings)]
    return _report(ctx, header, groups, evaluations, [sources, *made], contours, output)


def projection_report(
    ctx: ComposeContext,
    image: Volume,
    findings: Findings,
    seg: DicomFile | None,
    notes: Sequence[str],
) -> DicomFile:
    """What was found on a projection image: contours, and sizes where it is calibrated; never volumes.

    Args:
        image: the projection as a volume of one slice.
    """
    header = image.headers[0]
    calibrated = is_calibrated(header)
    groups = [_planar_group(ctx, image, findings, one, calibrated) for one in findings.found]
    if not calibrated and groups:
        notes = (*notes, "Sizes are left out: the image's spacing is that at its detector, at best")
    absent = [f"Not found: {', '.join(findings.absent)}."] if findings.absent else []
    words = [f"{one.label}: found" for one in findings.found]
    evaluations = [
        code_item("CONTAINS", ANALYSES, _SUCCEEDED),
        code_item("CONTAINS", SUMMARY, _WITH_FINDINGS if findings.found else _WITHOUT_FINDINGS),
        *_comments(ctx, [*words, *absent, *notes]),
    ]
    made = [(seg.series_uid, [(seg.sop_class_uid, seg.sop_instance_uid)])] if seg else []
    sources = (str(header.SeriesInstanceUID), instances(image.frames))
    return _report(ctx, header, groups, evaluations, [sources, *made], bool(groups))


def _in_words(header: Dataset, findings: Findings) -> list[str]:
    """A line for each finding: viewers that show text leave out what a number was derived by."""
    unit = _quantity(header)[1]
    unit = "" if unit == "1" else f" {unit}"
    return [
        f"{one.label}: {one.measured.volume_mm3 / 1000:.1f} ml, mean {one.measured.mean:.0f}{unit} "
        f"(SD {one.measured.sd:.0f}, from {one.measured.minimum:.0f} to {one.measured.maximum:.0f})"
        for one in findings.found
    ]


def classification_report(
    ctx: ComposeContext,
    image: Image,
    prediction: Classification,
    explained: Sequence[DicomFile],
    notes: Sequence[str],
) -> DicomFile:
    """Probability and presence of each class (TID 1501), with the threshold that decided.

    Args:
        explained: heat maps, for the evidence.
    """
    header, frames = source_of(image)
    series = str(header.SeriesInstanceUID)
    groups = [
        _class_group(ctx, one, prediction.probabilities[one.index]) for one in ctx.model.classes
    ]
    words = [
        f"{one.label}: {prediction.probabilities[one.index]:.1%} "
        f"(reported as present from {one.threshold:.0%})"
        for one in ctx.model.classes
    ]
    words += [
        f"{one.label}: highest in slice {int(scores.argmax()) + 1} of {len(scores)}"
        for one in ctx.model.classes
        if (scores := prediction.slice_scores.get(one.index)) is not None and len(scores)
    ]
    present = any(prediction.probabilities[one.index] >= one.threshold for one in ctx.model.classes)
    evaluations = [
        code_item("CONTAINS", ANALYSES, _SUCCEEDED),
        code_item("CONTAINS", SUMMARY, _WITH_FINDINGS if present else _WITHOUT_FINDINGS),
        *_comments(ctx, [*words, *notes]),
    ]
    by_series: dict[str, list[tuple[str, str]]] = {series: instances(frames)}
    for file in explained:
        by_series.setdefault(file.series_uid, []).append(
            (file.sop_class_uid, file.sop_instance_uid)
        )
    return _report(ctx, header, groups, evaluations, list(by_series.items()))


def _class_group(ctx: ComposeContext, one: ClassDescription, probability: float) -> bytes:
    """TID 1501: a class as a finding with its probability."""
    present = probability >= one.threshold
    children = [
        text("HAS OBS CONTEXT", TRACKING_ID, f"{ctx.model.name} {one.label}"[:64]),
        uid("HAS OBS CONTEXT", TRACKING_UID, derived_uid(ctx.job_key, "class", one.index)),
        code_item("CONTAINS", ("121071", "DCM", "Finding"), one.finding),
        text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), ctx.model.name),
        text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), ctx.model.model.version),
        number(codes.PROBABILITY, round(100 * probability, 2), "%"),
        code_item("CONTAINS", codes.PRESENCE, codes.PRESENT if present else codes.ABSENT),
    ]
    return container("CONTAINS", GROUP, children, template_id="1501")


def source_of(image: Image) -> tuple[Dataset, tuple[SourceFrame, ...]]:
    """A header and the frames of any image."""
    if isinstance(image, Volume):
        return image.headers[0], image.frames
    return image.header, (image.frame,)


def outcome_report(
    ctx: ComposeContext,
    header: Dataset,
    sources: Sequence[tuple[str, str]],
    outcome: Outcome,
    reason: str,
) -> DicomFile:
    """That a model did not run on a series, or failed, and why; or what it made, in words.

    Args:
        header: of one source instance, without pixel data.
        sources: SOP class and instance UID of each source instance.
    """
    attempted = _FAILED if outcome is Outcome.FAILED else _NOT_ATTEMPTED
    said = {
        Outcome.FAILED: "The analysis failed",
        Outcome.NOT_APPLICABLE: "The model is not meant for this series",
        Outcome.SUCCEEDED: "The analysis succeeded",
    }[outcome]
    evaluations = [
        code_item(
            "CONTAINS", ANALYSES, attempted if outcome is not Outcome.SUCCEEDED else _SUCCEEDED
        ),
        code_item("CONTAINS", SUMMARY, _NONE_SUCCEEDED),
        *_comments(ctx, [f"{said}: {reason}. This is no negative result."]),
    ]
    if outcome is Outcome.SUCCEEDED:
        evaluations[1:] = _comments(ctx, [f"{said}: {reason}"])
    return _report(ctx, header, [], evaluations, [(str(header.SeriesInstanceUID), sources)])


def _comments(ctx: ComposeContext, lines: Sequence[str]) -> list[bytes]:
    mark = [f"{ctx.mark}."] if ctx.mark else []
    if _predecessors(ctx):
        mark.append("Replaces an earlier report of this model on this series.")
    model = ctx.model.model
    about = f"Model {model.title} {model.version}, sha256 {ctx.model.digest}. {model.limits}"
    return [text("CONTAINS", COMMENT, line) for line in (*mark, *lines, about)]


def _report(
    ctx: ComposeContext,
    header: Dataset,
    groups: Sequence[bytes],
    evaluations: Sequence[bytes],
    referred: BySeries,
    contours: bool = False,
    output: Output = OUTPUT,
) -> DicomFile:
    made = document(ctx, header, output, referred)
    made.PerformedProcedureCodeSequence = []
    made.CompletionFlag = "COMPLETE"
    made.VerificationFlag = "UNVERIFIED"
    made.PreliminaryFlag = "PRELIMINARY"
    if earlier := _predecessors(ctx):
        made.PredecessorDocumentsSequence = [evidence(header, earlier)]
    children = [
        language(),
        *observer(ctx),
        code_item(
            "HAS CONCEPT MOD",
            ("121058", "DCM", "Procedure reported"),
            _PROCEDURES.get(str(header.get("Modality")), _XRAY),
        ),
    ]
    if groups:
        children.append(container("CONTAINS", MEASUREMENTS, groups))
    children.append(container("CONTAINS", EVALUATIONS, evaluations))
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = [coded(REPORT if contours else TEXT_REPORT)]
    tree = sequence(CONTENT_SEQUENCE, *children)
    return dicom_file("sr", made, template("1500"), tree)


def _predecessors(ctx: ComposeContext) -> list[tuple[str, list[tuple[str, str]]]]:
    """The reports that this one replaces, by series (PS3.3 C.17.2, Predecessor Documents)."""
    by_series: dict[str, list[tuple[str, str]]] = {}
    for one in ctx.supersedes:
        if one.kind == "sr":
            reference_to = (one.sop_class_uid, one.sop_instance_uid)
            by_series.setdefault(one.series_uid, []).append(reference_to)
    return list(by_series.items())


def _group_head(ctx: ComposeContext, finding: Finding) -> list[bytes]:
    """Rows that TID 1410 and 1411 share."""
    segment = finding.segment
    laterality = (
        segment.modifier if segment.modifier and segment.modifier[0] in _LATERALITIES else None
    )
    side = (
        [code_item("HAS CONCEPT MOD", ("272741003", "SCT", "Laterality"), laterality)]
        if laterality
        else []
    )
    return [
        text("HAS OBS CONTEXT", TRACKING_ID, finding.tracking_id),
        uid("HAS OBS CONTEXT", TRACKING_UID, finding.tracking_uid),
        code_item("CONTAINS", ("276214006", "SCT", "Finding category"), segment.category),
        code_item("CONTAINS", ("121071", "DCM", "Finding"), segment.type),
        code_item(
            "CONTAINS", ("363698007", "SCT", "Finding Site"), segment.region or segment.type, side
        ),
        text("HAS CONCEPT MOD", ("111001", "DCM", "Algorithm Name"), ctx.model.name),
        text("HAS CONCEPT MOD", ("111003", "DCM", "Algorithm Version"), ctx.model.model.version),
    ]


def _volumetric_group(
    ctx: ComposeContext, header: Dataset, finding: Finding, seg: DicomFile
) -> bytes:
    """TID 1411: the segment and what was measured of it."""
    measured = finding.measured
    concept, unit = _quantity(header)
    statistics = (
        (codes.MEAN, measured.mean),
        (codes.STANDARD_DEVIATION, measured.sd),
        (codes.MINIMUM, measured.minimum),
        (codes.MAXIMUM, measured.maximum),
        (codes.PERCENTILE_5, measured.percentiles[0]),
        (codes.MEDIAN, measured.percentiles[1]),
        (codes.PERCENTILE_95, measured.percentiles[2]),
    )
    referenced = SourceFrame(seg.sop_class_uid, seg.sop_instance_uid)
    surface = []
    if finding.surface_mm2 is not None:
        surface = [number(codes.SURFACE, round(finding.surface_mm2, 2), "mm2")]
    children = [
        *_group_head(ctx, finding),
        image("CONTAINS", ("121191", "DCM", "Referenced Segment"), referenced, finding.number),
        uid(
            "CONTAINS",
            ("121232", "DCM", "Source series for segmentation"),
            str(header.SeriesInstanceUID),
        ),
        number(codes.VOLUME, round(measured.volume_mm3 / 1000, 4), "ml"),
        *surface,
        *(
            number(concept, round(value, 4), unit, [_derivation(derivation)])
            for derivation, value in statistics
        ),
    ]
    return container("CONTAINS", GROUP, children, template_id="1411")


def _derivation(value: Code) -> bytes:
    return code_item("HAS CONCEPT MOD", ("121401", "DCM", "Derivation"), value)


def _planar_group(
    ctx: ComposeContext,
    volume: Volume,
    findings: Findings,
    finding: Finding,
    sized: bool = True,
) -> bytes:
    """TID 1410: the contour on the slice that shows most of the finding, and how large it is there."""
    key = finding.measured.key_slice
    spacing = volume.spacing
    area = float(finding.measured.areas[key]) * spacing[1] * spacing[2]
    (top, bottom), (left, right) = finding.measured.box[1:]
    mask = findings.numbers[key, top : bottom + 1, left : right + 1] == finding.number
    points = [(x + left, y + top) for x, y in outline(mask)]
    children = [
        *_group_head(ctx, finding),
        polyline(("111030", "DCM", "Image Region"), points, volume.frames[key]),
    ]
    if not sized:  # the template wants at least one statement
        children.append(code_item("CONTAINS", codes.PRESENCE, codes.PRESENT))
        return container("CONTAINS", GROUP, children, template_id="1410")
    children.append(number(codes.AREA, round(area, 4), "mm2"))
    if finding.segment.lesion:
        measured = axes(mask, (spacing[1], spacing[2]))
        children.append(number(codes.LONG_AXIS, round(measured.long_mm, 3), "mm"))
        children.append(number(codes.SHORT_AXIS, round(measured.short_mm, 3), "mm"))
    return container("CONTAINS", GROUP, children, template_id="1410")


def _quantity(header: Dataset) -> tuple[Code, str]:
    """What the modality values are, and their unit."""
    modality = header.get("Modality")
    if modality == "CT":
        return codes.ATTENUATION, "HU"
    if modality == "PT":
        return codes.ACTIVITY, "Bq/ml" if header.get("Units") == "BQML" else "1"
    return codes.MR_SIGNAL, "1"


def _square_pixels(volume: Volume) -> bool:
    """Viewers draw planar contours in the wrong place where pixels are not square (DESIGN 4)."""
    return bool(np.isclose(volume.spacing[1], volume.spacing[2], rtol=1e-3))
