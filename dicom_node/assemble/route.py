"""Which models a series gets, and why. A pure decision from the configuration and header values.

What comes in: a complete series, the routes, the catalogue. What goes out: jobs, or the reason why there
are none, in words that an admin can act on. Owns: the node never processes its own output.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dicom_node.catalogue import ModelDescription
from dicom_node.records import NewJob, OpenSeries
from dicom_node.settings import RouteMatch, RouteSettings, Settings

OUR_MODEL_NAME = "dicom-node"
"""Manufacturer's Model Name of this node's equipment in every object that it makes."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What became of a series at the routes."""

    jobs: tuple[NewJob, ...]
    reason: str
    """Which routes matched; or, without jobs, why none did."""


def route(
    series: OpenSeries, settings: Settings, models: Mapping[str, ModelDescription]
) -> Routing:
    """Choose jobs for a complete series; every route that matches applies, each model runs once."""
    if _is_ours(series.attributes):
        return Routing((), "made by this node; the node does not process its own output")
    misses: list[str] = []
    jobs: dict[tuple[str, str], NewJob] = {}
    for candidate in settings.route:
        if miss := mismatch(candidate.match, series):
            misses.append(f"{candidate.name}: {miss}")
            continue
        for job in _jobs_of(candidate, settings, models):
            jobs.setdefault((job.model, job.settings_digest), job)
    if jobs:
        names = ", ".join(dict.fromkeys(job.route for job in jobs.values()))
        return Routing(tuple(jobs.values()), f"route {names}")
    if not settings.route:
        return Routing((), "no routes are configured")
    return Routing((), "no route matches (" + "; ".join(misses) + ")")


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


def _is_ours(attributes: Mapping[str, Any]) -> bool:
    names = [
        attributes.get("manufacturer_model_name"),
        *(attributes.get("contributing_model_names") or ()),
    ]
    return OUR_MODEL_NAME in names


def _jobs_of(
    candidate: RouteSettings, settings: Settings, models: Mapping[str, ModelDescription]
) -> Iterable[NewJob]:
    digest = settings_digest(candidate, settings)
    for name in candidate.models:
        yield NewJob(
            model=name,
            model_digest=models[name].digest,
            settings_digest=digest,
            route=candidate.name,
            priority=candidate.priority,
        )


def settings_digest(candidate: RouteSettings, settings: Settings) -> str:
    """SHA-256 over the settings that change what is made: the profiles of the route's destinations."""
    profiles = [
        settings.destination[name].model_dump_json(include={"objects", "segmentation"})
        for name in sorted(candidate.destinations)
    ]
    parts = [*profiles, str(settings.not_for_clinical_use), settings.institution_serial]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
