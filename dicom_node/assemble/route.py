"""Which models a series gets, and why. A pure decision from the configuration and header values.

What comes in: a complete series, the routes, the catalogue. What goes out: jobs, or the reason why there
are none, in words that an admin can act on. Owns: the node never processes its own output.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from dicom_node.catalogue import ModelDescription
from dicom_node.records import NewJob, OpenSeries
from dicom_node.settings import RouteMatch, RouteSettings, Settings

OUR_MANUFACTURER = "dicom-node"
"""Manufacturer of this node's equipment in every object that it makes (`compose.equipment`)."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What became of a series at the routes."""

    jobs: tuple[NewJob, ...]
    reason: str
    """Which routes matched; or, without jobs, why none did."""


def route(
    series: OpenSeries, settings: Settings, models: Mapping[str, ModelDescription]
) -> Routing:
    """Choose jobs for a complete series.

    Every route that matches applies. A model that several of them ask for runs once, and its results go
    to the destinations of all of them.
    """
    if is_ours(series):
        return Routing((), "made by this node; the node does not process its own output")
    if is_canary(series, settings):
        return _routing([canary_route(settings)], settings, models)
    if not settings.route:
        return Routing((), "no routes are configured")
    missed = [(one, miss(one, series)) for one in settings.route]
    matching = [one for one, missing in missed if missing is None and not one.series]
    if not matching:
        told = "; ".join(f"{one.name}: {missing}" for one, missing in missed if missing)
        return Routing((), f"no route matches ({told})")
    return _routing(matching, settings, models)


def is_canary(series: OpenSeries, settings: Settings) -> bool:
    """Whether the node sent it to itself."""
    canary = settings.canary
    return canary.every_seconds is not None and series.calling_ae == canary.ae_title


def canary_route(settings: Settings) -> RouteSettings:
    """The one route of a canary."""
    return RouteSettings(
        name="canary", models=settings.canary.models, destinations=settings.canary.destinations
    )


def _routing(
    matching: Sequence[RouteSettings], settings: Settings, models: Mapping[str, ModelDescription]
) -> Routing:
    names = dict.fromkeys(name for one in matching for name in one.models)
    jobs = tuple(
        job_of(models[name], [one for one in matching if name in one.models], settings)
        for name in names
    )
    return Routing(jobs, "route " + ", ".join(one.name for one in matching))


def miss(one: RouteSettings, series: OpenSeries) -> str | None:
    """Why a route does not take this series, alone or with others; None if it does."""
    if not one.series:
        return mismatch(one.match, series)
    misses = {part.name: mismatch(part.match, series) for part in one.series}
    if None in misses.values():
        return None
    return ", ".join(f"{name}: {missing}" for name, missing in misses.items())


def mismatch(match: RouteMatch, series: OpenSeries) -> str | None:
    """The first clause of a route that this series does not meet; None if it meets all."""
    attributes = series.attributes
    values: dict[str, Iterable[str]] = {
        "modality": [attributes.get("modality") or ""],
        "calling_ae": [series.calling_ae],
        "called_ae": [series.called_ae],
        "body_part": [attributes.get("body_part") or ""],
        "series_description": [attributes.get("series_description") or ""],
        "study_description": [attributes.get("study_description") or ""],
        "image_type": attributes.get("image_type") or [""],
        "kernel": [attributes.get("kernel") or ""],
    }
    for clause, found in values.items():
        patterns: Sequence[str] = getattr(match, clause)
        if patterns and not _any_match(found, patterns):
            return f"{clause} {'/'.join(found) or 'absent'} is not {' or '.join(patterns)}"
    count = len(series.instances)
    if count < match.min_instances:
        return f"{count} instances, fewer than {match.min_instances}"
    if match.max_instances is not None and count > match.max_instances:
        return f"{count} instances, more than {match.max_instances}"
    return None


def _any_match(found: Iterable[str], patterns: Sequence[str]) -> bool:
    return any(
        fnmatchcase(value.strip().upper(), pattern.upper())
        for value in found
        for pattern in patterns
    )


def is_ours(series: OpenSeries) -> bool:
    """Whether any of it was made by this node: a study that was mixed up is not processed either."""
    return any(
        OUR_MANUFACTURER
        in (
            attributes.get("manufacturer"),
            *(attributes.get("contributing_manufacturers") or ()),
        )
        for attributes in (series.attributes, *(fact.attributes for fact in series.instances))
    )


def job_of(model: ModelDescription, routes: Sequence[RouteSettings], settings: Settings) -> NewJob:
    """The job of a model for the routes that ask for it, whatever it runs on."""
    destinations = dict.fromkeys(name for one in routes for name in one.destinations)
    return NewJob(
        model=model.name,
        model_digest=model.digest,
        settings_digest=settings_digest(tuple(destinations), settings),
        route=", ".join(one.name for one in routes),
        destinations=tuple(destinations),
        priority=max(one.priority for one in routes),
    )


def settings_digest(destinations: Sequence[str], settings: Settings) -> str:
    """SHA-256 over the settings that change what is made: the profiles of the destinations."""
    profiles = {
        settings.destination[name].model_dump_json(include={"objects", "segmentation"})
        for name in destinations
    }
    parts = [*sorted(profiles), str(settings.not_for_clinical_use), settings.institution_serial]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
