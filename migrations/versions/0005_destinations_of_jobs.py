"""The destinations of a job, a row each in their order, which were names between commas."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

JOBS = sa.table("jobs", sa.column("id", sa.Integer), sa.column("destinations", sa.Text))
ROWS = sa.table(
    "job_destinations",
    sa.column("job_id", sa.Integer),
    sa.column("position", sa.Integer),
    sa.column("destination", sa.String),
)


def upgrade() -> None:
    op.create_table(
        "job_destinations",
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.UniqueConstraint("destination", "job_id"),
    )
    rows = [
        {"job_id": job, "position": position, "destination": name}
        for job, names in op.get_bind().execute(sa.select(JOBS.c.id, JOBS.c.destinations)).all()
        for position, name in enumerate(dict.fromkeys(filter(None, names.split(","))))
    ]
    if rows:
        op.get_bind().execute(ROWS.insert(), rows)
    op.drop_column("jobs", "destinations")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("destinations", sa.Text, nullable=False, server_default=""))
    names: dict[int, list[str]] = {}
    ordered = sa.select(ROWS.c.job_id, ROWS.c.destination).order_by(ROWS.c.job_id, ROWS.c.position)
    for job, name in op.get_bind().execute(ordered):
        names.setdefault(job, []).append(name)
    for job, listed in names.items():
        op.execute(JOBS.update().where(JOBS.c.id == job).values(destinations=",".join(listed)))
    op.drop_table("job_destinations")
