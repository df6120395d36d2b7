"""The node's configuration: one field a setting, from TOML, then the environment.

What comes in: a TOML file (`--config`, `DICOM_NODE_CONFIG`, `./dicom-node.toml`) and variables such as
`DICOM_NODE_RECEIVE__PORT`. What goes out: frozen `Settings`, or a `ConfigurationError` that names the
key, says what is wrong with it, and suggests the key that was probably meant. No other I/O.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dicom_node.errors import ConfigurationError

ENVIRONMENT_PREFIX = "DICOM_NODE_"
DEFAULT_FILE = Path("dicom-node.toml")
BUNDLED_MODELS = Path(__file__).resolve().parent.parent / "ai_models"


def _is_ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: at most 16 characters of ASCII without backslash or control characters."""
    stripped = value.strip(" ")
    if not stripped or len(stripped) > 16:
        raise ValueError("an AE title has 1 to 16 characters")
    if "\\" in stripped or not all(0x20 <= ord(c) < 0x7F for c in stripped):
        raise ValueError("an AE title is printable ASCII without backslash")
    return stripped


AETitle = Annotated[str, AfterValidator(_is_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TlsSettings(_Section):
    """TLS on a listener, by the BCP 195 profiles of PS3.15 B.12: TLS 1.2 at least, 1.3 preferred."""

    certificate: Path = Field(description="PEM file with our certificate and its chain.")
    key: Path = Field(description="PEM file with its private key.")
    ca: Path = Field(description="PEM file with the authorities that sign peers' certificates.")
    require_client_certificate: bool = Field(
        True, description="Peers must show a certificate that an authority of `ca` signed."
    )


class ReceiveSettings(_Section):
    """The listener."""

    ae_title: AETitle = Field("DICOM_NODE", description="The AE title that peers call.")
    host: str = Field("127.0.0.1", description="The address to listen on.")
    port: Port = Field(11112, description="The port to listen on; 0 takes a free one.")
    processes: int = Field(1, ge=1, le=64, description="Receiver processes that share the port.")
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


class PeerSettings(_Section):
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


class AssembleSettings(_Section):
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


class InferSettings(_Section):
    """The inference worker."""

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    threads: int = Field(0, ge=0, description="CPU threads for a model; 0 takes all cores.")
    cpu_engine: Literal["auto", "torch"] = Field(
        "auto",
        description="auto: OpenVINO, where it is installed and gives what torch gives; or torch.",
    )
    lease_seconds: Seconds = Field(
        30.0, description="A worker silent for so long has lost its job to another."
    )
    job_seconds: Seconds = Field(1800.0, description="The longest time that one job may take.")
    concurrency: dict[str, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict,
        description="Model: how many of its jobs may run at once, over all workers.",
    )
    trusted_bundles: tuple[str, ...] = Field(
        (), description="Names of models whose own Python scripts may run."
    )


class DeliverSettings(_Section):
    """The courier."""

    ae_title: AETitle | None = Field(
        None, description="Our calling AE title; default: the listener's."
    )
    retry_first_seconds: Seconds = Field(2.0, description="Wait after the first failure.")
    retry_longest_seconds: Seconds = Field(600.0, description="The longest wait between two tries.")
    max_attempts: int = Field(
        200, ge=1, description="Tries after which a delivery is given up as DEAD."
    )
    network_timeout: Seconds = Field(30.0, description="Seconds to wait for a PACS's answer.")
    report_port: Port | None = Field(
        None,
        description="Listen here for storage commitment reports that a PACS sends on an association "
        "of its own; 0 takes a free port, none does not listen.",
    )
    confirm_first_seconds: Seconds = Field(
        2.0, description="Wait before a PACS is first asked whether it keeps what it took."
    )
    confirm_grace_seconds: Seconds = Field(
        300.0,
        description="A PACS indexes late: only what it does not list after so long is sent again.",
    )
    poll_seconds: Seconds = Field(0.25, description="How often due deliveries are looked for.")


ResultKind = Literal["seg", "sr", "denoised", "heatmap", "secondary_capture"]


class DestinationSettings(_Section):
    """A PACS that results go to, and its profile: what it takes and how it confirms."""

    ae_title: AETitle = Field(description="Its AE title.")
    host: str = Field(description="Its host.")
    port: Port = Field(description="Its DICOM port.")
    objects: tuple[ResultKind, ...] = Field(
        ("seg", "sr", "denoised", "heatmap"), description="Which kinds of result it is sent."
    )
    segmentation: Literal["binary", "labelmap"] = Field(
        "binary", description="How a segmentation is encoded."
    )
    confirm: Literal["response", "query", "commitment"] = Field(
        "response",
        description="What makes a delivery CONFIRMED: the C-STORE answer, a C-FIND that finds it, "
        "or storage commitment.",
    )
    stow_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="The base of its DICOMweb service: results then go by STOW-RS, and `query` "
        "confirms by QIDO-RS.",
    )
    authorization_file: Path | None = Field(
        None, description="With stow_url: a file that holds the value of the Authorization header."
    )

    @model_validator(mode="after")
    def _web_has_no_commitment(self) -> "DestinationSettings":
        if self.stow_url is not None and self.confirm == "commitment":
            raise ValueError("storage commitment is DIMSE's; with stow_url confirm by query")
        return self


class RouteMatch(_Section):
    """What a series must be for a route; each list is of shell patterns, any of which may match."""

    modality: tuple[str, ...] = Field((), description="Modality, for example CT.")
    calling_ae: tuple[str, ...] = Field((), description="The sender's AE title.")
    called_ae: tuple[str, ...] = Field((), description="The AE title that the sender called.")
    body_part: tuple[str, ...] = Field((), description="Body Part Examined.")
    series_description: tuple[str, ...] = Field((), description="Series Description.")
    study_description: tuple[str, ...] = Field((), description="Study Description.")
    image_type: tuple[str, ...] = Field((), description="Any value of Image Type.")
    kernel: tuple[str, ...] = Field((), description="Convolution Kernel.")
    min_instances: int = Field(1, ge=1, description="The fewest instances.")
    max_instances: int | None = Field(None, ge=1, description="The most instances.")


class RouteSettings(_Section):
    """Which series get which models, and where the results go. Every route that matches applies."""

    name: str = Field(description="A name for status and logs.")
    match: RouteMatch = RouteMatch()
    models: tuple[str, ...] = Field(min_length=1, description="Models to run.")
    destinations: tuple[str, ...] = Field(min_length=1, description="Destinations of the results.")
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")


class CanarySettings(_Section):
    """A phantom that the node sends to itself through the whole path, so that a fault shows before a
    patient's study meets it. Its series match no other route."""

    every_seconds: Seconds | None = Field(
        None, description="How often; 3600 is hourly. Without it there is no canary."
    )
    ae_title: AETitle = Field(
        "DN_CANARY",
        description="The AE title that it calls from; the node must accept it as a peer.",
    )
    models: tuple[str, ...] = Field((), description="Models that it goes through.")
    destinations: tuple[str, ...] = Field(
        (),
        description="Where its results go; a destination that is the node itself keeps a phantom "
        "out of the PACS.",
    )
    late_seconds: Seconds = Field(
        900.0, description="A canary that is not delivered after so long is an alarm."
    )

    @model_validator(mode="after")
    def _has_a_way(self) -> "CanarySettings":
        if self.every_seconds is not None and not (self.models and self.destinations):
            raise ValueError("a canary needs models and destinations")
        return self


class RetentionSettings(_Section):
    """How long images are kept. What is held, unfinished or not delivered is kept whatever stands here."""

    days: float = Field(
        14.0, ge=0, description="Days after which the images of a delivered series go."
    )
    keep_free_mb: int = Field(
        4096,
        ge=0,
        description="Free disk below which images of delivered series go before their time, "
        "oldest first.",
    )
    sweep_seconds: Seconds = Field(600.0, description="How often the disk is cleared up.")


class WebSettings(_Section):
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


class AuditSettings(_Section):
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


class LogSettings(_Section):
    """Logs carry no patient data; UIDs are hashed."""

    format: Literal["console", "json"] = Field("console", description="For people or for machines.")
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level."
    )


