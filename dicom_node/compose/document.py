"""What structured reports and key object selections share: evidence, the device observer, the language.

What comes in: the context and references. What goes out: attributes and encoded content items. It owns the
invariant that a document names the machine that wrote it, and lists in its evidence what it refers to.
"""

from collections.abc import Sequence

from pydicom import Dataset

from dicom_node.catalogue import Code
from dicom_node.compose.content import code_item, text, uid
from dicom_node.compose.context import ComposeContext
from dicom_node.compose.equipment import MANUFACTURER, Output, common
from dicom_node.compose.grid import reference
from dicom_node.compose.uids import derived_uid
from dicom_node.records import SourceFrame

BySeries = Sequence[tuple[str, Sequence[tuple[str, str]]]]
"""Series Instance UID, and SOP class and instance of what is referred to in it."""

_LANGUAGE: Code = ("121049", "DCM", "Language of Content Item and Descendants")
_ENGLISH: Code = ("en-US", "RFC5646", "English (United States)")


def document(
    ctx: ComposeContext, header: Dataset, output: Output, referred: BySeries, number: int = 1
) -> Dataset:
    """A data set with what every document has, its evidence included (PS3.3 C.17.2, C.17.6.2).

    Args:
        header: of one source instance, without pixel data.
    """
    made = common(ctx, header, output, number)
    for keyword in ("BodyPartExamined", "Laterality"):  # of images only, not of documents
        made.pop(keyword, None)
    made.ReferencedPerformedProcedureStepSequence = []
    made.CurrentRequestedProcedureEvidenceSequence = [evidence(header, referred)]
    return made


def evidence(header: Dataset, referred: BySeries) -> Dataset:
    """Hierarchical SOP Instance Reference Macro (PS3.3 C.17.2.1), within the study of the source."""
    study = Dataset()
    study.StudyInstanceUID = header.StudyInstanceUID
    study.ReferencedSeriesSequence = []
    for series_uid, of_series in referred:
        item = Dataset()
        item.SeriesInstanceUID = series_uid
        item.ReferencedSOPSequence = [reference(SourceFrame(*one)) for one in of_series]
        study.ReferencedSeriesSequence.append(item)
    return study


def language() -> bytes:
    """TID 1204."""
    return code_item("HAS CONCEPT MOD", _LANGUAGE, _ENGLISH)


def observer(ctx: ComposeContext) -> list[bytes]:
    """Device observer (TID 1002, TID 1004)."""
    device = derived_uid("device", ctx.device_serial)
    return [
        code_item(
            "HAS OBS CONTEXT", ("121005", "DCM", "Observer Type"), ("121007", "DCM", "Device")
        ),
        uid("HAS OBS CONTEXT", ("121012", "DCM", "Device Observer UID"), device),
        text(
            "HAS OBS CONTEXT",
            ("121013", "DCM", "Device Observer Name"),
            f"ai-node {ctx.model.name}",
        ),
        text("HAS OBS CONTEXT", ("121014", "DCM", "Device Observer Manufacturer"), MANUFACTURER),
        text("HAS OBS CONTEXT", ("121015", "DCM", "Device Observer Model Name"), ctx.model.name),
        text(
            "HAS OBS CONTEXT", ("121016", "DCM", "Device Observer Serial Number"), ctx.device_serial
        ),
    ]
