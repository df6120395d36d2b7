"""What the page and the API ask alike: peers, models, routes, queue, storage, the route test.

What comes in: the page's parts. What goes out: views. Reads only.
"""

import shutil
from datetime import datetime
from typing import Any

from dicom_node.errors import CannotUnderstand, NodeError, ReadError
from dicom_node.read.elements import DEFLATED
from dicom_node.read.header import read_header
from dicom_node.read.part10 import raw_file
from dicom_node.settings import RouteMatch
from dicom_node.store.worklist import Shown
from dicom_node.web.parts import Parts
from dicom_node.web.state import TONES_OF_STATES
from dicom_node.web.views import View


class SenderView(View):
    """A system that sent to the node."""

    ae_title: str
    host: str
    associations: int
    open: int
    last_contact: datetime | None
    configured: bool


class DestinationView(View):
    """A system that results go to."""

    name: str
    ae_title: str
    host: str
    port: int
    objects: list[str]
    confirm: str
    states: dict[str, int]
    last_sent: datetime | None


class ModelView(View):
    """A model of the catalogue."""

    name: str
    title: str
    version: str
    task: str
    enabled: bool
    limits: str
    digest: str
    takes: list[str]
    finds: list[str]
    routes: list[str]


class RouteView(View):
    """A route, as it is configured."""

    name: str
    clauses: dict[str, str]
    models: list[str]
    destinations: list[str]
    priority: int


class QueuedView(View):
    """A job that waits or runs."""

    id: int
    state: str
    tone: str
    model: str
    route: str
    priority: int
    attempts: int
    owner: str
    created_at: datetime
    started_at: datetime | None
    study_uid: str
    instances: int


class DeviceView(View):
    """What a worker computes on."""

    worker: str
    device: str
    kind: str
    total_bytes: int
    free_bytes: int
    seen_at: datetime


class AlarmView(View):
    """Something that people were told of and that lasts."""

    key: str
    told: str
    since: datetime


class NodeView(View):
    """The node at a glance."""

    ae_title: str
    not_for_clinical_use: bool
    counts: dict[str, dict[str, int]]
    filters: dict[str, int]
    disk_free_bytes: int
    disk_total_bytes: int
    disk_reserve_bytes: int
    devices: list[DeviceView]
    alarms: list[AlarmView]


class RouteTest(View):
    """What would become of a series like this file's."""

    modality: str
    series_description: str
    oddities: str | None
    applies: list[str]
    misses: dict[str, str]


class EchoView(View):
    """What a destination answered to C-ECHO."""

    destination: str
    answered: bool
    reason: str


def senders(parts: Parts) -> list[SenderView]:
    """Who sent, newest first."""
    known = {peer.ae_title for peer in parts.settings.peer}
    return [
        SenderView(
            ae_title=row["calling_ae"],
            host=row["host"],
            associations=row["associations"],
            open=row["open"] or 0,
            last_contact=row["last_contact"],
            configured=row["calling_ae"] in known,
        )
        for row in parts.worklist.senders()
    ]


def destinations(parts: Parts) -> list[DestinationView]:
    """Where results go, as configured, with what became of them."""
    found = parts.worklist.destinations()
    return [
        DestinationView(
            name=name,
            ae_title=one.ae_title,
            host=one.host,
            port=one.port,
            objects=list(one.objects),
            confirm=one.confirm,
            states=found.get(name, {}).get("states", {}),
            last_sent=found.get(name, {}).get("last_sent"),
        )
        for name, one in parts.settings.destination.items()
    ]


def models(parts: Parts) -> list[ModelView]:
    """The catalogue."""
    return [model(parts, name) for name in parts.models]


def model(parts: Parts, name: str) -> ModelView:
    """One model; KeyError if there is none of that name."""
    one = parts.models[name]
    return ModelView(
        name=one.name,
        title=one.model.title,
        version=one.model.version,
        task=one.model.task,
        enabled=one.model.enabled,
        limits=one.model.limits,
        digest=one.digest,
        takes=_contract(one.input),
        finds=[item.label for item in one.segments] + [item.label for item in one.classes],
        routes=[route.name for route in parts.settings.route if name in route.models],
    )


def _contract(contract: Any) -> list[str]:
    """The input contract, a clause a line."""
    told = [f"{', '.join(contract.modality)}, {contract.dimensions}D"]
    if contract.body_part:
        told.append(f"body part {', '.join(contract.body_part)}, where it is named")
    if contract.dimensions == 3:
        told.append(f"{contract.min_slices} to {contract.max_slices} slices")
    if contract.max_slice_spacing_mm:
        told.append(f"slices at most {contract.max_slice_spacing_mm:g} mm apart")
    if contract.min_extent_mm:
        told.append(f"at least {contract.min_extent_mm:g} mm along the slices")
    if contract.image_type_excludes:
        told.append(f"not {', '.join(contract.image_type_excludes)}")
    return told


