"""Frames of one instance: from pixel bytes, native or compressed, to modality values.

What comes in: a `RawHeader`. What goes out: a float32 frame, written into the caller's array. It owns the
invariant that no codec runs before Rows x Columns x Frames was checked against a budget, and that a frame
is decoded once. It knows nothing of positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.encaps import generate_frames

from dicom_node.errors import ReadError
from dicom_node.read.elements import ITEM, PIXEL_DATA, RawHeader
from dicom_node.read.kernels import blanked, masked_and_rescaled, rescaled
from dicom_node.read.rle import decode_rle
from dicom_node.records import Float32, Mask

SAMPLES, PHOTOMETRIC, FRAMES = 0x00280002, 0x00280004, 0x00280008
ROWS, COLUMNS = 0x00280010, 0x00280011
BITS_ALLOCATED, BITS_STORED, HIGH_BIT, SIGNED = 0x00280100, 0x00280101, 0x00280102, 0x00280103
PADDING, PADDING_LIMIT = 0x00280120, 0x00280121
WANTED = frozenset(
    {
        PADDING,
        PADDING_LIMIT,
        SAMPLES,
        PHOTOMETRIC,
        FRAMES,
        ROWS,
        COLUMNS,
        BITS_ALLOCATED,
        BITS_STORED,
        HIGH_BIT,
        SIGNED,
    }
)
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
BUDGET = 4 * 2**30
"""The most bytes of pixels that one instance may hold once decoded."""

_JPEG = "1.2.840.10008.1.2.4."
_Codec = Callable[[bytes], npt.NDArray[Any]]
CODECS: dict[str, _Codec] = {
    _JPEG + "50": imagecodecs.jpeg8_decode,
    _JPEG + "51": imagecodecs.jpeg8_decode,
    _JPEG + "57": imagecodecs.ljpeg_decode,
    _JPEG + "70": imagecodecs.ljpeg_decode,
    _JPEG + "80": imagecodecs.jpegls_decode,
    _JPEG + "81": imagecodecs.jpegls_decode,
    _JPEG + "90": imagecodecs.jpeg2k_decode,
    _JPEG + "91": imagecodecs.jpeg2k_decode,
    _JPEG + "201": imagecodecs.htj2k_decode,
    _JPEG + "202": imagecodecs.htj2k_decode,
    _JPEG + "203": imagecodecs.htj2k_decode,
}
RLE = "1.2.840.10008.1.2.5"


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The Image Pixel module of an instance (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    samples: int
    photometric: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """The unsigned type that holds one native sample."""
        return np.dtype(f"u{self.bits_allocated // 8}")


def pixel_format(header: RawHeader) -> PixelFormat:
    """Read and check the Image Pixel module.

    Raises:
        ReadError: there are no pixels, a value is missing, or it is of a kind that is not handled.
    """
    if header.pixel_tag is None:
        raise ReadError("an image has no pixel data")
    if header.pixel_tag != PIXEL_DATA:
        raise ReadError("pixels are floating point, which this node does not read")
    rows, columns = header.unsigned(ROWS), header.unsigned(COLUMNS)
    allocated = header.unsigned(BITS_ALLOCATED)
    if not rows or not columns or not allocated:
        raise ReadError("Rows, Columns or Bits Allocated is missing")
    if allocated not in (8, 16, 32):
        raise ReadError(f"{allocated} bits are allocated for a pixel; 8, 16 or 32 are handled")
    stored = header.unsigned(BITS_STORED) or allocated
    high = header.unsigned(HIGH_BIT)
    high = stored - 1 if high is None else high
    if not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        raise ReadError(f"{stored} bits stored up to bit {high} do not fit {allocated} allocated")
    samples = header.unsigned(SAMPLES) or 1
    photometric = header.text(PHOTOMETRIC)
    if samples != 1 or photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ReadError(
            f"the image is {photometric or 'of unknown colour'}, not one of grey values"
        )
    try:
        frames = int(header.text(FRAMES) or 1)
    except ValueError as error:
        raise ReadError("Number of Frames is not a number") from error
    found = PixelFormat(
        rows,
        columns,
        frames,
        allocated,
        stored,
        high,
        bool(header.unsigned(SIGNED)),
        samples,
        photometric,
    )
    if frames < 1 or found.frame_bytes * frames > BUDGET:
        raise ReadError(f"{columns} x {rows} x {frames} pixels are more than this node reads")
    return found


@dataclass(frozen=True, slots=True)
class Blank:
    """What becomes of the padding of a frame.

    Attributes:
        values: the first and the last stored value that is padding.
        air: the modality value that it is given.
        padding: `(y, x)`, set where there is padding.
    """

    values: tuple[int, int]
    air: float
    padding: Mask


def padding_of(header: RawHeader, of: PixelFormat) -> tuple[int, int] | None:
    """The stored values, first and last, that mean "no value here" (PS3.3 C.7.5.1.1.2); None if none do."""
    found = []
    for tag in (PADDING, PADDING_LIMIT):
        value = header.unsigned(tag)
        if value is not None:
            found.append(value - 0x10000 if of.signed and value >= 0x8000 else value)
    if not found or PADDING not in header.values:
        return None
    return min(found), max(found)


class Frames:
    """The stored frames of one instance, decoded one by one."""

    def __init__(self, header: RawHeader, transfer_syntax_uid: str, of: PixelFormat) -> None:
        """
        Raises:
            ReadError: the pixel data is too short, or the transfer syntax has no decoder.
        """
        self.format = of
        self._syntax = transfer_syntax_uid
        self._big_endian = header.big_endian
        if header.encapsulated:
            if self._syntax not in CODECS and self._syntax != RLE:
                raise ReadError(f"transfer syntax {self._syntax} cannot be decoded")
            self._fragments = _encapsulated_frames(header.pixels, of.frames)
            return
        if self._syntax not in NATIVE:
            raise ReadError("pixel data is not encapsulated, though its transfer syntax says so")
        expected, found = of.frame_bytes * of.frames, len(header.pixels)
        if found < expected:
            raise ReadError(
                f"pixel data is {found} bytes long, {of.columns} x {of.rows} x {of.frames} "
                f"pixels need {expected}"
            )
        size = of.frame_bytes
        self._fragments = [header.pixels[i * size : (i + 1) * size] for i in range(of.frames)]

    def raw(self, index: int) -> npt.NDArray[Any]:
        """Frame `index` (from 0) as unsigned words `(y, x)`, bits as they were stored."""
        of, data = self.format, self._fragments[index]
        if self._syntax in NATIVE:
            dtype = of.dtype.newbyteorder(">" if self._big_endian else "<")
            return np.frombuffer(data, dtype=dtype).reshape(of.rows, of.columns)
        try:
            decoded = self._decode(data)
        except ReadError:
            raise
        except Exception as error:  # each codec raises errors of its own kind
            raise ReadError(f"frame {index + 1} cannot be decompressed: {error}") from error
        if decoded.shape != (of.rows, of.columns):
            raise ReadError(
                f"frame {index + 1} decompresses to {decoded.shape}, not {of.rows} x {of.columns}"
            )
        return decoded.view(np.dtype(f"u{decoded.dtype.itemsize}"))

    def _decode(self, data: bytes | memoryview) -> npt.NDArray[Any]:
        of = self.format
        if self._syntax == RLE:
            return decode_rle(data, of.rows * of.columns, of.dtype).reshape(of.rows, of.columns)
        decoded: npt.NDArray[Any] = np.asarray(CODECS[self._syntax](bytes(data)))
        return decoded.reshape(decoded.shape[:2]) if decoded.ndim == 3 else decoded

    def modality_values(
        self,
        index: int,
        slope: float,
        intercept: float,
        out: Float32,
        blank: "Blank | None" = None,
    ) -> None:
        """Write frame `index` x slope + intercept into `out`, `(y, x)` float32.

        Args:
            blank: which stored values are padding, and where to mark them.
        """
        of, raw = self.format, self.raw(index)
        if raw.dtype.byteorder == ">":
            raw = raw.astype(raw.dtype.newbyteorder("="))
        bits = raw.dtype.itemsize * 8
        signed = raw.view(np.dtype(f"i{raw.dtype.itemsize}")) if of.signed else raw
        # a codec that packs fewer bytes than are allocated has shifted the values down already
        shift = of.high_bit + 1 - of.bits_stored if bits == of.bits_allocated else 0
        sign = 1 << (of.bits_stored - 1) if of.signed else 0
        mask = (1 << of.bits_stored) - 1
        if of.bits_stored == bits:
            rescaled(signed, slope, intercept, out)
        else:
            masked_and_rescaled(raw, shift, mask, sign, slope, intercept, out)
        if blank is not None:
            (low, high), air, padding = blank.values, blank.air, blank.padding
            blanked(signed, shift, mask, sign, low, high, air, out, padding)


def _encapsulated_frames(pixels: memoryview, frames: int) -> list[memoryview | bytes]:
    """The compressed stream of each frame (PS3.5 A.4)."""
    fragments = _fragments(pixels)
    if len(fragments) == frames:
        return list(fragments)
    if frames == 1 and fragments:
        return [b"".join(fragments)]
    try:
        found = list(generate_frames(bytes(pixels), number_of_frames=frames))
    except Exception as error:
        raise ReadError(f"the compressed frames cannot be told apart: {error}") from error
    if len(found) != frames:
        raise ReadError(f"{len(found)} compressed frames were found, the header says {frames}")
    return list(found)


def _fragments(pixels: memoryview) -> list[memoryview]:
    """Fragments after the Basic Offset Table."""
    found, at, end = [], 0, len(pixels)
    while at + 8 <= end:
        group, number = int.from_bytes(pixels[at : at + 2], "little"), 0
        number = int.from_bytes(pixels[at + 2 : at + 4], "little")
        length = int.from_bytes(pixels[at + 4 : at + 8], "little")
        if group << 16 | number != ITEM:
            break
        if at + 8 + length > end:
            raise ReadError("the compressed pixel data is cut off")
        found.append(pixels[at + 8 : at + 8 + length])
        at += 8 + length
    return found[1:]
