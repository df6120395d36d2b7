"""The messages of one association: P-DATA from the socket to the spool (PS3.8 9.3.5, PS3.7 section 6.3).

What comes in: an association that pynetdicom negotiated, and its connection. What goes out: bytes of data
sets into custody, and C-STORE responses. This is the fast path: the fragments of a data set go from the
socket into the record's buffer, and pynetdicom sees only what is not P-DATA, and C-ECHO. Owns the order of
messages: one is read and answered before the next is looked at, so a peer that pipelines waits in its own
socket. Nothing is held in memory but a command set of bounded size.
"""

from dataclasses import dataclass

from dicom_node.errors import DimseStatus, NodeError, OutOfResources
from dicom_node.observe.logging import get_logger
from dicom_node.receive import pdu
from dicom_node.receive.command import (
    MAX_COMMAND_SET,
    Command,
    CommandField,
    parse_command,
    response,
)
from dicom_node.receive.custody import Answer, Custody
from dicom_node.receive.pdu import AbortReason, PduType, ProtocolError
from dicom_node.receive.transport import Connection
from dicom_node.receive.upper_layer import AcceptedAssociation
from dicom_node.store.spool import RecordWriter

log = get_logger(__name__)

DRAIN_LIMIT = 1 << 30
"""Bytes of a refused data set that are read on, so that its status reaches the sender."""


_SCRATCH = 64 << 10


class AssociationAborted(Exception):
    """The peer sent an A-ABORT."""


