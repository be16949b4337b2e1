"""Structure sets that come back, what became of each organ, and the grid of the CT that a job was contoured on.

On the way back what came back is forgotten; the files stay.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

STATES = "'RECEIVED', 'PAIRED', 'COMPARED', 'UNPAIRED', 'REFUSED'"
FATES = "'untouched', 'touched', 'redrawn', 'deleted', 'added', 'unsure', 'unusable'"


def upgrade() -> None:
    op.add_column("contourings", sa.Column("grid", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "reviews",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("tps", sa.String(32), nullable=False),
        sa.Column("patient", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tried_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id")),
        sa.Column("approval", sa.String(16), nullable=False, server_default=""),
        sa.Column("reviewer", sa.String(32), nullable=False, server_default=""),
        sa.Column("reviewed_at", sa.DateTime(timezone=True)),
        sa.Column("delivered_at", sa.DateTime(timezone=True)),
        sa.Column("destination", sa.String(32), nullable=False, server_default=""),
        sa.Column("model_name", sa.String(32), nullable=False, server_default=""),
        sa.Column("model_version", sa.String(16), nullable=False, server_default=""),
        sa.Column("model_sha256", sa.String(64), nullable=False, server_default=""),
        sa.Column("unchanged", sa.Boolean),
        sa.Column("purged_at", sa.DateTime(timezone=True)),
        sa.Column("reason_code", sa.String(48), nullable=False, server_default=""),
        sa.Column("reason_detail", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("sop_instance_uid", "sha256"),
        sa.CheckConstraint(f"state IN ({STATES})", name="state_is_known"),
    )
    op.create_index("reviews_by_state", "reviews", ["state", "updated_at"])
    op.create_index("ix_reviews_path", "reviews", ["path"])
    op.create_index("ix_reviews_job_id", "reviews", ["job_id"])
    op.create_table(
        "review_organs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("review_id", sa.Integer, sa.ForeignKey("reviews.id"), nullable=False),
        sa.Column("organ", sa.String(64), nullable=False),
        sa.Column("roi", sa.String(64), nullable=False),
        sa.Column("fate", sa.String(16), nullable=False),
        *(
            sa.Column(name, sa.Double)
            for name in (
                *("dice", "surface_dice", "hausdorff_95_mm", "added_path_mm"),
                *("draft_cc", "reviewed_cc"),
            )
        ),
        sa.Column("remark", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint(f"fate IN ({FATES})", name="fate_is_known"),
    )
    op.create_index("ix_review_organs_review_id", "review_organs", ["review_id"])
    op.create_index("review_organs_of", "review_organs", ["organ", "review_id"])


def downgrade() -> None:
    op.drop_table("review_organs")
    op.drop_table("reviews")
    op.execute("DELETE FROM events WHERE subject = 'review'")
    op.drop_column("contourings", "grid")
