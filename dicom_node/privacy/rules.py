"""The rules of PS3.15 Annex E: which action an attribute or a content item gets, under which options.

What comes in: a tag with its VR, or a coded concept, and the options. What goes out: one `Action`. The tables
are the standard's own (`docs/generate_confidentiality.py`). It owns what is decided where the standard leaves
a choice: of a compound action the part that keeps any IOD valid without keeping the value, and for attributes
that the tables do not name an action by VR. It changes nothing itself.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from typing import Any

from pydicom.datadict import dictionary_has_tag, dictionary_is_retired, dictionary_keyword

from dicom_node.errors import ConfigurationError


class Option(Enum):
    """Options of the profile that can be chosen (PS3.15 E.3)."""

    CLEAN_DESCRIPTORS = "clean-descriptors"
    RETAIN_FULL_DATES = "retain-full-dates"
    RETAIN_MODIFIED_DATES = "retain-modified-dates"
    RETAIN_PATIENT = "retain-patient-characteristics"
    RETAIN_DEVICE = "retain-device"
    RETAIN_INSTITUTION = "retain-institution"
    RETAIN_UIDS = "retain-uids"
    RETAIN_SAFE_PRIVATE = "retain-safe-private"


class Action(Enum):
    """What is done to a value (PS3.15 Table E.1-1a)."""

    DUMMY = "D"
    EMPTY = "Z"
    REMOVE = "X"
    KEEP = "K"
    CLEAN = "C"
    UID = "U"


_COMPOUND = {
    "Z/D": Action.DUMMY,
    "X/Z": Action.EMPTY,
    "X/D": Action.DUMMY,
    "X/Z/D": Action.DUMMY,
    "X/Z/U*": Action.UID,
}
"""A dummy is valid whatever the attribute's type in the IOD at hand, an empty value wherever X or Z is."""

TEXT = frozenset({"SH", "LO", "ST", "LT", "UT", "UC"})
DATES = frozenset({"DA", "TM", "DT"})
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT", "OF", "OD", "OL", "OV"})
_CHECKED = TEXT | {"CS", "IS", "DS", "AS"}
_BYTES = (
    "PixelData",
    "PaletteColorLookupTableData",
    "SegmentedRedPalette",
    "SegmentedGreenPalette",
    "SegmentedBluePalette",
    "SegmentedAlphaPalette",
    "LUTData",
    "ICCProfile",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PixelValue",
    "LUTDescriptor",
    "LookupTableDescriptor",
    "GrayLookupTableData",
    "CoordinatesData",
    "PrimitivePointIndexList",
)
"""Ends of keywords, or all of them: bulk data that is numbers by its definition."""
_STRUCTURAL = (
    "SOPClassUID",
    "TransferSyntaxUID",
    "CodingSchemeUID",
    "ContextUID",
    "MappingResourceUID",
    "ContextGroupExtensionCreatorUID",
    "RelatedGeneralSOPClassUID",
    "OriginalSpecializedSOPClassUID",
)
"""UIDs of the standard or of a vendor's definitions, not of anybody's images."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The action of the basic profile, and those of the options that change it."""

    basic: str
    options: Mapping[str, str]

    def action(self, options: frozenset[Option]) -> Action:
        """What to do under these options; where two of them differ, the one that cleans more."""
        wanted = {self.options[one.value] for one in options if one.value in self.options}
        for code in ("C", "K"):
            if code in wanted:
                return Action(code)
        return _COMPOUND.get(self.basic) or Action(self.basic)


