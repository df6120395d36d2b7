"""`route test`: what would become of files if they were sent, and why; nothing is stored.

What comes in: header values of files, as the receiver reads them, and who would send them. What goes out:
for each series what completeness says of it now and once it is quiet, what each route says, and which
models would run. The decisions are those of `completeness` and `route`; this only asks them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from dicom_node.assemble.completeness import Complete, gap, judge
from dicom_node.assemble.join import with_others
from dicom_node.assemble.route import miss, route
from dicom_node.catalogue import ModelDescription
from dicom_node.lifecycle import SeriesState
from dicom_node.records import InstanceFacts, OpenSeries, Peer, SeriesKey
from dicom_node.settings import Settings
from dicom_node.store.intake import SERIES_ATTRIBUTES


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """What one route says of a series: the clause that it misses, or None where it applies."""

    name: str
    miss: str | None


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What one model says: why the series lies outside its input contract, or None."""

    name: str
    destinations: tuple[str, ...]
    not_applicable: str | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of one series."""

    key: SeriesKey
    description: str
    instances: int
    geometry: str | None
    """Why its geometry and numbering are no proof that it is complete; None where they are one."""
    held: str | None
    """Why it would be held; None where it would not."""
    routes: tuple[RouteAnswer, ...]
    models: tuple[ModelAnswer, ...]
    reason: str


def explain(
    headers: Iterable[tuple[SeriesKey, InstanceFacts]],
    peer: Peer,
    settings: Settings,
    models: Mapping[str, ModelDescription],
) -> list[Explanation]:
    """Explain every series that these instances belong to, in the order in which they first appear.

    Args:
        headers: series and facts of each file.
        peer: who would send them, and to which AE title.
        settings: with the routes to try.
        models: the catalogue.
    """
    by_series: dict[SeriesKey, list[InstanceFacts]] = defaultdict(list)
    for key, facts in headers:
        by_series[key].append(facts)
    study = {
        key: _as_received(key, members, peer, number)
        for number, (key, members) in enumerate(by_series.items())
    }
    return [_explain(one, list(study.values()), settings, models) for one in study.values()]


def _explain(
    series: OpenSeries,
    others: Sequence[OpenSeries],
    settings: Settings,
    models: Mapping[str, ModelDescription],
) -> Explanation:
    verdict = judge(series, settings.assemble.ceiling_seconds, settings.assemble)
    study = [
        (one, SeriesState.STABLE)
        for one in others
        if one.key.study_uid == series.key.study_uid
        and isinstance(judge(one, inf, settings.assemble), Complete)
    ]
    alone = route(series, settings, models)
    routing = with_others(alone, series, lambda: study, settings, models)
    slices = sum(int(one.attributes.get("frames") or 1) for one in series.instances)
    return Explanation(
        key=series.key,
        description=str(series.attributes.get("series_description") or ""),
        instances=len(series.instances),
        geometry=gap(series.instances),
        held=None if isinstance(verdict, Complete) else getattr(verdict, "reason", ""),
        routes=tuple(RouteAnswer(one.name, miss(one, series)) for one in settings.route),
        models=tuple(
            ModelAnswer(
                job.model,
                job.destinations,
                models[job.model].input.violated_by(series.attributes, slices),
            )
            for job in routing.jobs
        ),
        reason=routing.reason,
    )


def _as_received(
    key: SeriesKey, members: list[InstanceFacts], peer: Peer, number: int
) -> OpenSeries:
    first = members[0]
    return OpenSeries(
        id=number,
        key=key,
        revision=1,
        patient_id=first.patient_id,
        calling_ae=peer.calling_ae,
        called_ae=peer.called_ae,
        attributes={
            name: first.attributes[name] for name in SERIES_ATTRIBUTES if name in first.attributes
        },
        instances=tuple(members),
        sending=False,
        released=True,
        study_patient_ids=tuple({one.patient_id for one in members}),
    )
