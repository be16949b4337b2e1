"""What was told by alerts; of each process the disk and how the object store answers it. On the way back they go."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def figures() -> list[sa.Column]:
    return [
        sa.Column("disk_free_bytes", sa.BigInteger),
        sa.Column("disk_size_bytes", sa.BigInteger),
        sa.Column("store_reachable", sa.Boolean),
        sa.Column("store_since", sa.DateTime(timezone=True)),
        sa.Column("store_said", sa.Text, nullable=False, server_default=""),
        sa.Column("store_waiting", sa.Integer),
    ]


def upgrade() -> None:
    for column in figures():
        op.add_column("processes", column)
    op.create_table(
        "told_alerts",
        sa.Column("channel", sa.String(16), primary_key=True),
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("told_alerts")
    for column in reversed(figures()):
        op.drop_column("processes", column.name)
