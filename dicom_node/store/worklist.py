"""The worklist: studies, newest first, by state and by what a person types. Reads only.

What comes in: a filter and a cursor. What goes out: plain dictionaries, a study each, with its series,
their jobs and deliveries. A page costs the same with a hundred studies as with a hundred thousand: it
walks the newest rows, and asks the indexes on `state` for what is rare.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Integer,
    Row,
    Select,
    String,
    Text,
    cast,
    exists,
    func,
    or_,
    select,
)

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.observe.logging import hashed
from dicom_node.records import Outcome, SegmentAddress, StoredInstance
from dicom_node.store.database import reading
from dicom_node.store.dialect import begins
from dicom_node.store.inputs import joined
from dicom_node.store.tables import (
    association,
    delivery,
    instance,
    job,
    job_input,
    result,
    series,
)


class Shown(Enum):
    """Which studies to show: those of which something is in such a state."""

    ALL = "all"
    ATTENTION = "attention"
    """Held, failed or given up: nothing more happens without a person."""
    RECEIVING = "receiving"
    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    NO_ROUTE = "no_route"


_SERIES = {
    Shown.ATTENTION: (SeriesState.HELD,),
    Shown.RECEIVING: (SeriesState.OPEN, SeriesState.STABLE),
    Shown.NO_ROUTE: (SeriesState.NO_ROUTE,),
}
_JOBS = {
    Shown.ATTENTION: (JobState.FAILED, JobState.POISON),
    Shown.QUEUED: (JobState.QUEUED,),
    Shown.RUNNING: (JobState.RUNNING,),
}
_DELIVERIES = {
    Shown.ATTENTION: (DeliveryState.DEAD,),
    Shown.DELIVERING: (DeliveryState.PENDING, DeliveryState.SENT, DeliveryState.RETRYING),
}
COUNTED = (
    Shown.ATTENTION,
    Shown.RECEIVING,
    Shown.QUEUED,
    Shown.RUNNING,
    Shown.DELIVERING,
    Shown.NO_ROUTE,
)
"""What is few, or ought to be; counting what was delivered would read everything."""


@dataclass(frozen=True, slots=True)
class StudyPage:
    """A stretch of the worklist."""

    studies: list[dict[str, Any]]
    older: int | None
    """The cursor of the next stretch; None at the end."""


class Worklist:
    """Questions of the page."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def page(
        self,
        shown: Shown = Shown.ALL,
        search: str = "",
        before: int | None = None,
        limit: int = 50,
        *,
        identities: bool = True,
    ) -> StudyPage:
        """A stretch of the worklist, newest first.

        Args:
            shown: only studies of which something is in such a state.
            search: part of patient ID, name, accession number, description or sender; or the beginning
                of a UID; or a hashed UID as logs have it.
            before: the cursor that the last page gave.
            limit: the most studies to return.
            identities: whether patients may be searched for.
        """
        later = series.alias()
        newest = ~exists().where(later.c.study_uid == series.c.study_uid, later.c.id > series.c.id)
        query = select(series.c.id, series.c.study_uid).where(newest)
        if before is not None:
            query = query.where(series.c.id < before)
        if shown is not Shown.ALL:
            query = query.where(_in_state(shown))
        with reading(self._engine) as connection:
            # PostgreSQL takes no NUL, and SQLite ends a text there
            if words := search.replace("\0", " ").split():
                hits = [_matches(connection, word, identities) for word in words]
                query = query.where(*hits)
            found = connection.execute(query.order_by(series.c.id.desc()).limit(limit + 1)).all()
            studies = _studies(connection, [row.study_uid for row in found[:limit]])
        return StudyPage(studies, found[limit - 1].id if len(found) > limit else None)

    def study(self, study_uid: str) -> dict[str, Any] | None:
        """One study with every revision of its series; None if it is not known."""
        with reading(self._engine) as connection:
            found = _studies(connection, [study_uid], all_revisions=True)
        return found[0] if found else None

    def counts(self) -> dict[Shown, int]:
        """How many studies each filter of `COUNTED` would show."""
        with reading(self._engine) as connection:
            return {
                shown: connection.execute(
                    select(func.count()).select_from(_studies_in(shown).subquery())
                ).scalar_one()
                for shown in COUNTED
            }

    def inputs(self, job_id: int) -> list[StoredInstance]:
        """What a job was run on, as far as it is still here."""
        columns = (
            instance.c.segment,
            instance.c.offset,
            instance.c.length,
            instance.c.sha256,
            instance.c.sop_class_uid,
            instance.c.sop_instance_uid,
            instance.c.transfer_syntax_uid,
            association.c.folder_id,
        )
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(*columns)
                .join(job_input, job_input.c.instance_id == instance.c.id)
                .join(association, association.c.id == instance.c.association_id)
                .where(job_input.c.job_id == job_id, instance.c.state == InstanceState.RECEIVED)
                .order_by(instance.c.sop_instance_uid)
            )
            return [
                StoredInstance(SegmentAddress(segment, offset, length, folder), *rest)
                for segment, offset, length, *rest, folder in rows
            ]

    def result(self, result_id: int) -> dict[str, Any] | None:
        """One result, with the series revision that it was made from."""
        with reading(self._engine) as connection:
            row = connection.execute(
                select(result, job.c.series_id, job.c.model)
                .join(job, job.c.id == result.c.job_id)
                .where(result.c.id == result_id)
            ).one_or_none()
            return None if row is None else dict(row._mapping)

    def senders(self, limit: int = 200) -> list[dict[str, Any]]:
        """Who sent: last contact, open associations, and how many came within the newest `limit`."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    association.c.calling_ae,
                    association.c.host,
                    func.count().label("associations"),
                    func.max(association.c.opened_at).label("last_contact"),
                    func.sum(cast(association.c.ending.is_(None), Integer)).label("open"),
                )
                .group_by(association.c.calling_ae, association.c.host)
                .order_by(func.max(association.c.opened_at).desc())
                .limit(limit)
            )
            return [dict(row._mapping) | {"last_contact": as_utc(row.last_contact)} for row in rows]

    def destinations(self) -> dict[str, dict[str, Any]]:
        """For each destination: deliveries by state, and the last that it took."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    delivery.c.destination,
                    delivery.c.state,
                    func.count().label("count"),
                    func.max(delivery.c.sent_at).label("last_sent"),
                ).group_by(delivery.c.destination, delivery.c.state)
            ).all()
        found: dict[str, dict[str, Any]] = defaultdict(lambda: {"states": {}, "last_sent": None})
        for row in rows:
            one = found[row.destination]
            one["states"][row.state.value] = row.count
            sent = as_utc(row.last_sent)
            if sent and (one["last_sent"] is None or sent > one["last_sent"]):
                one["last_sent"] = sent
        return dict(found)

    def queue(self, limit: int = 100) -> list[dict[str, Any]]:
        """Jobs that run, and then those that wait, in the order in which they will be taken."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    job.c.id,
                    job.c.state,
                    job.c.model,
                    job.c.route,
                    job.c.priority,
                    job.c.attempts,
                    job.c.owner,
                    job.c.created_at,
                    job.c.started_at,
                    series.c.study_uid,
                    series.c.instances,
                    series.c.patient_id,
                )
                .join(series, series.c.id == job.c.series_id)
                .where(job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
                .order_by(job.c.state.desc(), job.c.priority.desc(), job.c.id)
                .limit(limit)
            )
            return [_plain(row._mapping) for row in rows]

    def ages(self) -> dict[str, datetime | None]:
        """Since when the oldest of each has been waiting: queued job, delivery not yet taken."""
        waiting = (DeliveryState.PENDING, DeliveryState.RETRYING)
        with reading(self._engine) as connection:
            queued = connection.execute(
                select(func.min(job.c.created_at)).where(job.c.state == JobState.QUEUED)
            ).scalar()
            undelivered = connection.execute(
                select(func.min(result.c.created_at))
                .join(delivery, delivery.c.result_id == result.c.id)
                .where(delivery.c.state.in_(waiting))
            ).scalar()
        return {"job": as_utc(queued), "delivery": as_utc(undelivered)}


def as_utc(when: datetime | str | None) -> datetime | None:
    """A time from the database with its zone, which SQLite does not keep."""
    if isinstance(when, str):
        when = datetime.fromisoformat(when)
    if when is None or when.tzinfo:
        return when
    return when.replace(tzinfo=UTC)


def _plain(row: Any) -> dict[str, Any]:
    return {
        key: _PLAINLY[kind](value) if (kind := value.__class__) in _PLAINLY else value
        for key, value in row.items()
    }


_PLAINLY: dict[type, Callable[[Any], Any]] = {
    datetime: as_utc,
    **dict.fromkeys(
        (SeriesState, JobState, DeliveryState, InstanceState, Outcome), attrgetter("_value_")
    ),
}
"""Looked up by type: a worklist asks it of thousands of values."""


# what became of a revision is history once the next one has come
_COUNTS = series.c.state != SeriesState.SUPERSEDED
# and so is a run of a model once it was run again
_later_run = job.alias()
_LAST_RUN = ~exists().where(
    _later_run.c.series_id == job.c.series_id,
    _later_run.c.model == job.c.model,
    _later_run.c.id > job.c.id,
)


def _studies_in(shown: Shown) -> Select[Any]:
    """The study UIDs of which something is in such a state."""
    parts: list[Select[Any]] = []
    if states := _SERIES.get(shown):
        parts.append(select(series.c.study_uid).where(series.c.state.in_(states)))
    if job_states := _JOBS.get(shown):
        parts.append(
            select(series.c.study_uid)
            .join(job, job.c.series_id == series.c.id)
            .where(job.c.state.in_(job_states), _COUNTS, _LAST_RUN)
        )
    if delivery_states := _DELIVERIES.get(shown):
        parts.append(
            select(result.c.study_uid)
            .join(delivery, delivery.c.result_id == result.c.id)
            .join(job, job.c.id == result.c.job_id)
            .join(series, series.c.id == job.c.series_id)
            .where(delivery.c.state.in_(delivery_states), _COUNTS, _LAST_RUN)
        )
    together = parts[0] if len(parts) == 1 else parts[0].union(*parts[1:])
    inner = together.subquery()
    return select(inner.c.study_uid).distinct()


def _in_state(shown: Shown) -> ColumnElement[bool]:
    if shown is Shown.DELIVERED:  # most are: ask of each study that is looked at
        return exists().where(
            result.c.study_uid == series.c.study_uid,
            delivery.c.result_id == result.c.id,
            # not by the index on states, where nearly all are
            cast(delivery.c.state, String) == DeliveryState.CONFIRMED.value,
        )
    return series.c.study_uid.in_(_studies_in(shown))


def _matches(connection: Connection, word: str, identities: bool) -> ColumnElement[bool]:
    """Whether anything of the study matches a word; as a subquery where it is found by an index."""
    mate = series.alias()
    if word[0].isdigit() and "." in word:  # a UID
        hits_of_series = select(mate.c.study_uid).where(begins(connection, mate.c.series_uid, word))
        return or_(
            begins(connection, series.c.study_uid, word),
            series.c.study_uid.in_(hits_of_series),
        )
    columns = [
        mate.c.calling_ae,
        mate.c.attributes["modality"].as_string(),
        mate.c.attributes["series_description"].as_string(),
        mate.c.attributes["study_description"].as_string(),
    ]
    if identities:
        columns += [
            mate.c.patient_id,
            mate.c.attributes["patient_name"].as_string(),
            mate.c.attributes["accession_number"].as_string(),
        ]
    # SQLite knows upper and lower case of ASCII alone
    spellings = {word} if word.isascii() else {word, word.lower(), word.upper(), word.capitalize()}
    texts = [
        cast(column, String).icontains(spelling, autoescape=True)
        for column in columns
        for spelling in spellings
    ]
    found = select(mate.c.study_uid).where(or_(*texts))
    if re.fullmatch(r"[\w^.-]+", word, re.ASCII):
        # most rows hold the word nowhere, which is seen without taking the JSON apart
        anywhere = [mate.c.calling_ae, mate.c.patient_id, cast(mate.c.attributes, Text)]
        roughly = or_(*(one.icontains(word, autoescape=True) for one in anywhere))
        found = select(mate.c.study_uid).where(roughly).where(or_(*texts))
    hits = [series.c.study_uid.in_(found)]
    if len(word) >= 6 and not set(word.lower()) - set("0123456789abcdef"):
        hits.append(series.c.study_uid.in_(_hashed_studies(connection, word.lower())))
    return or_(*hits)


def _hashed_studies(connection: Connection, beginning: str) -> list[str]:
    """Studies whose UID, as logs have it, begins so; hashing them all is quick enough for a search."""
    uids = connection.execute(select(series.c.study_uid).distinct()).scalars()
    return [uid for uid in uids if hashed(uid).startswith(beginning)][:100]


def _studies(
    connection: Connection, study_uids: list[str], *, all_revisions: bool = False
) -> list[dict[str, Any]]:
    rows = connection.execute(
        select(series).where(series.c.study_uid.in_(study_uids)).order_by(series.c.id)
    ).all()
    newest = {(row.study_uid, row.series_uid): row.id for row in rows}
    current = set(newest.values())
    jobs = _jobs(connection, [row.id for row in rows if all_revisions or row.id in current])
    by_study: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if all_revisions or row.id in current:
            by_study[row.study_uid].append(_one_series(row, jobs[row.id], row.id in current))
    return [_one_study(uid, by_study[uid]) for uid in study_uids if by_study[uid]]


def _one_study(study_uid: str, members: list[dict[str, Any]]) -> dict[str, Any]:
    last = members[-1]
    attributes = last["attributes"]
    return {
        "study_uid": study_uid,
        "hash": hashed(study_uid),
        "patient_id": last["patient_id"],
        "patient_name": attributes.get("patient_name") or "",
        "accession_number": attributes.get("accession_number") or "",
        "study_date": attributes.get("study_date") or "",
        "description": attributes.get("study_description") or "",
        "calling_ae": last["calling_ae"],
        "received_at": max(one["received_at"] for one in members),
        "series": members,
    }


def _one_series(row: Row[Any], jobs: list[dict[str, Any]], current: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "series_uid": row.series_uid,
        "revision": row.revision,
        "current": current,
        "state": row.state.value,
        "reason": row.reason,
        "patient_id": row.patient_id,
        "calling_ae": row.calling_ae,
        "called_ae": row.called_ae,
        "instances": row.instances,
        "attributes": row.attributes,
        "first_received_at": as_utc(row.first_received_at),
        "received_at": as_utc(row.last_received_at),
        "jobs": jobs,
    }


def _jobs(connection: Connection, series_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Jobs by revision; a job on several stands under each of them, its results under the first."""
    together = joined(connection, series_ids)
    elsewhere = {job_id for ids in together.values() for job_id in ids}
    rows = connection.execute(
        select(job)
        .where(or_(job.c.series_id.in_(series_ids), job.c.id.in_(elsewhere)))
        .order_by(job.c.id)
    ).all()
    results = _results(connection, [row.id for row in rows])
    made: dict[int, dict[str, Any]] = {}
    jobs: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        made[row.id] = _plain(row._mapping) | {"results": results[row.id]}
        jobs[row.series_id].append(made[row.id])
    for series_id, job_ids in together.items():
        jobs[series_id] += [made[job_id] | {"results": []} for job_id in job_ids]
    return jobs


def _results(connection: Connection, job_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    made = connection.execute(
        select(result).where(result.c.job_id.in_(job_ids)).order_by(result.c.id)
    ).all()
    gone = connection.execute(
        select(delivery)
        .where(delivery.c.result_id.in_([row.id for row in made]))
        .order_by(delivery.c.id)
    ).all()
    deliveries: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in gone:
        deliveries[row.result_id].append(_plain(row._mapping))
    results: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in made:
        results[row.job_id].append(_plain(row._mapping) | {"deliveries": deliveries[row.id]})
    return results
