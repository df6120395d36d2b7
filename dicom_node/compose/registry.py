"""One place that says which objects a prediction becomes: a result type is one file and one line here.

What comes in: the context, the image, a prediction. What goes out: `DicomFile`s, the report always among
them. It owns the invariants that only wanted kinds are made and that there is always a report.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydicom import Dataset

from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.findings import find
from dicom_node.compose.seg import binary_seg
from dicom_node.compose.sr import outcome_report, segmentation_report
from dicom_node.errors import ComposeError
from dicom_node.records import Image, Outcome, Prediction, Segmentation, Volume

Composer = Callable[[ComposeContext, Any, Any], list[DicomFile]]


def compose(ctx: ComposeContext, image: Image, prediction: Prediction) -> list[DicomFile]:
    """Every wanted object of a prediction; the report comes last, since it refers to the others.

    Args:
        image: what was predicted on; the prediction lies on its grid.

    Raises:
        ComposeError: the prediction does not fit the image or the model's description.
    """
    composer = COMPOSERS.get(type(prediction))
    if composer is None:
        raise ComposeError(f"no composer for a {type(prediction).__name__}")
    return composer(ctx, image, prediction)


def compose_report_only(
    ctx: ComposeContext, headers: Sequence[Dataset], outcome: Outcome, reason: str
) -> list[DicomFile]:
    """The report of a model that did not run, or failed: it needs source headers, no pixels.

    Raises:
        ComposeError: there is not one header.
    """
    if not headers:
        raise ComposeError("a report needs the header of at least one source instance")
    return [outcome_report(ctx, headers, outcome, reason)] if "sr" in ctx.kinds else []


def _segmentation(ctx: ComposeContext, image: Image, prediction: Segmentation) -> list[DicomFile]:
    if not isinstance(image, Volume):
        raise ComposeError("a segmentation of a projection image is not handled")
    findings = find(ctx, image, prediction)
    seg = binary_seg(ctx, image, findings) if findings.found and "seg" in ctx.kinds else None
    made = [seg] if seg is not None else []
    if "sr" in ctx.kinds:
        notes = (*image.notes, *prediction.notes, *findings.notes)
        made.append(segmentation_report(ctx, image, findings, seg, notes))
    return made


COMPOSERS: Mapping[type, Composer] = MappingProxyType({Segmentation: _segmentation})
