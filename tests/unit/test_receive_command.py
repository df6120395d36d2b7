"""Command sets: ours read what pynetdicom writes, and pynetdicom reads what ours write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu import P_DATA_TF

from dicom_node.errors import DimseStatus
from dicom_node.receive import pdu
from dicom_node.receive.command import Command, CommandField, parse_command, response
from dicom_node.receive.pdu import ProtocolError

uids = st.from_regex(r"1\.[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){0,4}", fullmatch=True)


@given(uids, uids, st.integers(0, 0xFFFF))
def test_requests_of_pynetdicom_are_read(sop_class: str, sop_instance: str, number: int) -> None:
    request = C_STORE()
    request.MessageID = number
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_instance
    request.Priority = 2
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    (fragment,) = message.encode_msg(1, 0)
    encoded = fragment.presentation_data_value_list[0][1][1:]
    command = parse_command(encoded)
    assert command.field is CommandField.C_STORE_RQ
    assert (command.sop_class_uid, command.sop_instance_uid) == (sop_class, sop_instance)
    assert command.message_id == number


@given(uids, uids, st.integers(0, 0xFFFF), st.sampled_from(DimseStatus), st.text(max_size=90))
def test_responses_are_read_by_pynetdicom(
    sop_class: str, sop_instance: str, number: int, status: DimseStatus, comment: str
) -> None:
    command = Command(CommandField.C_STORE_RQ, number, sop_class, sop_instance, True)
    for max_pdu in (0, 30, 16384):
        answer = _read(pdu.command_pdus(5, response(command, status, comment), max_pdu), max_pdu)
        assert answer.Status == status
        assert answer.MessageIDBeingRespondedTo == number
        assert answer.AffectedSOPClassUID == sop_class
        assert answer.AffectedSOPInstanceUID == sop_instance
        assert len(answer.ErrorComment or "") <= 64


def _read(pdus: bytes, max_pdu: int) -> C_STORE:
    message = DIMSEMessage()
    while pdus:
        _, length = pdu.PDU_HEADER.unpack_from(pdus)
        assert max_pdu == 0 or length <= max_pdu
        transfer = P_DATA_TF()
        transfer.decode(pdus[: 6 + length])
        pdus = pdus[6 + length :]
        done = message.decode_msg(transfer.to_primitive(), None)
        assert done == (not pdus)
    return message.message_to_primitive()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(8),
        b"\0\0\0\1\2\0\0\0\1\0",  # a C-STORE-RQ without anything else
        b"\x08\0\0\0\0\0\0\0",  # not of group 0000
        b"\0\0\0\1\xff\xff\xff\xff",
    ],
)
def test_what_is_no_command_set(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_command(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes) -> None:
    try:
        parse_command(data)
    except ProtocolError:
        return
