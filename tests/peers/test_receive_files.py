"""Every real file gets the right answer, and what was answered 0000 is read back byte for byte."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dicom_node.receive.contexts import STORAGE_SYNTAXES, storage_sop_classes
from tests.builders.datasets import SentFile, ct_slice, encoded, sent_file
from tests.builders.raw_peer import RawPeer
from tests.receiving import Listening, listening

NO_CONTEXT = -1
EXPECTED = {
    # by the file's name; every other one is 0000
    "DICOMDIR": NO_CONTEXT,  # a directory, no patient's object
    "DICOMDIR-bigEnd": NO_CONTEXT,
    "DICOMDIR-empty.dcm": NO_CONTEXT,
    "DICOMDIR-implicit": NO_CONTEXT,
    "DICOMDIR-nooffset": NO_CONTEXT,
    "DICOMDIR-nopatient": NO_CONTEXT,
    "DICOMDIR-reordered": NO_CONTEXT,
    "NeurosurgeryPlan.dcm": NO_CONTEXT,  # a hanging protocol belongs to no study
    "image_dfl.dcm": NO_CONTEXT,  # deflated
    "liver_deflate.dcm": NO_CONTEXT,
    "HTJ2K_08_RGB.dcm": 0xC000,  # no study
    "JLSL_08_07_0_1F.dcm": 0xC000,
    "JLSL_16_15_1_1F.dcm": 0xC000,
    "chrSQEncoding.dcm": 0xC000,
    "chrSQEncoding1.dcm": 0xC000,
    "JPEGLSNearLossless_08.dcm": 0xC000,
    "JPEGLSNearLossless_16.dcm": 0xC000,
    "SC_rgb_jls_lossy_line.dcm": 0xC000,
    "SC_rgb_jls_lossy_sample.dcm": 0xC000,
    "UN_sequence.dcm": 0xC000,
    "empty_charset_LEI.dcm": 0xC000,
    "nested_priv_SQ.dcm": NO_CONTEXT,  # names no SOP class
    "no_meta_group_length.dcm": 0xC000,
    "priv_SQ.dcm": 0xC000,
    "SC_rgb_jpeg.dcm": 0xC000,  # implicit VR under an explicit VR transfer syntax
}
QUARANTINED = {
    "chrKoreanMulti.dcm",
    "MR_truncated.dcm",
    "rtplan_truncated.dcm",
    "bad_sequence.dcm",
    "RG1_J2KI.dcm",
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path) as running:
        yield running


@cache
def _interop(shared: Path) -> list[SentFile]:
    files = (sent_file(path) for path in sorted((shared / "interop").rglob("*")) if path.is_file())
    return [file for file in files if file is not None]


def _answers(node: Listening, files: list[SentFile]) -> dict[Path, int]:
    """What the node answers to each file, sent as it is; 60 contexts an association."""
    answers = {}
    for start in range(0, len(files), 60):
        part = files[start : start + 60]
        contexts = [
            (2 * i + 1, file.sop_class_uid, (file.transfer_syntax_uid,))
            for i, file in enumerate(part)
        ]
        with RawPeer(node.address) as peer:
            results = peer.associate(contexts)
            for (number, sop_class, _), file in zip(contexts, part, strict=True):
                answers[file.path] = (
                    peer.store(
                        number,
                        file.data,
                        sop_class=sop_class,
                        sop_instance=file.sop_instance_uid,
                        fragment=60_000,
                    )
                    if results[number] == 0
                    else NO_CONTEXT
                )
            peer.release()
    return answers


@pytest.mark.shared
def test_every_file_gets_the_right_answer_and_is_kept_as_it_was(
    node: Listening, shared: Path
) -> None:
    files = _interop(shared)
    assert len(files) > 250
    answers = _answers(node, files)
    wrong = {
        str(path): f"{status:04X}"
        for path, status in answers.items()
        if status != EXPECTED.get(path.name, 0)
    }
    assert not wrong
    kept = [file for file in files if answers[file.path] == 0]
    contents = {(file.sop_instance_uid, file.data): file.path.name for file in kept}
    found = node.instances(len(contents))
    assert {(row["sop_instance_uid"], node.data_set(row)) for row in found} == set(contents)
    conflict = "another instance with the same SOP Instance UID and other content was received"
    odd = {
        contents[row["sop_instance_uid"], node.data_set(row)]
        for row in found
        if row["quarantine"] not in (None, conflict)
    }
    assert odd <= QUARANTINED | {
        name for (uid, _), name in contents.items() if _doubled(uid, contents)
    }


def _doubled(uid: str, contents: dict[tuple[str, bytes], str]) -> bool:
    return sum(other == uid for other, _ in contents) > 1


@pytest.mark.peer("dcmtk")
@pytest.mark.shared
def test_dcmsend_delivers_what_the_node_takes(
    node: Listening, shared: Path, tmp_path: Path
) -> None:
    files = [f for f in _interop(shared) if EXPECTED.get(f.path.name, 0) == 0]
    report = tmp_path / "report.txt"
    command = ["dcmsend", "--no-halt", "--no-uid-checks", "--decompress-never"]
    command += ["--create-report-file", str(report), *_host(node)]
    done = subprocess.run(
        [*command, *(str(f.path) for f in files)], capture_output=True, text=True, timeout=120
    )
    text = report.read_text()
    assert "status code of this message" in text.lower() or done.returncode == 0, done.stderr
    assert int(re.search(r"Number of SOP instances +: (\d+)", text).group(1)) > 200  # type: ignore[union-attr]
    assert int(re.search(r"- sent to the peer +: (\d+)", text).group(1)) > 200  # type: ignore[union-attr]


NOT_SENT_BY_STORESCU = {"explicit_VR-UN.dcm", "rtdose_rle.dcm", "rtdose_rle_1frame.dcm"}
STORESCU = {
    "-xe": "1.2.840.10008.1.2.1",
    "-xb": "1.2.840.10008.1.2.2",
    "-xi": "1.2.840.10008.1.2",
    "-xs": "1.2.840.10008.1.2.4.70",
    "-xy": "1.2.840.10008.1.2.4.50",
    "-xx": "1.2.840.10008.1.2.4.51",
    "-xv": "1.2.840.10008.1.2.4.90",
    "-xw": "1.2.840.10008.1.2.4.91",
    "-xt": "1.2.840.10008.1.2.4.80",
    "-xr": "1.2.840.10008.1.2.5",
}


@pytest.mark.peer("dcmtk")
@pytest.mark.shared
@pytest.mark.parametrize(("option", "syntax"), STORESCU.items())
def test_storescu_delivers_in_each_transfer_syntax(
    node: Listening, shared: Path, option: str, syntax: str
) -> None:
    files = [
        file
        for file in _interop(shared)
        if file.transfer_syntax_uid == syntax
        and EXPECTED.get(file.path.name, 0) == 0
        and file.path.name not in QUARANTINED | NOT_SENT_BY_STORESCU
    ][:12]
    assert files
    # storescu speaks of no more than one transfer syntax, so that it must use this one
    done = subprocess.run(
        ["storescu", "-R", option, *_host(node), *(str(file.path) for file in files)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = node.instances(len({f.sop_instance_uid for f in files}))
    assert {row["sop_instance_uid"] for row in found} == {f.sop_instance_uid for f in files}
    if option not in ("-xe", "-xi"):
        assert {row["transfer_syntax_uid"] for row in found} == {syntax}


@pytest.mark.peer("dcmtk")
def test_echoscu_is_answered(node: Listening) -> None:
    done = subprocess.run(["echoscu", *_host(node)], capture_output=True, timeout=60)
    assert done.returncode == 0


def test_all_that_is_listed_is_accepted_and_deflated_is_not(node: Listening) -> None:
    classes = sorted(storage_sop_classes())
    for start in range(0, len(classes), 128):
        part = classes[start : start + 128]
        with RawPeer(node.address) as peer:
            results = peer.associate(
                [(2 * i + 1, uid, STORAGE_SYNTAXES) for i, uid in enumerate(part)]
            )
            assert set(results.values()) == {0}
    deflated = ("1.2.840.10008.1.2.1.99",)
    with RawPeer(node.address) as peer:
        assert peer.associate([(1, classes[0], deflated), (3, "1.2.3.4", deflated)]) == {1: 4, 3: 3}


def test_duplicates_make_no_work_and_conflicts_are_both_kept(node: Listening) -> None:
    ds = ct_slice()
    uid = str(ds.SOPInstanceUID)
    with RawPeer(node.address) as peer:
        peer.associate()
        assert peer.store(1, encoded(ds), sop_instance=uid) == 0
        assert peer.store(1, encoded(ds), sop_instance=uid) == 0
        peer.release()
    assert node.endings() == ["RELEASED"]
    assert [row["quarantine"] for row in node.instances(1)] == [None]
    ds.PatientName = "Another^One"
    with RawPeer(node.address) as peer:
        peer.associate()
        assert peer.store(1, encoded(ds), sop_instance=uid) == 0
        peer.release()
    found = node.instances(2)
    assert len(found) == 2
    assert all("other content" in row["quarantine"] for row in found)


def _host(node: Listening) -> list[str]:
    host, port = node.address
    return [host, str(port)]
