"""What came in: associations, instances and the series revisions that they open.

What comes in: what a receiver has made durable in the spool. What goes out: rows. Owns three invariants:
indexing the same record twice changes nothing; a late instance never changes a revision that was already
judged, it opens the next one; and of the revisions of a series all but the last are SUPERSEDED. It never
touches the spool.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, func, select, update

from dicom_node.lifecycle import InstanceState, JobState, SeriesState
from dicom_node.records import Ending, Peer, ReceivedInstance, SeriesKey
from dicom_node.store.database import reading, utc_now, writing
from dicom_node.store.dialect import batched, insert_or_ignore, ring
from dicom_node.store.inputs import on_series
from dicom_node.store.tables import association, carriage, instance, job, series
from dicom_node.store.tally import OPEN, note
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
    "contributing_manufacturers",
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

    def __init__(self, engine: Engine, folder_id: str = "") -> None:
        """
        Args:
            engine: the store.
            folder_id: the data folder whose spool these receivers write; recovery touches no other.
        """
        self._engine = engine
        self._folder_id = folder_id

    def association_opened(
        self, association_id: str, peer: Peer, segment: str, opened_at: datetime
    ) -> None:
        """Remember an association that has begun to store; saying it twice is harmless."""
        with writing(self._engine) as connection:
            opened = connection.execute(
                insert_or_ignore(connection, association)
                .values(
                    id=association_id,
                    calling_ae=peer.calling_ae,
                    called_ae=peer.called_ae,
                    host=peer.host,
                    folder_id=self._folder_id,
                    segment=segment,
                    indexed_to=0,
                    opened_at=opened_at,
                )
                .returning(association.c.id)
            ).first()
            if opened is not None:
                note(connection, association.name, {OPEN: 1})

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
            peer = connection.execute(
                select(association.c.calling_ae, association.c.called_ae).where(
                    association.c.id == association_id
                )
            ).one()
            _note_carriage(connection, association_id, instances)
            for key, members in _insert_instances(connection, instances).items():
                _extend_series(connection, key, members, peer)
            connection.execute(
                update(association)
                .where(association.c.id == association_id, association.c.indexed_to < indexed_to)
                .values(indexed_to=indexed_to)
            )

    def association_ended(
        self, association_id: str, ending: Ending, ended_at: datetime | None = None
    ) -> None:
        """Remember how an association ended, and when (default: now); the first word counts."""
        with writing(self._engine) as connection:
            ended = connection.execute(
                update(association)
                .where(association.c.id == association_id, association.c.ending.is_(None))
                .values(ending=ending, ended_at=ended_at or utc_now())
            )
            note(
                connection, association.name, {OPEN: -ended.rowcount, ending.value: ended.rowcount}
            )
            ring(connection, "series")

    def open_associations(self) -> list[OpenAssociation]:
        """Associations of this folder without an ending, for recovery after a crash."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(association.c.id, association.c.segment, association.c.indexed_to).where(
                    association.c.ending.is_(None), association.c.folder_id == self._folder_id
                )
            )
            return [OpenAssociation(*row) for row in rows]

    def finished_segments(self) -> set[str]:
        """Segments of associations whose ending is known, which are indexed to their last record."""
        with reading(self._engine) as connection:
            rows = connection.execute(
                select(association.c.segment).where(association.c.ending.is_not(None))
            )
            return set(rows.scalars())


def _note_carriage(
    connection: Connection, association_id: str, instances: Sequence[ReceivedInstance]
) -> None:
    carried = sorted({(received.study_uid, received.series_uid) for received in instances})
    for study_uid, series_uid in carried:
        connection.execute(
            insert_or_ignore(connection, carriage).values(
                association_id=association_id, study_uid=study_uid, series_uid=series_uid
            )
        )


def _insert_instances(
    connection: Connection, instances: Sequence[ReceivedInstance]
) -> dict[SeriesKey, list[ReceivedInstance]]:
    """Insert what is not known yet; returns it by series, in the order of arrival."""
    by_content = {(one.sop_instance_uid, one.sha256): one for one in reversed(instances)}
    if not by_content:
        return {}
    new = connection.execute(
        insert_or_ignore(connection, instance).returning(
            instance.c.sop_instance_uid, instance.c.sha256
        ),
        # in one order everywhere, so that two senders of one study wait for each other, not both
        [_values(by_content[content]) for content in sorted(by_content)],
    )
    inserted = {(row.sop_instance_uid, row.sha256) for row in new}
    note(connection, instance.name, {InstanceState.RECEIVED.value: len(inserted)})
    _quarantine_conflicts(connection, {uid for uid, _ in inserted})
    inserted |= _restore_purged(connection, by_content, set(by_content) - inserted)
    fresh: dict[SeriesKey, list[ReceivedInstance]] = defaultdict(list)
    for content, received in reversed(by_content.items()):
        if content in inserted:
            fresh[SeriesKey(received.study_uid, received.series_uid)].append(received)
    return dict(sorted(fresh.items(), key=lambda item: item[0].series_uid))


def _values(received: ReceivedInstance) -> dict[str, Any]:
    return {
        "state": InstanceState.RECEIVED,
        "association_id": received.association_id,
        "segment": received.address.segment,
        "offset": received.address.offset,
        "length": received.address.length,
        "sha256": received.sha256,
        "sop_class_uid": received.sop_class_uid,
        "sop_instance_uid": received.sop_instance_uid,
        "transfer_syntax_uid": received.transfer_syntax_uid,
        "study_uid": received.study_uid,
        "series_uid": received.series_uid,
        "patient_id": received.patient_id,
        "attributes": dict(received.attributes),
        "quarantine": received.quarantine,
        "received_at": received.received_at,
    }


