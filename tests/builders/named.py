"""Objects that carry a name wherever one can stand."""

from collections.abc import Iterable

from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.dataelem import DataElement

from tests.builders.datasets import ct_slice

TEXTS = frozenset({"SH", "LO", "ST", "LT", "UT", "UC", "PN", "CS", "AE"})
_OURS = frozenset(
    {
        "SpecificCharacterSet",
        "Modality",
        "PhotometricInterpretation",
        "ConversionType",
        "BurnedInAnnotation",
    }
)
"""What makes an object another kind of object, rather than naming somebody."""


def standard_texts() -> list[tuple[int, str]]:
    """Every attribute of the dictionary that holds text, with its VR."""
    return [
        (tag, vr)
        for tag, (vr, _, _, _, keyword) in DicomDictionary.items()
        if vr in TEXTS and tag >> 16 > 0x0004 and keyword not in _OURS and keyword
    ]


def fill(dataset: Dataset, tags: Iterable[tuple[int, str]], text: str) -> None:
    """Set attributes to a text, where they are not pixels or what makes the object one."""
    for tag, vr in tags:
        dataset.add(DataElement(tag, vr, text, validation_mode=0))


def named_ct(text: str, tags: Iterable[tuple[int, str]] | None = None) -> Dataset:
    """A CT slice with a text in every attribute, at the top, in sequences, in private ones, in curves."""
    chosen = list(standard_texts() if tags is None else tags)
    dataset = ct_slice()
    fill(dataset, chosen, text)
    inner = Dataset()
    fill(inner, chosen, text)
    outer = Dataset()
    fill(outer, chosen, text)
    outer.RequestAttributesSequence = [inner]
    dataset.ReferencedRequestSequence = [outer]
    dataset.SourceInstanceSequence = [Dataset()]  # one that the tables do not name
    fill(dataset.SourceInstanceSequence[0], chosen, text)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "LO", text)
    block.add_new(0x11, "UN", text.encode())
    item = Dataset()
    fill(item, chosen[:50], text)
    block.add_new(0x12, "SQ", [item])
    for tag in (0x60003000, 0x60020022, 0x50000022, 0x00181200, 0x7FE10010, 0x00091001):
        dataset.add(DataElement(tag, "UN", text.encode()))
    dataset.add(DataElement(0xFFFCFFFC, "OB", text.encode()))
    return dataset
