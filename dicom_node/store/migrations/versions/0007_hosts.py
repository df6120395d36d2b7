"""Several hosts on one database: whose folder holds what, and who does what only one may do."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "folder",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("host", sa.String(length=255), nullable=False),
        sa.Column("address", sa.String(length=255), nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folder")),
    )
    op.create_table(
        "duty",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duty")),
    )
    for table in ("association", "result"):
        column = sa.Column("folder_id", sa.String(length=36), nullable=False, server_default="")
        op.add_column(table, column)


def downgrade() -> None:
    for table in ("result", "association"):
        op.drop_column(table, "folder_id")
    op.drop_table("duty")
    op.drop_table("folder")
