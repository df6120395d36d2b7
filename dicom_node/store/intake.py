"""What came in: associations, instances and the series revisions that they open.

What comes in: what a receiver has made durable in the spool. What goes out: rows. Owns two invariants:
indexing the same record twice changes nothing, and a late instance never changes a revision that was
already judged; it opens the next one. It never touches the spool.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, update

from dicom_node.lifecycle import InstanceState, JobState, SeriesState
from dicom_node.records import Ending, Peer, ReceivedInstance, SeriesKey
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import insert_or_ignore
from dicom_node.store.tables import association, instance, job, series
from dicom_node.store.transitions import began, move

SERIES_ATTRIBUTES = (
    "modality",
    "series_description",
    "study_description",
    "body_part",
    "image_type",
    "kernel",
    "series_number",
    "study_date",
    "accession_number",
    "patient_name",
    "manufacturer",
    "manufacturer_model_name",
    "contributing_model_names",
    "frames",
)
"""Header values that stand for the whole series; they are taken from its first instance."""

CONFLICT = "another instance with the same SOP Instance UID and other content was received"


@dataclass(frozen=True, slots=True)
class OpenAssociation:
    """An association that has not ended as far as the database knows."""

    id: str
    segment: str
    indexed_to: int


class Intake:
    """Writes what receivers report. Safe to use from several threads and processes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def association_opened(
        self, association_id: str, peer: Peer, segment: str, opened_at: datetime
    ) -> None:
        """Remember an association that has begun to store; saying it twice is harmless."""
        with writing(self._engine) as connection:
            connection.execute(
                insert_or_ignore(connection, association).values(
                    id=association_id,
                    calling_ae=peer.calling_ae,
                    called_ae=peer.called_ae,
                    host=peer.host,
                    segment=segment,
                    indexed_to=0,
                    opened_at=opened_at,
                )
            )

    def index(
        self, association_id: str, instances: Sequence[ReceivedInstance], indexed_to: int
    ) -> None:
        """Index durable records of one association, in one transaction.

        Args:
            association_id: the association, which `association_opened` named before.
            instances: records in the order of the segment.
            indexed_to: the segment's offset behind the last of them.
        """
        with writing(self._engine) as connection:
            fresh: dict[SeriesKey, list[ReceivedInstance]] = defaultdict(list)
            for received in instances:
                if _insert_instance(connection, received):
                    key = SeriesKey(received.study_uid, received.series_uid)
                    fresh[key].append(received)
            peer = connection.execute(
                select(association.c.calling_ae, association.c.called_ae).where(
                    association.c.id == association_id
                )
            ).one()
            for key, members in fresh.items():
                _extend_series(connection, key, members, peer)
            connection.execute(
                update(association)
                .where(association.c.id == association_id, association.c.indexed_to < indexed_to)
                .values(indexed_to=indexed_to)
            )

    def association_ended(self, association_id: str, ending: Ending) -> None:
        """Remember how an association ended; the first word counts."""
        with writing(self._engine) as connection:
            connection.execute(
                update(association)
                .where(association.c.id == association_id, association.c.ending.is_(None))
                .values(ending=ending, ended_at=utc_now())
            )

    def open_associations(self) -> list[OpenAssociation]:
        """Associations without an ending, for recovery after a crash."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(association.c.id, association.c.segment, association.c.indexed_to).where(
                    association.c.ending.is_(None)
                )
            )
            return [OpenAssociation(*row) for row in rows]


def _insert_instance(connection: Connection, received: ReceivedInstance) -> bool:
    """Insert one instance unless the very same content is known; tell whether it is new."""
    inserted = connection.execute(
        insert_or_ignore(connection, instance)
        .values(
            state=InstanceState.RECEIVED,
            association_id=received.association_id,
            segment=received.address.segment,
            offset=received.address.offset,
            length=received.address.length,
            sha256=received.sha256,
            sop_class_uid=received.sop_class_uid,
            sop_instance_uid=received.sop_instance_uid,
            transfer_syntax_uid=received.transfer_syntax_uid,
            study_uid=received.study_uid,
            series_uid=received.series_uid,
            patient_id=received.patient_id,
            attributes=dict(received.attributes),
            quarantine=received.quarantine,
            received_at=received.received_at,
        )
        .returning(instance.c.id)
    ).scalar()
    if inserted is None:
        return False
    same_uid = instance.c.sop_instance_uid == received.sop_instance_uid
    others = connection.execute(
        select(func.count()).select_from(instance).where(same_uid, instance.c.id != inserted)
    ).scalar_one()
    if others:
        connection.execute(update(instance).where(same_uid).values(quarantine=CONFLICT))
    return True


def _extend_series(
    connection: Connection,
    key: SeriesKey,
    members: Sequence[ReceivedInstance],
    peer: Any,
) -> None:
    """Add new instances to the open revision of their series, or open the next revision."""
    latest = _latest_revision(connection, key)
    last_received = members[-1].received_at
    if latest is not None and latest.state is SeriesState.OPEN:
        connection.execute(
            update(series)
            .where(series.c.id == latest.id)
            .values(instances=series.c.instances + len(members), last_received_at=last_received)
        )
        return
    first = members[0]
    revision = 1 if latest is None else latest.revision + 1
    row_id = connection.execute(
        insert(series)
        .values(
            state=SeriesState.OPEN,
            study_uid=key.study_uid,
            series_uid=key.series_uid,
            revision=revision,
            patient_id=first.patient_id,
            calling_ae=peer.calling_ae,
            called_ae=peer.called_ae,
            instances=len(members) + (0 if latest is None else latest.instances),
            attributes=_series_attributes(first.attributes),
            first_received_at=first.received_at,
            last_received_at=last_received,
        )
        .returning(series.c.id)
    ).scalar_one()
    reason = "first instance" if latest is None else "an instance came after the series was judged"
    began(connection, series, row_id, SeriesState.OPEN, reason)
    if latest is not None:
        _cancel_queued_jobs(connection, latest.id, revision)


def _latest_revision(connection: Connection, key: SeriesKey) -> Any:
    return connection.execute(
        select(series)
        .where(series.c.study_uid == key.study_uid, series.c.series_uid == key.series_uid)
        .order_by(series.c.revision.desc())
        .limit(1)
        .with_for_update()
    ).one_or_none()


def _cancel_queued_jobs(connection: Connection, series_id: int, revision: int) -> None:
    waiting = select(job.c.id).where(job.c.series_id == series_id, job.c.state == JobState.QUEUED)
    for job_id in connection.execute(waiting).scalars().all():
        reason = f"revision {revision} of the series began"
        move(connection, job, job_id, JobState.QUEUED, JobState.CANCELLED, reason)


def _series_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in SERIES_ATTRIBUTES if name in attributes}
