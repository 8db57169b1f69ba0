"""Runs the steps on the connection that :func:`mien.service.database.upgrade` gives."""

from alembic import context

from mien.service.database import Row

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Row.metadata,
    render_as_batch=connection.dialect.name == "sqlite",  # it cannot alter columns in place
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
