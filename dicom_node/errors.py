"""Every error of the node: whether it is temporary, which DIMSE status and which exit code it means.

What comes in: nothing. What goes out: types. This is the one place where a DIMSE status has a number;
everywhere else a status has a name.
"""

from enum import IntEnum


class DimseStatus(IntEnum):
    """Statuses that we send or decide upon (PS3.4 Annex B.2.3, PS3.7 Annex C)."""

    SUCCESS = 0x0000
    NO_SUCH_ATTRIBUTE = 0x0105
    DUPLICATE_SOP_INSTANCE = 0x0111
    PROCESSING_FAILURE = 0x0110
    INVALID_SOP_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORISED = 0x0124
    UNRECOGNIZED_OPERATION = 0x0211
    RESOURCE_LIMITATION = 0x0213
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH_SOP_CLASS = 0xA900
    CANNOT_UNDERSTAND = 0xC000


class ExitCode(IntEnum):
    """What a shell sees of a failed command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    REFUSED = 5


class NodeError(Exception):
    """Something went wrong inside the node. The message is for people and holds no patient data."""

    temporary = False
    status = DimseStatus.PROCESSING_FAILURE
    exit_code = ExitCode.FAILED


class ConfigurationError(NodeError):
    """The configuration cannot be used: a file, a key or a value is wrong."""

    exit_code = ExitCode.CONFIGURATION


class OutOfResources(NodeError):
    """The node cannot take more just now: the disk, the database or the queue is at its limit."""

    temporary = True
    status = DimseStatus.OUT_OF_RESOURCES


class SpoolFailed(OutOfResources):
    """A write or a sync of the spool failed; intake stops until the process starts anew."""


class DiskFull(OutOfResources):
    """What was made cannot be kept: the disk is full. Nothing half-written is left."""


class DatabaseAway(OutOfResources):
    """The database cannot be reached or written to, or gave up a transaction that may be tried again."""

    exit_code = ExitCode.UNREACHABLE


class HostAway(NodeError):
    """The host that has what is needed does not answer, or does not serve it."""

    temporary = True
    exit_code = ExitCode.UNREACHABLE


class DataSetMismatch(NodeError):
    """The command and the data set disagree on SOP class or SOP instance."""

    status = DimseStatus.DATA_SET_DOES_NOT_MATCH_SOP_CLASS


class CannotUnderstand(NodeError):
    """The data set's header cannot be read, or names no study or no series."""

    status = DimseStatus.CANNOT_UNDERSTAND


class NotAuthorised(NodeError):
    """This peer may not do this."""

    status = DimseStatus.NOT_AUTHORISED


class IllegalMove(NodeError):
    """A state was asked to change in a way that the table of moves does not hold."""


class StaleLease(NodeError):
    """The lease on a job was lost to another worker; what was made under it is discarded."""


class ReadError(NodeError):
    """The instances of a series make no image that can be used; the message says why."""


class GeometryError(ReadError):
    """The geometry of the slices is contradictory, incomplete or of a kind that is not handled."""


class NotApplicable(NodeError):
    """The series lies outside the model's input contract; the message says which clause."""


class BundleRefused(NodeError):
    """A model bundle is unsafe, incomplete or changed; the message names file, key and reason."""


class ModelFailed(NodeError):
    """The model ran and broke; the message says where."""


class ComposeError(NodeError):
    """A result object cannot be made from this prediction; nothing half-written is left."""


class PeerUnreachable(NodeError):
    """No association with the peer: refused, timed out, or the host does not answer."""

    temporary = True
    exit_code = ExitCode.UNREACHABLE


class PeerRefused(NodeError):
    """The peer answered, and the answer was no."""

    exit_code = ExitCode.REFUSED