_DATE = Rule("X", {"retain-full-dates": "K", "retain-modified-dates": "C"})


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables of the standard."""

    edition: str
    attributes: Mapping[int, Rule]
    content: Mapping[tuple[str, str], Mapping[str, Rule]]
    private: frozenset[tuple[int, str, int]]
    """Group, creator and element (its last byte) of private attributes that are known to be safe."""


@cache
def tables() -> Tables:
    """The tables, read once."""
    raw = json.loads(files("dicom_node.privacy").joinpath("annex_e.json").read_text())
    content: dict[tuple[str, str], dict[str, Rule]] = {}
    for value, scheme, value_type, basic, options in raw["content"]:
        content.setdefault((value, scheme), {})[value_type] = Rule(basic, options)
    return Tables(
        edition=raw["edition"],
        attributes={
            int(tag, 16): Rule(basic, options)
            for tag, (basic, options) in raw["attributes"].items()
            if tag.isalnum() and not set(tag) & set("xge")
        },
        content=content,
        private=frozenset(
            (int(tag[:4], 16), creator, int(tag[6:], 16)) for tag, creator in raw["private"]
        ),
    )


def options_of(names: tuple[str, ...]) -> frozenset[Option]:
    """Options by name.

    Raises:
        ConfigurationError: there is no such option, or two exclude each other (E.3.6).
    """
    known = {option.value: option for option in Option}
    for name in names:
        if name not in known:
            raise ConfigurationError(f"{name!r} is no option (there are: {', '.join(known)})")
    chosen = frozenset(known[name] for name in names)
    if {Option.RETAIN_FULL_DATES, Option.RETAIN_MODIFIED_DATES} <= chosen:
        raise ConfigurationError("retain-full-dates and retain-modified-dates exclude each other")
    return chosen


def action_of(tag: int, vr: str, options: frozenset[Option]) -> Action:
    """What to do with a public attribute, wherever in the data set it stands.

    Private attributes are `is_safe_private`'s business.
    """
    rule = tables().attributes.get(tag)
    if rule is not None:
        return rule.action(options)
    group = tag >> 16
    if group & 0xFF00 in (0x5000, 0x6000) or group in (0x0002, 0x0004) or group == 0xFFFC:
        return Action.REMOVE  # curves and overlays, file meta and directory elements, padding
    if not dictionary_has_tag(tag):
        return Action.REMOVE  # newer than this node, or nobody's
    return _by_vr(tag, vr, options)


def _by_vr(tag: int, vr: str, options: frozenset[Option]) -> Action:
    """What no table names: kept where its VR cannot hold free text, or is text of a known purpose."""
    if vr in DATES:
        return _DATE.action(options)
    keyword = dictionary_keyword(tag)
    if vr == "UI":
        structural = keyword.startswith(_STRUCTURAL) or keyword.endswith(_STRUCTURAL)
        return Action.KEEP if structural or Option.RETAIN_UIDS in options else Action.UID
    if vr == "SQ" or vr in _NUMBERS:
        return Action.KEEP
    if vr in _CHECKED:
        return Action.REMOVE if vr in TEXT and dictionary_is_retired(tag) else Action.KEEP
    if vr in ("OB", "OW") and keyword.endswith(_BYTES):
        return Action.KEEP
    return Action.EMPTY if vr == "PN" else Action.REMOVE


def is_safe_private(tag: int, creator: str, options: frozenset[Option]) -> bool:
    """Whether a private attribute is one that the standard calls safe, and those are wanted (E.3.10)."""
    wanted = Option.RETAIN_SAFE_PRIVATE in options
    return wanted and (tag >> 16, creator, tag & 0xFF) in tables().private


def content_rule(code: str, scheme: str, value_type: str) -> Rule | None:
    """The rule of a content item's concept (Table E.3.4-1); None where the table does not name it."""
    rules = tables().content.get((code, scheme), {})
    return rules.get(value_type)


def date_rule() -> Rule:
    """The rule of dates and times that no table names."""
    return _DATE


def method_codes(options: frozenset[Option], masked: bool) -> list[tuple[str, str]]:
    """Codes of CID 7050 that say what was done."""
    names: dict[Any, tuple[str, str]] = {
        Option.CLEAN_DESCRIPTORS: ("113105", "Clean Descriptors Option"),
        Option.RETAIN_FULL_DATES: (
            "113106",
            "Retain Longitudinal Temporal Information Full Dates Option",
        ),
        Option.RETAIN_MODIFIED_DATES: (
            "113107",
            "Retain Longitudinal Temporal Information Modified Dates Option",
        ),
        Option.RETAIN_PATIENT: ("113108", "Retain Patient Characteristics Option"),
        Option.RETAIN_DEVICE: ("113109", "Retain Device Identity Option"),
        Option.RETAIN_UIDS: ("113110", "Retain UIDs Option"),
        Option.RETAIN_SAFE_PRIVATE: ("113111", "Retain Safe Private Option"),
        Option.RETAIN_INSTITUTION: ("113112", "Retain Institution Identity Option"),
    }
    told = [("113100", "Basic Application Confidentiality Profile")]
    if masked:
        told.append(("113101", "Clean Pixel Data Option"))
    told.append(("113104", "Clean Structured Content Option"))
    return told + sorted(names[option] for option in options)