def card(parts: Parts, name: str) -> str:
    """The model's card, Markdown."""
    file = parts.models[name].folder / "docs" / "README.md"
    return file.read_text(encoding="utf-8") if file.exists() else "This model has no card."


def routes(parts: Parts) -> list[RouteView]:
    """The routes, as configured."""
    found = []
    for route in parts.settings.route:
        clauses = _clauses(route.match)
        for one in route.series:
            told = [f"{clause} {value}" for clause, value in _clauses(one.match).items()]
            clauses[f"series {one.name}"] = "; ".join(told) or "any"
        found.append(
            RouteView(
                name=route.name,
                clauses=clauses,
                models=list(route.models),
                destinations=list(route.destinations),
                priority=route.priority,
            )
        )
    return found


def _clauses(match: RouteMatch) -> dict[str, str]:
    return {
        clause: ", ".join(value) if isinstance(value, tuple) else str(value)
        for clause, value in match
        if value not in ((), None)
    }


def queue(parts: Parts) -> list[QueuedView]:
    """Jobs that run, then jobs that wait."""
    names = set(QueuedView.model_fields) - {"tone"}
    return [
        QueuedView(**{key: row[key] for key in names}, tone=TONES_OF_STATES.get(row["state"], ""))
        for row in parts.worklist.queue()
    ]


def node(parts: Parts) -> NodeView:
    """The node at a glance."""
    disk = shutil.disk_usage(parts.settings.data_dir)
    return NodeView(
        ae_title=parts.settings.receive.ae_title,
        not_for_clinical_use=parts.settings.not_for_clinical_use,
        counts=parts.overview.counts(),
        filters=counts(parts),
        disk_free_bytes=disk.free,
        disk_total_bytes=disk.total,
        disk_reserve_bytes=parts.settings.receive.disk_reserve_mb * 2**20,
        devices=[
            DeviceView(
                worker=one.owner,
                device=one.device,
                kind=one.kind,
                total_bytes=one.total_bytes,
                free_bytes=one.free_bytes,
                seen_at=one.seen_at,
            )
            for one in parts.workers.alive()
        ],
        alarms=[
            AlarmView(key=key, told=one.told, since=one.since)
            for key, one in parts.alarms.open().items()
        ],
    )


def counts(parts: Parts) -> dict[str, int]:
    """How many studies the worklist's filters would show."""
    return {shown.value: count for shown, count in parts.counts.get().items()}


def shown_of(name: str) -> Shown:
    """The filter of that name; everything, where there is none."""
    try:
        return Shown(name)
    except ValueError:
        return Shown.ALL


def try_routes(parts: Parts, content: bytes, calling_ae: str, instances: int) -> RouteTest:
    """Which routes a series would take whose instances are like this DICOM file.

    Raises:
        CannotUnderstand: it is no DICOM file, or its header cannot be read.
    """
    header = read_header(*_data_set(content))
    verdicts = parts.routes_of(
        header.attributes, calling_ae, parts.settings.receive.ae_title, instances
    )
    return RouteTest(
        modality=str(header.attributes.get("modality") or ""),
        series_description=str(header.attributes.get("series_description") or ""),
        oddities=header.oddities,
        applies=[one.route for one in verdicts if one.miss is None],
        misses={one.route: one.miss for one in verdicts if one.miss is not None},
    )


def _data_set(content: bytes) -> tuple[memoryview, str]:
    """A Part 10 file's data set, and its transfer syntax."""
    try:
        raw = raw_file(content)
    except ReadError as error:
        raise CannotUnderstand("this is no DICOM file (PS3.10)") from error
    if raw.transfer_syntax_uid == DEFLATED:  # would unfold to anything
        raise CannotUnderstand("files with the deflated transfer syntax are not taken")
    return memoryview(raw.data), raw.transfer_syntax_uid


def echo(parts: Parts, name: str) -> EchoView:
    """Ask a destination whether it is there; KeyError if none has that name."""
    destination = parts.settings.destination[name]
    try:
        parts.echo(destination)
    except NodeError as error:
        return EchoView(destination=name, answered=False, reason=str(error))
    return EchoView(destination=name, answered=True, reason="C-ECHO was answered")
