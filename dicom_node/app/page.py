"""What the page may ask and do: the store, and the hands of other stages."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from dicom_node.app.checks import check
from dicom_node.app.stretch import nobody_reloads
from dicom_node.assemble.route import miss
from dicom_node.deliver import scu
from dicom_node.records import InstanceFacts, OpenSeries, SeriesKey
from dicom_node.settings import DestinationSettings, Settings
from dicom_node.store.accounts import Accounts
from dicom_node.store.alarms import AlarmBook
from dicom_node.store.audit import AuditOutbox
from dicom_node.store.database import Engine
from dicom_node.store.metering import Metering
from dicom_node.store.operator import Operator
from dicom_node.store.overview import Overview
from dicom_node.store.workers import Workers
from dicom_node.store.worklist import Worklist
from dicom_node.web.parts import Parts, RouteVerdict
from dicom_node.web.recent import Recent

COUNTS_SECONDS = 1.0


def page_parts(
    settings: Settings, engine: Engine, ask_reload: Callable[[], None] = nobody_reloads
) -> Parts:
    """What the page may ask and do: the store, and the hands of other stages."""

    def echo(destination: DestinationSettings) -> None:
        calling = settings.deliver.ae_title or settings.receive.ae_title
        address = scu.Address(destination.host, destination.port, destination.ae_title, calling)
        scu.echo(address)

    return Parts(
        settings=settings,
        models=check(settings),
        worklist=Worklist(engine),
        counts=Recent(Worklist(engine).counts, COUNTS_SECONDS),
        overview=Overview(engine),
        metering=Metering(engine),
        accounts=Accounts(engine),
        audit=AuditOutbox(engine),
        workers=Workers(engine),
        alarms=AlarmBook(engine),
        operator=partial(Operator, engine),
        echo=echo,
        routes_of=partial(_routes_of, settings),
        ask_reload=ask_reload,
    )


def _routes_of(
    settings: Settings,
    attributes: Mapping[str, Any],
    calling_ae: str,
    called_ae: str,
    instances: int,
) -> list[RouteVerdict]:
    """What each route says of a series with these header values and so many instances."""
    facts = InstanceFacts(0, "", "", "", "", {}, None)
    series = OpenSeries(
        id=0,
        key=SeriesKey("", ""),
        revision=1,
        patient_id="",
        calling_ae=calling_ae,
        called_ae=called_ae,
        attributes=attributes,
        instances=(facts,) * instances,
        sending=False,
        released=True,
    )
    return [RouteVerdict(one.name, miss(one, series)) for one in settings.route]
