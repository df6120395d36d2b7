"""The schema: one small set of tables, the same on SQLite and PostgreSQL.

Who came (association), what came (instance), what it makes (series revision), what is to be done (job
and its frozen input, of one series or several), what was made (result), where it goes (delivery), every
move of a state (transition), how many are in each state (tally), and what was learned of a sender (source).
Wall-clock columns are for people; nothing times out by them.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from dicom_node.lifecycle import DeliveryState, InstanceState, JobState, SeriesState
from dicom_node.records import Ending, Outcome

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# 64 bits everywhere, and still SQLite's own row number
Id = BigInteger().with_variant(Integer, "sqlite")
Uid = String(64)
When = DateTime(timezone=True)


def _state(states: type) -> Enum:
    # a VARCHAR: a new state needs no ALTER TYPE
    return Enum(
        states, native_enum=False, length=16, values_callable=lambda e: [s.value for s in e]
    )


folder = Table(
    "folder",
    metadata,
    # a data folder, by the number that lies in it, and where others can read it
    Column("id", String(36), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("address", String(255), nullable=False, server_default=""),
)

duty = Table(
    "duty",
    metadata,
    # what only one process may do at a time; the token grows with every holder
    Column("name", String(255), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("holder", String(255), nullable=False),
)

association = Table(
    "association",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("host", String(64), nullable=False),
    Column("folder_id", String(36), nullable=False, server_default=""),
    Column("segment", String(255), nullable=False),
    Column("indexed_to", BigInteger, nullable=False),
    Column("opened_at", When, nullable=False),
    Column("ended_at", When),
    Column("ending", _state(Ending)),
    CheckConstraint("indexed_to >= 0", "indexed_to_is_an_offset"),
)
Index("ix_association_ending", association.c.ending)

carriage = Table(
    "carriage",
    metadata,
    # which association carried which series, also where it carried nothing that was new
    Column("association_id", ForeignKey("association.id"), primary_key=True),
    Column("study_uid", Uid, primary_key=True),
    Column("series_uid", Uid, primary_key=True),
    Index(None, "study_uid", "series_uid"),
)

instance = Table(
    "instance",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", _state(InstanceState), nullable=False),
    Column("association_id", ForeignKey("association.id"), nullable=False),
    Column("segment", String(255), nullable=False),
    Column("offset", BigInteger, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("sop_class_uid", Uid, nullable=False),
    Column("sop_instance_uid", Uid, nullable=False),
    Column("transfer_syntax_uid", Uid, nullable=False),
    Column("study_uid", Uid, nullable=False),
    Column("series_uid", Uid, nullable=False),
    Column("patient_id", String(64), nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("quarantine", Text),
    Column("received_at", When, nullable=False),
    UniqueConstraint("sop_instance_uid", "sha256"),
    Index(None, "series_uid", "study_uid"),
    Index(None, "association_id"),
    Index(None, "segment"),
    Index(None, "state"),
)

series = Table(
    "series",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", _state(SeriesState), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("study_uid", Uid, nullable=False),
    Column("series_uid", Uid, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("patient_id", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("instances", Integer, nullable=False),
    Column("expected", Integer),
    Column("attributes", JSON, nullable=False),
    Column("first_received_at", When, nullable=False),
    Column("last_received_at", When, nullable=False),
    UniqueConstraint("series_uid", "study_uid", "revision"),
    Index(None, "state"),
    Index(None, "study_uid"),
    Index(None, "calling_ae"),
    Index(None, "last_received_at"),
)

job = Table(
    "job",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", _state(JobState), nullable=False),
    Column("outcome", _state(Outcome)),
    Column("reason", Text, nullable=False, server_default=""),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("model", String(64), nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("settings_digest", String(64), nullable=False),
    Column("run", Integer, nullable=False),
    Column("route", Text, nullable=False),
    Column("destinations", JSON, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("deaths", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("owner", String(128), nullable=False, server_default=""),
    Column("beat", Integer, nullable=False),
    Column("created_at", When, nullable=False),
    Column("started_at", When),
    Column("ended_at", When),
    UniqueConstraint("series_id", "model", "model_digest", "settings_digest", "run"),
    Index(None, "state", "priority", "id"),
)

job_input = Table(
    "job_input",
    metadata,
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.id"), primary_key=True),
)

job_series = Table(
    "job_series",
    metadata,
    # the revisions that a job on several series takes together; a job on one has no rows
    Column("job_id", ForeignKey("job.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("series_id", ForeignKey("series.id"), nullable=False),
    Column("name", String(32), nullable=False),
    Index(None, "series_id"),
)

result = Table(
    "result",
    metadata,
    Column("id", Id, primary_key=True),
    Column("job_id", ForeignKey("job.id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("description", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("folder_id", String(36), nullable=False, server_default=""),
    Column("sha256", String(64), nullable=False),
    Column("sop_class_uid", Uid, nullable=False),
    Column("sop_instance_uid", Uid, nullable=False),
    Column("series_uid", Uid, nullable=False),
    Column("study_uid", Uid, nullable=False),
    Column("created_at", When, nullable=False),
    UniqueConstraint("job_id", "sop_instance_uid"),
    Index(None, "study_uid"),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Id, primary_key=True),
    Column("state", _state(DeliveryState), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("result_id", ForeignKey("result.id"), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("asks", Integer, nullable=False),
    Column("due_at", When, nullable=False),
    Column("transaction_uid", Uid),
    Column("sent_at", When),
    Column("confirmed_at", When),
    UniqueConstraint("result_id", "destination"),
    Index(None, "destination", "state", "due_at"),
    Index(None, "transaction_uid"),
)

source = Table(
    "source",
    metadata,
    # what was learned of a sender: how long it may be silent within a series, and whether it sends a
    # series in parts
    Column("calling_ae", String(16), primary_key=True),
    Column("series", Integer, nullable=False),
    Column("longest_pause", Float, nullable=False),
    Column("longest_return", Float, nullable=False, server_default="0"),
    Column("return_share", Float, nullable=False, server_default="0"),
)

transition = Table(
    "transition",
    metadata,
    Column("id", Id, primary_key=True),
    Column("entity", String(16), nullable=False),
    Column("entity_id", Id, nullable=False),
    Column("old", String(16)),
    Column("new", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", When, nullable=False),
    Index(None, "entity", "entity_id"),
)

tally = Table(
    "tally",
    metadata,
    # how many more, or fewer, are in a state; the sums are what there is
    Column("id", Id, primary_key=True),
    Column("entity", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("number", BigInteger, nullable=False),
)
