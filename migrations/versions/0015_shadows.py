"""Shadows, how they agree with what was sent, and what each worker has loaded. On the way back they are forgotten."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

STATES = "'WAITING', 'RUNNING', 'COMPARED', 'FAILED', 'DROPPED'"


def upgrade() -> None:
    op.create_table(
        "shadows",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("claims", sa.Integer, nullable=False),
        sa.Column("worker", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("output", sa.String(255), nullable=False),
        sa.Column("output_sha256", sa.String(64), nullable=False),
        sa.Column("model_name", sa.String(32), nullable=False),
        sa.Column("model_version", sa.String(16), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason_code", sa.String(48), nullable=False, server_default=""),
        sa.Column("reason_detail", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint(f"state IN ({STATES})", name="state_is_known"),
        sa.UniqueConstraint("job_id", "model"),
    )
    op.create_index("ix_shadows_job_id", "shadows", ["job_id"])
    op.create_index("shadows_by_state", "shadows", ["state", "id"])
    op.create_table(
        "shadow_agreements",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("shadow_id", sa.Integer, sa.ForeignKey("shadows.id"), nullable=False),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("organ", sa.String(64), nullable=False),
        sa.Column("shadow_name", sa.String(32), nullable=False),
        sa.Column("shadow_version", sa.String(16), nullable=False),
        sa.Column("shadow_sha256", sa.String(64), nullable=False),
        sa.Column("live_name", sa.String(32), nullable=False),
        sa.Column("live_version", sa.String(16), nullable=False),
        sa.Column("live_sha256", sa.String(64), nullable=False),
        sa.Column("dice", sa.Double),
        sa.Column("surface_dice", sa.Double),
        sa.Column("hausdorff_95_mm", sa.Double),
        sa.Column("live_cc", sa.Double),
        sa.Column("shadow_cc", sa.Double),
    )
    op.create_index("ix_shadow_agreements_shadow_id", "shadow_agreements", ["shadow_id"])
    op.create_index("ix_shadow_agreements_job_id", "shadow_agreements", ["job_id"])
    op.create_index("shadow_agreements_by_time", "shadow_agreements", ["at"])
    with op.batch_alter_table("processes") as processes:
        processes.add_column(sa.Column("loaded", sa.Text, nullable=False, server_default=""))


def downgrade() -> None:
    with op.batch_alter_table("processes") as processes:
        processes.drop_column("loaded")
    op.drop_table("shadow_agreements")
    op.drop_table("shadows")
