"""Who may come in, and what may be acknowledged. Pure decisions.

What comes in: what a peer says of itself and of a data set, and what the node knows of its own state. What
goes out: a rejection, a typed error, or nothing, which means yes. No sockets, no files, no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from dicom_node.errors import ConfigurationError, DataSetMismatch
from dicom_node.read.header import Header
from dicom_node.receive import pdu
from dicom_node.receive.command import Command
from dicom_node.receive.contexts import APPLICATION_CONTEXT
from dicom_node.settings import Settings


@dataclass(frozen=True, slots=True)
class KnownPeer:
    """A system that may send: every field that is not None must match."""

    calling_ae: str
    network: IPv4Network | IPv6Network | None


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may open an association. Without a rule that matches, nobody may."""

    accept_any_peer: bool
    peers: tuple[KnownPeer, ...]

    @classmethod
    def of(cls, settings: Settings) -> "AccessRules":
        """The rules that the configuration states.

        Raises:
            ConfigurationError: an address of a peer is none.
        """
        peers = tuple(
            KnownPeer(peer.ae_title, _network(peer.address) if peer.address else None)
            for peer in settings.peer
        )
        return cls(settings.receive.accept_any_peer, peers)

    def allow(self, calling_ae: str, host: str) -> bool:
        """Whether this calling AE title may come from this address."""
        return self.accept_any_peer or any(
            peer.calling_ae == calling_ae and (peer.network is None or _within(host, peer.network))
            for peer in self.peers
        )

    def know_address(self, host: str) -> bool:
        """Whether any peer could come from this address at all."""
        return self.accept_any_peer or any(
            peer.network is None or _within(host, peer.network) for peer in self.peers
        )


def admit(
    request: pdu.AssociateRequest, host: str, rules: AccessRules, *, congestion: str | None
) -> pdu.Rejection | None:
    """Decide on an association request; None accepts it.

    Args:
        request: what the peer proposes.
        host: its address.
        rules: who may come in.
        congestion: why the node takes nothing just now; None where it does.
    """
    if not request.protocol_version & 1:
        return pdu.PROTOCOL_VERSION_NOT_SUPPORTED
    if request.application_context != APPLICATION_CONTEXT:
        return pdu.APPLICATION_CONTEXT_NOT_SUPPORTED
    if not rules.allow(request.calling_ae, host):
        return pdu.CALLING_AE_NOT_RECOGNIZED
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
