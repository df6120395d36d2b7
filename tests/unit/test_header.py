"""The header walk: the same values as pydicom finds, whatever the encoding, and bounds on bad input."""

import struct
from functools import cache
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence

from dicom_node.errors import CannotUnderstand
from dicom_node.read.header import MAX_DEPTH, read_header
from tests.builders.datasets import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ct_slice,
    encoded,
    sent_file,
)

SYNTAXES = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_identity_and_attributes(syntax: str) -> None:
    ds = ct_slice(number=4)
    header = read_header(encoded(ds, syntax), syntax)
    assert header.study_uid == ds.StudyInstanceUID
    assert header.series_uid == ds.SeriesInstanceUID
    assert (header.sop_class_uid, header.sop_instance_uid) == (ds.SOPClassUID, ds.SOPInstanceUID)
    assert header.patient_id == "P1"
    assert header.attributes == {
        "image_type": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "study_date": "20260102",
        "modality": "CT",
        "manufacturer": "Builder",
        "series_description": "Größe",
        "patient_name": "Doe^Jane",
        "body_part": "CHEST",
        "slice_thickness": 2.0,
        "series_number": 3,
        "instance_number": 4,
        "position": [-8.0, -8.0, 8.0],
        "orientation": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "rows": 16,
        "columns": 16,
        "pixel_spacing": [1.0, 1.0],
        "has_pixel_data": True,
    }
    assert header.oddities is None


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_are_skipped_and_searched(syntax: str, undefined: bool) -> None:
    ds = ct_slice()
    inner = Dataset()
    inner.ManufacturerModelName = "ai-node^ct"
    inner.StudyInstanceUID = "9.9.9"
    nested = Dataset()
    nested.ReferencedSOPInstanceUID = "1.2.3"
    nested.PurposeOfReferenceCodeSequence = Sequence([Dataset()])
    inner.ReferencedInstanceSequence = Sequence([nested])
    ds.ContributingEquipmentSequence = Sequence([inner, inner])
    ds.ReferencedStudySequence = Sequence([inner])
    if undefined:
        for element in (ds["ContributingEquipmentSequence"], ds["ReferencedStudySequence"]):
            element.is_undefined_length = True
            for entry in element.value:
                entry.is_undefined_length_sequence_item = True
    header = read_header(encoded(ds, syntax), syntax)
    assert header.study_uid == ds.StudyInstanceUID
    assert header.attributes["contributing_model_names"] == ["ai-node^ct", "ai-node^ct"]
    assert header.attributes["has_pixel_data"]


def test_real_files_read_as_pydicom_reads_them(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "interop").rglob("*")):
        sent = sent_file(path) if path.is_file() else None
        if sent is None or "Deflated" in pydicom.uid.UID(sent.transfer_syntax_uid).name:
            continue
        try:
            header = read_header(sent.data, sent.transfer_syntax_uid)
        except CannotUnderstand:
            continue
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        assert header.study_uid == ds.StudyInstanceUID, path
        assert header.series_uid == ds.SeriesInstanceUID, path
        assert header.attributes.get("rows") == ds.get("Rows"), path
        assert header.attributes.get("modality", "") == (ds.get("Modality") or ""), path
        if "ImagePositionPatient" in ds:
            assert header.attributes["position"] == [float(v) for v in ds.ImagePositionPatient]
        if "chr" not in path.name:  # how a character set that contradicts itself is read differs
            assert header.attributes.get("patient_name", "") == str(ds.get("PatientName") or "")
        compared += 1
    assert compared > 200


@pytest.mark.parametrize("missing", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_without_study_or_series_it_cannot_be_understood(missing: str) -> None:
    ds = ct_slice()
    delattr(ds, missing)
    with pytest.raises(CannotUnderstand):
        read_header(encoded(ds), ExplicitVRLittleEndian)


def test_rubbish_cannot_be_understood() -> None:
    for data in (b"", b"\0", b"<html>" * 100, bytes(10_000), b"\xff" * 10_000):
        with pytest.raises(CannotUnderstand):
            read_header(data, ExplicitVRLittleEndian)


def test_oddities_are_told() -> None:
    short = ct_slice()
    short.PixelData = bytes(100)
    assert "100 bytes, 512 are needed" in _oddities(short)
    turned = ct_slice()
    turned.ImageOrientationPatient = [1, 0, 0, 1, 0, 0]
    assert "orthogonal" in _oddities(turned)
    spaced = ct_slice()
    spaced.PixelSpacing = [0, 1]
    assert "spacing" in _oddities(spaced)
    del spaced.Rows
    assert "rows and columns" in _oddities(spaced)


def test_a_truncated_data_set_is_odd_but_known() -> None:
    data = encoded(ct_slice())
    header = read_header(data[:-40], ExplicitVRLittleEndian)
    assert "512 bytes are said, 472 are there" in (header.oddities or "")


def test_a_path_in_a_uid_is_only_odd() -> None:
    raw = encoded(ct_slice(series="1.2.3.4.5.6.7.8.9.10.11.12")).replace(
        b"1.2.3.4.5.6.7.8.9.10.11.12", b"../../../../../etc/cron.d/"
    )
    header = read_header(raw, ExplicitVRLittleEndian)
    assert header.series_uid == "../../../../../etc/cron.d/"
    assert "Series Instance UID" in (header.oddities or "")


def test_deep_nesting_is_bounded() -> None:
    opened = struct.pack("<HHI", 0x0008, 0x1140, 0xFFFFFFFF) + struct.pack(
        "<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    data = encoded(ct_slice(), ImplicitVRLittleEndian)
    with pytest.raises(CannotUnderstand, match="nested too deeply"):
        read_header(opened * (MAX_DEPTH + 1) + data, ImplicitVRLittleEndian)


def _oddities(ds: Dataset) -> str:
    return read_header(encoded(ds), ExplicitVRLittleEndian).oddities or ""


@cache
def _whole(syntax: str) -> bytes:
    """Always the same bytes: a builder draws UIDs of its own, of varying length."""
    return encoded(ct_slice("1.2.3", "1.2.4"), syntax)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_headers_never_break_the_walk(data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from(SYNTAXES))
    raw = bytearray(_whole(syntax))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, 600))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    try:
        header = read_header(bytes(raw[:cut]), syntax)
    except CannotUnderstand:
        return
    assert isinstance(header.attributes, dict)
    assert header.oddities is None or header.oddities
