"""Part 10 files as the rest of the node sees instances: raw data set bytes and what they are.

What comes in: a file as a scanner's export or a PACS wrote it. What goes out: a `RawInstance`, the same
thing that the spool holds. The data set itself is not looked at.
"""

from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from dicom_node.errors import ReadError
from dicom_node.records import RawInstance


def raw_instance(path: Path) -> RawInstance:
    """Read one DICOM file (PS3.10 7.1).

    Raises:
        ReadError: it is none, or its file meta information lacks what is needed.
    """
    try:
        # the group's first element tells its length; the data set begins behind it
        meta = read_file_meta_info(path)
        start = 132 + 12 + int(meta.FileMetaInformationGroupLength)
        return RawInstance(
            data=memoryview(path.read_bytes())[start:],
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        )
    except (InvalidDicomError, AttributeError, OSError, EOFError, ValueError) as error:
        raise ReadError(f"{path.name}: not a DICOM file that can be read ({error})") from error
