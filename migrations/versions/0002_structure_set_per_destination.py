"""A structure set for each delivery, as destinations differ in their profiles; overrides and remarks of jobs.

Columns are added and dropped in place: rebuilding a table, as alembic's batches do, breaks SQLite's foreign keys.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("output", sa.String(255), nullable=False, server_default=""))
    op.execute("UPDATE deliveries SET output = (SELECT output FROM jobs WHERE jobs.id = deliveries.job_id)")
    op.drop_column("jobs", "output")
    op.add_column("jobs", sa.Column("override", sa.Text, nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("remarks", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.add_column("jobs", sa.Column("output", sa.String(255), nullable=False, server_default=""))
    op.execute(
        "UPDATE jobs SET output = COALESCE("
        "(SELECT output FROM deliveries WHERE deliveries.job_id = jobs.id ORDER BY deliveries.id LIMIT 1), '')"
    )
    op.drop_column("jobs", "override")
    op.drop_column("jobs", "remarks")
    op.drop_column("deliveries", "output")
