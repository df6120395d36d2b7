"""Tables of the page and of the audit trail, beside those of the pipeline in `tables`.

Who may log in (account), who has (login), what is to reach the audit repository (audit_event), the
secrets that the node made for itself (secret), which alarms people were told of (alarm), by which messages
(alarm_message), and what each worker says of its device (worker). Passwords and login tokens stand here only
as hashes.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

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

alarm = Table(
    "alarm",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("level", Integer, nullable=False),
    Column("told", Text, nullable=False),
    Column("since", When, nullable=False),
    Column("told_at", When, nullable=False),
)

alarm_message = Table(
    "alarm_message",
    metadata,
    Column("id", Id, primary_key=True),
    Column("channel", String(16), nullable=False),
    Column("at", When, nullable=False),
    Column("notices", JSON, nullable=False),
    Column("sent_at", When),
    Index(None, "sent_at", "id"),
)

worker = Table(
    "worker",
    metadata,
    Column("owner", String(128), primary_key=True),
    Column("device", String(128), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("free_bytes", BigInteger, nullable=False),
    Column("seen_at", When, nullable=False),
)

# the worklist asks for what is dead, or on its way, whatever the destination
Index("ix_delivery_state", delivery.c.state)
