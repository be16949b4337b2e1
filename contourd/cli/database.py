"""Commands of the database: db backup, restore, upgrade, downgrade."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.options import ConfigOption, operator
from contourd.cli.output import JsonOption, tell
from contourd.commands import command

if TYPE_CHECKING:
    from contourd.settings import Settings
    from contourd.store.database import Database

DumpedOption = Annotated[
    bool, typer.Option("--dumped", help="PostgreSQL: I have a dump by pg_dump. SQLite is backed up by itself.")
]


def backup(
    file: Annotated[Path, typer.Argument(help="The copy to make; an existing file is not overwritten.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Copy the database, while contourd serves or not.

    The copy is checked, and overwrites nothing.
    """
    from contourd.settings import load_settings
    from contourd.store.backup import back_up, database_file

    settings = load_settings(config)
    back_up(database_file(settings.database_url), file)
    _audit(settings, "db backup", str(file))
    text = f"{file} is whole; the images and the site key are in {settings.spool.root}: copy that folder too"
    tell({"file": str(file), "spool": str(settings.spool.root)}, text, json)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    config: ConfigOption = None,
) -> None:
    """Put a backup in the place of the database.

    What was there is kept; contourd must be stopped.
    """
    from contourd.settings import load_settings
    from contourd.spool.marks import JournalMark, SeriesJournal
    from contourd.store import backup as backups
    from contourd.store.tables import SCHEMA_REVISION

    settings = load_settings(config)
    with _stopped(settings):
        database = backups.database_file(settings.database_url)
        kept = backups.saved_name(database, "replaced", datetime.now(UTC))
        replaced = database.exists()
        revision = backups.restore(file, database, kept)
        SeriesJournal(settings.spool.root).add(JournalMark.RESTORED, "", str(file))
        _audit(settings, "db restore", str(file))
        typer.echo(f"{file} is restored" + (f"; what was there is kept as {kept}" if replaced else ""))
        if revision != SCHEMA_REVISION:
            typer.echo(f"it is of an older version: run `{command('db upgrade')}`")
        typer.echo("start contourd again: it records the images of the spool that the backup does not know")


def upgrade(config: ConfigOption = None, dumped: DumpedOption = False) -> None:
    """Bring the database of an older contourd to this version.

    A backup is made first; contourd must be stopped.
    """
    from contourd.store.tables import SCHEMA_REVISION

    with _migrating(config) as (settings, database):
        before = database.revision()
        if before == SCHEMA_REVISION:
            typer.echo(f"the database is at revision {before}, which is this version's: nothing to do")
            return
        _save(settings, database, dumped)
        database.upgrade()
        _audit(settings, "db upgrade", f"{before} to {database.revision()}")
        typer.echo(f"the database went from revision {before} to {database.revision()}; start contourd again")


def downgrade(
    revision: Annotated[str, typer.Argument(help="As the older contourd names it when it refuses the database.")],
    config: ConfigOption = None,
    dumped: DumpedOption = False,
) -> None:
    """Bring the database back to an older version.

    A backup is made first; contourd must be stopped.
    """
    with _migrating(config) as (settings, database):
        before = database.revision()
        database.refuse_newer(revision)
        _audit(settings, "db downgrade", f"{before} to {revision}")  # now: the older schema may have no trail
        _save(settings, database, dumped)
        database.downgrade(revision)
        typer.echo(f"the database went from revision {before} to {revision}; start the older contourd")


DATABASE_COMMANDS: Mapping[str, Callable[..., Any]] = {
    "backup": backup,
    "restore": restore,
    "upgrade": upgrade,
    "downgrade": downgrade,
}


@contextmanager
def _stopped(settings: Settings) -> Iterator[None]:
    """Hold the spool, so that no contourd serves meanwhile."""
    from contourd.spool.access import keep_private, lock_spool

    keep_private()
    with lock_spool(settings.spool.root):
        yield


@contextmanager
def _migrating(config: Path | None) -> Iterator[tuple[Settings, Database]]:
    from contourd.settings import load_settings
    from contourd.store.database import Database, require_queue

    settings = load_settings(config)
    require_queue(settings.database_url, settings.spool.root)
    with _stopped(settings):
        database = Database(settings.database_url)
        try:
            database.refuse_unknown()
            yield settings, database
        finally:
            database.close()


def _save(settings: Settings, database: Database, dumped: bool) -> None:
    from contourd.errors import BackupError
    from contourd.store.backup import PREFIX, back_up, database_file, saved_name

    if settings.database_url.startswith(PREFIX):
        file = database_file(settings.database_url)
        kept = saved_name(file, database.revision(), datetime.now(UTC))
        back_up(file, kept)
        typer.echo(f"backup: {kept}")
    elif not dumped:
        raise BackupError("make a dump of the database by pg_dump first, and then say --dumped")


def _audit(settings: Settings, action: str, detail: str) -> None:
    """Write who did it, where the schema has a trail."""
    from contourd.store.audit import AuditEntry, AuditTrail
    from contourd.store.database import Database
    from contourd.store.tables import SCHEMA_REVISION

    database = Database(settings.database_url)
    try:
        if database.revision() == SCHEMA_REVISION:
            AuditTrail(database).record(AuditEntry(operator(), action, "", detail))
    finally:
        database.close()
