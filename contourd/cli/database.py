"""Commands of the database: db backup, restore, upgrade, downgrade, move, adopt, describe."""

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
    _audit(settings.database_url, "db backup", str(file))
    text = f"{file} is whole; the images and the site key are in {settings.spool.root}: copy that folder too"
    tell({"file": str(file), "spool": str(settings.spool.root)}, text, json)


def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    config: ConfigOption = None,
    put_back: Annotated[
        bool, typer.Option("--put-back", help="PostgreSQL: I have put the dump back by pg_restore.")
    ] = False,
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
        if put_back and not settings.database_url.startswith(backups.PREFIX):
            SeriesJournal(settings.spool.root).add(JournalMark.RESTORED, "", str(file))
            _audit(settings.database_url, "db restore", str(file))
            typer.echo("start contourd again: it records the images of the spool that the dump does not know")
            return
        database = backups.database_file(settings.database_url)
        kept = backups.saved_name(database, "replaced", datetime.now(UTC))
        replaced = database.exists()
        revision = backups.restore(file, database, kept)
        SeriesJournal(settings.spool.root).add(JournalMark.RESTORED, "", str(file))
        _audit(settings.database_url, "db restore", str(file))
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
        _audit(settings.database_url, "db upgrade", f"{before} to {database.revision()}")
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
        _audit(settings.database_url, "db downgrade", f"{before} to {revision}")  # the older schema may have none
        _save(settings, database, dumped)
        database.downgrade(revision)
        typer.echo(f"the database went from revision {before} to {revision}; start the older contourd")


def move(
    url: Annotated[
        str,
        typer.Argument(
            help="The empty database: postgresql://USER@HOST/DATABASE, or sqlite:///FILE. The password may stand in "
            "~/.pgpass or PGPASSWORD instead."
        ),
    ],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Carry the queue into another database, SQLite or PostgreSQL.

    All of it, each row compared with its copy, or nothing; contourd must be stopped on every host.
    """
    from contourd.store.database import Database
    from contourd.store.move import move_queue

    with _migrating(config) as (_, source):
        target = Database(url)
        try:
            moved = move_queue(source, target)
            name = target.name
        finally:
            target.close()
    _audit(url, "db move", f"from {source.name}")
    text = (
        f"{moved.rows} rows of {moved.tables} tables are in {name}, each as it was, and still where they were; "
        f"write the URL into database.url of the settings, then `{command('serve')}`"
    )
    tell({"rows": moved.rows, "tables": moved.tables}, text, json)


def adopt(config: ConfigOption = None) -> None:
    """Take over a database whose site.key is lost.

    It belongs to this spool's key then: patients get other pseudonyms than before; contourd must be stopped.
    """
    from contourd.spool.folder import Spool
    from contourd.store.site import PURPOSE, adopt_database

    with _migrating(config) as (settings, database):
        database.check()
        adopt_database(database, Spool(settings.spool.root).signature(PURPOSE, b""), datetime.now(UTC))
        _audit(settings.database_url, "db adopt", "")
    typer.echo(f"the database is of this spool's site.key now; `{command('constancy baseline')}` makes a new baseline")


def describe(config: ConfigOption = None) -> None:
    """Describe the series of an older contourd for `contourd jobs`.

    By their images, where these are still here; contourd may serve.
    """
    from contourd.cli.options import open_database
    from contourd.intake.describing import SeriesDescriber
    from contourd.intake.describing_earlier import describe_earlier
    from contourd.settings import load_settings
    from contourd.spool.folder import Spool
    from contourd.transfer.copies import copies_of

    settings = load_settings(config)
    with open_database(settings) as database:
        describer = SeriesDescriber(Spool(settings.spool.root).signature, settings.series.descriptions)
        done = describe_earlier(database, settings.spool.root, copies_of(settings.spool, database), describer)
        _audit(settings.database_url, "db describe", f"{done.described} series, {done.gone} without images")
    typer.echo(
        f"{done.described} series are found by their patient's name now; of {done.gone} the images are gone or cannot "
        "be read: they are found by ID alone"
    )


DATABASE_COMMANDS: Mapping[str, Callable[..., Any]] = {
    "backup": backup,
    "restore": restore,
    "upgrade": upgrade,
    "downgrade": downgrade,
    "move": move,
    "adopt": adopt,
    "describe": describe,
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
        raise BackupError(
            "make a dump of the database first (`pg_dump --format=custom --file=contourd.dump URL`), "
            "and then say --dumped"
        )


def _audit(url: str, action: str, detail: str) -> None:
    """Write who did it, where the schema has a trail."""
    from contourd.store.audit import AuditEntry, AuditTrail
    from contourd.store.database import Database
    from contourd.store.tables import SCHEMA_REVISION

    database = Database(url)
    try:
        if database.revision() == SCHEMA_REVISION:
            AuditTrail(database).record(AuditEntry(operator(), action, "", detail))
    finally:
        database.close()
