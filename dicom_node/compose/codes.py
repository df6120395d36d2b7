"""Coded concepts (PS3.3 8.8) and the ones that reports use by name (PS3.16)."""

from collections.abc import Mapping
from types import MappingProxyType

from pydicom import Dataset

from dicom_node.catalogue import Code


def coded(code: Code) -> Dataset:
    """A code as the item of a code sequence; more than 16 characters go into Long Code Value."""
    value, scheme, meaning = code
    item = Dataset()
    setattr(item, "CodeValue" if len(value) <= 16 else "LongCodeValue", value)
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


SEGMENTATION: Code = ("113076", "DCM", "Segmentation")
SOURCE_IMAGE: Code = ("121322", "DCM", "Source image for image processing operation")
ACQUISITION_EQUIPMENT: Code = ("109101", "DCM", "Acquisition Equipment")
PROCESSING_EQUIPMENT: Code = ("109102", "DCM", "Processing Equipment")

VOLUME: Code = ("118565006", "SCT", "Volume")
SURFACE: Code = ("C0JK", "IBSI", "Surface Area of Mesh")
AREA: Code = ("42798000", "SCT", "Area")
LONG_AXIS: Code = ("103339001", "SCT", "Long axis")
SHORT_AXIS: Code = ("103340004", "SCT", "Short axis")
ATTENUATION: Code = ("112031", "DCM", "Attenuation Coefficient")
MR_SIGNAL: Code = ("110852", "DCM", "MR signal intensity")
ACTIVITY: Code = ("110821", "DCM", "Nuclear Medicine Tomographic Activity")

PROBABILITY: Code = ("122157", "DCM", "Probability")
PRESENCE: Code = ("705057003", "SCT", "Presence")
PRESENT: Code = ("52101004", "SCT", "Present")
ABSENT: Code = ("2667000", "SCT", "Absent")

MEAN: Code = ("373098007", "SCT", "Mean")
STANDARD_DEVIATION: Code = ("386136009", "SCT", "Standard Deviation")
MINIMUM: Code = ("255605001", "SCT", "Minimum")
MAXIMUM: Code = ("56851009", "SCT", "Maximum")
MEDIAN: Code = ("373099004", "SCT", "Median")
PERCENTILE_5: Code = ("371888009", "SCT", "5th percentile")
PERCENTILE_95: Code = ("371889001", "SCT", "95th percentile")

ENTIRE_BODY: Code = ("38266002", "SCT", "Entire body")
BODY_PARTS: Mapping[str, Code] = MappingProxyType(
    {
        "ABDOMEN": ("818981001", "SCT", "Abdomen"),
        "ABDOMENPELVIS": ("818982008", "SCT", "Abdomen and Pelvis"),
        "BRAIN": ("12738006", "SCT", "Brain"),
        "BREAST": ("76752008", "SCT", "Breast"),
        "CHEST": ("51185008", "SCT", "Chest"),
        "HEAD": ("69536005", "SCT", "Head"),
        "HEART": ("80891009", "SCT", "Heart"),
        "KIDNEY": ("64033007", "SCT", "Kidney"),
        "KNEE": ("72696002", "SCT", "Knee"),
        "LIVER": ("10200004", "SCT", "Liver"),
        "LUNG": ("39607008", "SCT", "Lung"),
        "NECK": ("45048000", "SCT", "Neck"),
        "PELVIS": ("12921003", "SCT", "Pelvis"),
        "PROSTATE": ("41216001", "SCT", "Prostate"),
        "SPINE": ("421060004", "SCT", "Spine"),
    }
)
"""Body Part Examined to anatomic region (PS3.16 Annex L), the frequent ones."""

UNITS: Mapping[str, Code] = MappingProxyType(
    {
        "mm": ("mm", "UCUM", "millimeter"),
        "mm2": ("mm2", "UCUM", "square millimeter"),
        "ml": ("ml", "UCUM", "milliliter"),
        "HU": ("[hnsf'U]", "UCUM", "Hounsfield unit"),
        "%": ("%", "UCUM", "percent"),
        "1": ("1", "UCUM", "no units"),
        "Bq/ml": ("Bq/ml", "UCUM", "Becquerels/milliliter"),
        "{SUVbw}g/ml": ("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight"),
    }
)
