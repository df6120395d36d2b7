"""What the page is made of: the questions it may ask and the hands it may use.

The composition root fills this in; so the page knows neither the courier nor the assembler, and a test can
give it a store alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dicom_node.catalogue import ModelDescription
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.accounts import Accounts
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.metering import Metering
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.workers import Workers
from dicom_node.store.worklist import Shown, Worklist
from dicom_node.web.attempts import Attempts
from dicom_node.web.recent import Kept, Recent

PAGE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RouteVerdict:
    """Whether a series would take a route."""

    route: str
    miss: str | None
    """The first clause that is not met; None where the route applies."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that the page needs."""

    settings: Settings
    models: Mapping[str, ModelDescription]
    worklist: Worklist
    counts: Recent[dict[Shown, int]]
    """How many studies the worklist's filters would show."""
    overview: Overview
    metering: Metering
    accounts: Accounts
    audit: AuditOutbox
    workers: Workers
    alarms: AlarmBook
    operator: Callable[[str], Operator]
    """The hands of somebody of this name."""
    echo: Callable[[DestinationSettings], None]
    """C-ECHO to a destination; raises `PeerUnreachable` or `PeerRefused`."""
    routes_of: Callable[[Mapping[str, Any], str, str, int], list[RouteVerdict]]
    """Which routes a series takes: header values, calling AE, called AE, number of instances."""
    ask_reload: Callable[[], None]
    """Have the configuration read anew; what came of it is told by `observe.reload`."""
    pages: Kept[Any] = field(default_factory=lambda: Kept(PAGE_SECONDS))
    """Stretches of the worklist that somebody looks at."""
    attempts: Attempts = field(default_factory=Attempts)