class Settings(BaseSettings):
    """All settings of a node."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    data_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        Path("data"),
        validate_default=True,
        description="Where the spool, the database and results lie.",
    )
    database_url: str | None = Field(
        None, description="SQLAlchemy URL; default: an SQLite file in data_dir."
    )
    models_dir: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        BUNDLED_MODELS, description="The folder of model bundles."
    )
    not_for_clinical_use: bool = Field(
        True, description="Mark every result 'Not for clinical use'."
    )
    institution_serial: str = Field(
        "0", description="Device Serial Number of this node, written into results."
    )
    receive: ReceiveSettings = ReceiveSettings()
    peer: tuple[PeerSettings, ...] = ()
    assemble: AssembleSettings = AssembleSettings()
    infer: InferSettings = InferSettings()
    deliver: DeliverSettings = DeliverSettings()
    destination: dict[str, DestinationSettings] = Field(default_factory=dict)
    route: tuple[RouteSettings, ...] = ()
    retention: RetentionSettings = RetentionSettings()
    canary: CanarySettings = CanarySettings()
    web: WebSettings = WebSettings()
    audit: AuditSettings = AuditSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _routes_name_known_destinations(self) -> "Settings":
        names = [route.name for route in self.route]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"route names must differ: {', '.join(sorted(twice))} stands twice")
        for route in self.route:
            for name in route.destinations:
                if name not in self.destination:
                    known = ", ".join(sorted(self.destination)) or "none"
                    raise ValueError(
                        f"route {route.name!r} sends to {name!r}, which is no destination (known: {known})"
                    )
        for name in self.canary.destinations:
            if name not in self.destination:
                raise ValueError(f"the canary sends to {name!r}, which is no destination")
        accepted = {peer.ae_title for peer in self.peer}
        flies = self.canary.every_seconds is not None
        if flies and not self.receive.accept_any_peer and self.canary.ae_title not in accepted:
            raise ValueError(f"the canary calls as {self.canary.ae_title}, which is no [[peer]]")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # the environment overrides the file, whose values arrive as init arguments
        return env_settings, init_settings

    @property
    def spool_dir(self) -> Path:
        """Segments with what was received."""
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        """Files with what was made."""
        return self.data_dir / "results"

    @property
    def effective_database_url(self) -> str:
        """`database_url`, or the embedded SQLite file."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'node.sqlite').absolute()}"


