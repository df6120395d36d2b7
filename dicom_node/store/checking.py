"""Whether a database is whole, and whether what it names is there. Reads only.

What comes in: an engine, the spool's folder. What goes out: sentences, one for each thing that is wrong; none
where all is well. Rows are compared with files by name and length; `content=True` reads every byte too.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine, func, select, text

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.store import spool
from dicom_node.store.database import head_schema, reading, schema_of
from dicom_node.store.tables import association, delivery, instance, job, job_input, result, series

WEAK_COMMITS = ("off", "local")


def problems(
    engine: Engine, spool_dir: Path, folder_id: str = "", *, content: bool = False
) -> Iterator[str]:
    """What is wrong, the worst first.

    Args:
        engine: the store, also of another schema than this program's.
        spool_dir: where the segments lie that this host can see.
        folder_id: the data folder that they belong to; what lies in others is not looked for.
        content: also read every record and compare its hash, which takes as long as reading the spool.
    """
    found, wanted = schema_of(engine), head_schema()
    if found != wanted:
        yield f"the schema is {found or 'missing'}, this version needs {wanted}: `dicom-node db upgrade`"
        return
    yield from _engine_problems(engine)
    yield from _broken_rules(engine)
    yield from _missing_bytes(engine, spool_dir, folder_id, content)
    yield from _missing_results(engine, folder_id)


def _engine_problems(engine: Engine) -> Iterator[str]:
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            for row in connection.execute(text("PRAGMA integrity_check")):
                if row[0] != "ok":
                    yield f"SQLite: {row[0]}"
            for row in connection.execute(text("PRAGMA foreign_key_check")):
                yield f"SQLite: row {row[1]} of {row[0]} names a row of {row[2]} that is not there"
            return
        commit = connection.execute(text("SHOW synchronous_commit")).scalar()
        fsync = connection.execute(text("SHOW fsync")).scalar()
        if fsync != "on":
            yield f"PostgreSQL: fsync is {fsync}: a power loss can destroy the database"
        if commit in WEAK_COMMITS:
            yield f"PostgreSQL: synchronous_commit is {commit}: a commit may be lost in a crash"


def _broken_rules(engine: Engine) -> Iterator[str]:
    """What no path of the program can make: somebody changed rows, or there is a bug."""
    rules = {
        "jobs that are STORED and made no result": select(func.count())
        .select_from(job)
        .where(job.c.state == JobState.STORED)
        .where(~select(result.c.id).where(result.c.job_id == job.c.id).exists()),
        "jobs without input": select(func.count())
        .select_from(job)
        .where(~select(job_input.c.job_id).where(job_input.c.job_id == job.c.id).exists()),
        "series with two revisions that count": select(func.count()).select_from(
            select(series.c.series_uid)
            .where(series.c.state != SeriesState.SUPERSEDED)
            .group_by(series.c.study_uid, series.c.series_uid)
            .having(func.count() > 1)
            .subquery()
        ),
    }
    with reading(engine) as connection:
        for what, query in rules.items():
            if count := connection.execute(query).scalar_one():
                yield f"{count} {what}"


def _missing_bytes(engine: Engine, spool_dir: Path, folder_id: str, content: bool) -> Iterator[str]:
    with reading(engine) as connection:
        ends = connection.execute(
            select(
                instance.c.segment,
                func.max(instance.c.offset + instance.c.length),
                func.count(),
            )
            .join(association, association.c.id == instance.c.association_id)
            .where(
                instance.c.state == InstanceState.RECEIVED,
                association.c.folder_id.in_(("", folder_id)),
            )
            .group_by(instance.c.segment)
        ).all()
        known = set(connection.execute(select(association.c.segment)).scalars())
    for segment, end, count in ends:
        path = spool_dir / Path(segment).name
        if not path.exists():
            yield f"segment {segment} is missing, with {count} instances"
        elif path.stat().st_size < end:
            yield f"segment {segment} ends at {path.stat().st_size}, its rows at {end}"
        elif content:
            yield from _changed_bytes(engine, path)
    for path in sorted(spool_dir.glob(f"*{spool.SUFFIX}")):
        if path.name not in known:
            yield f"segment {path.name} has no row; it is indexed when a receiver starts"


def _changed_bytes(engine: Engine, path: Path) -> Iterator[str]:
    held = {
        address.offset: spool.digest(path.parent, address)
        for _, address in spool.records(path, verify=False)
    }
    with reading(engine) as connection:
        rows = connection.execute(
            select(instance.c.offset, instance.c.sha256).where(
                instance.c.segment == path.name, instance.c.state == InstanceState.RECEIVED
            )
        ).all()
    changed = [row.offset for row in rows if held.get(row.offset) != row.sha256]
    if changed:
        yield f"segment {path.name}: {len(changed)} instances are not what was received"


def _missing_results(engine: Engine, folder_id: str) -> Iterator[str]:
    """Results that a destination still waits for; a delivered one may have been cleared away."""
    settled = (DeliveryState.CONFIRMED, DeliveryState.WITHDRAWN)
    with reading(engine) as connection:
        waited_for = connection.execute(
            select(result.c.path, delivery.c.destination)
            .join(delivery, delivery.c.result_id == result.c.id)
            .where(delivery.c.state.not_in(settled), result.c.folder_id.in_(("", folder_id)))
        ).all()
    missing: dict[str, int] = defaultdict(int)
    for row in waited_for:
        if not Path(row.path).exists():
            missing[row.destination] += 1
    for destination, count in missing.items():
        yield f"{count} results for {destination} are missing"
