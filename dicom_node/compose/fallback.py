"""BINARY twins of results that a destination refused: LABELMAP is a class that few archives know yet.

What comes in: the results of one job for one destination, as they were written, a LABELMAP SEG among them.
What goes out: its BINARY twin, and a twin of everything that refers to it. It owns the invariants that a twin
holds the same voxels, segments and tracking UIDs, that nothing refers to what was refused, and that the same
results give the same twins. What refers to no LABELMAP has no twin: it is sent as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import SegmentationStorage

from dicom_node.compose.context import DicomFile
from dicom_node.compose.part10 import dicom_file
from dicom_node.compose.seg import LABELMAP_OUTPUT
from dicom_node.compose.uids import derived_uid
from dicom_node.errors import ComposeError

_KINDS = {"SEG": "seg", "SR": "sr", "KO": "key_objects"}
_SEGMENT = 0x0062000B
_IDENTIFICATION = 0x0062000A


def binary_twins(results: Sequence[Dataset]) -> list[DicomFile]:
    """BINARY twins of the LABELMAP SEGs among these, and of the documents that refer to them.

    Args:
        results: a job's results for one destination, with their pixel data.

    Raises:
        ComposeError: there is no LABELMAP SEG among them, or one cannot be read.
    """
    refused = [one for one in results if one.SOPClassUID == LABELMAP_OUTPUT.sop_class_uid]
    if not refused:
        raise ComposeError("there is no LABELMAP segmentation among these results")
    twins = {str(one.SOPInstanceUID): twin_uid(one.SOPInstanceUID) for one in refused}
    series = {str(one.SeriesInstanceUID): twin_uid(one.SeriesInstanceUID) for one in refused}
    referring = [one for one in results if one not in refused and _refers(one, twins)]
    # a list of results refers to the report too, which becomes another one
    documents = {str(one.SOPInstanceUID): twin_uid(one.SOPInstanceUID) for one in referring}
    series |= {str(one.SeriesInstanceUID): twin_uid(one.SeriesInstanceUID) for one in referring}
    made = [dicom_file("seg", _binary(one, twins, series)) for one in refused]
    for one in referring:
        document = deepcopy(one)
        document.decode()
        _renamed(document, twins | documents, series, set(twins.values()))
        made.append(dicom_file(_KINDS.get(str(one.Modality), "sr"), document))
    return made


def twin_uid(uid: str) -> str:
    """The SOP or Series Instance UID of a twin."""
    return derived_uid(str(uid), "binary")


def _elements(item: Dataset) -> Iterator[Dataset]:
    """A data set and every item in it."""
    yield item
    for element in item:
        if element.VR == "SQ":
            for inner in element.value or []:
                yield from _elements(inner)


def _refers(result: Dataset, to: Mapping[str, str]) -> bool:
    if "PixelData" in result:
        return False
    return any(str(item.get("ReferencedSOPInstanceUID", "")) in to for item in _elements(result))


def _renamed(
    document: Dataset, uids: Mapping[str, str], series: Mapping[str, str], binary: set[str]
) -> None:
    """Put twins in the place of what they are twins of."""
    for item in _elements(document):
        for keyword, names in (
            ("SOPInstanceUID", uids),
            ("ReferencedSOPInstanceUID", uids),
            ("SeriesInstanceUID", series),
        ):
            if (found := str(item.get(keyword, ""))) in names:
                setattr(item, keyword, names[found])
        if item.get("ReferencedSOPInstanceUID") in binary:
            item.ReferencedSOPClassUID = SegmentationStorage


def _binary(labelmap: Dataset, uids: Mapping[str, str], series: Mapping[str, str]) -> Dataset:
    """The BINARY twin of a LABELMAP SEG: a frame for each segment on each slice that it touches."""
    try:
        pixels: npt.NDArray[np.unsignedinteger] = labelmap.pixel_array
    except Exception as error:  # each decoder raises errors of its own kind
        raise ComposeError(f"the LABELMAP cannot be decoded ({type(error).__name__})") from error
    pixels = pixels.reshape(-1, int(labelmap.Rows), int(labelmap.Columns))
    made = Dataset()
    left_out = (0x7FE00010, 0x00280120, 0x52009230)  # pixels, their padding, groups of frames
    for element in labelmap:
        if element.tag not in left_out:
            made.add(deepcopy(element))
    made.decode()
    made.SOPClassUID = SegmentationStorage
    made.SOPInstanceUID = uids[str(labelmap.SOPInstanceUID)]
    made.SeriesInstanceUID = series[str(labelmap.SeriesInstanceUID)]
    made.SegmentationType = "BINARY"
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    _index_by_segment(made)
    groups, bits = [], []
    for segment in (int(item.SegmentNumber) for item in labelmap.SegmentSequence):
        for frame, stored in zip(labelmap.PerFrameFunctionalGroupsSequence, pixels, strict=True):
            mask = stored == segment
            if mask.any():
                groups.append(_of_segment(frame, segment))
                bits.append(mask.reshape(-1))
    made.NumberOfFrames = len(groups)
    made.PerFrameFunctionalGroupsSequence = groups
    packed = np.packbits(np.concatenate(bits), bitorder="little").tobytes()
    made.add_new(0x7FE00010, "OB", packed + b"\0" * (len(packed) % 2))
    return made


def _index_by_segment(made: Dataset) -> None:
    """Frames are indexed by segment and then by what they were indexed by (PS3.3 C.7.6.17)."""
    first = made.DimensionIndexSequence[0]
    item = Dataset()
    item.DimensionOrganizationUID = twin_uid(first.DimensionOrganizationUID)
    item.DimensionIndexPointer, item.FunctionalGroupPointer = _SEGMENT, _IDENTIFICATION
    item.DimensionDescriptionLabel = "Segment"
    others = list(made.DimensionIndexSequence)
    organization = Dataset()
    organization.DimensionOrganizationUID = item.DimensionOrganizationUID
    for one in others:
        one.DimensionOrganizationUID = item.DimensionOrganizationUID
    made.DimensionOrganizationSequence = [organization]
    made.DimensionIndexSequence = [item, *others]


def _of_segment(frame: Dataset, segment: int) -> Dataset:
    """A functional group that says which segment its frame is of."""
    made, identification = deepcopy(frame), Dataset()
    content = made.FrameContentSequence[0]
    indices = content.DimensionIndexValues
    indices = [indices] if isinstance(indices, int) else list(indices)
    content.DimensionIndexValues = [segment, *indices]
    identification.ReferencedSegmentNumber = segment
    made.SegmentIdentificationSequence = [identification]
    return made
