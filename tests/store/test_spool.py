"""The spool: what was acknowledged is read again byte for byte, and what was not is cut off."""

import hashlib
import os
import random
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom
import pytest

from dicom_node.records import Peer, SegmentAddress
from dicom_node.store import spool
from dicom_node.store.spool import AbandonedSegment, SegmentOwner, SegmentWriter
from tests.builders.datasets import ct_slice, encoded

OWNER = SegmentOwner("a-1", Peer("CT1", "NODE", "10.0.0.1"), datetime(2026, 1, 2, tzinfo=UTC))
SIZES = (0, 1, 255, 256, 511, 512, 513, (1 << 20) - 256, 1 << 20, (3 << 20) + 17)


def _written(folder: Path, sizes: tuple[int, ...]) -> tuple[SegmentWriter, list[bytes]]:
    writer = SegmentWriter.open(folder, OWNER)
    chosen = random.Random(1)
    data = [chosen.randbytes(size) for size in sizes]
    for number, content in enumerate(data):
        writer.append("1.2", f"1.2.{number}", "1.2.840.10008.1.2", content)
    return writer, data


def test_records_of_all_sizes_are_read_again(tmp_path: Path) -> None:
    writer, data = _written(tmp_path, SIZES)
    found = list(spool.records(tmp_path / writer.name))
    assert [m.sop_instance_uid for m, _ in found] == [f"1.2.{i}" for i in range(len(SIZES))]
    for content, (_, address) in zip(data, found, strict=True):
        assert spool.digest(tmp_path, address) == hashlib.sha256(content).hexdigest()
        with spool.open_data_set(tmp_path, address) as view:
            assert view == content
    assert spool.owner(tmp_path / writer.name) == OWNER
    writer.close(sealed=True)


@pytest.mark.parametrize("piece", [4090, 16_372, 131_066, 200_000])
def test_what_is_written_ahead_is_read_again(tmp_path: Path, piece: int) -> None:
    """Fragments of any length, behind a record that ends anywhere within a page."""
    writer, _ = _written(tmp_path, (3000,))
    chosen = random.Random(piece)
    data = [chosen.randbytes(size) for size in (131_072, 140_000, 525_312, 1_048_576, 2_500_001)]
    digests = []
    for number, content in enumerate(data):
        record = writer.begin()
        for start in range(0, len(content), piece):
            record.write(content[start : start + piece])
        with record.data_set() as view:
            assert view == content
        record.finish("1.2", f"1.3.{number}", "1.2.840.10008.1.2")
        digests.append(record.digest())
    found = list(spool.records(tmp_path / writer.name))[1:]
    assert len(found) == len(data)
    for content, digest, (_, address) in zip(data, digests, found, strict=True):
        assert digest == hashlib.sha256(content).hexdigest()
        with spool.open_data_set(tmp_path, address) as view:
            assert view == content
    writer.close(sealed=True)


def test_a_record_is_hashed_once_whoever_asks(tmp_path: Path) -> None:
    """The buffer of a record serves the second one after it, which must not change its hash."""
    writer, _ = _written(tmp_path, ())
    data = [random.Random(n).randbytes(400_000) for n in range(6)]
    records = []
    for number, content in enumerate(data):
        record = writer.begin()
        record.write(content)
        record.finish("1.2", f"1.3.{number}", "1.2.840.10008.1.2")
        records.append(record)
    writer.close(sealed=True)
    assert [r.digest() for r in records] == [hashlib.sha256(c).hexdigest() for c in data]


def test_reading_goes_on_from_an_offset(tmp_path: Path) -> None:
    writer, _ = _written(tmp_path, (10, 20, 30))
    first = next(spool.records(tmp_path / writer.name))
    rest = spool.records(tmp_path / writer.name, spool.record_end(first[1]))
    assert [meta.sop_instance_uid for meta, _ in rest] == ["1.2.1", "1.2.2"]
    writer.close(sealed=True)


@pytest.mark.parametrize("lost", [1, 300, 600, 5000, 70_000])
def test_a_half_written_tail_ends_the_segment(tmp_path: Path, lost: int) -> None:
    writer, _ = _written(tmp_path, (1000, 100_000))
    writer.close(sealed=False)
    path = tmp_path / writer.name
    os.truncate(path, path.stat().st_size - lost)
    assert [m.sop_instance_uid for m, _ in spool.records(path)] == ["1.2.0"]


@pytest.mark.parametrize(
    "offset", [spool.BLOCK, spool.BLOCK + 9, spool.BLOCK + 30, spool.BLOCK + 500]
)
def test_a_changed_byte_ends_the_segment(tmp_path: Path, offset: int) -> None:
    writer, _ = _written(tmp_path, (1000,))
    writer.close(sealed=False)
    path = tmp_path / writer.name
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    assert not list(spool.records(path))


@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_a_discarded_record_leaves_no_trace(tmp_path: Path, size: int) -> None:
    writer, _ = _written(tmp_path, (100,))
    record = writer.begin()
    record.write(bytes(size))
    with record.data_set() as view:
        assert len(view) == size
    record.discard()
    writer.append("1.2", "1.2.9", "1.2.840.10008.1.2", b"next")
    found = [m.sop_instance_uid for m, _ in spool.records(tmp_path / writer.name)]
    assert found == ["1.2.0", "1.2.9"]
    assert (tmp_path / writer.name).stat().st_size < 4096
    writer.close(sealed=True)


def test_a_living_writer_cannot_be_robbed(tmp_path: Path) -> None:
    writer, _ = _written(tmp_path, (10,))
    path = tmp_path / writer.name
    assert list(spool.unsealed(tmp_path)) == [path]
    assert AbandonedSegment.claim(path) is None
    writer.close(sealed=False)
    abandoned = AbandonedSegment.claim(path)
    assert abandoned is not None
    assert AbandonedSegment.claim(path) is None
    abandoned.seal()
    assert not list(spool.unsealed(tmp_path))


def test_an_exported_instance_is_a_dicom_file(tmp_path: Path) -> None:
    ds = ct_slice()
    writer = SegmentWriter.open(tmp_path, OWNER)
    meta, address = writer.append(
        ds.SOPClassUID, ds.SOPInstanceUID, "1.2.840.10008.1.2.1", encoded(ds)
    )
    content = spool.part10(tmp_path, meta, address)
    assert content[:128] == bytes(128)
    assert content.endswith(encoded(ds))
    assert pydicom.dcmread(BytesIO(content)).SeriesDescription == "Größe"
    writer.close(sealed=True)


def test_an_address_never_leaves_the_spool(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    inside = tmp_path / "spool"
    inside.mkdir()
    with pytest.raises(FileNotFoundError):
        spool.open_data_set(inside, SegmentAddress("../secret", 0, 6))
