"""Copies of the database: whole, checked, private; put back in one step, with what was there kept."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select, text

from contourd.errors import BackupError
from contourd.store.audit import AuditEntry, AuditTrail
from contourd.store.backup import back_up, database_file, restore
from contourd.store.database import Database
from contourd.store.tables import SCHEMA_REVISION, AuditRow


@pytest.fixture
def live(tmp_path) -> Path:
    return tmp_path / "contourd.sqlite"


@pytest.fixture
def database(live):
    database = Database(f"sqlite:///{live}")
    database.upgrade()
    yield database
    database.close()


def details(path: Path) -> list[str]:
    database = Database(f"sqlite:///{path}")
    try:
        with database.reading() as session:
            return list(session.scalars(select(AuditRow.detail).order_by(AuditRow.id)))
    finally:
        database.close()


def note(database: Database, detail: str) -> None:
    AuditTrail(database).record(AuditEntry("alice", "retry", "job 1", detail))


def test_a_copy_holds_what_is_only_in_the_journal(database, live, tmp_path):
    note(database, "first")
    assert Path(f"{live}-wal").stat().st_size > 0
    copy = tmp_path / "copy.sqlite"
    back_up(live, copy)
    note(database, "second")
    assert details(copy) == ["first"]
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir() if "copy" in p.name) == ["copy.sqlite"]


def test_copies_made_while_rows_are_written_are_whole(database, live, tmp_path):
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            note(database, str(n))
            n += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for n in range(5):
            back_up(live, tmp_path / f"copy-{n}")
    finally:
        stop.set()
        writer.join()
    counted = [details(tmp_path / f"copy-{n}") for n in range(5)]
    assert all(found == [str(n) for n in range(len(found))] for found in counted)
    assert [len(found) for found in counted] == sorted(len(found) for found in counted)


def test_nothing_is_overwritten(database, live, tmp_path):  # noqa: ARG001  the database is there
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(BackupError, match="is there already and is not overwritten"):
        back_up(live, taken)
    assert taken.read_text() == "mine"


def test_what_cannot_be_copied_leaves_nothing(database, live, tmp_path):
    with pytest.raises(BackupError, match="there is no database"):
        back_up(tmp_path / "absent", tmp_path / "copy")
    with pytest.raises(BackupError, match="cannot be written to: No such file"):
        back_up(live, tmp_path / "absent" / "copy")
    with database.engine.connect() as connection:  # a row that refers to nothing
        connection.execute(text("COMMIT"))
        connection.execute(text("PRAGMA foreign_keys=OFF"))
        connection.execute(text("INSERT INTO attempts VALUES (1, 77, 'pacs', '2026-01-01', 'retry', NULL, '')"))
    with pytest.raises(BackupError, match="is damaged: ok, 1 rows refer to nothing"):
        back_up(live, tmp_path / "copy")
    assert not [p for p in tmp_path.iterdir() if "copy" in p.name]


def test_a_backup_is_put_back_and_what_was_there_is_kept(database, live, tmp_path):
    note(database, "first")
    back_up(live, tmp_path / "copy")
    note(database, "second")
    database.close()
    kept = tmp_path / "kept.sqlite"
    assert restore(tmp_path / "copy", live, kept) == SCHEMA_REVISION
    assert details(live) == ["first"]
    assert details(kept) == ["first", "second"]
    assert stat.S_IMODE(live.stat().st_mode) == stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert details(tmp_path / "copy") == ["first"]


def test_a_journal_of_the_database_before_does_not_come_back(database, live, tmp_path):
    """A killed daemon leaves its journal; played into the backup it would mix two histories."""
    back_up(live, tmp_path / "copy")
    note(database, "in the journal")
    for name in ("", "-wal", "-shm"):
        (tmp_path / f"killed{name}").write_bytes(Path(f"{live}{name}").read_bytes())
    restore(tmp_path / "copy", tmp_path / "killed", tmp_path / "kept")
    assert details(tmp_path / "killed") == []
    assert details(tmp_path / "kept") == ["in the journal"]


def test_a_damaged_database_is_replaced_and_kept(database, live, tmp_path):
    note(database, "first")
    back_up(live, tmp_path / "copy")
    database.close()
    live.write_bytes(b"not a database" * 1000)
    restore(tmp_path / "copy", live, tmp_path / "kept")
    assert details(live) == ["first"]
    assert (tmp_path / "kept").read_bytes().startswith(b"not a database")


def test_what_root_puts_back_belongs_to_the_folders_owner(database, live, tmp_path):
    back_up(live, tmp_path / "copy")
    database.close()
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, 12345)
    owner = tmp_path.stat().st_uid
    restore(tmp_path / "copy", live, tmp_path / "kept")
    back_up(live, tmp_path / "again")
    assert live.stat().st_uid == (tmp_path / "again").stat().st_uid == owner


def test_what_is_no_backup_is_not_put_back(database, live, tmp_path):
    note(database, "first")
    back_up(live, tmp_path / "copy")
    database.close()
    (tmp_path / "text").write_text("hello")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE t (id INTEGER)")
    (tmp_path / "cut").write_bytes((tmp_path / "copy").read_bytes()[:-20_000])
    newer = tmp_path / "newer"
    newer.write_bytes((tmp_path / "copy").read_bytes())
    with closing(sqlite3.connect(newer)) as changed:
        changed.execute("UPDATE alembic_version SET version_num = '9999'")
        changed.commit()
    told = {
        "absent": "there is no backup",
        "text": "is no database of contourd",
        "other": "is no database of contourd",
        "cut": "is damaged|is no database of contourd",
        "newer": "at revision 9999; install the newer contourd",
    }
    for name, message in told.items():
        with pytest.raises(BackupError, match=message):
            restore(tmp_path / name, live, tmp_path / "kept")
    assert details(live) == ["first"]
    assert not (tmp_path / "kept").exists()


def test_postgresql_has_its_own_tools():
    with pytest.raises(BackupError, match="pg_dump"):
        database_file("postgresql+psycopg://u@h/d")
