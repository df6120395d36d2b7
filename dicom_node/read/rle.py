"""RLE Lossless (PS3.5 Annex G): a frame's byte planes, each run-length encoded, back to words.

What comes in: one compressed frame. What goes out: its words. The codec of the library that reads the other
transfer syntaxes takes half as long again as these loops. Every length is checked against the frame, since
the bytes are a stranger's.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from dicom_node.errors import ReadError
from dicom_node.read.kernels import interleaved, unpacked

_HEADER = 64
_kept = threading.local()
"""Planes of the last frame: memory that is fresh for every frame costs as much as decoding it."""
_MOST_SEGMENTS = 15


def decode_rle(data: bytes | memoryview, size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """`size` words of a frame of one sample a pixel.

    Args:
        data: the frame's header and segments (PS3.5 G.5), the most significant byte first.
        size: Rows x Columns.
        dtype: the unsigned type of a word.

    Raises:
        ReadError: the header is wrong, or a segment ends before its plane is full.
    """
    if len(data) < _HEADER:
        raise ReadError("an RLE frame is shorter than its header")
    count, *offsets = np.frombuffer(data, dtype="<u4", count=16).tolist()
    if count != dtype.itemsize or count > _MOST_SEGMENTS:
        raise ReadError(f"an RLE frame of {count} segments for {dtype.itemsize} bytes a pixel")
    edges = [*offsets[:count], len(data)]
    if edges[0] < _HEADER or edges != sorted(edges):
        raise ReadError("the segments of an RLE frame lie outside of it")
    source = np.frombuffer(data, dtype=np.uint8)
    planes = _scratch(count, size)
    for plane, begin, end in zip(planes, edges, edges[1:], strict=False):
        if not unpacked(source, begin, end, plane):
            raise ReadError("an RLE segment ends before its pixels do")
    words = np.empty((size, count), dtype=np.uint8)
    interleaved(planes, words)
    return words.reshape(-1).view(dtype.newbyteorder("<"))


def _scratch(count: int, size: int) -> npt.NDArray[np.uint8]:
    """This thread's memory for byte planes."""
    planes: npt.NDArray[np.uint8] | None = getattr(_kept, "planes", None)
    if planes is None or planes.shape != (count, size):
        planes = _kept.planes = np.empty((count, size), dtype=np.uint8)
    return planes
