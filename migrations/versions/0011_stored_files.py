"""Where in the object store the bytes of a file of the spool lie. On the way back the rows go, and the objects stay."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "stored_files",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("path", sa.String(255), nullable=False, unique=True),
        sa.Column("object", sa.String(255), nullable=False),
        sa.Column("offset_bytes", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_stored_files_object", "stored_files", ["object"])
    op.create_index("stored_files_removed", "stored_files", ["removed_at"])


def downgrade() -> None:
    op.drop_table("stored_files")
