"""All settings of a node, and what must hold between them."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicom_node.settings.flow import (
    CanarySettings,
    DeliverSettings,
    DestinationSettings,
    InferSettings,
    RetentionSettings,
    RouteSettings,
)
from dicom_node.settings.intake import AssembleSettings, PeerSettings, ReceiveSettings
from dicom_node.settings.operate import AlertSettings, AuditSettings, LogSettings, WebSettings
from dicom_node.settings.scale import ShareSettings

ENVIRONMENT_PREFIX = "DICOM_NODE_"
BUNDLED_MODELS = Path(__file__).resolve().parent.parent.parent / "ai_models"


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
        None,
        description="`postgresql://user:password@host/name` where several hosts share one database; "
        "default: an SQLite file in data_dir.",
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
    share: ShareSettings = ShareSettings()
    web: WebSettings = WebSettings()
    audit: AuditSettings = AuditSettings()
    alerts: AlertSettings = AlertSettings()
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
