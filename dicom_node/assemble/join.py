"""Several series of one study for one model: which ones, and whether they are all there. A pure decision.

What comes in: a route that names several series, and every series of the study as it is now. What goes out:
one series for each name, or what is still waited for. Owns: nothing is joined while a series that the route
could take is still coming, and no series stands under two names.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dicom_node.assemble.route import Routing, is_canary, is_ours, job_of, mismatch
from dicom_node.catalogue import ModelDescription
from dicom_node.lifecycle import SeriesState
from dicom_node.records import NewJob, OpenSeries
from dicom_node.settings import RouteSettings, Settings

Study = Sequence[tuple[OpenSeries, SeriesState]]
COMPLETE = (SeriesState.STABLE, SeriesState.QUEUED, SeriesState.NO_ROUTE)


@dataclass(frozen=True, slots=True)
class Joined:
    """The series that a route takes together, in its order; the result lies on the first."""

    members: tuple[tuple[str, OpenSeries], ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What is still missing."""

    reason: str


def concerns(route: RouteSettings, series: OpenSeries) -> bool:
    """Whether a route that names several series could take this one."""
    return any(mismatch(one.match, series) is None for one in route.series)


def join(route: RouteSettings, study: Study) -> Joined | Waiting:
    """Choose a series for each name of the route.

    Where several fit, the one with the most instances is taken, then the one with the lower UID; one that
    fits and is still coming is waited for. What is held is no candidate.

    Args:
        route: one that names series.
        study: the last revision of every series of the study, and its state.
    """
    left = [(series, state) for series, state in study if not is_ours(series)]
    candidates: list[list[OpenSeries]] = []
    for wanted in route.series:
        fitting = [one for one in left if mismatch(wanted.match, one[0]) is None]
        if any(state is SeriesState.OPEN for _, state in fitting):
            return Waiting(f"{route.name} waits until {wanted.name} is complete")
        complete = [series for series, state in fitting if state in COMPLETE]
        complete.sort(key=lambda one: (-len(one.instances), one.key.series_uid))
        # so many that the others cannot take them all
        candidates.append(complete[: len(route.series)])
        if _assigned(candidates) is None:
            return Waiting(f"{route.name} waits for {wanted.name}")
    names = [one.name for one in route.series]
    return Joined(tuple(zip(names, _assigned(candidates) or (), strict=True)))


def _assigned(
    candidates: Sequence[Sequence[OpenSeries]], taken: frozenset[int] = frozenset()
) -> list[OpenSeries] | None:
    """A series for each list, none twice, earlier ones of a list first; None if there is no way."""
    if not candidates:
        return []
    for one in candidates[0]:
        if one.id not in taken:
            rest = _assigned(candidates[1:], taken | {one.id})
            if rest is not None:
                return [one, *rest]
    return None


def joint_job(job: NewJob, joined: Joined) -> NewJob:
    """The job on these series. Which series stands under which name is part of what it is."""
    digest = hashlib.sha256(job.settings_digest.encode())
    for name, series in joined.members:
        contents = sorted(fact.sha256 for fact in series.instances)
        digest.update("\0".join([name, *contents]).encode() + b"\0\0")
    members = tuple((name, series.id) for name, series in joined.members)
    return replace(job, settings_digest=digest.hexdigest(), members=members)


def with_others(
    routing: Routing,
    series: OpenSeries,
    study: Callable[[], Study],
    settings: Settings,
    models: Mapping[str, ModelDescription],
) -> Routing:
    """What becomes of a complete series, also together with others of its study.

    Args:
        routing: what becomes of it alone.
        series: the series.
        study: gives the last revision of every series of its study; asked only where it matters.
        settings: with the routes.
        models: the catalogue.
    """
    if is_ours(series) or is_canary(series, settings):
        return routing
    concerned = [one for one in settings.route if concerns(one, series)]
    if not concerned:
        return routing
    present = study()
    jobs, told = list(routing.jobs), [routing.reason] if routing.jobs else []
    for one in concerned:
        joined = join(one, present)
        if isinstance(joined, Waiting):
            told.append(joined.reason)
        elif any(member.id == series.id for _, member in joined.members):
            told.append(f"route {one.name}")
            jobs += [
                joint_job(job_of(models[name], [one], settings), joined) for name in one.models
            ]
        else:
            told.append(f"{one.name} takes other series of the study")
    return Routing(tuple(jobs), "; ".join(told))
