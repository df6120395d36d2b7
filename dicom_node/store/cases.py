"""What can be exported of a study: what was received of it and is still here, and what was made from it.

What comes in: a Study Instance UID, or a model. What goes out: addresses and paths. Reads only. Instances in
quarantine are left out, since they contradict others, and so are results of revisions that were superseded.
"""

from pathlib import Path

from sqlalchemy import Engine, func, select

from dicom_node.lifecycle import InstanceState, JobState
from dicom_node.records import Outcome, SegmentAddress, StoredInstance
from dicom_node.store.database import reading
from dicom_node.store.tables import instance, job, result, series


class Cases:
    """Questions of an export."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def studies(self, model: str) -> list[str]:
        """Studies on which a model succeeded, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(series.c.study_uid)
                .join(job, job.c.series_id == series.c.id)
                .where(job.c.model == model, job.c.outcome == Outcome.SUCCEEDED)
                .group_by(series.c.study_uid)
                .order_by(func.min(job.c.id))
            )
            return list(rows.scalars())

    def instances(self, study_uid: str) -> list[StoredInstance]:
        """What was received of a study, series by series."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(
                    instance.c.segment,
                    instance.c.offset,
                    instance.c.length,
                    instance.c.sha256,
                    instance.c.sop_class_uid,
                    instance.c.sop_instance_uid,
                    instance.c.transfer_syntax_uid,
                )
                .where(
                    instance.c.study_uid == study_uid,
                    instance.c.state == InstanceState.RECEIVED,
                    instance.c.quarantine.is_(None),
                )
                .order_by(instance.c.series_uid, instance.c.id)
            )
            return [
                StoredInstance(SegmentAddress(segment, offset, length), *rest)
                for segment, offset, length, *rest in rows
            ]

    def results(self, study_uid: str) -> list[Path]:
        """The files of the results of a study, of the last revision of each series and the last run."""
        later = series.alias()
        again = job.alias()
        superseded = (
            select(later.c.id)
            .where(later.c.series_uid == series.c.series_uid)
            .where(later.c.study_uid == series.c.study_uid, later.c.revision > series.c.revision)
        )
        rerun = (
            select(again.c.id)
            .where(again.c.series_id == job.c.series_id, again.c.model == job.c.model)
            .where(again.c.state == JobState.STORED, again.c.id > job.c.id)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(result.c.path)
                .join(job, job.c.id == result.c.job_id)
                .join(series, series.c.id == job.c.series_id)
                .where(series.c.study_uid == study_uid, ~superseded.exists(), ~rerun.exists())
                .order_by(result.c.id)
            )
            return [Path(path) for path in rows.scalars()]
