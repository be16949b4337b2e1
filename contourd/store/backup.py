"""Copies of the SQLite database: made while contourd serves, checked before they count, put back whole.

https://www.sqlite.org/backup.html: the online backup copies one consistent state, and writers do not wait for it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from contourd.commands import command
from contourd.errors import BackupError
from contourd.store.database import revisions
from contourd.system.durable_files import fsync_path

JOURNALS = ("-wal", "-shm")
PREFIX = "sqlite:///"


def database_file(url: str) -> Path:
    """Return the file of an SQLite URL.

    Raises
    ------
    BackupError
        It is another database's: that has its own tools.
    """
    if not url.startswith(PREFIX):
        raise BackupError(
            "the database is not SQLite's file, but PostgreSQL's: save it by "
            "`pg_dump --format=custom --file=contourd.dump URL`; put it back, with contourd stopped on all hosts, by "
            "`pg_restore --clean --if-exists --dbname=URL contourd.dump` (URL is that of database.url) and then "
            f"`{command('db restore', 'contourd.dump', '--put-back')}`"
        )
    return Path(url.removeprefix(PREFIX))


def back_up(source: Path, target: Path) -> None:
    """Copy a database that may be in use; the copy is one file, whole and checked, or absent.

    Raises
    ------
    BackupError
        There is no database, ``target`` is there already, or the copy is damaged or cannot be written.
    """
    if not source.is_file():
        raise BackupError(f"there is no database {source}; `{command('serve')}` makes it")
    if target.exists():
        raise BackupError(f"{target} is there already and is not overwritten; give another name")
    with _written_whole(target) as partial, closing(_opened(source)) as live:
        _copy(live, partial)


def restore(backup: Path, target: Path, kept: Path) -> str:
    """Put a backup in the place of the database, which is kept under another name; returns the backup's revision.

    Nothing may have the database open. It is first linked to its second name and then replaced by one rename.

    Raises
    ------
    BackupError
        The backup is no database of contourd, is damaged or of a newer version, or cannot be written.
    """
    if not backup.is_file():
        raise BackupError(f"there is no backup {backup}")
    with closing(_opened(backup)) as content:
        revision = _checked(content, backup)
        if revision not in revisions():
            raise BackupError(f"{backup} is at revision {revision}; install the newer contourd that made it")
        partial = _private_file(target)
        try:
            _copy(content, partial)
            if target.exists():
                _keep(target, kept)
            partial.replace(target)
            fsync_path(target.parent)
        except OSError as error:
            raise BackupError(f"{target} cannot be replaced: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
    return revision


def saved_name(database: Path, revision: str | None, now: datetime) -> Path:
    """Return the name of a copy beside the database."""
    return database.with_name(f"{database.stem}-{revision or 'unknown'}-{now:%Y%m%dT%H%M%S}Z.sqlite")


def _keep(target: Path, kept: Path) -> None:
    """Give a database a second name, with what its journal holds, and take the journal away from the first."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(target)) as damaged_or_not:
        damaged_or_not.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.link(target, kept)
    for journal in JOURNALS:
        written = Path(f"{target}{journal}")
        if written.exists():
            written.rename(f"{kept}{journal}")
    kept.chmod(0o600)


def _copy(source: sqlite3.Connection, partial: Path) -> None:
    try:
        with closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
            _checked(copy, partial)
            copy.execute("PRAGMA journal_mode=DELETE")
        fsync_path(partial)
    except sqlite3.Error as error:
        raise BackupError(f"the database cannot be copied: {error}") from error


def _checked(database: sqlite3.Connection, path: Path) -> str:
    try:
        answers = [row[0] for row in database.execute("PRAGMA integrity_check")]
        strays = database.execute("PRAGMA foreign_key_check").fetchall()
        (revision,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except (sqlite3.Error, TypeError) as error:
        raise BackupError(f"{path} is no database of contourd: {error}") from error
    if answers != ["ok"] or strays:
        raise BackupError(
            f"{path} is damaged: {answers[0]}, {len(strays)} rows refer to nothing; put back an older backup"
        )
    return str(revision)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=30.0)


@contextmanager
def _written_whole(target: Path) -> Iterator[Path]:
    """Give a file beside ``target`` to write to, which takes its name at the end; an existing one stays."""
    partial = _private_file(target)
    try:
        yield partial
        os.link(partial, target)
        fsync_path(target.parent)
    except FileExistsError as error:
        raise BackupError(f"{target} is there already and is not overwritten; give another name") from error
    except OSError as error:
        raise BackupError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _private_file(target: Path) -> Path:
    """Make an empty file beside another, of the folder's owner: root puts a backup back for the user that serves."""
    partial = target.with_name(f".{target.name}.{uuid4().hex}.partial")
    try:
        partial.touch(mode=0o600, exist_ok=False)
        if os.geteuid() == 0:
            folder = target.parent.stat()
            os.chown(partial, folder.st_uid, folder.st_gid)
    except OSError as error:
        raise BackupError(f"{target.parent} cannot be written to: {error.strerror}") from error
    return partial
