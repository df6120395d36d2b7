"""Jobs that take several series of a study together."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_series",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("series_id", ID, nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_series_job_id")),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_job_series_series_id")),
        sa.PrimaryKeyConstraint("job_id", "position", name=op.f("pk_job_series")),
    )
    op.create_index(op.f("ix_job_series_series_id"), "job_series", ["series_id"])


def downgrade() -> None:
    op.drop_table("job_series")
