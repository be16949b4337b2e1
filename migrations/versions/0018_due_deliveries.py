"""The index of the deliveries that are due holds their state, too: SQLite chose another one, and sorted them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

DUE = "deliveries_due"


def upgrade() -> None:
    _index(["destination", "state", "not_before"])


def downgrade() -> None:
    _index(["destination", "not_before"])


def _index(columns: list[str]) -> None:
    op.drop_index(DUE, "deliveries")
    pending = sa.text("state = 'PENDING'")
    op.create_index(DUE, "deliveries", columns, sqlite_where=pending, postgresql_where=pending)
