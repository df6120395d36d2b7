"""The seams of pynetdicom that the receiver sits at: an upgrade that moves one fails here, by its name.

Each test states what the seam relies on, on pynetdicom's own objects, and what comes over the wire of it.
"""

import inspect
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE, build_context, evt
from pynetdicom import fsm as pynetdicom_fsm
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_AC, A_RELEASE_RP
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.presentation import negotiate_as_acceptor
from pynetdicom.sop_class import CTImageStorage, Verification
from pynetdicom.transport import AssociationSocket

from dicom_node.compose.uids import IMPLEMENTATION_CLASS_UID
from dicom_node.receive.upper_layer import AcceptedAssociation, BoundedSocket, SteppedDul
from tests.builders.datasets import ct_slice
from tests.builders.raw_peer import CT, EXPLICIT, RELEASE_RQ, RawPeer, associate_rq, item
from tests.receiving import Listening, listening


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Listening]:
    with listening(tmp_path) as running:
        yield running


def test_seam_1_the_socket_is_used_through_what_is_overridden() -> None:
    for name in ("recv", "send", "ready", "close", "_shutdown_socket"):
        assert hasattr(AssociationSocket, name), name
        if name != "close":
            assert name in vars(BoundedSocket), name
    # the parent announces the connection (Evt5) and marks it as connected
    source = inspect.getsource(AssociationSocket.__init__)
    assert 'event_queue.put("Evt5")' in source
    assert "self._is_connected = True" in source
    # what the provider sends goes through `send`, and nothing else touches the socket
    assert "self.socket.send(" in inspect.getsource(DULServiceProvider._send)


def test_seam_2_the_provider_can_be_stepped() -> None:
    for name in (
        "_decode_pdu",
        "_process_recv_primitive",
        "send_pdu",
        "receive_pdu",
        "kill_dul",
        "is_alive",
    ):
        assert callable(getattr(DULServiceProvider, name)), name
    association = Association(AE(), "acceptor")
    provider = DULServiceProvider(association)
    for name in ("event_queue", "to_user_queue", "to_provider_queue", "_recv_pdu"):
        assert hasattr(getattr(provider, name), "get"), name
    assert provider.state_machine.current_state == "Sta1"
    assert provider._kill_thread is False
    assert issubclass(SteppedDul, DULServiceProvider)
    assert "run_reactor" not in vars(SteppedDul)


def test_seam_2_the_state_machine_is_that_of_the_standard() -> None:
    """PS3.8 Table 9-10, for the events that reach an acceptor here."""
    table = pynetdicom_fsm.TRANSITION_TABLE
    assert table["Evt5", "Sta1"] == "AE-5"
    assert table["Evt6", "Sta2"] == "AE-6"
    assert table["Evt7", "Sta3"] == "AE-7"
    assert table["Evt8", "Sta3"] == "AE-8"
    assert table["Evt9", "Sta6"] == "DT-1"
    assert table["Evt12", "Sta6"] == "AR-2"
    assert table["Evt14", "Sta8"] == "AR-4"
    assert table["Evt16", "Sta6"] == "AA-3"


def test_seam_3_negotiation_only_reads_what_is_offered() -> None:
    """All associations share one list, where pynetdicom copies it for each (104 ms)."""
    offered = [build_context(CTImageStorage), build_context(Verification)]
    before = [(c.abstract_syntax, list(c.transfer_syntax), c.context_id, c.result) for c in offered]
    asked = build_context(CTImageStorage)
    asked.context_id = 1
    for roles in (None, {CTImageStorage: (True, True)}):
        negotiate_as_acceptor([asked], offered, roles)
    after = [(c.abstract_syntax, list(c.transfer_syntax), c.context_id, c.result) for c in offered]
    assert after == before


def test_seam_3_the_association_needs_no_thread() -> None:
    for name in ("is_acceptor", "accepted_contexts", "set_socket", "_serve_request", "bind"):
        assert hasattr(Association, name), name
    for name in ("negotiate_association", "send_reject", "send_release", "is_release_requested"):
        assert callable(getattr(ACSE, name)), name
    assert "_bind_defaults" in inspect.getsource(Association.__init__)
    assert evt._INTERVENTION_EVENTS
    assert callable(evt.get_default_handler)
    assert issubclass(AcceptedAssociation, Association)


def test_seam_4_a_message_is_decoded_where_it_is_received() -> None:
    """C-ECHO: one P-DATA primitive in, one message out, in the same thread."""
    assert callable(DIMSEServiceProvider.receive_primitive)
    assert callable(DIMSEServiceProvider.get_msg)


def test_an_association_costs_one_thread(node: Listening) -> None:
    before = set(threading.enumerate())
    with RawPeer(node.address) as peer:
        peer.associate()
        assert len(set(threading.enumerate()) - before) == 1
        peer.release()


def test_what_pynetdicom_encodes_is_what_it_decodes(node: Listening) -> None:
    with RawPeer(node.address) as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,)), (3, "1.2.3", (EXPLICIT,))], called="X"))
        kind, body = peer.read_pdu()
        accepted = A_ASSOCIATE_AC()
        accepted.decode(struct.pack(">BBI", kind, 0, len(body)) + body)
        assert [c.result for c in accepted.presentation_context] == [0, 3]
        user = accepted.user_information
        assert user.implementation_class_uid == IMPLEMENTATION_CLASS_UID
        assert user.maximum_length == 128 << 10
        peer.send(RELEASE_RQ)
        kind, body = peer.read_pdu()
        assert kind == A_RELEASE_RP().pdu_type


def test_a_user_identity_is_confirmed_when_asked_for(node: Listening) -> None:
    identity = struct.pack(">BBH", 1, 1, 1) + b"u" + struct.pack(">H", 0)
    with RawPeer(node.address) as peer:
        peer.send(associate_rq([(1, CT, (EXPLICIT,))], extra=item(0x58, identity)))
        kind, body = peer.read_pdu()
        accepted = A_ASSOCIATE_AC()
        accepted.decode(struct.pack(">BBI", kind, 0, len(body)) + body)
        primitives = [entry.to_primitive() for entry in accepted.user_information.user_data]
        assert any(isinstance(entry, UserIdentityNegotiation) for entry in primitives)


def test_pynetdicom_as_a_sender(node: Listening) -> None:
    ae = AE("SENDER")
    ae.add_requested_context(CTImageStorage, EXPLICIT)
    ae.add_requested_context(Verification)
    association = ae.associate(*node.address)
    assert association.is_established
    assert association.send_c_echo().Status == 0
    ds = ct_slice()
    ds.is_little_endian, ds.is_implicit_VR = True, False
    ds.file_meta = None
    assert _store(association, ds) == 0
    association.release()
    assert node.endings() == ["RELEASED"]


def _store(association: Association, ds: object) -> int:
    from pydicom.dataset import FileMetaDataset

    ds.file_meta = FileMetaDataset()  # type: ignore[attr-defined]
    ds.file_meta.TransferSyntaxUID = EXPLICIT  # type: ignore[attr-defined]
    return association.send_c_store(ds).Status  # type: ignore[no-any-return,attr-defined]
