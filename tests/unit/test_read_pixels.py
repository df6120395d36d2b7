"""Pixels: every transfer syntax and every odd way of storing bits means the numbers that it should."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.errors import ReadError
from dicom_node.read.rle import decode_rle
from dicom_node.read.volume import read_image
from dicom_node.records import ProjectionImage, Volume
from tests.builders import images

SHAPE = (3, 20, 24)
GRID = images.affine()


def hounsfield(instances: list) -> np.ndarray:
    found = read_image(instances)
    assert isinstance(found, Volume)
    return found.array


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.uint8, np.int32])
def test_native(syntax: str, dtype: type) -> None:
    stored = (images.pattern(SHAPE) % 250).astype(dtype)
    if np.dtype(dtype).kind == "i":
        stored -= 120
    found = hounsfield([images.raw(one, syntax) for one in images.series(stored, GRID)])
    np.testing.assert_array_equal(found, stored.astype(np.float32) - 1024)


def rle(frame: np.ndarray) -> bytes:
    encoder = get_encoder(RLELossless)
    return encoder.encode(
        frame.tobytes(),
        rows=frame.shape[0],
        columns=frame.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=16,
        bits_stored=16,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
    )


ENCODERS = {
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda f: imagecodecs.jpeg2k_encode(f, codecformat="j2k", reversible=True),
    HTJ2KLossless: lambda f: imagecodecs.htj2k_encode(f, reversible=True),
    JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    RLELossless: rle,
}


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda uid: uid.name)
def test_compressed(syntax: str) -> None:
    stored = images.pattern(SHAPE).astype(np.uint16)
    instances = [
        images.compressed(one, syntax, [ENCODERS[syntax](np.ascontiguousarray(frame))])
        for one, frame in zip(images.series(stored, GRID), stored, strict=True)
    ]
    np.testing.assert_array_equal(hounsfield(instances), stored.astype(np.float32) - 1024)


def test_signed_values_survive_a_codec_that_knows_no_sign() -> None:
    stored = images.pattern(SHAPE) - 300
    instances = [
        images.compressed(one, JPEGLSLossless, [imagecodecs.jpegls_encode(frame.view(np.uint16))])
        for one, frame in zip(images.series(stored, GRID), stored, strict=True)
    ]
    np.testing.assert_array_equal(hounsfield(instances), stored.astype(np.float32) - 1024)


def test_a_frame_in_several_fragments() -> None:
    stored = images.pattern((1, 20, 24)).astype(np.uint16)
    (one,) = images.series(stored, GRID)
    one.PixelData = encapsulate([imagecodecs.jpegls_encode(stored[0])], fragments_per_frame=2)
    one["PixelData"].is_undefined_length = True
    found = hounsfield([images.raw(one, JPEGLSLossless)])
    np.testing.assert_array_equal(found, stored.astype(np.float32) - 1024)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("bits", "high"), [(12, 11), (12, 15), (10, 12), (15, 14)])
def test_odd_bits(bits: int, high: int, signed: bool) -> None:
    limit = 1 << (bits - 1)
    values = (images.pattern(SHAPE).astype(np.int32) * 7) % limit - (limit // 2 if signed else 0)
    shift = high + 1 - bits
    words = ((values & ((1 << bits) - 1)) << shift).astype(np.uint16)
    overlay = ~(((1 << bits) - 1) << shift) & 0xFFFF
    words |= np.uint16(overlay)  # overlay planes in the unused bits
    sets = images.series(words, GRID)
    for one in sets:
        one.BitsStored, one.HighBit, one.PixelRepresentation = bits, high, int(signed)
    found = hounsfield([images.raw(one) for one in sets])
    np.testing.assert_array_equal(found, values.astype(np.float32) - 1024)


def test_trailing_padding_is_no_matter() -> None:
    stored = (images.pattern((1, 5, 5)) % 200).astype(np.uint8)
    (one,) = images.series(stored, GRID)
    one.PixelData += b"\0"
    np.testing.assert_array_equal(hounsfield([images.raw(one)]), stored.astype(np.float32) - 1024)


def test_a_damaged_stream_is_told() -> None:
    stored = images.pattern((1, 20, 24)).astype(np.uint16)
    (one,) = images.series(stored, GRID)
    good = imagecodecs.jpegls_encode(stored[0])
    with pytest.raises(ReadError, match="frame 1 cannot be decompressed"):
        read_image([images.compressed(one, JPEGLSLossless, [good[:40] + b"\xff" * 30])])


def test_more_pixels_than_the_budget_are_refused_before_decoding() -> None:
    stored = images.pattern((1, 20, 24)).astype(np.uint16)
    one = images.enhanced_ct(stored, GRID)
    one.Rows = one.Columns = 65535
    with pytest.raises(ReadError, match="more than this node reads"):
        read_image([images.raw(one)])


def test_a_cut_off_data_set_is_told() -> None:
    (one,) = images.series(images.pattern((1, 20, 24)), GRID)
    whole = images.raw(one)
    cut = type(whole)(whole.data[:-200], whole.transfer_syntax_uid, *_uids(whole))
    with pytest.raises(ReadError, match="pixel data is"):
        read_image([cut])


def _uids(one: object) -> tuple[str, str]:
    return one.sop_class_uid, one.sop_instance_uid


def test_monochrome1_is_inverted_so_that_bright_is_dense() -> None:
    stored = (images.pattern((1, 8, 9))[0] % 4096).astype(np.uint16)
    one = images.radiograph(stored, photometric="MONOCHROME1")
    one.BitsStored, one.HighBit = 12, 11
    found = read_image([images.raw(one)])
    assert isinstance(found, ProjectionImage)
    np.testing.assert_array_equal(found.array, 4095.0 - stored)
    assert "MONOCHROME1" in found.notes[0]


def test_colour_is_refused() -> None:
    one = images.radiograph((images.pattern((1, 8, 9))[0] % 256).astype(np.uint8))
    one.PhotometricInterpretation = "PALETTE COLOR"
    with pytest.raises(ReadError, match="PALETTE COLOR"):
        read_image([images.raw(one)])


def test_a_modality_lut_is_looked_up() -> None:
    stored = (images.pattern((1, 8, 9))[0] % 16).astype(np.uint8)
    one = images.radiograph(stored)
    table = [value * value for value in range(16)]
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [16, 0, 16])
    lut.ModalityLUTType = "US"
    lut.add_new("LUTData", "US", table)
    one.ModalityLUTSequence = [lut]
    found = read_image([images.raw(one)])
    assert isinstance(found, ProjectionImage)
    np.testing.assert_array_equal(found.array, np.array(table, np.float32)[stored])


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(1, 300)), min_size=1, max_size=12))
def test_runs_of_any_length_come_back(runs: list[tuple[int, int]]) -> None:
    frame = np.concatenate([np.full(length, value, np.uint16) for value, length in runs])[None]
    np.testing.assert_array_equal(decode_rle(rle(frame), frame.size, frame.dtype), frame[0])


@given(st.binary(min_size=0, max_size=200), st.integers(0, 3))
def test_an_rle_frame_of_a_stranger_is_decoded_or_refused(body: bytes, segments: int) -> None:
    edges = [64, 64 + len(body) // 2] + [0] * 13
    header = np.array([segments, *edges], dtype="<u4").tobytes()
    for data in (header + body, body):
        try:
            assert len(decode_rle(data, 400, np.dtype("u2"))) == 400
        except ReadError:
            continue


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data[:40], "shorter than its header"),
        (lambda data: data[:-30], "ends before its pixels"),
        (lambda data: b"\3\0\0\0" + data[4:], "3 segments for 2 bytes"),
        (lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:], "outside of it"),
        (lambda data: data[:4] + b"\0\0\0\0" + data[8:], "outside of it"),
    ],
)
def test_a_broken_rle_frame_is_refused_with_the_reason(change: object, says: str) -> None:
    frame = images.pattern(SHAPE)[0].astype(np.uint16)
    assert callable(change)
    with pytest.raises(ReadError, match=says):
        decode_rle(change(rle(frame)), frame.size, frame.dtype)
