"""Images that were refused, images that came again with other content, and why a series stays held until a person acts.

Constraints of ``series`` stay as they are, so that columns are added in place.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("series", sa.Column("hold", sa.Text, nullable=False, server_default=""))
    op.add_column("series", sa.Column("corrected_revision", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "refusals",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("certain", sa.Boolean, nullable=False),
        sa.Column("differs", sa.Boolean, nullable=False),
        sa.Column("refused_at", MOMENT, nullable=False),
        sa.UniqueConstraint("series_uid", "sop_instance_uid"),
    )
    op.create_table(
        "newer_images",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("patient", sa.String(32), nullable=False),
        sa.Column("differs", sa.Text, nullable=False),
        sa.Column("to_remove", sa.Boolean, nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
    )
    op.create_index("ix_newer_images_series_id", "newer_images", ["series_id"])


def downgrade() -> None:
    _hold_what_an_older_version_would_contour()
    op.drop_table("newer_images")
    op.drop_table("refusals")
    op.drop_column("series", "corrected_revision")
    op.drop_column("series", "hold")


def _hold_what_an_older_version_would_contour() -> None:
    told = "images of the series were refused and did not come since; send the series again"
    op.execute("UPDATE series SET state = 'HELD', reason = hold WHERE hold <> '' AND state = 'RECEIVING'")
    op.execute(
        f"UPDATE series SET state = 'HELD', reason = '{told}' "
        "WHERE state = 'RECEIVING' AND series_uid IN (SELECT series_uid FROM refusals)"
    )
    op.execute("UPDATE series SET interrupted = 'aborted' WHERE interrupted IN ('open', 'ended')")
