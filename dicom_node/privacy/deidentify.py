"""One object: from a DICOM file that names a patient to the bytes of one that does not (PS3.15 E.1, E.2).

What comes in: the bytes of a Part 10 file, whoever sent it, and what was decided for its patient. What goes
out: the bytes of another file, or a refusal with the reason. It owns the invariants that an object is cleaned
whole or not at all, that only kinds of objects leave whose contents are understood, and that what leaves is
searched for names once more.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from dicom_node import __version__
from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.errors import ReadError
from dicom_node.privacy.attributes import Cleaner
from dicom_node.privacy.content import has_references_by_position
from dicom_node.privacy.pictures import Region, Rule, black_out, regions_of
from dicom_node.privacy.pseudonyms import Pseudonyms
from dicom_node.privacy.rules import Option, method_codes, tables
from dicom_node.privacy.words import Identity

_KINDS = ("Image Storage", "SR Storage", "Segmentation Storage", "Parametric Map Storage")
_OWN_KINDS = (*_KINDS, "Presentation State Storage", "Key Object Selection Document Storage")
"""Drawings and choices of people may say anything; those of this node say what its model found."""
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""Newer than the dictionary that names the others."""
_NOT = ("Microscopy", "Video")
"""Whole-slide images carry labels as images; videos are not decoded here."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose object it is, as far as it says so."""

    patient_id: str
    issuer: str
    study_uid: str

    @classmethod
    def of(cls, dataset: Dataset) -> "Subject":
        """The subject of an object; where it names no patient, the study stands for one."""
        study = str(dataset.get("StudyInstanceUID", ""))
        patient = str(dataset.get("PatientID") or "").strip()
        issuer = str(dataset.get("IssuerOfPatientID") or "").strip()
        return cls(patient or f"study {study}", issuer if patient else "", study)


@dataclass(frozen=True, slots=True)
class Deidentified:
    """A file that names nobody, and where it belongs."""

    content: bytes
    pseudonym: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    regions: tuple[Region, ...]
    links: frozenset[tuple[str, str, str]]
    """Kind, stand-in, original: for the table that leads back, and for nobody else."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known of where an object comes from.

    Attributes:
        own: this node made it: its texts are its own, and its pictures show its sources.
        blacked_out: for each source image, by SOP Instance UID, what was taken out of it.
    """

    own: bool = False
    blacked_out: "dict[str, tuple[Region, ...]] | None" = None


def read(content: bytes) -> FileDataset:
    """A Part 10 file as a data set whose texts are decoded.

    Raises:
        ReadError: it is none, or one that is not taken: deflated, or of a kind that is not understood.
    """
    if str(DeflatedExplicitVRLittleEndian).encode() in content[:1024]:
        raise ReadError("files with the deflated transfer syntax are not taken")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(io.BytesIO(content))
            dataset.decode()
    except Exception as error:  # hostile bytes make pydicom raise nearly anything
        raise ReadError(f"not a DICOM file that can be read ({type(error).__name__})") from error
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not dataset.get(keyword):
            raise ReadError(f"it has no {keyword}")
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    if not syntax.is_transfer_syntax:
        raise ReadError("its transfer syntax is not known")
    return dataset


