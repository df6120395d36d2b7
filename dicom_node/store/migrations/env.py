"""Alembic runs this; the connection comes from `store.database.upgrade`."""

from alembic import context

from dicom_node.store import page_tables  # noqa: F401 (its tables belong to the metadata)
from dicom_node.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
