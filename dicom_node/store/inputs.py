"""Which revisions a job was made of.

A job on one series names it in its own row; a job on several has a row of `job_series` for each besides.
"""

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import ColumnElement, Connection, exists, or_, select

from dicom_node.lifecycle import SeriesState
from dicom_node.store.tables import job, job_series, series


def on_series(series_id: ColumnElement[int] | int) -> ColumnElement[bool]:
    """The job takes this revision, alone or with others."""
    together = select(job_series.c.job_id).where(job_series.c.series_id == series_id)
    return or_(job.c.series_id == series_id, job.c.id.in_(together))


def outdated() -> ColumnElement[bool]:
    """One of the revisions that the job takes together counts no more."""
    member = series.alias("member")
    return exists().where(
        job_series.c.job_id == job.c.id,
        member.c.id == job_series.c.series_id,
        member.c.state == SeriesState.SUPERSEDED,
    )


def joined(connection: Connection, series_ids: Collection[int]) -> dict[int, list[int]]:
    """Revision -> the jobs that take it together with another, on which their results lie."""
    rows = connection.execute(
        select(job_series.c.series_id, job_series.c.job_id)
        .where(job_series.c.series_id.in_(series_ids), job_series.c.position > 0)
        .order_by(job_series.c.job_id)
    )
    found: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        found[row.series_id].append(row.job_id)
    return found
