"""What is learned of senders that send a series in parts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("longest_return", "return_share"):
        op.add_column("source", sa.Column(name, sa.Float(), nullable=False, server_default="0"))


def downgrade() -> None:
    for name in ("return_share", "longest_return"):
        op.drop_column("source", name)
