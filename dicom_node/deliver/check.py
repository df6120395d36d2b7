"""What is checked before a result leaves: its file is as it was made, and names whom it was made for."""

import hashlib
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from dicom_node.deliver import scu
from dicom_node.errors import CannotUnderstand
from dicom_node.records import DueDelivery

_IDENTITY = ["PatientID", "StudyInstanceUID", "SOPInstanceUID"]


def checked_kind(delivery: DueDelivery) -> scu.Kind:
    """The kind of a result that is as it was made, and names whom it was made for.

    Raises:
        CannotUnderstand: the file is gone, has changed, or names another patient, study or instance.
    """
    path = Path(delivery.path)
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != delivery.sha256:
            raise CannotUnderstand("the file has changed since it was made")
        head = dcmread(path, stop_before_pixels=True, specific_tags=_IDENTITY)
        kind = scu.kind_of(path)
    except OSError as error:
        raise CannotUnderstand(f"the file cannot be read: {error.strerror}") from error
    except (InvalidDicomError, AttributeError, EOFError, ValueError) as error:
        raise CannotUnderstand(f"the file is not DICOM that can be sent ({error})") from error
    found = (head.get("PatientID"), head.get("StudyInstanceUID"), head.get("SOPInstanceUID"))
    meant = (delivery.patient_id, delivery.study_uid, delivery.sop_instance_uid)
    for what, a, b in zip(("patient", "study", "instance"), found, meant, strict=True):
        if str(a or "").strip() != b.strip():
            raise CannotUnderstand(f"the file names another {what} than it was made for")
    return kind
