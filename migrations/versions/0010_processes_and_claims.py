"""Who works: processes and what they hold, fencing tokens of jobs and deliveries, the order that a job had."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("jobs", "deliveries"):
        op.add_column(table, sa.Column("claims", sa.Integer, nullable=False, server_default="0"))
        op.execute(f"UPDATE {table} SET claims = attempts")  # no later one takes a number that was given before
    op.add_column("jobs", sa.Column("contouring_order", sa.Text, nullable=False, server_default=""))
    unordered = sa.text("state = 'QUEUED' AND contouring_order = ''")
    op.create_index("jobs_unordered", "jobs", ["id"], sqlite_where=unordered, postgresql_where=unordered)
    op.add_column("deliveries", sa.Column("process", sa.String(64), nullable=False, server_default=""))
    op.add_column("contourings", sa.Column("process", sa.String(64), nullable=False, server_default=""))
    op.create_index("contourings_by_time", "contourings", ["at"])
    op.create_table(
        "processes",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(64), nullable=False),
        sa.Column("place", sa.String(96), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("born", sa.String(32), nullable=False),
        sa.Column("parent", sa.Integer, nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("cannot", sa.Text, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("gone", sa.Boolean, nullable=False),
        sa.CheckConstraint("role IN ('serve', 'worker')", name="role_is_known"),
    )
    op.create_index("processes_by_end", "processes", ["ended_at"])
    op.create_table(
        "open_series",
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("process", sa.String(64), primary_key=True),
    )


def downgrade() -> None:
    op.drop_table("open_series")
    op.drop_table("processes")
    op.drop_index("contourings_by_time", "contourings")
    op.drop_column("contourings", "process")
    op.drop_column("deliveries", "process")
    op.drop_index("jobs_unordered", "jobs")
    op.drop_column("jobs", "contouring_order")
    for table in ("deliveries", "jobs"):
        op.drop_column(table, "claims")
