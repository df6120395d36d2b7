"""Who may come in, and what may be acknowledged. Pure decisions.

What comes in: what a peer says of itself and of a data set, and what the node knows of its own state. What
goes out: a rejection, a typed error, or nothing, which means yes. No sockets, no files, no clock.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Self

from dicom_node.errors import ConfigurationError, DataSetMismatch
from dicom_node.read.header import Header
from dicom_node.receive import pdu
from dicom_node.receive.command import Command
from dicom_node.receive.contexts import APPLICATION_CONTEXT
from dicom_node.settings import Settings

USERNAME = 1
USERNAME_AND_PASSCODE = 2


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """PS3.7 D.3.3.7: what the peer says of the person or system that uses it."""

    type: int
    primary: bytes
    secondary: bytes


@dataclass(frozen=True, slots=True)
class Applicant:
    """Who asks for an association, and what proves it."""

    host: str
    calling_ae: str
    called_ae: str
    application_context: str
    certificate_names: frozenset[str] = frozenset()
    """Common name and DNS names of its TLS certificate; empty without one."""
    user_identity: UserIdentity | None = None


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A system that may send: whatever is not empty must match."""

    calling_ae: str
    network: IPv4Network | IPv6Network | None = None
    certificate_name: str = ""
    user: str = ""
    passcode: str = ""

    def is_same(self, applicant: Applicant) -> bool:
        """Whether the applicant is this peer."""
        return (
            self.calling_ae == applicant.calling_ae
            and (self.network is None or _within(applicant.host, self.network))
            and self.certificate_name in ("", *applicant.certificate_names)
            and (not self.user or self._is_same_user(applicant.user_identity))
        )

    def _is_same_user(self, identity: UserIdentity | None) -> bool:
        if identity is None or identity.type not in (USERNAME, USERNAME_AND_PASSCODE):
            return False
        passcode = identity.secondary if identity.type == USERNAME_AND_PASSCODE else b""
        same_user = hmac.compare_digest(identity.primary, self.user.encode())
        return hmac.compare_digest(passcode, self.passcode.encode()) and same_user


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may open an association. Without a rule that matches, nobody may."""

    accept_any_peer: bool
    peers: tuple[KnownPeer, ...] = ()
    called_ae_titles: frozenset[str] = frozenset()
    """Titles that may be called; empty is any."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The rules that the configuration states.

        Raises:
            ConfigurationError: an address of a peer is none, or a rule can never hold.
        """
        receive = settings.receive
        if receive.tls is None and any(peer.certificate_name for peer in settings.peer):
            raise ConfigurationError("peer.certificate_name: without receive.tls there is none")
        peers = tuple(
            KnownPeer(
                peer.ae_title,
                _network(peer.address) if peer.address else None,
                peer.certificate_name,
                peer.user,
                peer.passcode.get_secret_value(),
            )
            for peer in settings.peer
        )
        called = frozenset((receive.ae_title, *receive.called_ae_titles))
        return cls(
            receive.accept_any_peer, peers, called if receive.called_ae_titles else frozenset()
        )

    def allow(self, applicant: Applicant) -> bool:
        """Whether this applicant may come in."""
        return self.accept_any_peer or any(peer.is_same(applicant) for peer in self.peers)


def admit(
    applicant: Applicant, rules: AccessRules, *, congestion: str | None
) -> pdu.Rejection | None:
    """Decide on an association request; None accepts it.

    Args:
        applicant: who asks.
        rules: who may come in.
        congestion: why the node takes nothing just now; None where it does.
    """
    if applicant.application_context != APPLICATION_CONTEXT:
        return pdu.APPLICATION_CONTEXT_NOT_SUPPORTED
    if not rules.allow(applicant):
        return pdu.CALLING_AE_NOT_RECOGNIZED
    if rules.called_ae_titles and applicant.called_ae not in rules.called_ae_titles:
        return pdu.CALLED_AE_NOT_RECOGNIZED
    if congestion is not None:
        return pdu.TEMPORARY_CONGESTION
    return None


def check_identity(command: Command, header: Header) -> None:
    """Pass if the command names the data set that came with it.

    A UID that the data set lacks is an oddity of the header; one that contradicts the command is not.

    Raises:
        DataSetMismatch: it names another.
    """
    pairs: Sequence[tuple[str, str, str]] = (
        ("class", command.sop_class_uid, header.sop_class_uid),
        ("instance", command.sop_instance_uid, header.sop_instance_uid),
    )
    for name, said, found in pairs:
        if found and said != found:
            raise DataSetMismatch(f"SOP {name} of command and data set differ")


def _network(address: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(address, strict=False)
    except ValueError as error:
        raise ConfigurationError(
            f"peer.address: {address!r} is no address or CIDR block"
        ) from error


def _within(host: str, network: IPv4Network | IPv6Network) -> bool:
    address = ip_address(host.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address in network
