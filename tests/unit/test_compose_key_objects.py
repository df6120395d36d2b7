"""Key Object Selections: the list of a result set, and the note that withdraws an earlier one."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

from dicom_node.compose.context import ALL_KINDS, ComposeContext, DicomFile
from dicom_node.compose.key_objects import Rejection, rejection_note
from dicom_node.compose.registry import compose, compose_report_only
from dicom_node.errors import ComposeError
from dicom_node.read.volume import read_image
from dicom_node.records import EarlierResult, Outcome, Segmentation, Volume
from tests.builders import images, models

SHAPE = (6, 20, 24)


@pytest.fixture
def source() -> Volume:
    grid = images.affine(spacing=(3.0, 0.8, 0.8))
    found = read_image([images.raw(one) for one in images.series(images.pattern(SHAPE), grid)])
    assert isinstance(found, Volume)
    return found


def earlier(files: list[DicomFile]) -> tuple[EarlierResult, ...]:
    return tuple(
        EarlierResult(f.kind, f.sop_class_uid, f.sop_instance_uid, f.series_uid, f.study_uid)
        for f in files
    )


def listed(document: Dataset) -> list[tuple[str, str]]:
    """Value type and SOP instance of what a selection lists, in its order."""
    return [
        (item.ValueType, str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID))
        for item in document.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]


def in_evidence(document: Dataset) -> set[tuple[str, str]]:
    """Series and SOP instance of the evidence."""
    return {
        (str(series.SeriesInstanceUID), str(one.ReferencedSOPInstanceUID))
        for study in document.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def made(ctx: ComposeContext, source: Volume) -> list[DicomFile]:
    return compose(ctx, source, Segmentation(images.labels(SHAPE)))


def test_the_result_set_is_listed_with_its_report_as_root(source: Volume, tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path), kinds=ALL_KINDS)
    *files, selection = made(ctx, source)
    assert selection.kind == "key_objects"
    document = selection.dataset()
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert {uid for _, uid in listed(document)} == {file.sop_instance_uid for file in files}
    (report,) = [file for file in files if file.kind == "sr"]
    assert listed(document)[0] == ("COMPOSITE", report.sop_instance_uid)
    assert in_evidence(document) == {(f.series_uid, f.sop_instance_uid) for f in files}
    said = [item.TextValue for item in document.ContentSequence if item.ValueType == "TEXT"]
    assert any(line.startswith("Not for clinical use.") for line in said)
    # highdicom reads it as its own
    read = hd.ko.KeyObjectSelectionDocument.from_dataset(document)
    assert len(read.content.get_references()) == len(files)


def test_a_selection_of_other_objects_is_another_selection(source: Volume, tmp_path: Path) -> None:
    model = models.model(tmp_path)
    selections = {
        made(models.context(model, **changes), source)[-1].sop_instance_uid
        for changes in (
            {"kinds": frozenset({"seg", "sr", "key_objects"})},
            {"kinds": frozenset({"seg", "sr", "key_objects"}), "segmentation": "labelmap"},
            {"kinds": frozenset({"sr", "key_objects"})},
        )
    }
    assert len(selections) == 3


def test_results_that_are_replaced_are_rejected_and_their_successors_are_not(
    source: Volume, tmp_path: Path
) -> None:
    model = models.model(tmp_path)
    before = earlier(made(models.context(model, job_key="before", kinds=ALL_KINDS), source))
    ctx = models.context(model, job_key="after", kinds=ALL_KINDS, supersedes=before)
    *files, note = made(ctx, source)
    assert note.kind == "rejection"
    document = note.dataset()
    assert document.ConceptNameCodeSequence[0].CodeValue == "113001"
    assert document.StudyInstanceUID == source.headers[0].StudyInstanceUID
    rejected = {uid for _, uid in listed(document)}
    assert rejected == {one.sop_instance_uid for one in before}
    assert in_evidence(document) == {(one.series_uid, one.sop_instance_uid) for one in before}
    assert not rejected & {file.sop_instance_uid for file in (*files, note)}


def test_a_failure_withdraws_what_no_longer_holds(source: Volume, tmp_path: Path) -> None:
    model = models.model(tmp_path)
    before = earlier(made(models.context(model, job_key="before"), source))
    ctx = models.context(
        model, job_key="after", kinds=frozenset({"sr", "rejection"}), supersedes=before
    )
    report, note = compose_report_only(ctx, source.headers, Outcome.FAILED, "2 slices missing")
    assert report.kind == "sr"
    assert {uid for _, uid in listed(note.dataset())} == {one.sop_instance_uid for one in before}


def test_a_note_is_not_made_where_nothing_is_replaced_or_nobody_wants_it(
    source: Volume, tmp_path: Path
) -> None:
    model = models.model(tmp_path)
    first = models.context(model, kinds=ALL_KINDS)
    assert not [file for file in made(first, source) if file.kind == "rejection"]
    # a job that is answered again makes the same objects: they must stand
    again = models.context(model, kinds=ALL_KINDS, supersedes=earlier(made(first, source)))
    assert not [file for file in made(again, source) if file.kind == "rejection"]
    before = earlier(made(models.context(model, job_key="before"), source))
    assert {file.kind for file in made(models.context(model, supersedes=before), source)} == {
        "seg",
        "sr",
    }


def test_a_note_says_why_and_keeps_to_one_study(source: Volume, tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path))
    before = earlier(made(ctx, source))
    header = source.headers[0]
    note = rejection_note(ctx, header, before, Rejection.PATIENT_SAFETY, "Of another patient.")
    assert note.dataset().ConceptNameCodeSequence[0].CodeValue == "113037"
    assert b"Of another patient." in note.content
    with pytest.raises(ComposeError, match="at least one"):
        rejection_note(ctx, header, [])
    other = EarlierResult("sr", "1.2", "1.2.3", "1.2.4", "1.2.5")
    with pytest.raises(ComposeError, match="one study"):
        rejection_note(ctx, header, [*before, other])


def test_nothing_found_is_a_result_set_too(source: Volume, tmp_path: Path) -> None:
    ctx = models.context(models.model(tmp_path), kinds=frozenset({"seg", "sr", "key_objects"}))
    report, selection = compose(ctx, source, Segmentation(np.zeros(SHAPE, np.uint8)))
    assert listed(selection.dataset()) == [("COMPOSITE", report.sop_instance_uid)]
