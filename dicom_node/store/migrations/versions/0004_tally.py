"""How many are in each state, kept while they move."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("id", ID, nullable=False),
        sa.Column("entity", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tally")),
    )
    for name in ("instance", "series", "job", "delivery"):
        op.execute(
            "INSERT INTO tally (entity, state, number) "
            f"SELECT '{name}', state, count(*) FROM {name} GROUP BY state"
        )
    op.execute(
        "INSERT INTO tally (entity, state, number) SELECT 'association', "
        "coalesce(ending, 'OPEN'), count(*) FROM association GROUP BY coalesce(ending, 'OPEN')"
    )


def downgrade() -> None:
    op.drop_table("tally")
