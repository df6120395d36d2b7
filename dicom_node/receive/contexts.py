"""What the listener offers: SOP classes and transfer syntaxes.

What comes in: private SOP classes of the configuration. What goes out: the presentation contexts that
pynetdicom negotiates from. Owns the one list of what is offered; the conformance statement is made from
it. The deflated syntaxes are never in it: a data set must not be able to grow after it was counted. Pure.
"""

from collections.abc import Iterable

from pydicom._uid_dict import UID_dictionary
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext

VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_VERSION_NAME = "DICOM_NODE_01"

UNCOMPRESSED = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian
)
LOSSLESS = (
    "1.2.840.10008.1.2.4.80",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.201",  # HTJ2K Lossless
    "1.2.840.10008.1.2.4.202",  # HTJ2K Lossless RPCL
    "1.2.840.10008.1.2.4.90",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.70",  # JPEG Lossless SV1
    "1.2.840.10008.1.2.4.57",  # JPEG Lossless
    "1.2.840.10008.1.2.5",  # RLE Lossless
)
BIG_ENDIAN = ("1.2.840.10008.1.2.2",)
LOSSY = (
    "1.2.840.10008.1.2.4.81",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.203",  # HTJ2K
    "1.2.840.10008.1.2.4.91",  # JPEG 2000
    "1.2.840.10008.1.2.4.51",  # JPEG Extended
    "1.2.840.10008.1.2.4.50",  # JPEG Baseline
)
VIDEO = (
    "1.2.840.10008.1.2.4.100",  # MPEG2 Main Level
    "1.2.840.10008.1.2.4.101",  # MPEG2 High Level
    "1.2.840.10008.1.2.4.102",  # H.264 High Profile 4.1
    "1.2.840.10008.1.2.4.103",  # H.264 BD-compatible 4.1
    "1.2.840.10008.1.2.4.104",  # H.264 4.2 2D
    "1.2.840.10008.1.2.4.105",  # H.264 4.2 3D
    "1.2.840.10008.1.2.4.106",  # H.264 Stereo 4.2
    "1.2.840.10008.1.2.4.107",  # H.265 Main 5.1
    "1.2.840.10008.1.2.4.108",  # H.265 Main 10 5.1
)
STORAGE_SYNTAXES = UNCOMPRESSED + LOSSLESS + BIG_ENDIAN + LOSSY + VIDEO
"""In the order of our preference: no work first, then without loss, then what the peer insists on."""
VERIFICATION_SYNTAXES = UNCOMPRESSED + BIG_ENDIAN

_NOT_OFFERED = frozenset(
    (
        # no patient's objects: they belong to no study, so the node has no place for them
        "1.2.840.10008.1.3.10",
        "1.2.840.10008.5.1.4.1.1.200.1",
        "1.2.840.10008.5.1.4.1.1.200.3",
        "1.2.840.10008.5.1.4.1.1.200.7",
        "1.2.840.10008.5.1.4.1.1.201.1",
        "1.2.840.10008.5.1.4.38.1",
        "1.2.840.10008.5.1.4.39.1",
        "1.2.840.10008.5.1.4.43.1",
        "1.2.840.10008.5.1.4.44.1",
        "1.2.840.10008.5.1.4.45.1",
        # print management, not storage
        "1.2.840.10008.5.1.1.27",
    )
)


def storage_sop_classes(private: Iterable[str] = ()) -> frozenset[str]:
    """Every SOP class that can be stored here: all that are known, the retired too, and configured ones."""
    known = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    named = {
        uid
        for uid, (name, kind, *_rest) in UID_dictionary.items()
        if kind == "SOP Class" and _is_storage(name)
    }
    return frozenset((known | named | set(private)) - _NOT_OFFERED)


def supported_contexts(storage: frozenset[str]) -> list[PresentationContext]:
    """What pynetdicom is to negotiate from; of several transfer syntaxes the first one here is taken."""
    verification = build_context(VERIFICATION, list(VERIFICATION_SYNTAXES))
    return [verification, *(build_context(uid, list(STORAGE_SYNTAXES)) for uid in sorted(storage))]


def _is_storage(name: str) -> bool:
    words = name.removesuffix(" SOP Class")
    return "Storage" in words and "Storage Commitment" not in words