def load_settings(file: Path | None = None) -> Settings:
    """Read the configuration.

    Args:
        file: a TOML file; default `$DICOM_NODE_CONFIG`, else `./dicom-node.toml` if it exists, else
            nothing but defaults.

    Raises:
        ConfigurationError: the file is missing or not TOML, or a key or value is wrong.
    """
    if file is None and (named := os.environ.get(ENVIRONMENT_PREFIX + "CONFIG")):
        file = Path(named)
    if file is None and DEFAULT_FILE.exists():
        file = DEFAULT_FILE
    values: Mapping[str, Any] = {} if file is None else _read_toml(file)
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, file)) from error


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"{file}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _explain(error: ValidationError, file: Path | None) -> str:
    """One line for each wrong key: where, what, and which key was probably meant."""
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: no such setting{_suggestion(problem['loc'])}")
        else:
            lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    source = str(file) if file else "environment"
    return f"{source}:\n  " + "\n  ".join(lines)


def _suggestion(location: tuple[int | str, ...]) -> str:
    section: Any = Settings
    for part in location[:-1]:
        if isinstance(part, int) or section is None:
            continue
        section = _section_class(section, str(part))
    known = list(section.model_fields) if section is not None else []
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}" if known else ""


def _section_class(section: Any, name: str) -> Any:
    """The model class behind a field, also inside tuples and dictionaries; a dict's key keeps it."""
    if name not in section.model_fields:
        return section
    annotation = section.model_fields[name].annotation
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


__all__ = [
    "PeerSettings",
    "RouteMatch",
    "RouteSettings",
    "Settings",
    "load_settings",
]
