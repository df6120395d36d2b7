"""Words that may stay in a description, and words that name somebody.

What comes in: texts, and a data set that still has its identities. What goes out: texts of words that are
known to be harmless, and the answer to "does this text name the patient?". It owns the invariant of the
profile that goes beyond its tables: what an object itself calls a name or an identifier stands nowhere else
in it either.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sr.codedict import codes
from pydicom.valuerep import PersonName

from dicom_node.privacy.pseudonyms import STANDARD_ROOT
from dicom_node.privacy.rules import Option

_WORD = re.compile(r"[^\W_]+")
_ANATOMY = (
    "cid4",
    "cid29",
    "cid33",
    "cid244",
    "cid4010",
    "cid4014",
    "cid4031",
    "cid7151",
    "cid7450",
)
_TECHNIQUE = """
    a ap lat pa obl oblique view ax axial axi tra transverse sag sagittal cor coronal mpr mip minip
    3d 2d 4d ct mr mri pt pet us cr dx mg nm xa rf seg sr ot t1 t2 t1w t2w pd pdw flair stir dwi adc
    swi tof dti gre tse fse se epi fat sat fs supp dixon water in out phase opp b0 b50 b500 b800
    b1000 map trace dyn dynamic pre post gd contrast kontrast iv oral art arterial ven venous portal
    delayed late early nativ native non with without mit ohne and und of the plus minus high low res
    resolution thin thick slice slices slc mm cm kv kvp ma mas kernel bone lung soft tissue hard
    smooth sharp std standard recon reco series scan scout localizer topogram loc survey helical
    spiral seq sequence breath hold insp exp inspiration expiration supine prone left right both
    bilateral rt lt l r upper lower limb whole body wb head neck chest thorax abdomen abd pelvis
    spine cervical thoracic lumbar brain skull knee hip shoulder hand foot ankle wrist elbow heart
    cardiac liver kidney prostate breast study exam routine protocol low dose ld hd corrected
    uncorrected ac nac attenuation emission mac iterative fbp denoised segmentation report heat
    heatmap map ai structures outlines research clinical use not for image images derived primary
    secondary original reformatted average subtraction angio angiography cta mra perfusion diffusion
    volume screening follow up baseline
"""
_EVERYBODY = """
    anonymous anonymized anonymised anon unknown none removed test phantom patient hospital
    university general medical center centre clinic klinik krankenhaus universitaet department of
    radiology radiologie institute dr md prof mr mrs ms the and for health imaging no yes true false
    null na
"""
"""Words that stand in names of people and places, and name nobody."""
_IDENTIFIERS = (
    "PatientID",
    "OtherPatientIDs",
    "MedicalRecordLocator",
    "AccessionNumber",
    "AdmissionID",
    "PatientAddress",
    "PatientTelephoneNumbers",
    "PatientBirthDate",
    "RequestingService",
    "FillerOrderNumberImagingServiceRequest",
    "PlacerOrderNumberImagingServiceRequest",
)
_INSTITUTION = ("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName")
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
_OWN_NAMES = "ai-node^"
_QUOTED = ("BodyPartExamined", "StackID")
"""What a report of this node may quote of its source, to say why a model did not run."""
_SHORTEST_PART = 5
"""A name of so many letters is also found inside a longer word."""
_SHORTEST_NUMBER = 4


def folded(text: str) -> str:
    """Without case and accents: `MÜLLER` and `Muller` are one word."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(char for char in apart if not unicodedata.combining(char)).casefold()


@cache
def harmless() -> frozenset[str]:
    """Words of anatomy, views and modalities out of DICOM's own code lists, and of technique."""
    found = set(_TECHNIQUE.split())
    for name in _ANATOMY:
        collection = getattr(codes, name, None)
        for code in collection.concepts.values() if collection is not None else ():
            found |= {folded(word) for word in _WORD.findall(code.meaning)}
    return frozenset(found)


def cleaned(text: str) -> str:
    """Of a description the words that are known to be harmless (PS3.15 E.3.5); short numbers stay too."""
    kept = []
    for word in text.replace("_", " ").split():
        parts = _WORD.findall(word)
        if parts and all(_is_harmless(folded(part)) for part in parts):
            kept.append(word)
    return " ".join(kept)


def _is_harmless(word: str) -> bool:
    return word in harmless() or (word.isascii() and word.isdigit() and len(word) <= 3)


class Identity:
    """What names the patient, and everybody else who is named, in the objects of a study."""

    def __init__(self, options: frozenset[Option] = frozenset()) -> None:
        self._words: set[str] = set()
        self._phrases: set[str] = set()
        self._quotable: set[str] = set()
        self._tags = {tag_for_keyword(name) for name in _IDENTIFIERS}
        if Option.RETAIN_INSTITUTION not in options:
            self._tags |= {tag_for_keyword(name) for name in _INSTITUTION}
        if Option.RETAIN_UIDS not in options:
            self._tags |= {tag_for_keyword(name) for name in _UIDS}

    def learn(self, dataset: Dataset) -> None:
        """Take in whom an object names, before anything is removed from it."""
        for text in _naming(dataset, self._tags):
            words = [folded(word) for word in _WORD.findall(text)]
            telling = {word for word in words if _tells(word)}
            self._words |= telling
            if telling and len(whole := "".join(words)) >= _SHORTEST_PART:
                self._phrases.add(whole)
        for keyword in _QUOTED:
            words = [folded(word) for word in _WORD.findall(str(dataset.get(keyword) or ""))]
            self._quotable |= {word for word in words if not _is_harmless(word)}

    def quotes_in(self, text: str) -> bool:
        """Whether a text of this node's own holds words of its source that nobody knows to be harmless."""
        return not self._quotable.isdisjoint(folded(word) for word in _WORD.findall(text))

    def is_named_in(self, text: str) -> bool:
        """Whether a text holds one of the names or identifiers, in any spelling of case and accents."""
        words = [folded(word) for word in _WORD.findall(text)]
        if not self._words.isdisjoint(words):
            return True
        joined = "".join(words)
        return any(part in joined for part in self._phrases) or any(
            word in joined for word in self._words if len(word) >= _SHORTEST_PART
        )

    def found_in(self, content: bytes) -> bool:
        """Whether one of the longer names stands in bytes, as names are mostly spelled."""
        for word in self._words:
            if len(word) > _SHORTEST_PART and not word.isdigit():
                spelled = (word, word.upper(), word.capitalize())
                if any(one.encode() in content for one in spelled):
                    return True
        return False


@cache
def _common() -> frozenset[str]:
    return frozenset(_EVERYBODY.split())


def _tells(word: str) -> bool:
    if word.isdigit():
        return len(word) >= _SHORTEST_NUMBER
    return len(word) >= 2 and word not in _common() and word not in harmless()


def _naming(dataset: Dataset, tags: set[int | None]) -> Iterator[str]:
    for element in dataset.iterall():
        try:
            if element.VR != "PN" and element.tag not in tags:
                continue
            value = element.value
        except Exception:  # a value that cannot be read is removed later on
            continue
        for one in value if element.VM > 1 else [value]:
            if isinstance(one, PersonName):
                if not str(one).startswith(_OWN_NAMES):  # a model is nobody
                    yield from (str(part) for part in one.components if part)
            elif isinstance(one, str) and not one.startswith(STANDARD_ROOT):
                yield one
