"""Who may come in, how many of them, and how long we wait: decisions without a socket."""

from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import ConfigurationError, DataSetMismatch
from dicom_node.read.header import read_header
from dicom_node.receive import pdu
from dicom_node.receive.admit import (
    AccessRules,
    Applicant,
    KnownPeer,
    UserIdentity,
    admit,
    check_identity,
)
from dicom_node.receive.command import Command, CommandField
from dicom_node.receive.contexts import APPLICATION_CONTEXT
from dicom_node.receive.slots import Slots
from dicom_node.receive.transport import Pace
from dicom_node.settings import Settings
from tests.builders.datasets import ExplicitVRLittleEndian, ct_slice, encoded

CT1 = Applicant("10.1.2.3", "CT1", "NODE", APPLICATION_CONTEXT)


def test_nobody_is_known_by_default() -> None:
    assert admit(CT1, AccessRules(False), congestion=None) == pdu.CALLING_AE_NOT_RECOGNIZED
    assert admit(CT1, AccessRules(True), congestion=None) is None


def test_who_is_refused_learns_nothing_of_congestion() -> None:
    rules = AccessRules(False)
    assert admit(CT1, rules, congestion="the disk is low") == pdu.CALLING_AE_NOT_RECOGNIZED
    rules = AccessRules(False, (KnownPeer("CT1"),))
    assert admit(CT1, rules, congestion="the disk is low") == pdu.TEMPORARY_CONGESTION


@pytest.mark.parametrize(
    ("peer", "known"),
    [
        (KnownPeer("CT1", ip_network("10.1.0.0/16")), True),
        (KnownPeer("CT1", ip_network("10.2.0.0/16")), False),
        (KnownPeer("CT1", ip_network("2001:db8::/32")), False),
        (KnownPeer("CT1", certificate_name="ct1.hospital"), True),
        (KnownPeer("CT1", certificate_name="ct2.hospital"), False),
        (KnownPeer("CT1", user="u", passcode="p"), True),
        (KnownPeer("CT1", user="u", passcode=""), False),
        (KnownPeer("CT1", user="x", passcode="p"), False),
        (KnownPeer("ct1"), False),
    ],
)
def test_all_that_a_rule_names_must_match(peer: KnownPeer, known: bool) -> None:
    identity = UserIdentity(2, b"u", b"p")
    names = frozenset({"ct1.hospital"})
    applicant = Applicant("10.1.2.3", "CT1", "NODE", APPLICATION_CONTEXT, names, identity)
    assert AccessRules(False, (peer,)).allow(applicant) is known


def test_an_address_within_ipv6_is_that_of_ipv4() -> None:
    rules = AccessRules(False, (KnownPeer("CT1", ip_network("10.0.0.0/8")),))
    mapped = Applicant("::ffff:10.1.2.3", "CT1", "NODE", APPLICATION_CONTEXT)
    assert rules.allow(mapped)


def test_an_address_that_is_none_is_told() -> None:
    settings = Settings(peer=[{"ae_title": "A", "address": "10.0.0"}])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match=r"peer\.address"):
        AccessRules.of(settings)


def test_a_uid_that_the_data_set_lacks_is_no_contradiction() -> None:
    ds = ct_slice()
    command = Command(CommandField.C_STORE_RQ, 1, ds.SOPClassUID, ds.SOPInstanceUID, True)
    check_identity(command, read_header(encoded(ds), ExplicitVRLittleEndian))
    del ds.SOPInstanceUID
    check_identity(command, read_header(encoded(ds), ExplicitVRLittleEndian))
    ds.SOPInstanceUID = "1.2.3"
    with pytest.raises(DataSetMismatch):
        check_identity(command, read_header(encoded(ds), ExplicitVRLittleEndian))


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10_000)), max_size=50))
def test_patience_is_never_more_than_the_credit(steps: list[tuple[float, int]]) -> None:
    pace = Pace(credit=5.0, bytes_per_second=1000.0)
    for seconds, received in steps:
        alive = pace.spend(seconds, received)
        assert pace.left <= 5.0
        assert alive is (pace.left > 0)


def test_a_byte_now_and_then_is_not_enough() -> None:
    pace = Pace(credit=5.0, bytes_per_second=1000.0)
    pace.spend(0.1, 10_000_000)  # however much came before
    assert [pace.spend(1.0, 1) for _ in range(6)] == [True] * 5 + [False]


def test_slots_are_counted_in_all_and_for_each_peer(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "lock", total=3, per_peer=2)
    first = slots.take("a")
    assert first is not None
    assert slots.take("a") is not None
    assert slots.take("a") is None
    assert slots.take("b") is not None
    assert slots.take("b") is None
    slots.give_back(first)
    assert slots.take("c") is not None
    assert slots.take("d") is None
    slots.close()
