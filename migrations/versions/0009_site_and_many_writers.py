"""Whose database it is; in PostgreSQL numbers of rows that are kept without one row that all writers change.

There each change of a row appends what it adds to ``tally_changes``, and now and then one of them, never two at once,
takes these together in ``tally_sums``. The view ``tallies`` adds both up. Rows that are very many get 64-bit ids.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
VERY_MANY = ("instances", "events", "attempts", "audit")
# What is counted: table -> destination, state and DIMSE status of a row; -1 is no status.
TALLIED = {
    "series": ("''", "{row}state", "-1"),
    "instances": ("''", "''", "-1"),
    "jobs": ("''", "{row}state", "-1"),
    "deliveries": ("{row}destination", "{row}state", "-1"),
    "attempts": ("{row}destination", "{row}outcome", "coalesce({row}status, -1)"),
}
KIND = "table_name, destination, state, status"
FOLDING = 0x74616C6C69  # the advisory lock of whoever takes changes together
ONE_IN = 250  # changes


def upgrade() -> None:
    op.create_table(
        "site",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("key_hmac", sa.String(64), nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.CheckConstraint("id = 1", name="site_is_one"),
    )
    if op.get_bind().dialect.name == "sqlite":
        return
    op.execute("DROP VIEW tallies")
    _count_ids_in("bigint")
    _keep_sums()
    for table, columns in TALLIED.items():
        _keep_changes(table, columns)


def downgrade() -> None:
    op.drop_table("site")
    if op.get_bind().dialect.name == "sqlite":
        return
    op.execute("DROP VIEW tallies")
    for table in TALLIED:
        op.execute(f"DROP FUNCTION {table}_tallied() CASCADE")
    op.execute("DROP FUNCTION fold_tallies()")
    for table in ("tally_changes", "tally_sums"):
        op.drop_table(table)
    _count_ids_in("integer")
    op.execute(f"CREATE VIEW tallies AS {_counted()}")


def _count_ids_in(kind: str) -> None:
    for table in VERY_MANY:
        op.execute(f"ALTER TABLE {table} ALTER COLUMN id TYPE {kind}")
        op.execute(f"ALTER SEQUENCE {table}_id_seq AS {kind}")


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


def _keep_sums() -> None:
    kind = (
        ("table_name", sa.String(16)),
        ("destination", sa.String(32)),
        ("state", sa.String(16)),
        ("status", sa.Integer),
    )
    for table, in_key in (("tally_sums", True), ("tally_changes", False)):
        columns = [sa.Column(name, of, nullable=False, primary_key=in_key) for name, of in kind]
        op.create_table(table, *columns, sa.Column("number", sa.BigInteger, nullable=False))
    op.execute(f"INSERT INTO tally_sums {_counted()}")
    op.execute(
        f"CREATE VIEW tallies AS SELECT {KIND}, sum(number)::bigint AS number "
        f"FROM (SELECT {KIND}, number FROM tally_sums UNION ALL SELECT {KIND}, number FROM tally_changes) AS both_of "
        f"GROUP BY {KIND}"
    )
    op.execute(
        "CREATE FUNCTION fold_tallies() RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
        f"IF pg_try_advisory_xact_lock({FOLDING}) THEN "
        "WITH folded AS (DELETE FROM tally_changes RETURNING *) "
        f"INSERT INTO tally_sums SELECT {KIND}, sum(number) FROM folded GROUP BY {KIND} "
        f"ON CONFLICT ({KIND}) DO UPDATE SET number = tally_sums.number + EXCLUDED.number; "
        "END IF; END $$"
    )


def _keep_changes(table: str, columns: tuple[str, str, str]) -> None:
    def kind(row: str) -> str:
        return ", ".join([f"'{table}'", *(column.format(row=row) for column in columns)])

    counted = f"INSERT INTO tally_changes SELECT {kind('')}, {{sign}}count(*) FROM changed GROUP BY 1, 2, 3, 4;"
    op.execute(
        f"CREATE FUNCTION {table}_tallied() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'INSERT' THEN {counted.format(sign='')} "
        f"ELSIF TG_OP = 'DELETE' THEN {counted.format(sign='-')} "
        f"ELSE INSERT INTO tally_changes VALUES ({kind('OLD.')}, -1), ({kind('NEW.')}, 1); END IF; "
        f"IF random() * {ONE_IN} < 1 THEN PERFORM fold_tallies(); END IF; RETURN NULL; END $$"
    )
    for change, rows in (("INSERT", "NEW"), ("DELETE", "OLD")):
        op.execute(
            f"CREATE TRIGGER {table}_tallied_{change.lower()} AFTER {change} ON {table} "
            f"REFERENCING {rows} TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION {table}_tallied()"
        )
    changed = " OR ".join(
        f"{column.format(row='OLD.')} <> {column.format(row='NEW.')}" for column in columns if "{" in column
    )
    if changed:
        op.execute(
            f"CREATE TRIGGER {table}_tallied_update AFTER UPDATE ON {table} FOR EACH ROW WHEN ({changed}) "
            f"EXECUTE FUNCTION {table}_tallied()"
        )
