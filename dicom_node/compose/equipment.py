"""What every result has in common: whose it is, where it belongs, who made it (DESIGN 4, first row).

What comes in: the context and a source header. What goes out: a data set with the patient, study, series,
equipment and SOP common modules. It owns the invariant that a result stands on the same patient and study
as its input, says which model made it, and says "Not for clinical use" while that switch is on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.valuerep import PersonName

from dicom_node.compose.codes import ACQUISITION_EQUIPMENT, PROCESSING_EQUIPMENT, coded
from dicom_node.compose.context import ComposeContext
from dicom_node.compose.source import value
from dicom_node.compose.uids import derived_uid

MANUFACTURER = "dicom-node"
SERIES_DESCRIPTION_LENGTH = 64

_PATIENT_AND_STUDY = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "OtherPatientIDsSequence",
    "EthnicGroup",
    "PatientComments",
    "PatientSpeciesDescription",
    "PatientSpeciesCodeSequence",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
_EQUIPMENT = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "InstitutionalDepartmentName",
    "DeviceSerialNumber",
    "SoftwareVersions",
)


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a job; each is a series of its own.

    Attributes:
        name: unique within the job; UIDs derive from it.
        offset: added to the model's series number, fixed for each kind of output.
        suffix: what the series description says after the model's title.
    """

    name: str
    offset: int
    sop_class_uid: str
    modality: str
    suffix: str = ""


def copy(source: Dataset, to: Dataset, keywords: Iterable[str]) -> None:
    """Copy attributes that are present and can be read, decoded, so that they can be written as UTF-8."""
    for keyword in keywords:
        tag = tag_for_keyword(keyword)
        if tag is None or tag not in source:
            continue
        found = value(source, keyword)
        if found is None:
            continue
        if isinstance(found, PersonName):
            found = str(found)
        vr = source[tag].VR
        if vr == "SQ":
            for item in found:
                item.decode()
        try:
            to.add(DataElement(tag, vr, found))
        except (ValueError, TypeError):
            continue


def series_description(ctx: ComposeContext, suffix: str = "") -> str:
    """`AI <title> <suffix>`, with the mark in the longest form that fits 64 characters."""
    named = " ".join(part for part in ("AI", ctx.model.model.title, suffix) if part)
    if ctx.mark is None:
        return named[:SERIES_DESCRIPTION_LENGTH]
    for mark in (f" - {ctx.mark.lower()}", " - research"):
        if len(named) + len(mark) <= SERIES_DESCRIPTION_LENGTH:
            return named + mark
    mark = " - research"
    return named[: SERIES_DESCRIPTION_LENGTH - len(mark)] + mark


def series_uid(ctx: ComposeContext, output: Output) -> str:
    """Series Instance UID of an output."""
    return derived_uid(ctx.job_key, output.name, "series")


def instance_uid(ctx: ComposeContext, output: Output, number: int = 1) -> str:
    """SOP Instance UID of an output's instance, counted from 1."""
    return derived_uid(ctx.job_key, output.name, "instance", number)


def common(ctx: ComposeContext, source: Dataset, output: Output, number: int = 1) -> Dataset:
    """A data set with everything that any result of this job has.

    Args:
        source: a header of the input series, without pixel data.
        number: Instance Number, from 1.
    """
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    date, time = ctx.local_time.strftime("%Y%m%d"), ctx.local_time.strftime("%H%M%S.%f")
    made.InstanceCreationDate = made.SeriesDate = made.ContentDate = date
    made.InstanceCreationTime = made.SeriesTime = made.ContentTime = time
    made.SOPClassUID = output.sop_class_uid
    made.SOPInstanceUID = instance_uid(ctx, output, number)
    for keyword in _TYPE_2:
        setattr(made, keyword, None)
    copy(source, made, _PATIENT_AND_STUDY)
    made.Modality = output.modality
    made.SeriesInstanceUID = series_uid(ctx, output)
    made.SeriesNumber = ctx.model.outputs.series_number + output.offset
    made.SeriesDescription = series_description(ctx, output.suffix)
    copy(source, made, ("BodyPartExamined", "Laterality"))
    if not made.get("Laterality"):  # PS3.3 C.7.3.1: absent, not empty, where the part is not paired
        made.pop("Laterality", None)
    made.InstanceNumber = number
    _equipment(ctx, made)
    made.ContributingEquipmentSequence = contributing_equipment(ctx, source)
    return made


def software_versions(ctx: ComposeContext) -> list[str]:
    """Node, the digest of the model's files, and model, each at most 64 characters (LO).

    The digest has 64 and does not come last: a padding space after it would make it too long for some.
    """
    return [
        f"dicom-node {ctx.node_version}"[:64],
        ctx.model.digest,
        f"{ctx.model.name} {ctx.model.model.version}"[:64],
    ]


def _equipment(ctx: ComposeContext, made: Dataset) -> None:
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = ctx.model.name
    made.DeviceSerialNumber = ctx.device_serial
    made.SoftwareVersions = software_versions(ctx)


def contributing_equipment(ctx: ComposeContext, source: Dataset) -> list[Dataset]:
    """What the source says of earlier equipment, the scanner, and this node (PS3.3 C.12.1)."""
    earlier = list(source.get("ContributingEquipmentSequence") or [])
    for item in earlier:
        item.decode()
    items = [*earlier]
    if source.get("Manufacturer"):
        scanner = Dataset()
        copy(source, scanner, _EQUIPMENT)
        scanner.PurposeOfReferenceCodeSequence = [coded(ACQUISITION_EQUIPMENT)]
        items.append(scanner)
    node = Dataset()
    _equipment(ctx, node)
    node.PurposeOfReferenceCodeSequence = [coded(PROCESSING_EQUIPMENT)]
    node.ContributionDateTime = ctx.local_time.strftime("%Y%m%d%H%M%S.%f")
    limits = " ".join(
        part for part in (ctx.mark and f"{ctx.mark}.", ctx.model.model.limits) if part
    )
    node.ContributionDescription = limits[:1024]
    return [*items, node]


def content_creator(ctx: ComposeContext) -> str:
    """Content Creator's Name: a person name for what is no person."""
    return f"ai-node^{ctx.model.name}"


def content_label(ctx: ComposeContext) -> str:
    """Content Label: a CS of at most 16 characters."""
    return ctx.model.name.upper()[:16]


def content_description(ctx: ComposeContext) -> str:
    """Content Description, at most 64 characters, with the mark first."""
    return ". ".join(part for part in (ctx.mark, ctx.model.model.title) if part)[:64]


def algorithm_identification(ctx: ComposeContext) -> Dataset:
    """Algorithm Identification Macro (PS3.3 10.16)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [coded(ctx.model.model.algorithm.code)]
    item.AlgorithmName = ctx.model.name
    item.AlgorithmVersion = ctx.model.model.version
    item.AlgorithmSource = MANUFACTURER
    item.AlgorithmParameters = f"sha256 {ctx.model.digest}"
    return item