@dataclass(frozen=True, slots=True)
class AgreedContext:
    """A presentation context that was accepted."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(slots=True)
class _Incoming:
    """A message whose data set arrives: into a record, or past us with a refusal at its end."""

    command: Command
    context: AgreedContext
    record: RecordWriter | None
    refusal: Answer | None
    received: int = 0

    def discard(self) -> None:
        """Forget what came of it."""
        if self.record is not None:
            self.record.discard()
            self.record = None


class Messages:
    """The messages of an established association, until it ends."""

    def __init__(
        self, connection: Connection, association: AcceptedAssociation, custody: Custody
    ) -> None:
        self._connection = connection
        self._association = association
        self._custody = custody
        self._max_pdu = association.acceptor.maximum_length
        self._peer_max_pdu = association.requestor.maximum_length or 0
        self._contexts = {
            context.context_id: AgreedContext(
                context.context_id, str(context.abstract_syntax), str(context.transfer_syntax[0])
            )
            for context in association.accepted_contexts
        }
        self._command_set = bytearray()
        self._incoming: _Incoming | None = None
        self._nowhere = memoryview(b"")
        self.stored = 0
        self.refused = 0

    def serve(self) -> None:
        """Read and answer messages until the peer asks for release, which is granted.

        Raises:
            ProtocolError: the peer broke the protocol.
            AssociationAborted, PeerGone, PeerSilent: it ended otherwise.
        """
        try:
            while self._next_pdu():
                pass
        finally:
            if self._incoming is not None:
                self._incoming.discard()

    def _next_pdu(self) -> bool:
        """Read one PDU; False after a release."""
        if self._incoming is None and not self._command_set:
            self._connection.wait_idle()
        head = bytes(self._connection.take(pdu.PDU_HEADER.size))
        kind, length = pdu.PDU_HEADER.unpack(head)
        if kind == PduType.DATA:
            self._data(length)
            return True
        if kind not in (PduType.RELEASE_RQ, PduType.ABORT):
            raise pdu.unexpected(kind)
        if length != 4:
            raise ProtocolError("a PDU of a wrong length")
        request = head + bytes(self._connection.take(4))
        if kind == PduType.ABORT:
            self._association.dul.receive(request)
            raise AssociationAborted
        if self._incoming is not None or self._command_set:
            raise ProtocolError("a release inside a message", AbortReason.UNEXPECTED_PDU)
        self._association.grant_release(request)
        return False

    def _data(self, left: int) -> None:
        """The fragments of a P-DATA-TF PDU (PS3.8 9.3.5, Annex E)."""
        if left > self._max_pdu:
            raise ProtocolError("a P-DATA-TF PDU is longer than was agreed")
        while left:
            if left < pdu.PDV_HEADER.size:
                raise ProtocolError("a fragment is cut off")
            head = self._connection.take(pdu.PDV_HEADER.size)
            length, context_id, control = pdu.PDV_HEADER.unpack(head)
            size = length - 2
            left -= pdu.PDV_HEADER.size + size
            if size < 0 or left < 0:
                raise ProtocolError("a fragment has a wrong length")
            if context_id not in self._contexts:
                raise ProtocolError("a context that was not accepted")
            if control & 1:
                self._command_fragment(context_id, size, last=bool(control & 2))
            else:
                self._data_fragment(context_id, size, last=bool(control & 2))

    def _command_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        if self._incoming is not None:
            raise ProtocolError("a command inside a data set", AbortReason.UNEXPECTED_PARAMETER)
        if len(self._command_set) + size > MAX_COMMAND_SET:
            raise ProtocolError("the command set is too large")
        self._command_set += self._connection.read(size)
        if not last:
            return
        command_set = bytes(self._command_set)
        self._command_set.clear()
        command = parse_command(command_set)
        context = self._contexts[context_id]
        if command.has_data_set:
            self._incoming = self._expect_data_set(command, context)
        elif command.field is CommandField.C_ECHO_RQ:
            self._association.echo(context_id, command_set)
        elif command.field is CommandField.C_STORE_RQ:
            comment = "C-STORE without a data set"
            self._respond(command, context, Answer(DimseStatus.CANNOT_UNDERSTAND, comment))
        elif command.field is not CommandField.C_CANCEL_RQ:
            self._respond(command, context, Answer(DimseStatus.UNRECOGNIZED_OPERATION))

    def _expect_data_set(self, command: Command, context: AgreedContext) -> _Incoming:
        """Prepare for a data set: to be taken, or to be read past and answered with a refusal."""
        if command.field is not CommandField.C_STORE_RQ:
            refusal = Answer(DimseStatus.UNRECOGNIZED_OPERATION)
        elif command.sop_class_uid != context.abstract_syntax:
            comment = "SOP class is not that of the presentation context"
            refusal = Answer(DimseStatus.SOP_CLASS_NOT_SUPPORTED, comment)
        elif not command.sop_instance_uid:
            refusal = Answer(DimseStatus.CANNOT_UNDERSTAND, "no SOP Instance UID in the command")
        else:
            try:
                return _Incoming(command, context, self._custody.begin(), None)
            except NodeError as error:
                refusal = self._custody.refuse(error, command)
        return _Incoming(command, context, None, refusal)

    def _data_fragment(self, context_id: int, size: int, *, last: bool) -> None:
        incoming = self._incoming
        if incoming is None or incoming.context.id != context_id:
            raise ProtocolError("a data set without a command", AbortReason.UNEXPECTED_PARAMETER)
        incoming.received += size
        try:
            self._custody.check_size(incoming.received)
        except OutOfResources as error:
            self._refuse(incoming, error)
        while size:
            room = self._room(incoming)
            count = self._connection.read_into(room[:size])
            if incoming.record is not None:
                incoming.record.filled(count)
            size -= count
        if incoming.record is None and incoming.received > DRAIN_LIMIT:
            raise ProtocolError(
                "a data set that was refused does not end", AbortReason.NOT_SPECIFIED
            )
        if last:
            self._incoming = None
            self._complete(incoming)

    def _room(self, incoming: _Incoming) -> memoryview:
        """Where the next bytes go: into custody, or nowhere once they were refused."""
        if incoming.record is not None:
            try:
                return incoming.record.room()
            except OutOfResources as error:
                self._refuse(incoming, error)
        if not self._nowhere:
            self._nowhere = memoryview(bytearray(_SCRATCH))
        return self._nowhere

    def _refuse(self, incoming: _Incoming, error: OutOfResources) -> None:
        if incoming.record is not None:
            incoming.discard()
            incoming.refusal = self._custody.refuse(error, incoming.command)

    def _complete(self, incoming: _Incoming) -> None:
        answer = incoming.refusal
        if incoming.record is not None:
            syntax = incoming.context.transfer_syntax
            answer = self._custody.complete(incoming.record, incoming.command, syntax)
        assert answer is not None
        try:
            self._respond(incoming.command, incoming.context, answer)
        finally:
            self._custody.book()

    def _respond(self, command: Command, context: AgreedContext, answer: Answer) -> None:
        if command.field is CommandField.C_STORE_RQ:
            taken = answer.status is DimseStatus.SUCCESS
            self.stored += taken
            self.refused += not taken
        data = response(command, answer.status, answer.comment)
        self._connection.send(pdu.command_pdus(context.id, data, self._peer_max_pdu))
