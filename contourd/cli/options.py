"""Options that several commands share, and what they need of the settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from contourd.jobs.database import Database
    from contourd.jobs.operations import Operations
    from contourd.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; else ./contourd.toml, then /etc/contourd/contourd.toml.")
]
OverrideOption = Annotated[
    str, typer.Option(metavar="REASON", help="Let the model run outside of its limits; the reason is kept.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def signed(override: str) -> str:
    """Add who gave the reason."""
    if not override.strip():
        return ""
    import getpass

    return f"{override.strip()} ({getpass.getuser()})"


@contextmanager
def opened_database(settings: Settings) -> Iterator[Database]:
    """Open the queue of a node that is running or not; one of another version's schema is refused."""
    from contourd.jobs.database import Database

    database = Database(settings.database_url)
    try:
        database.check()
        yield database
    finally:
        database.close()


@contextmanager
def opened_operations(config: Path | None) -> Iterator[tuple[Operations, Settings]]:
    """Open the queue for what the person at the terminal does, in that person's name."""
    import getpass

    from contourd.jobs.operations import Operations
    from contourd.settings import load_settings

    settings = load_settings(config)
    with opened_database(settings) as database:
        yield Operations(database, getpass.getuser()), settings
