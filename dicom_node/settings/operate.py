"""Settings of operating it: the page, the audit trail, the log."""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr

from dicom_node.settings.kinds import Port, Seconds, Section


class OidcSettings(Section):
    """Logging in by the hospital's single sign-on (OpenID Connect), beside the accounts of the node."""

    issuer: str = Field(
        pattern=r"^https://|^http://(127\.0\.0\.1|localhost|\[::1\])[:/]",
        description="The issuer, as the service names itself; https, but on this machine.",
    )
    client_id: str = Field(description="What the service calls this node.")
    client_secret_file: Path | None = Field(
        None,
        description="A file that holds the client secret; none for a public client (PKCE alone).",
    )
    ca_file: Path | None = Field(
        None, description="PEM file with the authorities that are trusted; default the system's."
    )
    scope: str = Field("openid profile", description="The scopes that are asked for.")
    name_claim: str = Field(
        "preferred_username", description="The claim that names the account, as `oidc:NAME`."
    )
    role_claim: str = Field(
        "groups",
        description="The claim that holds roles or groups; dots lead inwards: `realm_access.roles`.",
    )
    roles: dict[str, Literal["viewer", "operator", "admin"]] = Field(
        description="Value of the role claim: role here. Who has none of them is not let in.",
    )
    button: str = Field("Single sign-on", description="What stands on the button.")


class WebSettings(Section):
    """The page and its API. Off loopback it wants TLS, its own or that of a proxy in front."""

    enabled: bool = Field(True, description="Whether the node serves its page.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: Port = Field(8112, description="The port to listen on; 0 takes a free one.")
    host_names: tuple[str, ...] = Field(
        (), description="Names under which browsers reach the page, besides `host` and loopback."
    )
    certificate: Path | None = Field(
        None, description="PEM file with the certificate chain, for TLS."
    )
    private_key: Path | None = Field(None, description="PEM file with its key.")
    plain_http: bool = Field(
        False, description="Serve off loopback without TLS: a proxy in front ends it."
    )
    session_idle_minutes: int = Field(30, ge=1, description="Silence after which a login is over.")
    session_hours: int = Field(12, ge=1, description="The longest that a login lasts.")
    upload_mb: int = Field(64, ge=1, description="The largest file that the route test takes.")
    oidc: OidcSettings | None = Field(None, description="Single sign-on; without it, none.")


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5): to a file, or to a repository by syslog over TLS."""

    file: Path | None = Field(
        None, description="The file; default `audit.log` in data_dir. Not used with syslog."
    )
    syslog_host: str = Field("", description="The audit repository; empty writes the file.")
    syslog_port: Port = Field(6514, description="Its port (RFC 5425).")
    ca_file: Path | None = Field(
        None, description="PEM file with the authorities that are trusted; default the system's."
    )
    certificate: Path | None = Field(None, description="PEM file with our certificate.")
    private_key: Path | None = Field(None, description="PEM file with its key.")


class AlertSettings(Section):
    """Who is told when something waits for a person: by e-mail, by webhook. Without either, nobody."""

    email_to: tuple[str, ...] = Field((), description="Addresses that are told.")
    email_from: str = Field("dicom-node@localhost", description="The sender's address.")
    smtp_host: str = Field("localhost", description="The mail server.")
    smtp_port: Port = Field(25, description="Its port.")
    smtp_tls: Literal["none", "starttls", "tls"] = Field(
        "none", description="starttls on a plain port, or tls from the first byte."
    )
    smtp_ca: Path | None = Field(
        None, description="PEM file with the authorities that are trusted; default the system's."
    )
    smtp_user: str = Field("", description="The account at the mail server, if it wants one.")
    smtp_password: SecretStr = Field(SecretStr(""), description="Its password.")
    webhook_url: str | None = Field(
        None, pattern=r"^https?://", description="Gets each message as JSON by POST."
    )
    webhook_authorization_file: Path | None = Field(
        None, description="A file that holds the value of the Authorization header."
    )
    look_seconds: Seconds = Field(30.0, description="How often the node looks at itself.")
    pause_seconds: float = Field(
        300.0,
        ge=0,
        description="The shortest time between two messages; what comes meanwhile waits.",
    )
    remind_hours: float = Field(24.0, gt=0, description="What lasts is told again after so long.")
    quiet_hours: float | None = Field(
        None,
        gt=0,
        description="A [[peer]] that has sent before and is silent for so long is an alarm; "
        "72 bridges a weekend. None: never.",
    )


class LogSettings(Section):
    """Logs carry no patient data; UIDs are hashed."""

    format: Literal["console", "json"] = Field("console", description="For people or for machines.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level."
    )
