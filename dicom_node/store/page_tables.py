"""Tables of the page and of the audit trail, beside those of the pipeline in `tables`.

Who may log in (account), who has (login), what is to reach the audit repository (audit_event), and the
secrets that the node made for itself (secret). Passwords and login tokens stand here only as hashes.
"""

from sqlalchemy import Boolean, Column, ForeignKey, Index, LargeBinary, String, Table, Text

from dicom_node.store.tables import Id, When, delivery, metadata

account = Table(
    "account",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("must_change", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", When, nullable=False),
)

login = Table(
    "login",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("account", ForeignKey("account.name", ondelete="CASCADE"), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("created_at", When, nullable=False),
    Column("seen_at", When, nullable=False),
    Column("expires_at", When, nullable=False),
    Index(None, "account"),
)

audit_event = Table(
    "audit_event",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at", When, nullable=False),
    Column("message", Text, nullable=False),
    Column("sent_at", When),
    Index(None, "sent_at", "id"),
)

secret = Table(
    "secret",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

# the worklist asks for what is dead, or on its way, whatever the destination
Index("ix_delivery_state", delivery.c.state)