def deidentified(
    dataset: FileDataset,
    options: frozenset[Option],
    pseudonyms: Pseudonyms,
    identity: Identity,
    rules: Sequence[Rule] = (),
    origin: Origin | None = None,
) -> Deidentified:
    """The object without its identities. The data set is used up.

    Args:
        dataset: from `read`.
        identity: whom the objects of this study name.
        rules: where devices burn text into pixels.
        origin: where the object comes from; None for one that somebody sent.

    Raises:
        ReadError: it cannot be made safe; the message says why and names nobody.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _deidentified(dataset, options, pseudonyms, identity, rules, origin or Origin())
    except ReadError:
        raise
    except Exception as error:  # hostile values, once more
        raise ReadError(f"it cannot be cleaned ({type(error).__name__})") from error


def _deidentified(
    dataset: FileDataset,
    options: frozenset[Option],
    pseudonyms: Pseudonyms,
    identity: Identity,
    rules: Sequence[Rule],
    origin: Origin,
) -> Deidentified:
    name = UID(str(dataset.SOPClassUID)).name
    known = name.endswith(_OWN_KINDS if origin.own else _KINDS) or name == _LABEL_MAP
    if not known or any(word in name for word in _NOT):
        raise ReadError(f"objects of this kind are not exported ({name})")
    regions = _regions(dataset, rules, origin)
    subject = Subject.of(dataset)
    pseudonym = pseudonyms.patient(subject.patient_id, subject.issuer)
    links = _links(dataset, subject, pseudonym, pseudonyms, options)
    if regions:
        black_out(dataset, regions)
    _cut_pixels(dataset)
    earlier = dataset.get("DeidentificationMethodCodeSequence")
    Cleaner(
        options,
        pseudonyms,
        identity,
        pseudonyms.days(subject.patient_id, subject.issuer),
        own=origin.own,
        keeps_positions=has_references_by_position(dataset),
    ).clean(dataset, top=True)
    _sign(dataset, pseudonym, options, list(earlier or ()), masked=bool(regions))
    content = _encoded(dataset)
    if identity.found_in(content):
        raise ReadError("an identifier is left in a place that cannot be cleaned")
    return Deidentified(
        content=content,
        pseudonym=pseudonym,
        study_uid=str(dataset.StudyInstanceUID),
        series_uid=str(dataset.SeriesInstanceUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        modality=str(dataset.get("Modality", "")),
        regions=regions,
        links=links,
    )


def _regions(dataset: Dataset, rules: Sequence[Rule], origin: Origin) -> tuple[Region, ...]:
    if not origin.own:
        return regions_of(dataset, rules)
    if "SourceImageSequence" not in dataset or "Rows" not in dataset:
        return ()
    sources = [str(item.ReferencedSOPInstanceUID) for item in dataset.SourceImageSequence]
    known = origin.blacked_out or {}
    if not all(source in known for source in sources):
        raise ReadError("it shows an image that is not exported itself")
    return tuple({region for source in sources for region in known[source]})


def _links(
    dataset: Dataset,
    subject: Subject,
    pseudonym: str,
    pseudonyms: Pseudonyms,
    options: frozenset[Option],
) -> frozenset[tuple[str, str, str]]:
    whose = "\\".join(filter(None, (subject.issuer, subject.patient_id)))
    links = {("patient", pseudonym, whose)}
    if Option.RETAIN_UIDS not in options:
        uids = (str(dataset.StudyInstanceUID), str(dataset.SeriesInstanceUID))
        links |= {
            (kind, pseudonyms.uid(uid), uid)
            for kind, uid in zip(("study", "series"), uids, strict=True)
        }
    return frozenset(links)


def _cut_pixels(dataset: Dataset) -> None:
    """Nothing behind the last pixel: room where anything could lie."""
    if "PixelData" not in dataset or UID(dataset.file_meta.TransferSyntaxUID).is_compressed:
        return
    bits = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated
    bits *= int(dataset.get("NumberOfFrames") or 1)
    if str(dataset.get("PhotometricInterpretation")) == "YBR_FULL_422":
        bits = bits * 2 // 3
    length = (bits + 7) // 8
    pixels = dataset.PixelData
    if len(pixels) > length:
        dataset["PixelData"].value = pixels[:length] + b"\0" * (length % 2)


def _sign(
    dataset: Dataset,
    pseudonym: str,
    options: frozenset[Option],
    earlier: list[Dataset],
    *,
    masked: bool,
) -> None:
    """Say whose stand-in this is and what was done (PS3.15 E.1.1, PS3.3 C.7.1.1 and C.12.1)."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientID = dataset.PatientName = pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = [
        f"dicom-node {__version__}",
        f"PS3.15 {tables().edition} Table E.1-1",
    ]
    codes = []
    for value, meaning in method_codes(options, masked):
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
        codes.append(code)
    done = {code.CodeValue for code in codes}
    kept = [one for one in earlier if str(one.get("CodeValue", "")) not in done]
    dataset.DeidentificationMethodCodeSequence = kept + codes
    if Option.RETAIN_FULL_DATES in options:
        temporal = "UNMODIFIED"
    else:
        temporal = "MODIFIED" if Option.RETAIN_MODIFIED_DATES in options else "REMOVED"
    dataset.LongitudinalTemporalInformationModified = temporal


def _encoded(dataset: FileDataset) -> bytes:
    """The file, its preamble and file meta information written anew (PS3.15 E.1.1, PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = "DICOM_NODE"
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    to = io.BytesIO()
    try:
        dcmwrite(to, dataset, enforce_file_format=True)
    except Exception as error:
        raise ReadError(f"what is left of it cannot be written ({type(error).__name__})") from error
    return to.getvalue()
