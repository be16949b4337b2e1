"""The audit trail, each try of a delivery, storage commitments, what retention removed, models and what they made.

No table refers to deliveries before this revision, so that one may be rebuilt: SQLite changes no constraint in place.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
BEFORE = ("PENDING", "SENDING", "DELIVERED", "REFUSED")
AFTER = ("PENDING", "SENDING", "SENT", "DELIVERED", "REFUSED")
APPENDED = {
    "audit": "the audit trail",
    "activations": "the record of activations",
    "contourings": "the record of contourings",
}
# What is counted: table -> destination, state and DIMSE status of a row; -1 is no status.
TALLIED = {
    "series": ("''", "{row}state", "-1"),
    "instances": ("''", "''", "-1"),
    "jobs": ("''", "{row}state", "-1"),
    "deliveries": ("{row}destination", "{row}state", "-1"),
    "attempts": ("{row}destination", "{row}outcome", "coalesce({row}status, -1)"),
}


def _one_of(*states: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{s}'" for s in states)
    return sa.CheckConstraint(f"state IN ({listed})", name="state_is_known")


def _deliveries_may_be(*states: str) -> None:
    with op.batch_alter_table("deliveries", recreate="always") as table:
        table.drop_constraint("state_is_known", type_="check")
        table.create_check_constraint("state_is_known", "state IN (" + ", ".join(f"'{s}'" for s in states) + ")")


def upgrade() -> None:
    _deliveries_may_be(*AFTER)
    op.add_column("series", sa.Column("purged_at", MOMENT))
    op.add_column("series", sa.Column("purged_images", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("purged_at", MOMENT))
    op.drop_index("jobs_by_state", "jobs")
    op.create_index("jobs_by_state", "jobs", ["state", "attempts", "created_at", "id"])
    op.add_column("jobs", sa.Column("confirm", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("confirmed_by", sa.String(64), nullable=False, server_default=""))
    op.create_table(
        "attempts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("reason", sa.Text, nullable=False),
    )
    op.create_index("ix_attempts_delivery_id", "attempts", ["delivery_id"])
    op.create_index("attempts_of_destination", "attempts", ["destination", "outcome", "status", "id"])
    op.create_index("ix_instances_sop_instance_uid", "instances", ["sop_instance_uid"])
    op.create_table(
        "commitments",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("answered_at", MOMENT),
        _one_of("REQUESTED", "COMMITTED", "FAILED", "EXPIRED"),
    )
    op.create_index("ix_commitments_delivery_id", "commitments", ["delivery_id"])
    op.create_index("commitments_by_state", "commitments", ["state", "requested_at"])
    op.create_table(
        "commitment_requests",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("instances", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.UniqueConstraint("calling_ae", "transaction_uid"),
        _one_of("PENDING", "REPORTED", "GIVEN_UP"),
    )
    op.create_index("commitment_requests_due", "commitment_requests", ["state", "not_before"])
    op.create_table(
        "constancy_checks",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        _one_of("REQUESTED", "RUNNING", "GREEN", "RED"),
    )
    op.create_index("constancy_checks_by_state", "constancy_checks", ["state"])
    op.create_table(
        "constancy_series",
        sa.Column("series_uid", sa.String(64), primary_key=True),
        sa.Column("check_id", sa.Integer, sa.ForeignKey("constancy_checks.id"), nullable=False),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), unique=True),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("instances_sha256", sa.String(64), nullable=False),
    )
    op.create_index("ix_constancy_series_check_id", "constancy_series", ["check_id"])
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("audit_by_time", "audit", ["at"])
    _make_model_tables()
    for table, what in APPENDED.items():
        _only_append(table, what)
    op.create_index("deliveries_of_destination", "deliveries", ["destination", "state", "updated_at"])
    if op.get_bind().dialect.name == "sqlite":
        _keep_tallies()
    else:
        op.execute(f"CREATE VIEW tallies AS {_counted()}")


def _make_model_tables() -> None:
    op.create_table(
        "activations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("version", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("folder", sa.String(255), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("undoes", sa.Integer, sa.ForeignKey("activations.id")),
    )
    op.create_index("activations_of_name", "activations", ["name", "id"])
    op.create_table(
        "contourings",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("job_id", sa.Integer, sa.ForeignKey("jobs.id"), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("model_name", sa.String(32), nullable=False),
        sa.Column("model_version", sa.String(16), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("contourd", sa.String(32), nullable=False),
        sa.Column("device", sa.Text, nullable=False),
        sa.Column("libraries", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("images", sa.Integer, nullable=False),
        sa.Column("images_sha256", sa.String(64), nullable=False),
        sa.Column("outputs", sa.Text, nullable=False),
    )
    op.create_index("ix_contourings_job_id", "contourings", ["job_id"])


def _only_append(table: str, what: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_refuses_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{what} is only appended to'); END"
            )
    else:
        op.execute(
            f"CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{what} is only appended to' "
            "USING ERRCODE = 'integrity_constraint_violation'; END $$"
        )
        op.execute(
            f"CREATE TRIGGER {table}_refuses BEFORE UPDATE OR DELETE ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION {table}_refuses()"
        )


def _counted() -> str:
    """Return the query that counts every row."""
    queries = []
    for table, columns in TALLIED.items():
        destination, state, status = (column.format(row="") for column in columns)
        queries.append(
            f"SELECT '{table}' AS table_name, {destination} AS destination, {state} AS state, {status} AS status, "
            f"count(*) AS number FROM {table} GROUP BY 2, 3, 4"
        )
    return " UNION ALL ".join(queries)


def _keep_tallies() -> None:
    op.create_table(
        "tallies",
        sa.Column("table_name", sa.String(16), primary_key=True),
        sa.Column("destination", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(16), primary_key=True),
        sa.Column("status", sa.Integer, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.execute(f"INSERT INTO tallies {_counted()}")
    for table in TALLIED:
        less, more = _add(table, "OLD", -1), _add(table, "NEW", 1)
        op.execute(f"CREATE TRIGGER {table}_tallied_insert AFTER INSERT ON {table} BEGIN {more} END")
        op.execute(f"CREATE TRIGGER {table}_tallied_delete AFTER DELETE ON {table} BEGIN {less} END")
        changed = " OR ".join(
            f"{column.format(row='OLD.')} <> {column.format(row='NEW.')}" for column in TALLIED[table] if "{" in column
        )
        if changed:
            op.execute(
                f"CREATE TRIGGER {table}_tallied_update AFTER UPDATE ON {table} WHEN {changed} BEGIN {less} {more} END"
            )


def _add(table: str, row: str, number: int) -> str:
    """Return the statements by which a trigger adds to the number of a row's kind."""
    values = [f"'{table}'", *(column.format(row=f"{row}.") for column in TALLIED[table])]
    names = ("table_name", "destination", "state", "status")
    same = " AND ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
    return (
        f"INSERT INTO tallies SELECT {', '.join(values)}, 0 WHERE NOT EXISTS (SELECT 1 FROM tallies WHERE {same}); "
        f"UPDATE tallies SET number = number + {number} WHERE {same};"
    )


