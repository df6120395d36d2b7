"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "association",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("host", sa.String(length=64), nullable=False),
        sa.Column("segment", sa.String(length=255), nullable=False),
        sa.Column("indexed_to", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "ending",
            sa.Enum("RELEASED", "ABORTED", "LOST", name="ending", native_enum=False, length=16),
            nullable=True,
        ),
        sa.CheckConstraint("indexed_to >= 0", name=op.f("ck_association_indexed_to_is_an_offset")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
    )
    op.create_index("ix_association_ending", "association", ["ending"], unique=False)
    op.create_table(
        "series",
        sa.Column("id", ID, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "OPEN",
                "STABLE",
                "QUEUED",
                "HELD",
                "NO_ROUTE",
                "SUPERSEDED",
                name="seriesstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("expected", sa.Integer(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("first_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint(
            "series_uid",
            "study_uid",
            "revision",
            name=op.f("uq_series_series_uid_study_uid_revision"),
        ),
    )
    op.create_index(op.f("ix_series_calling_ae"), "series", ["calling_ae"], unique=False)
    op.create_index(
        op.f("ix_series_last_received_at"), "series", ["last_received_at"], unique=False
    )
    op.create_index(op.f("ix_series_state"), "series", ["state"], unique=False)
    op.create_index(op.f("ix_series_study_uid"), "series", ["study_uid"], unique=False)
    op.create_table(
        "source",
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("series", sa.Integer(), nullable=False),
        sa.Column("longest_pause", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("calling_ae", name=op.f("pk_source")),
    )
    op.create_table(
        "transition",
        sa.Column("id", ID, nullable=False),
        sa.Column("entity", sa.String(length=16), nullable=False),
        sa.Column("entity_id", ID, nullable=False),
        sa.Column("old", sa.String(length=16), nullable=True),
        sa.Column("new", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transition")),
    )
    op.create_index(
        op.f("ix_transition_entity_entity_id"), "transition", ["entity", "entity_id"], unique=False
    )
    op.create_table(
        "carriage",
        sa.Column("association_id", sa.String(length=36), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name=op.f("fk_carriage_association_id")
        ),
        sa.PrimaryKeyConstraint(
            "association_id", "study_uid", "series_uid", name=op.f("pk_carriage")
        ),
    )
    op.create_index(
        op.f("ix_carriage_study_uid_series_uid"),
        "carriage",
        ["study_uid", "series_uid"],
        unique=False,
    )
    op.create_table(
        "instance",
        sa.Column("id", ID, nullable=False),
        sa.Column(
            "state",
            sa.Enum("RECEIVED", "PURGED", name="instancestate", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("association_id", sa.String(length=36), nullable=False),
        sa.Column("segment", sa.String(length=255), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("quarantine", sa.Text(), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["association_id"], ["association.id"], name=op.f("fk_instance_association_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint(
            "sop_instance_uid", "sha256", name=op.f("uq_instance_sop_instance_uid_sha256")
        ),
    )
    op.create_index(
        op.f("ix_instance_association_id"), "instance", ["association_id"], unique=False
    )
    op.create_index(op.f("ix_instance_segment"), "instance", ["segment"], unique=False)
    op.create_index(
        op.f("ix_instance_series_uid_study_uid"),
        "instance",
        ["series_uid", "study_uid"],
        unique=False,
    )
    op.create_index(op.f("ix_instance_state"), "instance", ["state"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", ID, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "QUEUED",
                "RUNNING",
                "STORED",
                "FAILED",
                "POISON",
                "CANCELLED",
                name="jobstate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column(
            "outcome",
            sa.Enum(
                "succeeded",
                "not applicable",
                "failed",
                name="outcome",
                native_enum=False,
                length=16,
            ),
            nullable=True,
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("settings_digest", sa.String(length=64), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("destinations", sa.JSON(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=128), server_default="", nullable=False),
        sa.Column("beat", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_job_series_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "series_id",
            "model",
            "model_digest",
            "settings_digest",
            "run",
            name=op.f("uq_job_series_id_model_model_digest_settings_digest_run"),
        ),
    )
    op.create_index(
        op.f("ix_job_state_priority_id"), "job", ["state", "priority", "id"], unique=False
    )
    op.create_table(
        "job_input",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("instance_id", ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_job_input_instance_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_input_job_id")),
        sa.PrimaryKeyConstraint("job_id", "instance_id", name=op.f("pk_job_input")),
    )
    op.create_table(
        "result",
        sa.Column("id", ID, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("description", sa.String(length=64), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_uid", sa.String(length=64), nullable=False),
        sa.Column("study_uid", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_result_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_result")),
        sa.UniqueConstraint(
            "job_id", "sop_instance_uid", name=op.f("uq_result_job_id_sop_instance_uid")
        ),
    )
    op.create_index(op.f("ix_result_study_uid"), "result", ["study_uid"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", ID, nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "PENDING",
                "SENT",
                "CONFIRMED",
                "RETRYING",
                "DEAD",
                "WITHDRAWN",
                name="deliverystate",
                native_enum=False,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("result_id", ID, nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("asks", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=True),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["result_id"], ["result.id"], name=op.f("fk_delivery_result_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint(
            "result_id", "destination", name=op.f("uq_delivery_result_id_destination")
        ),
    )
    op.create_index(
        op.f("ix_delivery_destination_state_due_at"),
        "delivery",
        ["destination", "state", "due_at"],
        unique=False,
    )
    op.create_index(
        op.f("ix_delivery_transaction_uid"), "delivery", ["transaction_uid"], unique=False
    )
