"""What the list of all jobs is searched by, and why a job took its route.

Of old jobs sender, model, destinations and remarks are filed here; what only their images say is read by
``contourd db describe``. Which route they took nobody has written down.
"""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
REASONED = sa.text("reason_code <> ''")
JOBS = sa.table("jobs", *(sa.column(name) for name in ("id", "created_at", "remark_records")))
FACETS = sa.table("job_facets", *(sa.column(name) for name in ("facet", "value", "at", "job_id")))
BATCH = 10_000


def upgrade() -> None:
    op.add_column("jobs", sa.Column("route_choice", sa.Text, nullable=False, server_default=""))
    op.create_index("jobs_by_creation", "jobs", ["created_at", "id"])
    op.create_index("jobs_of_state", "jobs", ["state", "created_at", "id"])
    op.create_index(
        "jobs_by_reason", "jobs", ["reason_code", "created_at", "id"], sqlite_where=REASONED, postgresql_where=REASONED
    )
    op.create_index("ix_series_patient", "series", ["patient"])
    op.create_index("series_of_state", "series", ["state", "created_at", "id"])
    op.create_table(
        "job_facets",
        sa.Column("facet", sa.String(16), primary_key=True),
        sa.Column("value", sa.String(255), primary_key=True),
        sa.Column("at", MOMENT, primary_key=True),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id"), primary_key=True, autoincrement=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "series_descriptions",
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True, autoincrement=False),
        sa.Column("study_date", sa.String(8), nullable=False),
        sa.Column("description", sa.String(64), nullable=False),
        sa.Column("body_part", sa.String(64), nullable=False),
        sa.Column("protocol", sa.String(64), nullable=False),
        sa.Column("station", sa.String(64), nullable=False),
    )
    op.create_table(
        "patient_names",
        sa.Column("name_hmac", sa.String(32), primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), primary_key=True, autoincrement=False),
    )
    op.create_index("ix_patient_names_series_id", "patient_names", ["series_id"])
    _file_old_jobs()


def _file_old_jobs() -> None:
    for facet, value, joined in (
        ("sender", "series.calling_ae", "JOIN series ON series.id = jobs.series_id"),
        ("model", "jobs.model", ""),
        ("destination", "job_destinations.destination", "JOIN job_destinations ON job_destinations.job_id = jobs.id"),
    ):
        op.execute(
            "INSERT INTO job_facets (facet, value, at, job_id) "
            f"SELECT DISTINCT '{facet}', {value}, jobs.created_at, jobs.id FROM jobs {joined} WHERE {value} <> ''"
        )
    connection, last = op.get_bind(), -1
    remarked = sa.select(JOBS).where(JOBS.c.remark_records != "[]").order_by(JOBS.c.id).limit(BATCH)
    while rows := connection.execute(remarked.where(JOBS.c.id > last)).all():
        last = rows[-1].id
        filed = [
            {"facet": "remark", "value": value, "at": at, "job_id": job}
            for job, at, records in rows
            for value in sorted({str(r[key]) for r in json.loads(records) for key in ("check", "verdict")})
        ]
        connection.execute(sa.insert(FACETS), filed)


def downgrade() -> None:
    for table in ("patient_names", "series_descriptions", "job_facets"):
        op.drop_table(table)
    for index, table in (("series_of_state", "series"), ("ix_series_patient", "series")):
        op.drop_index(index, table)
    for index in ("jobs_by_reason", "jobs_of_state", "jobs_by_creation"):
        op.drop_index(index, "jobs")
    op.drop_column("jobs", "route_choice")
