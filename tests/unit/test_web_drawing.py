"""What the page shows of results that are no overlay: float maps, reports, and files that are neither."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ParametricMapStorage,
    generate_uid,
)

from dicom_node.errors import ReadError
from dicom_node.web import drawing


def saved(made: Dataset, folder: Path, sop_class: str) -> drawing.Wanted:
    made.SOPClassUID, made.SOPInstanceUID = sop_class, generate_uid()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / f"{made.SOPInstanceUID}.dcm"
    made.save_as(path, enforce_file_format=True)
    number = len(list(folder.iterdir()))
    return drawing.Wanted(number, "heatmap", str(path), folder, ())


def item(kind: str, name: str, **values: object) -> Dataset:
    made, concept = Dataset(), Dataset()
    made.ValueType, concept.CodeMeaning = kind, name
    made.ConceptNameCodeSequence = [concept]
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def test_a_float_map_is_shown_in_percent_of_its_highest_value(tmp_path: Path) -> None:
    values = np.zeros((3, 4, 5), np.float32)
    values[2, 1, 1], values[2, 2, 2] = 0.02, 0.01
    made = Dataset()
    made.Rows, made.Columns, made.NumberOfFrames, made.SamplesPerPixel = 4, 5, 3, 1
    made.BitsAllocated, made.PhotometricInterpretation = 32, "MONOCHROME2"
    made.PixelRepresentation = 0
    made.FloatPixelData = values.tobytes()
    wanted = saved(made, tmp_path, ParametricMapStorage)
    about = drawing.about(wanted)
    assert (about["slices"], about["first"]) == (3, 2)
    opened = drawing._open(wanted)
    assert opened.images[2, 1, 1] == pytest.approx(100)
    assert drawing.image(wanted, 2, None).startswith(b"\x89PNG")


def test_a_report_is_rows_in_the_order_of_its_tree(tmp_path: Path) -> None:
    root = item("CONTAINER", "Report")
    root.ContentSequence = [
        item("TEXT", "Finding", TextValue="<b>none</b>"),
        item("PNAME", "Observer", PersonName="Doe^Jane"),
    ]
    rows = drawing.report(saved(root, tmp_path, ComprehensiveSRStorage))
    assert rows == [
        (0, "Report", "", False),
        (1, "Finding", "<b>none</b>", False),
        (1, "Observer", "Doe^Jane", True),
    ]


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(b"no DICOM")
    with pytest.raises(ReadError):
        drawing.report(drawing.Wanted(1, "sr", str(file), tmp_path, ()))
