"""Part 10 files as the rest of the node sees instances: raw data set bytes and what they are.

What comes in: a file as a scanner's export or a PACS wrote it, or somebody's upload. What goes out: a
`RawInstance`, the same thing that the spool holds. The data set itself is not looked at, nothing is unfolded.
"""

from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.errors import ReadError
from dicom_node.read.elements import walk
from dicom_node.records import RawInstance

PREAMBLE, GROUP_LENGTH_ELEMENT = 132, 12
_LENGTH, _CLASS, _INSTANCE, _SYNTAX = 0x00020000, 0x00020002, 0x00020003, 0x00020010


def raw_file(content: bytes) -> RawInstance:
    """The instance in the bytes of a DICOM file (PS3.10 7.1).

    Raises:
        ReadError: it is none, or its file meta information lacks what is needed.
    """
    view = memoryview(content)
    if bytes(view[128:PREAMBLE]) != b"DICM":
        raise ReadError("not a DICOM file (it has no prefix)")
    start = PREAMBLE + GROUP_LENGTH_ELEMENT
    head = walk(view[PREAMBLE:start], ExplicitVRLittleEndian, {_LENGTH}).values
    # the group's first element tells its length; the data set begins behind it
    start += int.from_bytes(head.get(_LENGTH, b""), "little")
    meta = walk(view[PREAMBLE:start], ExplicitVRLittleEndian, {_CLASS, _INSTANCE, _SYNTAX})
    if _LENGTH not in head or not {_CLASS, _INSTANCE, _SYNTAX} <= meta.values.keys():
        raise ReadError(
            "not a DICOM file that can be read (its file meta information is not whole)"
        )
    return RawInstance(view[start:], meta.text(_SYNTAX), meta.text(_CLASS), meta.text(_INSTANCE))


def raw_instance(path: Path) -> RawInstance:
    """Read one DICOM file; errors as `raw_file`, with the file's name."""
    try:
        return raw_file(path.read_bytes())
    except (ReadError, OSError) as error:
        raise ReadError(f"{path.name}: {error}") from error
