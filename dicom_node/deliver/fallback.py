"""A destination refused a LABELMAP segmentation: it gets the BINARY twin, and twins of what refers to it.

What comes in: the refused delivery. What goes out: results that were written and are due, in the place of
those that no longer make sense there. Owns: a twin is made only of files that are as they were made.
"""

from pathlib import Path

from pydicom import dcmread

from dicom_node.deliver.check import checked_kind
from dicom_node.records import DueDelivery
from dicom_node.store.deliveries import Outbox

LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
"""Label Map Segmentation Storage."""
KINDS = ("seg", "sr", "key_objects")
"""Results that may be a segmentation or refer to one."""


def send_binary(refused: DueDelivery, outbox: Outbox, said: str) -> bool:
    """Put BINARY twins in the outbox.

    Args:
        refused: a delivery of a LABELMAP that was tried.
        said: what the destination answered.

    Returns:
        False where the delivery was no longer waiting.

    Raises:
        CannotUnderstand: a file has changed since it was made.
        ComposeError: no twin can be made, or not be written.
        DiskFull: there is no room for it now.
    """
    from dicom_node.compose.fallback import binary_twins, twin_uid
    from dicom_node.compose.part10 import write

    beside = outbox.beside(refused, KINDS)
    for one in beside:
        checked_kind(one)
    twins = binary_twins([dcmread(one.path) for one in beside])
    made = write(twins, Path(refused.path).parent)
    uids = {one.sop_instance_uid for one in made}
    # a report that is there already stays: it is true, and its twin follows
    gone = [one.sop_instance_uid for one in beside if twin_uid(one.sop_instance_uid) in uids]
    return outbox.stood_in_for(refused, made, gone, f"{said}; sent as BINARY instead")
