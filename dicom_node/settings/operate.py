"""Settings of operating it: the page, the audit trail, the log."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dicom_node.settings.kinds import Port, Section


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


class LogSettings(Section):
    """Logs carry no patient data; UIDs are hashed."""

    format: Literal["console", "json"] = Field("console", description="For people or for machines.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level."
    )
