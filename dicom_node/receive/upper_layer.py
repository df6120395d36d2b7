"""pynetdicom's upper layer as an acceptor, driven by the thread of the connection.

What comes in: a connection. What goes out: an association that pynetdicom negotiated, and its release or
abort. pynetdicom's own state machine, PDU classes, negotiation and C-ECHO service do the work; what is
replaced is how they are driven. pynetdicom runs two threads for each association that look every
millisecond whether there is something to do, and reads without bounds. Here its state machine is stepped,
event by event, in the connection's own thread; it reads through deadlines, and only what was bounded before.

Each class below sits at one seam of pynetdicom (docs/decisions/0101 to 0104), and a test of it in
`tests/peers/test_receive_seams.py` fails when an upgrade moves it. It must not know of data sets:
`association` takes P-DATA for itself.
"""

from typing import Any

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    P_DATA,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import AddressInformation, AssociationSocket

from dicom_node.receive import pdu
from dicom_node.receive.admit import USERNAME, USERNAME_AND_PASSCODE, Applicant, UserIdentity
from dicom_node.receive.pdu import AbortReason, PduType, ProtocolError, Rejection
from dicom_node.receive.transport import Connection, PeerGone, PeerSilent


class BoundedSocket(AssociationSocket):  # type: ignore[misc]
    """Seam 1: pynetdicom's transport, on a connection with deadlines."""

    def __init__(self, association: Association, connection: Connection) -> None:
        self._connection = connection
        super().__init__(association, client_socket=connection.socket)

    @property
    def ready(self) -> bool:
        """There is always something to wait for; the connection knows for how long."""
        return self._is_connected  # type: ignore[no-any-return]

    def recv(self, nr_bytes: int) -> bytearray:
        """As many bytes as were asked for, within the deadlines."""
        return bytearray(self._connection.read(nr_bytes))

    def send(self, bytestream: bytes) -> None:
        """All of it, within the deadlines."""
        self._connection.send(bytestream)

    def _shutdown_socket(self) -> None:
        self._connection.close()


class SteppedDul(DULServiceProvider):  # type: ignore[misc]
    """Seam 2: pynetdicom's upper layer service provider, without its thread."""

    def step(self) -> None:
        """Let the state machine act upon every event that there is, until the connection is over."""
        while not self._kill_thread and not self.event_queue.empty():
            self.state_machine.do_action(self.event_queue.get(block=False))

    def send_pdu(self, primitive: Any) -> None:
        """Hand over a primitive, and let it be sent at once."""
        super().send_pdu(primitive)
        while self._process_recv_primitive():
            self.step()

    def receive(self, data: bytes) -> None:
        """Decode one whole PDU and let the state machine act upon it.

        Raises:
            ProtocolError: pynetdicom cannot decode it, or it does not belong here.
            PeerGone, PeerSilent: an answer could not be sent.
        """
        try:
            decoded, event = self._decode_pdu(bytearray(data))
            self._recv_pdu.put(decoded)
            self.event_queue.put(event)
            self.step()
        except (PeerGone, PeerSilent):
            raise
        except Exception as error:  # whatever strange bytes provoke
            raise ProtocolError(f"pynetdicom: {type(error).__name__}") from error


class AcceptedAssociation(Association):  # type: ignore[misc]
    """Seam 3: pynetdicom's association as acceptor, stepped by the thread that calls it."""

    def __init__(
        self,
        ae: AE,
        connection: Connection,
        contexts: list[PresentationContext],
        max_pdu: int,
    ) -> None:
        """Prepare to be asked.

        Args:
            ae: who we are.
            connection: where the peer is.
            contexts: what is offered; shared by all associations, as negotiation only reads it.
            max_pdu: the longest P-DATA-TF that we take.
        """
        super().__init__(ae, "acceptor")
        self.dul = SteppedDul(self)
        self.set_socket(BoundedSocket(self, connection))
        self.dul.step()
        self._connection = connection
        self.acceptor.maximum_length = max_pdu
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = contexts
        self.requestor.address_info = AddressInformation(connection.host, 0)

    def _bind_defaults(self) -> None:
        # pynetdicom's own log of each PDU and message costs more than the message, and may hold its data
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))
        self.bind(evt.EVT_C_ECHO, lambda _event: 0x0000)

    def await_request(self) -> Applicant | None:
        """Wait for the association request; None where the state machine has already rejected it.

        Raises:
            ProtocolError: something else came, or it is larger than anybody needs.
            PeerGone, PeerSilent: nothing came in time.
        """
        head = bytes(self._connection.take(pdu.PDU_HEADER.size))
        kind, length = pdu.PDU_HEADER.unpack(head)
        if kind != PduType.ASSOCIATE_RQ:
            raise pdu.unexpected(kind)
        if length > pdu.MAX_ASSOCIATE_PDU:
            raise ProtocolError("the association request is too large")
        body = self._connection.read(length)
        pdu.check_associate_request(body)
        self.dul.receive(head + body)
        primitive = self.dul.receive_pdu(wait=False)
        if primitive is None:
            return None
        self.requestor.primitive = primitive
        return self._applicant(primitive)

    def _applicant(self, request: A_ASSOCIATE) -> Applicant:
        identity = self.requestor.user_identity
        return Applicant(
            self._connection.host,
            request.calling_ae_title,
            request.called_ae_title,
            str(request.application_context_name or ""),
            self._connection.certificate_names,
            identity
            and UserIdentity(
                identity.user_identity_type, identity.primary_field, identity.secondary_field or b""
            ),
        )

    def reject(self, rejection: Rejection) -> None:
        """Answer with an A-ASSOCIATE-RJ."""
        self.acse.send_reject(rejection.result, rejection.source, rejection.reason)

    def accept(self) -> None:
        """Negotiate, and answer with an A-ASSOCIATE-AC."""
        identity = self.requestor.user_identity
        named = (USERNAME, USERNAME_AND_PASSCODE)
        if (
            identity
            and identity.positive_response_requested
            and identity.user_identity_type in named
        ):
            # pynetdicom confirms only the kinds that carry tickets; PS3.7 D.3.3.7.2 has it for these too
            confirmation = UserIdentityNegotiation()
            confirmation.server_response = b""
            self.acceptor.add_negotiation_item(confirmation)
        self.acse.negotiate_association()

    def echo(self, context_id: int, command_set: bytes) -> None:
        """Serve a C-ECHO request with pynetdicom's verification service.

        Raises:
            ProtocolError: it is none.
        """
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((context_id, b"\x03" + command_set))
        self.dimse.receive_primitive(primitive)
        context_id, message = self.dimse.get_msg(block=False)
        if message is None:
            raise ProtocolError("pynetdicom finds no C-ECHO request")
        self._serve_request(message, context_id)

    def grant_release(self, request: bytes) -> None:
        """Answer an A-RELEASE-RQ PDU."""
        self.dul.receive(request)
        if not self.acse.is_release_requested():
            raise ProtocolError("a release out of order", AbortReason.UNEXPECTED_PDU)
        self.acse.send_release(is_response=True)
        self.is_released, self.is_established = True, False

    def send_abort(self, reason: AbortReason) -> None:
        """Send an A-ABORT of the service provider, in whatever state this is."""
        request = A_ABORT_RQ()
        request.source, request.reason_diagnostic = 2, reason
        self._connection.send(request.encode())


def application_entity(ae_title: str, implementation_class_uid: str, version_name: str) -> AE:
    """Who we are, for all associations."""
    ae = AE(ae_title)
    ae.implementation_class_uid = implementation_class_uid
    ae.implementation_version_name = version_name
    return ae
