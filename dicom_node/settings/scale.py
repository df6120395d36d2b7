"""Settings of a node that spans several hosts."""

from pydantic import Field, model_validator

from dicom_node.settings.intake import TlsSettings
from dicom_node.settings.kinds import Port, Seconds, Section


class RaySettings(Section):
    """With `engine = "ray"`: where the cluster is, and what an inference actor takes of it."""

    address: str = Field(
        "auto",
        description="host:port of the cluster's head, or auto: the one that runs here. Where workers run, "
        "a Ray node must too: `ray start --address=HEAD --num-cpus=0`.",
    )
    gpus: float = Field(
        1.0, ge=0, description="GPUs for an actor; 0.25 lets four share one, 0 computes on CPUs."
    )
    cpus: float = Field(1.0, ge=0, description="CPUs for an actor.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Further resources that an actor asks of a Ray node."
    )
    start_seconds: Seconds = Field(
        600.0,
        description="How long an actor may wait for room: a cluster that grows takes minutes.",
    )


LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ShareSettings(Section):
    """Several hosts on one database: each serves what it received to the workers of the others. Not needed
    where they share one data_dir."""

    port: Port | None = Field(
        None, description="Serve this host's images here; 0 takes a free port, none serves nothing."
    )
    host: str = Field("127.0.0.1", description="The address to listen on.")
    address: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="The URL under which the other hosts reach it; default: this host's name and port.",
    )
    tls: TlsSettings | None = Field(
        None,
        description="TLS, and mutual, for serving and for reading; off loopback it is required.",
    )
    plain_http: bool = Field(
        False, description="Serve off loopback without TLS: the network between the hosts is safe."
    )
    patience_seconds: Seconds = Field(
        60.0, description="How long a worker waits for a host that does not answer."
    )

    @model_validator(mode="after")
    def _is_safe(self) -> "ShareSettings":
        if (
            self.port is not None
            and self.host not in LOOPBACK
            and self.tls is None
            and not self.plain_http
        ):
            raise ValueError(f"images would leave {self.host} in the clear: set tls, or plain_http")
        return self
