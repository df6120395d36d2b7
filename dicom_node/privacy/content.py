"""Content items of reports and of acquisition contexts: the Clean Structured Content Option (PS3.15 E.3.4).

What comes in: the items of a Content Sequence. What goes out: the same tree with what identifies removed or
replaced. It owns the invariant that no text stays which was not written by this node or cleaned word by word:
the standard's table names concepts, and everything that it does not name is treated by its value type.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydicom import Dataset
from pydicom.valuerep import PersonName

from dicom_node.privacy import values
from dicom_node.privacy.rules import Action, content_rule, date_rule

if TYPE_CHECKING:
    from dicom_node.privacy.attributes import Cleaner

_VALUES = {
    "TEXT": ("TextValue", "UT"),
    "PNAME": ("PersonName", "PN"),
    "DATE": ("Date", "DA"),
    "TIME": ("Time", "TM"),
    "DATETIME": ("DateTime", "DT"),
    "UIDREF": ("UID", "UI"),
}
_DATES = frozenset({"DATE", "TIME", "DATETIME"})


def clean_items(items: Iterable[Dataset], cleaner: "Cleaner") -> list[Dataset]:
    """The items that stay, cleaned, with everything below them."""
    return [item for item in items if _clean_item(item, cleaner)]


def has_references_by_position(dataset: Dataset) -> bool:
    """Whether content items point at others by their place in the tree (PS3.3 C.17.3.2.5)."""
    return any(
        element.keyword == "ReferencedContentItemIdentifier" for element in dataset.iterall()
    )


def _clean_item(item: Dataset, cleaner: "Cleaner") -> bool:
    """Clean one item; False where it is to be removed."""
    kind = str(item.get("ValueType", ""))
    action = _action(item, kind, cleaner)
    if action is Action.REMOVE:
        if not cleaner.keeps_positions:
            return False
        action = Action.DUMMY
    told = _VALUES.get(kind)
    value = None if told is None else _value(item, *told, action, cleaner)
    children = item.get("ContentSequence")
    for keyword in ("ContentSequence", told[0] if told else ""):
        if keyword and keyword in item:
            delattr(item, keyword)
    cleaner.clean(item)
    if told is not None:
        setattr(item, told[0], value)
    if children:
        item.ContentSequence = clean_items(children, cleaner)
    return True


def _action(item: Dataset, kind: str, cleaner: "Cleaner") -> Action:
    name = next(iter(item.get("ConceptNameCodeSequence") or ()), Dataset())
    code = name.get("CodeValue") or name.get("LongCodeValue") or name.get("URNCodeValue") or ""
    rule = content_rule(str(code), str(name.get("CodingSchemeDesignator", "")), kind)
    if rule is not None:
        return rule.action(cleaner.options)
    if kind in _DATES:
        return date_rule().action(cleaner.options)
    if kind == "TEXT":
        return Action.CLEAN if cleaner.own else Action.REMOVE
    return {"PNAME": Action.DUMMY, "UIDREF": Action.UID}.get(kind, Action.KEEP)


def _value(item: Dataset, keyword: str, vr: str, action: Action, cleaner: "Cleaner") -> object:
    value = item.get(keyword)
    text = str(value) if value is not None else ""
    if vr == "UI":
        keeps = action in (Action.KEEP, Action.CLEAN)
        return text if keeps else cleaner.pseudonyms.uid(text)
    if action is Action.CLEAN and vr in ("DA", "DT", "TM"):
        return values.moved(vr, text, cleaner.days) or values.dummy(vr)
    if action is Action.KEEP and vr in ("DA", "DT", "TM") and values.is_date(vr, text):
        return text
    if action in (Action.KEEP, Action.CLEAN) and vr == "UT":
        return cleaner.cleaned_text(text, keep=action is Action.KEEP) or values.dummy(vr)
    return PersonName(values.REMOVED) if vr == "PN" else values.dummy(vr)
