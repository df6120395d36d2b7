"""One place that says which objects a prediction becomes: a result type is one file and one line here.

What comes in: the context, the image, a prediction. What goes out: `DicomFile`s, the report always among
them. It owns the invariants that only wanted kinds are made and that there is always a report.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydicom import Dataset

from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.denoised import denoised_series
from dicom_node.compose.findings import doubts, find
from dicom_node.compose.grid import instances
from dicom_node.compose.heatmap import PICTURES, parametric_map, pictures, uncertainty_map
from dicom_node.compose.key_objects import rejection_note, result_set, superseded
from dicom_node.compose.outlines import outline_captures
from dicom_node.compose.presentation import presentation_states
from dicom_node.compose.projection import as_slice, on_slice
from dicom_node.compose.seg import projection_seg, segmentation_object
from dicom_node.compose.sr import (
    classification_report,
    outcome_report,
    projection_report,
    segmentation_report,
)
from dicom_node.errors import ComposeError
from dicom_node.records import (
    Classification,
    Denoised,
    Image,
    Outcome,
    Prediction,
    Segmentation,
    Volume,
)

Composer = Callable[[ComposeContext, Any, Any], list[DicomFile]]


def compose(ctx: ComposeContext, image: Image, prediction: Prediction) -> list[DicomFile]:
    """Every wanted object of a prediction; the report comes after those that it refers to.

    Args:
        image: what was predicted on; the prediction lies on its grid.

    Raises:
        ComposeError: the prediction does not fit the image or the model's description.
    """
    composer = COMPOSERS.get(type(prediction))
    if composer is None:
        raise ComposeError(f"no composer for a {type(prediction).__name__}")
    header = image.headers[0] if isinstance(image, Volume) else image.header
    return _with_selections(ctx, header, composer(ctx, image, prediction))


def compose_report_only(
    ctx: ComposeContext, headers: Sequence[Dataset], outcome: Outcome, reason: str
) -> list[DicomFile]:
    """The report of a model that did not run, or failed: it needs source headers, no pixels.

    Raises:
        ComposeError: there is not one header.
    """
    if not headers:
        raise ComposeError("a report needs the header of at least one source instance")
    sources = [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in headers]
    wanted = "sr" in ctx.kinds
    made = [outcome_report(ctx, headers[0], sources, outcome, reason)] if wanted else []
    return _with_selections(ctx, headers[0], made)


def _with_selections(
    ctx: ComposeContext, header: Dataset, made: list[DicomFile]
) -> list[DicomFile]:
    """The files, the list of them, and the note that withdraws what they take the place of."""
    listed = [result_set(ctx, header, made)] if made and "key_objects" in ctx.kinds else []
    earlier = superseded(ctx, made + listed) if "rejection" in ctx.kinds else []
    return made + listed + ([rejection_note(ctx, header, earlier)] if earlier else [])


def _notes(image: Image, prediction: Prediction) -> tuple[str, ...]:
    """What was unusual, each once: a prediction repeats what was said of its image."""
    return tuple(dict.fromkeys((*image.notes, *prediction.notes)))


def _segmentation(ctx: ComposeContext, image: Image, prediction: Segmentation) -> list[DicomFile]:
    if not isinstance(image, Volume):
        return _of_projection(ctx, as_slice(image), on_slice(prediction))
    findings = find(ctx, image, prediction)
    seg = (
        segmentation_object(ctx, image, findings) if findings.found and "seg" in ctx.kinds else None
    )
    made = [seg] if seg is not None else []
    if "secondary_capture" in ctx.kinds:
        made += outline_captures(ctx, image, findings)
    doubt = prediction.uncertainty
    if doubt is not None and "uncertainty" in ctx.kinds:
        made.append(uncertainty_map(ctx, image, doubt))
    if "presentation_state" in ctx.kinds:
        made += presentation_states(ctx, image, findings)
    if "sr" in ctx.kinds:
        notes = (*_notes(image, prediction), *findings.notes, *doubts(findings, doubt))
        made.append(segmentation_report(ctx, image, findings, seg, notes))
    return made


def _of_projection(ctx: ComposeContext, image: Volume, prediction: Segmentation) -> list[DicomFile]:
    """A segmentation of a radiograph: always BINARY, without a place in the patient."""
    findings = find(ctx, image, prediction)
    wanted = findings.found and "seg" in ctx.kinds
    seg = projection_seg(ctx, image, findings) if wanted else None
    made = [seg] if seg is not None else []
    if "secondary_capture" in ctx.kinds:
        made += outline_captures(ctx, image, findings)
    if "sr" in ctx.kinds:
        notes = (*_notes(image, prediction), *findings.notes)
        made.append(projection_report(ctx, image, findings, seg, notes))
    return made


def _classification(
    ctx: ComposeContext, image: Image, prediction: Classification
) -> list[DicomFile]:
    missing = [one.label for one in ctx.model.classes if one.index not in prediction.probabilities]
    if missing:
        raise ComposeError(f"the prediction has no probability of {', '.join(missing)}")
    made: list[DicomFile] = []
    if "heatmap" in ctx.kinds:
        for one in ctx.model.classes:
            heat = prediction.heatmaps.get(one.index)
            if heat is None:
                continue
            if isinstance(image, Volume):
                made.append(parametric_map(ctx, image, one, heat))
            number = 1 + sum(file.sop_class_uid == PICTURES.sop_class_uid for file in made)
            probability = prediction.probabilities[one.index]
            made += pictures(ctx, image, one, heat, probability, number)
    if "sr" in ctx.kinds:
        notes = _notes(image, prediction)
        made.append(classification_report(ctx, image, prediction, made, notes))
    return made


def _denoised(ctx: ComposeContext, image: Image, prediction: Denoised) -> list[DicomFile]:
    if not isinstance(image, Volume):
        raise ComposeError("denoising of a projection image is not handled")
    made = denoised_series(ctx, image, prediction) if "denoised" in ctx.kinds else []
    if "sr" in ctx.kinds:
        said = f"a denoised series of {len(image.frames)} slices was made"
        reason = "; ".join((said, *_notes(image, prediction)))
        sources = instances(image.frames)
        made.append(outcome_report(ctx, image.headers[0], sources, Outcome.SUCCEEDED, reason))
    return made


COMPOSERS: Mapping[type, Composer] = MappingProxyType(
    {
        Segmentation: _segmentation,
        Classification: _classification,
        Denoised: _denoised,
    }
)
