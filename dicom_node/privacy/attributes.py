"""The walk through a data set: every attribute, in every sequence to any depth, by the rules.

What comes in: a decoded data set. What goes out: the same data set without identities. It owns the invariants
that each element is decided upon, that what cannot be read is removed, and that no text which stays names the
patient. Pixels are not its business.
"""

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.tag import BaseTag
from pydicom.valuerep import PersonName

from dicom_node.privacy import content, values, words
from dicom_node.privacy.pseudonyms import Pseudonyms
from dicom_node.privacy.rules import DATES, TEXT, Action, Option, action_of, is_safe_private, tables

PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_CONTENT = 0x0040A730
_CONTEXT = 0x00400555
_GRAPHICS = 0x00700001
_TEXT_VALUE = 0x0040A160
_CHARACTER_SET = 0x00080005
_STRINGS = TEXT | {"CS", "IS", "DS", "AS"}


class Cleaner:
    """Cleans the data sets of one patient."""

    def __init__(
        self,
        options: frozenset[Option],
        pseudonyms: Pseudonyms,
        identity: words.Identity,
        days: int,
        *,
        own: bool = False,
        keeps_positions: bool = False,
    ) -> None:
        """A cleaner.

        Args:
            options: of the profile.
            pseudonyms: what UIDs become.
            identity: who must not be named.
            days: how far dates move back, where they are kept at all.
            own: this node wrote the object, so its texts come from models and not from people.
            keeps_positions: content items point at others by position, so none may be taken out.
        """
        self.options = options
        self.pseudonyms = pseudonyms
        self.days = days
        self.own = own
        self.keeps_positions = keeps_positions
        self._identity = identity

    def clean(self, dataset: Dataset, *, top: bool = False) -> None:
        """Clean a data set in place; `top` is the object itself, whose pixels stay."""
        safe = self._safe_private(dataset)
        for tag in list(dataset.keys()):
            if tag in PIXELS and top:
                continue
            if tag == _CHARACTER_SET and not top:
                del dataset[tag]  # items were decoded; the object says UTF-8 for all of them
            elif tag.is_private:
                if tag not in safe:
                    del dataset[tag]
                elif not tag.is_private_creator:
                    self._element(dataset, tag, Action.KEEP)
            elif tag != _CHARACTER_SET:
                self._public(dataset, tag)

    def cleaned_text(self, text: str, *, keep: bool = False) -> str:
        """A text as it may stay; empty where nothing of it may."""
        told = text if keep or self.own else words.cleaned(text)
        if self.own and self._identity.quotes_in(told):
            told = words.cleaned(told)
        return "" if self._identity.is_named_in(told) else told

    def _safe_private(self, dataset: Dataset) -> set[BaseTag]:
        """Private elements that stay, with the elements that name their creators."""
        found: set[BaseTag] = set()
        for tag in list(dataset.keys()):
            if not tag.is_private or tag.is_private_creator or tag.element < 0x1000:
                continue
            owner = BaseTag(tag.group << 16 | tag.element >> 8)
            creator = str(dataset[owner].value) if owner in dataset else ""
            if is_safe_private(tag, creator, self.options):
                found |= {tag, owner}
        return found

    def _public(self, dataset: Dataset, tag: BaseTag) -> None:
        try:
            vr = dataset[tag].VR
        except Exception:  # whatever a hostile value makes pydicom raise
            del dataset[tag]
            return
        action = action_of(tag, vr, self.options)
        if tag == _TEXT_VALUE and not self.own:
            action = Action.REMOVE  # a content item outside of the trees that `content` walks
        self._element(dataset, tag, action)

    def _element(self, dataset: Dataset, tag: BaseTag, action: Action) -> None:
        try:
            element = dataset[tag]
            if action is Action.REMOVE:
                del dataset[tag]
            elif action is Action.EMPTY:
                dataset[tag] = DataElement(tag, element.VR, [] if element.VR == "SQ" else None)
            elif element.VR == "SQ":
                self._sequence(dataset, element, action)
            elif element.VR == "UI":
                self._uids(element, action)
            elif action is Action.DUMMY:
                dataset[tag] = DataElement(tag, element.VR, values.dummy(element.VR))
            elif element.VM:
                self._value(dataset, element, action)
        except Exception:
            dataset.pop(tag, None)

    def _sequence(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        if element.tag in (_CONTENT, _CONTEXT):
            element.value = content.clean_items(element.value, self)
            if not element.value and element.tag == _CONTEXT:
                del dataset[element.tag]
            return
        if element.tag == _GRAPHICS and self.own:
            action = Action.CLEAN  # E.3.3: what the node draws is its model's outlines
        for item in element.value:
            self.clean(item)
            if action is Action.DUMMY:
                _make_dummies(item)

    def _uids(self, element: DataElement, action: Action) -> None:
        if action in (Action.UID, Action.DUMMY):
            found = [self.pseudonyms.uid(str(one)) for one in _all(element)]
            element.value = found[0] if len(found) == 1 else found
        elif not all(_is_uid(str(one)) for one in _all(element)):
            raise ValueError("not a UID")

    def _value(self, dataset: Dataset, element: DataElement, action: Action) -> None:
        """A value that stays, cleaned where it has to be."""
        vr = element.VR
        if vr in ("PN", "AE", "UR", "UN"):
            self._replace(dataset, element, [])
        elif vr in DATES:
            days = self.days if action is Action.CLEAN else 0
            self._replace(dataset, element, [values.moved(vr, str(v), days) for v in _all(element)])
        elif vr in _STRINGS:
            self._replace(
                dataset, element, [self._string(element, str(v), action) for v in _all(element)]
            )
        elif action is Action.CLEAN:
            self._replace(dataset, element, [])

    def _string(self, element: DataElement, text: str, action: Action) -> str:
        vr = element.VR
        if vr == "AS":
            text = values.capped_age(text)
        if vr in ("IS", "DS"):
            return text if values.is_legal(vr, text) else ""
        if not values.is_legal(vr, text):
            text = text.upper() if values.is_legal(vr, text.upper()) and words.cleaned(text) else ""
        if vr == "CS":
            if action is Action.CLEAN:
                return text if words.cleaned(text) else ""
            known = words.cleaned(text) == text.replace("_", " ")
            return text if known or not self._identity.is_named_in(text) else values.REMOVED
        if not text:
            return ""
        kept = self.cleaned_text(text, keep=action is not Action.CLEAN)
        return kept or ("" if action is Action.CLEAN else values.REMOVED)

    def _replace(self, dataset: Dataset, element: DataElement, found: list[str]) -> None:
        """Set values that were decided upon; what is left of nothing goes the way of the basic profile."""
        if found == [str(value) for value in _all(element)]:
            return
        if any(found):
            element.value = found[0] if len(found) == 1 else found
            return
        basic = tables().attributes.get(element.tag)
        fallback = Action.REMOVE if basic is None else basic.action(frozenset())
        if fallback is Action.REMOVE and basic is None and element.VR in _STRINGS:
            fallback = Action.EMPTY  # it may be of type 2
        if fallback is Action.REMOVE:
            del dataset[element.tag]
        else:
            dummy = values.dummy(element.VR) if fallback is Action.DUMMY else None
            dataset[element.tag] = DataElement(element.tag, element.VR, dummy)


def _make_dummies(item: Dataset) -> None:
    """Every value of an item of a sequence that is to mean nothing (action D)."""
    for element in list(item):
        if element.VR == "SQ":
            for inner in element.value:
                _make_dummies(inner)
        elif element.VR != "UI" and element.VM:
            item[element.tag] = DataElement(element.tag, element.VR, values.dummy(element.VR))


def _all(element: DataElement) -> list[object]:
    value = element.value
    if (
        value is None
        or isinstance(value, (str, bytes, PersonName))
        or not hasattr(value, "__iter__")
    ):
        return [] if value is None else [value]
    return list(value)


def _is_uid(text: str) -> bool:
    return len(text) <= 64 and all(char.isdigit() or char == "." for char in text)
