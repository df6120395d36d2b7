"""UIDs of what the node makes: the same job makes the same objects, however often it runs (DESIGN 2).

A UID is `2.25.<UUIDv5>` (PS3.5 B.2) of the job key and the output's name.
"""

import uuid

from pydicom.uid import UID

_NAMESPACE = uuid.UUID("2f6f3f0b-3a0e-5a53-9d0c-6d3f2f4c9b11")
IMPLEMENTATION_CLASS_UID = UID(f"2.25.{uuid.uuid5(_NAMESPACE, 'implementation').int}")


def derived_uid(job_key: str, *name: str | int) -> UID:
    """The UID of one output of a job.

    Args:
        job_key: stable over re-runs of a job.
        name: what the UID is for, for example `"seg", "instance", 1`.
    """
    path = "\0".join((job_key, *(str(part) for part in name)))
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, path).int}")
