"""The node's configuration: one field a setting, from TOML, then the environment.

One module for each part of the node; `node` holds them all, `load` reads them. No other I/O.
"""

from dicom_node.settings.flow import (
    CanarySettings,
    DeliverSettings,
    DestinationSettings,
    InferSettings,
    ResultKind,
    RetentionSettings,
    RouteMatch,
    RouteSeries,
    RouteSettings,
    SegmentationEncoding,
)
from dicom_node.settings.intake import AssembleSettings, PeerSettings, ReceiveSettings, TlsSettings
from dicom_node.settings.load import DEFAULT_FILE, load_settings
from dicom_node.settings.node import BUNDLED_MODELS, ENVIRONMENT_PREFIX, Settings
from dicom_node.settings.operate import (
    AlertSettings,
    AuditSettings,
    LogSettings,
    OidcSettings,
    WebSettings,
)
from dicom_node.settings.scale import RaySettings, ShareSettings

__all__ = [
    "BUNDLED_MODELS",
    "DEFAULT_FILE",
    "ENVIRONMENT_PREFIX",
    "AlertSettings",
    "AssembleSettings",
    "AuditSettings",
    "CanarySettings",
    "DeliverSettings",
    "DestinationSettings",
    "InferSettings",
    "LogSettings",
    "OidcSettings",
    "PeerSettings",
    "RaySettings",
    "ReceiveSettings",
    "ResultKind",
    "RetentionSettings",
    "RouteMatch",
    "RouteSeries",
    "RouteSettings",
    "SegmentationEncoding",
    "Settings",
    "ShareSettings",
    "TlsSettings",
    "WebSettings",
    "load_settings",
]
