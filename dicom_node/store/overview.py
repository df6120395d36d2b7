"""What people ask: where is every study, and why. Reads only.

What comes in: a filter. What goes out: plain dictionaries, fit for a table, JSON or a page.
"""

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Engine, or_, select

from dicom_node.lifecycle import DeliveryState
from dicom_node.store.database import reading
from dicom_node.store.inputs import joined
from dicom_node.store.tables import association, delivery, instance, job, result, series, transition
from dicom_node.store.tally import OPEN, Tally


class Overview:
    """Questions about the state of the node."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def studies(self, study: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """The newest series revisions, each with its jobs, results and deliveries.

        Args:
            study: only this Study Instance UID, or one that begins so.
            limit: the most series to return.
        """
        with reading(self._engine) as connection:
            query = select(series).order_by(series.c.id.desc()).limit(limit)
            if study:
                query = query.where(series.c.study_uid.startswith(study, autoescape=True))
            rows = connection.execute(query).all()
            jobs = _jobs(connection, [row.id for row in rows])
            return [_series(row, jobs[row.id]) for row in reversed(rows)]

    def quarantined(self, series_uid: str) -> list[str]:
        """The distinct reasons for which instances of a series are quarantined."""
        with reading(self._engine) as connection:
            reasons = connection.execute(
                select(instance.c.quarantine)
                .where(instance.c.series_uid == series_uid, instance.c.quarantine.is_not(None))
                .distinct()
            )
            return [reason for reason in reasons.scalars() if reason]

    def story(self, study: str) -> list[dict[str, Any]]:
        """Every move of everything that belongs to one study, in order."""
        with reading(self._engine) as connection:
            ids = _entities(connection, study)
            moves: list[dict[str, Any]] = []
            for entity, entity_ids in ids.items():
                rows = connection.execute(
                    select(transition)
                    .where(transition.c.entity == entity, transition.c.entity_id.in_(entity_ids))
                    .order_by(transition.c.id)
                )
                moves += [dict(row._mapping) for row in rows]
            return sorted(moves, key=lambda row: int(row["id"]))

    def counts(self) -> dict[str, dict[str, int]]:
        """How many instances, series, jobs and deliveries are in each state, and associations open."""
        found = Tally(self._engine).counts()
        still_open = found.get(association.name, {}).get(OPEN, 0)
        counted = {
            table.name: found.get(table.name, {}) for table in (instance, series, job, delivery)
        }
        return counted | {association.name: {OPEN: still_open}}


def _series(row: Any, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "study_uid": row.study_uid,
        "series_uid": row.series_uid,
        "revision": row.revision,
        "state": row.state.value,
        "reason": row.reason,
        "patient_id": row.patient_id,
        "calling_ae": row.calling_ae,
        "instances": row.instances,
        "modality": row.attributes.get("modality", ""),
        "description": row.attributes.get("series_description", ""),
        "received_at": row.last_received_at.isoformat(),
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
        made[row.id] = {
            "id": row.id,
            "model": row.model,
            "route": row.route,
            "state": row.state.value,
            "outcome": row.outcome.value if row.outcome else None,
            "reason": row.reason,
            "attempts": row.attempts,
            "results": results[row.id],
        }
        jobs[row.series_id].append(made[row.id])
    for series_id, job_ids in together.items():
        jobs[series_id] += [made[job_id] | {"results": []} for job_id in job_ids]
    return jobs


def _results(connection: Connection, job_ids: list[int]) -> dict[int, list[dict[str, Any]]]:
    rows = connection.execute(
        select(
            result.c.job_id,
            result.c.kind,
            result.c.description,
            result.c.sop_instance_uid,
            result.c.path,
            delivery.c.destination,
            delivery.c.state,
            delivery.c.reason,
            delivery.c.attempts,
            delivery.c.confirmed_at,
        )
        .join(delivery, delivery.c.result_id == result.c.id)
        .where(result.c.job_id.in_(job_ids))
        .order_by(delivery.c.id)
    )
    results: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        values = dict(row._mapping)
        state: DeliveryState = values.pop("state")
        confirmed = values.pop("confirmed_at")
        results[values.pop("job_id")].append(
            values
            | {
                "delivery": state.value,
                "confirmed_at": confirmed.isoformat() if confirmed else None,
            }
        )
    return results


def _entities(connection: Connection, study: str) -> dict[str, list[int]]:
    series_ids = list(
        connection.execute(select(series.c.id).where(series.c.study_uid == study)).scalars()
    )
    job_ids = list(
        connection.execute(select(job.c.id).where(job.c.series_id.in_(series_ids))).scalars()
    )
    delivery_ids = list(
        connection.execute(
            select(delivery.c.id)
            .join(result, result.c.id == delivery.c.result_id)
            .where(result.c.job_id.in_(job_ids))
        ).scalars()
    )
    return {"series": series_ids, "job": job_ids, "delivery": delivery_ids}
