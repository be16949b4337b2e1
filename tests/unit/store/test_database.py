"""The schema: its revisions, forwards and back, with rows."""

from __future__ import annotations

import pytest
from sqlalchemy import inspect, text

from contourd.delivery.deliveries import Deliveries
from contourd.errors import SchemaMismatch
from contourd.store.database import Database
from contourd.store.states import RetryPolicy
from tests.databases import open_queue


def has_model(thing, name: str | None, kind: str, *about) -> bool:  # noqa: ARG001
    """Leave out what PostgreSQL's triggers alone use."""
    return (kind, name) not in {("table", "tally_sums"), ("table", "tally_changes"), ("table", "tallies")}


@pytest.mark.both_databases
def test_migrations_make_the_tables_that_the_code_has(tmp_path):
    from alembic import command
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from contourd.store.database import alembic_config
    from contourd.store.tables import SCHEMA_REVISION, Table

    database = open_queue(tmp_path, empty=True)
    assert database.revision() is None
    with pytest.raises(SchemaMismatch, match="contourd serve"):
        database.check()
    database.upgrade()
    database.check()
    assert database.revision() == ScriptDirectory.from_config(alembic_config()).get_current_head() == SCHEMA_REVISION
    with database.engine.connect() as connection:
        everything = {"compare_type": True, "include_object": None if database.is_sqlite else has_model}
        assert compare_metadata(MigrationContext.configure(connection, opts=everything), Table.metadata) == []
    config = alembic_config()
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
        tables = inspect(connection).get_table_names()
    assert set(tables) == {"alembic_version"}
    database.upgrade()
    database.check()
    database.close()


def test_a_database_with_jobs_goes_up_and_down_every_revision(tmp_path):
    from alembic import command

    from contourd.store.database import alembic_config

    database = Database(f"sqlite:///{tmp_path / 'old.sqlite'}")
    config = alembic_config()

    def migrate(step, revision: str) -> list[str]:
        with database.engine.connect() as connection:
            config.attributes["connection"] = connection
            step(config, revision)
            connection.commit()
            return list(connection.execute(text("SELECT output FROM deliveries ORDER BY id")).scalars())

    moments = "'2026-01-01', '2026-01-01'"
    series = f"INSERT INTO series VALUES (1, '1.2', 'COMPLETE', 1, '', '', 'CT', 'p', {moments})"
    job = (
        "INSERT INTO jobs VALUES (1, 1, 1, 'hn7', 'pacs,tps', 'DELIVERING', '', 1, 'w', NULL, 'outgoing/1.dcm', "
        f"{moments})"
    )
    delivery = f"INSERT INTO deliveries VALUES ({{0}}, 1, '{{1}}', 'PENDING', 0, '', '2026-01-01', {moments})"
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in (series, job, delivery.format(1, "pacs"), delivery.format(2, "tps")):
            connection.execute(text(statement))
        connection.commit()
    assert migrate(command.upgrade, "0002") == ["outgoing/1.dcm", "outgoing/1.dcm"]
    with database.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        connection.commit()
        assert connection.execute(text("SELECT output FROM jobs")).scalar() == "outgoing/1.dcm"
        assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
    assert migrate(command.upgrade, "head") == ["outgoing/1.dcm", "outgoing/1.dcm"]
    database.upgrade()  # once more, with rows: nothing changes
    deliveries = Deliveries(database, RetryPolicy(30, 1800, 86400))
    assert [deliveries.fetch_delivery(name).output for name in ("pacs", "tps")] == ["outgoing/1.dcm", "outgoing/1.dcm"]
    database.close()


def test_a_newer_database_is_refused(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'newer.sqlite'}")
    database.upgrade()
    with database.transaction() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer contourd"):
        database.upgrade()
    database.close()
