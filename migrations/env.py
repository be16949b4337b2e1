"""Alembic's entry: runs the revisions on the connection that contourd.store.database hands over."""

from __future__ import annotations

from alembic import context

from contourd.store.tables import Table

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=Table.metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