def _quarantine_conflicts(connection: Connection, uids: set[str]) -> None:
    """Two contents under one SOP Instance UID: nobody can tell which is meant, so neither is used."""
    for some in batched(sorted(uids)):
        twice = connection.execute(
            select(instance.c.sop_instance_uid)
            .where(instance.c.sop_instance_uid.in_(some))
            .group_by(instance.c.sop_instance_uid)
            .having(func.count() > 1)
        )
        conflicting = list(twice.scalars())
        if conflicting:
            connection.execute(
                update(instance)
                .where(instance.c.sop_instance_uid.in_(conflicting))
                .values(quarantine=CONFLICT)
            )


def _restore_purged(
    connection: Connection,
    by_content: Mapping[tuple[str, str], ReceivedInstance],
    known: set[tuple[str, str]],
) -> set[tuple[str, str]]:
    """PURGED -> RECEIVED for what was sent once more: its bytes are here again, at another place."""
    restored = set()
    for some in batched(sorted({uid for uid, _ in known})):
        purged = connection.execute(
            select(instance.c.id, instance.c.sop_instance_uid, instance.c.sha256).where(
                instance.c.sop_instance_uid.in_(some), instance.c.state == InstanceState.PURGED
            )
        ).all()
        for row in purged:
            content = (row.sop_instance_uid, row.sha256)
            if content not in known:
                continue
            values = _values(by_content[content])
            del values["state"], values["quarantine"]
            move(
                connection,
                instance,
                row.id,
                InstanceState.PURGED,
                InstanceState.RECEIVED,
                "received once more",
                **values,
            )
            restored.add(content)
    return restored


def _extend_series(
    connection: Connection,
    key: SeriesKey,
    members: Sequence[ReceivedInstance],
    peer: Any,
) -> None:
    """Add new instances to the open revision of their series, or open the next revision."""
    latest = _latest_revision(connection, key)
    if latest is None and not _open(connection, key, members, peer, None):
        # another receiver opened it in this very moment
        latest = _latest_revision(connection, key)
    if latest is None:
        return
    if latest.state is not SeriesState.OPEN:
        _supersede(connection, latest)
        _open(connection, key, members, peer, latest)
        return
    connection.execute(
        update(series)
        .where(series.c.id == latest.id)
        .values(
            instances=series.c.instances + len(members),
            last_received_at=members[-1].received_at,
        )
    )


def _open(
    connection: Connection,
    key: SeriesKey,
    members: Sequence[ReceivedInstance],
    peer: Any,
    latest: Any,
) -> bool:
    """Insert the next revision; False if it is there already."""
    first = members[0]
    row_id = connection.execute(
        insert_or_ignore(connection, series)
        .values(
            state=SeriesState.OPEN,
            study_uid=key.study_uid,
            series_uid=key.series_uid,
            revision=1 if latest is None else latest.revision + 1,
            patient_id=first.patient_id if latest is None else latest.patient_id,
            calling_ae=peer.calling_ae,
            called_ae=peer.called_ae,
            instances=_known_instances(connection, key),
            expected=None if latest is None else latest.expected,
            attributes=(
                _series_attributes(first.attributes) if latest is None else latest.attributes
            ),
            first_received_at=first.received_at,
            last_received_at=members[-1].received_at,
        )
        .returning(series.c.id)
    ).scalar()
    if row_id is None:
        return False
    reason = "first instance" if latest is None else "an instance came after the series was judged"
    began(connection, series, row_id, SeriesState.OPEN, reason)
    return True


def _known_instances(connection: Connection, key: SeriesKey) -> int:
    return connection.execute(
        select(func.count())
        .select_from(instance)
        .where(
            instance.c.study_uid == key.study_uid,
            instance.c.series_uid == key.series_uid,
            instance.c.state == InstanceState.RECEIVED,
        )
    ).scalar_one()


def _latest_revision(connection: Connection, key: SeriesKey) -> Any:
    latest = (
        select(series)
        .where(series.c.study_uid == key.study_uid, series.c.series_uid == key.series_uid)
        .order_by(series.c.revision.desc())
        .limit(1)
        .with_for_update()
    )
    found = connection.execute(latest).one_or_none()
    while found is not None and found.state is SeriesState.SUPERSEDED:
        # another receiver held the row, and opened a revision that this statement could not see yet
        found = connection.execute(latest).one_or_none()
    return found


def _supersede(connection: Connection, latest: Any) -> None:
    """The last revision counts no more: jobs that have not ended are cancelled, also those that run."""
    reason = f"revision {latest.revision + 1} of the series began"
    move(connection, series, latest.id, latest.state, SeriesState.SUPERSEDED, reason)
    unfinished = select(job.c.id, job.c.state).where(
        on_series(latest.id), job.c.state.in_((JobState.QUEUED, JobState.RUNNING))
    )
    for job_id, state in connection.execute(unfinished.with_for_update()).all():
        move(connection, job, job_id, state, JobState.CANCELLED, reason)


def _series_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: attributes[name] for name in SERIES_ATTRIBUTES if name in attributes}
