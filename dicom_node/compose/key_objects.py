"""Key Object Selections (PS3.3 A.35.4, PS3.16 TID 2010): the set of a job's results, and rejection notes.

What comes in: the files that a job made, or results that no longer hold. What goes out: a selection that
lists them. It owns the invariants that the root of a result set, its report, is listed first, and that a
note never rejects what the same job makes.
"""

from collections.abc import Iterable, Sequence
from enum import Enum

from pydicom import Dataset
from pydicom.uid import (
    KeyObjectSelectionDocumentStorage,
)

from dicom_node.catalogue import Code
from dicom_node.compose.codes import coded
from dicom_node.compose.content import CONTENT_SEQUENCE, composite, image, template, text
from dicom_node.compose.context import ComposeContext, DicomFile
from dicom_node.compose.document import document, language, observer
from dicom_node.compose.encoding import sequence
from dicom_node.compose.equipment import Output
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError
from dicom_node.records import EarlierResult, SourceFrame

OUTPUT = Output("key-objects", 6, KeyObjectSelectionDocumentStorage, "KO", "result set")
REJECTION = Output("rejection", 7, KeyObjectSelectionDocumentStorage, "KO", "withdrawn")

OF_INTEREST: Code = ("113000", "DCM", "Of Interest")
_DESCRIPTION: Code = ("113012", "DCM", "Key Object Description")
_ROOTS = ("sr",)
_DOCUMENTS = (
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.11.",
)
"""Structured reports and presentation states: composite objects that are no images."""


class Rejection(Enum):
    """Why results are withdrawn: titles of CID 7010 that IHE Imaging Object Change Management knows."""

    QUALITY = ("113001", "DCM", "Rejected for Quality Reasons")
    """They no longer hold, for example since later images changed the series: hidden, but may be looked
    at for quality control."""
    PATIENT_SAFETY = ("113037", "DCM", "Rejected for Patient Safety Reasons")
    """They stand on a wrong patient or study: never to be shown again."""


def result_set(ctx: ComposeContext, header: Dataset, made: Sequence[DicomFile]) -> DicomFile:
    """The objects that a job made, the report first as their root, since it refers to the others.

    Args:
        header: of one source instance, without pixel data.
        made: files of this job, at least one.
    """
    listed = sorted(made, key=lambda file: file.kind not in _ROOTS)
    instances = [_as_result(file) for file in listed]
    # what the set holds decides what it is: one with a LABELMAP is another than one with a BINARY
    key = derived_uid(ctx.job_key, *(one.sop_instance_uid for one in instances))
    output = Output(f"{OUTPUT.name}-{key}", OUTPUT.offset, OUTPUT.sop_class_uid, "KO", "result set")
    said = f"Results of {ctx.model.model.title} {ctx.model.model.version}"
    said += "; the first, the report, refers to the others" if listed[0].kind in _ROOTS else ""
    return _selection(ctx, header, output, OF_INTEREST, f"{said}.", instances, "key_objects")


def rejection_note(
    ctx: ComposeContext,
    header: Dataset,
    rejected: Sequence[EarlierResult],
    why: Rejection = Rejection.QUALITY,
    explanation: str = "Replaced: the model has answered again, on other images of the series.",
) -> DicomFile:
    """A note by which a PACS that knows IOCM (IHE RAD-66) withdraws results.

    Args:
        header: of one instance of the study that the results stand on, without pixel data.
        rejected: what is withdrawn, at least one; of the header's study.
        explanation: a sentence for people.

    Raises:
        ComposeError: nothing is rejected, or something of another study.
    """
    if not rejected:
        raise ComposeError("a rejection note rejects at least one object")
    if any(one.study_uid != str(header.StudyInstanceUID) for one in rejected):
        raise ComposeError("a rejection note stays within one study")
    # a note that rejects something else is another note
    key = derived_uid(ctx.job_key, why.name, *sorted(one.sop_instance_uid for one in rejected))
    output = Output(
        f"{REJECTION.name}-{key}", REJECTION.offset, REJECTION.sop_class_uid, "KO", REJECTION.suffix
    )
    return _selection(ctx, header, output, why.value, explanation, rejected, "rejection")


def superseded(ctx: ComposeContext, made: Iterable[DicomFile]) -> list[EarlierResult]:
    """What the context's job takes the place of, without notes themselves and without its own objects."""
    own = {file.sop_instance_uid for file in made}
    return [
        one for one in ctx.supersedes if one.kind != "rejection" and one.sop_instance_uid not in own
    ]


def _as_result(file: DicomFile) -> EarlierResult:
    return EarlierResult(
        file.kind, file.sop_class_uid, file.sop_instance_uid, file.series_uid, file.study_uid
    )


def _selection(
    ctx: ComposeContext,
    header: Dataset,
    output: Output,
    title: Code,
    said: str,
    listed: Sequence[EarlierResult],
    kind: str,
) -> DicomFile:
    by_series: dict[str, list[tuple[str, str]]] = {}
    for one in listed:
        by_series.setdefault(one.series_uid, []).append((one.sop_class_uid, one.sop_instance_uid))
    made = document(ctx, header, output, list(by_series.items()))
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = [coded(title)]
    mark = f"{ctx.mark}. " if ctx.mark else ""
    children = [
        language(),
        *observer(ctx),
        text("CONTAINS", _DESCRIPTION, mark + said),
        *(_item(one) for one in listed),
    ]
    return dicom_file(kind, made, template("2010"), sequence(CONTENT_SEQUENCE, *children))


def _item(one: EarlierResult) -> bytes:
    referred = SourceFrame(one.sop_class_uid, one.sop_instance_uid)
    if one.sop_class_uid.startswith(_DOCUMENTS):
        return composite("CONTAINS", referred)
    return image("CONTAINS", None, referred)
