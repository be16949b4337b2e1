"""Several models of one job, and what becomes of it where one of them fails.

On the way back what several models made is kept as that of the first of them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("partial", sa.String(8), nullable=False, server_default="hold"))
    op.add_column("contourings", sa.Column("models", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("contourings", "models")
    op.drop_column("jobs", "partial")
