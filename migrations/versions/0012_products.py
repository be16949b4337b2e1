"""A job has more products than its structure set: each delivery says which. On the way back those of others go.

A job has one delivery of each product to a destination, where it had one to each. In SQLite a constraint of a table
cannot be dropped, and rebuilding the table would lose its triggers and break what refers to it: the constraint's own
index becomes one of its own, which can be, and on the way back the other way round.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

CONSTRAINT, UNIQUE = "deliveries_job_id_destination_key", "UNIQUE (job_id, destination)"
ITS_INDEX, OWN_INDEX = "sqlite_autoindex_deliveries_1", "deliveries_by_destination"
OF_JOB = "deliveries_of_job"
CREATE = f"CREATE UNIQUE INDEX {OWN_INDEX} ON deliveries (job_id, destination)"
TO_JOB = "FOREIGN KEY(job_id) REFERENCES jobs (id)"


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("product", sa.String(16), nullable=False, server_default="rtstruct"))
    op.add_column("jobs", sa.Column("rewriting", sa.Boolean, nullable=False, server_default=sa.false()))
    if op.get_bind().dialect.name == "sqlite":
        _rewrite_schema(f", {UNIQUE}", "", ITS_INDEX, OWN_INDEX, CREATE)
        op.drop_index(OWN_INDEX, "deliveries")
    else:
        op.drop_constraint(CONSTRAINT, "deliveries", type_="unique")
    op.create_index(OF_JOB, "deliveries", ["job_id", "destination", "product"], unique=True)


def downgrade() -> None:
    others = "SELECT id FROM deliveries WHERE product <> 'rtstruct'"
    op.execute(f"DELETE FROM attempts WHERE delivery_id IN ({others})")
    op.execute(f"DELETE FROM commitments WHERE delivery_id IN ({others})")
    op.execute("DELETE FROM deliveries WHERE product <> 'rtstruct'")
    op.drop_index(OF_JOB, "deliveries")
    if op.get_bind().dialect.name == "sqlite":
        op.create_index(OWN_INDEX, "deliveries", ["job_id", "destination"], unique=True)
        _rewrite_schema(TO_JOB, f"{TO_JOB}, {UNIQUE}", OWN_INDEX, ITS_INDEX, None)
    else:
        op.create_unique_constraint(CONSTRAINT, "deliveries", ["job_id", "destination"])
    op.drop_column("deliveries", "product")
    op.drop_column("jobs", "rewriting")


def _rewrite_schema(before: str, now: str, index: str, new_index: str, sql: str | None) -> None:
    """Change the text of the table, and name an index of it otherwise: what is stored of either stays as it is."""
    connection = op.get_bind()
    of_table = "FROM sqlite_schema WHERE type = 'table' AND name = 'deliveries'"
    text = " ".join(connection.exec_driver_sql(f"SELECT sql {of_table}").scalar_one().split())
    if text.count(before) != 1:
        raise RuntimeError(f"the table of deliveries is not as this version made it: {text}")
    connection.exec_driver_sql("PRAGMA writable_schema=ON")
    changed = "UPDATE sqlite_schema SET sql = ? WHERE type = 'table' AND name = 'deliveries'"
    connection.exec_driver_sql(changed, (text.replace(before, now),))
    renamed = "UPDATE sqlite_schema SET name = ?, sql = ? WHERE type = 'index' AND name = ?"
    connection.exec_driver_sql(renamed, (new_index, sql, index))
    connection.exec_driver_sql("PRAGMA writable_schema=RESET")