def _drop_tallies() -> None:
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP VIEW tallies")
        return
    for table in TALLIED:
        for change in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER IF EXISTS {table}_tallied_{change}")
    op.drop_table("tallies")


def downgrade() -> None:
    _drop_tallies()
    op.drop_index("deliveries_of_destination", "deliveries")
    _close_checks()
    for table in ("constancy_series", "constancy_checks"):
        op.drop_table(table)
    for table in ("contourings", "activations", "audit", "commitment_requests", "commitments", "attempts"):
        op.drop_table(table)
    op.drop_index("ix_instances_sop_instance_uid", "instances")
    if op.get_bind().dialect.name != "sqlite":
        for table in APPENDED:
            op.execute(f"DROP FUNCTION {table}_refuses()")
    op.execute("UPDATE deliveries SET state = 'SENDING' WHERE state = 'SENT'")  # sent again by the older contourd
    _deliveries_may_be(*BEFORE)
    op.drop_index("jobs_by_state", "jobs")
    op.create_index("jobs_by_state", "jobs", ["state", "created_at", "id"])
    for column in ("confirmed_by", "confirm", "purged_at"):
        op.drop_column("jobs", column)
    op.drop_column("series", "purged_images")
    op.drop_column("series", "purged_at")


def _close_checks() -> None:
    """End what a constancy check left open: an older contourd would take its series for a patient's."""
    told = "of a constancy check, which this version does not know"
    own = "SELECT series_id FROM constancy_series WHERE series_id IS NOT NULL"
    op.execute(f"UPDATE series SET state = 'HELD', reason = '{told}' WHERE state = 'RECEIVING' AND id IN ({own})")
    op.execute(
        f"UPDATE jobs SET state = 'SUPERSEDED', reason = '{told}' WHERE state <> 'DELIVERED' AND series_id IN ({own})"
    )
