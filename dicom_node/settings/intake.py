"""Settings of what comes in: the listener, who may send, when a series is complete."""

import os
from pathlib import Path

from pydantic import Field, SecretStr

from dicom_node.settings.kinds import AETitle, Port, Seconds, Section


class TlsSettings(Section):
    """TLS on a listener, by the BCP 195 profiles of PS3.15 B.12: TLS 1.2 at least, 1.3 preferred."""

    certificate: Path = Field(description="PEM file with our certificate and its chain.")
    key: Path = Field(description="PEM file with its private key.")
    ca: Path = Field(description="PEM file with the authorities that sign peers' certificates.")
    require_client_certificate: bool = Field(
        True, description="Peers must show a certificate that an authority of `ca` signed."
    )
    crl: Path | None = Field(
        None,
        description="PEM file with the authorities' lists of revoked certificates. With it, a peer's "
        "certificate must be covered by a list that is in date, and not be on it; read anew on reload.",
    )


class ReceiveSettings(Section):
    """The listener."""

    ae_title: AETitle = Field("DICOM_NODE", description="The AE title that peers call.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: Port = Field(11112, description="The port to listen on; 0 takes a free one.")
    processes: int = Field(
        0,
        ge=0,
        le=64,
        description="Receiver processes that share the port; 0: one for each four cores, at most four.",
    )
    max_associations: int = Field(
        100,
        ge=1,
        le=4096,
        description="Open associations at once; above it, new ones are told to come later.",
    )
    max_associations_per_peer: int = Field(
        50, ge=1, le=4096, description="As max_associations, for each address."
    )
    max_instance_mb: int = Field(4096, ge=1, description="The largest data set that is accepted.")
    network_timeout: Seconds = Field(
        60.0, description="Seconds of silence after which a peer is cut off."
    )
    disk_reserve_mb: int = Field(
        1024, ge=0, description="Free disk below which nothing more is accepted (status A700)."
    )
    accept_any_peer: bool = Field(
        False, description="Accept every calling AE title and address. For demonstrations."
    )
    called_ae_titles: tuple[AETitle, ...] = Field(
        (),
        description="Further AE titles that peers may call, for routes to tell apart. "
        "None: any title may be called.",
    )
    private_sop_classes: tuple[str, ...] = Field(
        (), description="UIDs of private SOP classes to store, beside all of the standard."
    )
    negotiation_timeout: Seconds = Field(
        15.0, description="Seconds for a TLS handshake and the association request (ARTIM)."
    )
    tls: TlsSettings | None = Field(None, description="TLS on this listener; without it, none.")

    @property
    def effective_processes(self) -> int:
        """`processes`, or what suits this machine: what receives leaves most cores to what computes."""
        return self.processes or min(4, max(1, (os.cpu_count() or 1) // 4))


class PeerSettings(Section):
    """One system that may send to the node."""

    ae_title: AETitle = Field(description="Its calling AE title.")
    address: str = Field("", description="Its address or CIDR block; empty accepts any address.")
    certificate_name: str = Field(
        "",
        description="With TLS: the common name or a DNS name that its certificate must bear; "
        "empty accepts any that our authorities signed.",
    )
    query_host: str = Field(
        "",
        description="Where it answers C-FIND: it is then asked how many images a series has, "
        "and a series is complete as soon as so many came.",
    )
    query_port: Port = Field(104, description="The port of query_host.")
    query_ae_title: AETitle | None = Field(
        None, description="The AE title to ask; default: its ae_title."
    )
    user: str = Field("", description="The user that it must name in the user identity, if any.")
    passcode: SecretStr = Field(
        SecretStr(""), description="The passcode that goes with the user, if any."
    )


class AssembleSettings(Section):
    """When a series counts as complete."""

    settle_seconds: Seconds = Field(
        3.0, description="Wait after release when the geometry is free of gaps."
    )
    idle_seconds: Seconds = Field(
        10.0, description="Silence after which a series counts as complete without other proof."
    )
    learn_idle_seconds: bool = Field(
        True,
        description="Once enough series of a sender are known, use three times its longest pause "
        "instead of idle_seconds.",
    )
    ceiling_seconds: Seconds = Field(60.0, description="The longest wait after the last instance.")
    poll_seconds: Seconds = Field(0.25, description="How often open series are looked at.")
