"""Options that several commands share, and what they need of the settings."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.commands import command, use_configuration_path
from contourd.errors import NodeError, SettingsError

if TYPE_CHECKING:
    from contourd.model.library import Activation
    from contourd.operations.operations import Operations
    from contourd.profiles import Profile
    from contourd.settings import Destination, Settings, WorkerSettings
    from contourd.store.database import Database


def _typed_with(context: typer.Context, configuration: Path | None) -> Path | None:
    """Make the commands that are printed name the file that this command names."""
    context.with_resource(use_configuration_path(configuration))
    return configuration


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=_typed_with,
        help="Configuration; else ./contourd.toml, then /etc/contourd/contourd.toml.",
    ),
]
# No database counts further.
LARGEST_NUMBER = 2**63 - 1


def parse_row_number(number: int | None) -> int | None:
    """Return the number of a job or series; raises BadParameter for one that nothing can have."""
    if number is not None and not 0 <= number <= LARGEST_NUMBER:
        raise typer.BadParameter(f"nothing has such a number; `{command('status')}` shows those that there are")
    return number


StructuresOption = Annotated[
    Path | None, typer.Option("--structures", help="Your own organs: a file as [structures] file of the settings.")
]
OverrideOption = Annotated[
    str, typer.Option(metavar="REASON", help="Let the model run outside of its limits; the reason is kept.")
]
CallingOption = Annotated[str | None, typer.Option(help="Our AE title; node.ae_title by default, else CONTOURD.")]
# What names the other side: AE@host:port, an IPv6 address in brackets.
ADDRESS = re.compile(r"(?P<ae_title>[^@]+)@(?P<host>\[[^\]]+\]|[^:\[\]]+):(?P<port>\d+)")
RuntimeOption = Annotated[str, typer.Option(help="What runs the network on a CPU: auto, torch or openvino.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def worker_settings(device: str, runtime: str) -> WorkerSettings:
    """Return the settings of options; raises NodeError where one is none of its values."""
    from pydantic import ValidationError

    from contourd.settings import WorkerSettings

    try:
        return WorkerSettings.model_validate({"device": device, "runtime": runtime})
    except ValidationError as error:
        text = "; ".join(f"--{e['loc'][0]}: {e['msg']}" for e in error.errors())
        raise NodeError(text) from error


def signed(override: str) -> str:
    """Add who gave the reason."""
    if not override.strip():
        return ""
    return f"{override.strip()} ({operator()})"


def operator() -> str:
    """Return the name of the user who gives the command, also through sudo; the environment's claims do not count."""
    name = _user_name(os.getuid())
    through = os.environ.get("SUDO_UID", "")  # only root can use what is claimed here, and root may be anybody anyway
    if os.getuid() == 0 and through.isdecimal() and through != "0":
        return f"{_user_name(int(through))} as {name}"
    return name


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container's user without an entry
        return f"uid {uid}"


@contextmanager
def open_database(settings: Settings) -> Iterator[Database]:
    """Open the queue of a node that is running or not; one of another version's schema is refused.

    Raises
    ------
    NodeError
        There is no queue yet.
    SchemaMismatch
        The database is another version's.
    """
    from contourd.spool.access import keep_private
    from contourd.store.database import Database, require_queue

    keep_private()
    require_queue(settings.database_url, settings.spool.root)
    database = Database(settings.database_url)
    try:
        database.check()
        yield database
    finally:
        database.close()


def read_activations(settings: Settings) -> tuple[Activation, ...]:
    """Read which models were activated; before the first start none were. Raises SchemaMismatch."""
    from contourd.models.activations import Activations
    from contourd.store.database import has_queue

    if not has_queue(settings.database_url):
        return ()
    with open_database(settings) as database:
        return Activations(database, settings.spool.root).history()


def settings_or_none(config: Path | None) -> Settings | None:
    """Read the settings; without --config there may be none."""
    from contourd.settings import SEARCHED, load_settings

    if config is None and not any(path.is_file() for path in SEARCHED):
        return None
    return load_settings(config)


def addressed(text: str, settings: Settings | None, profile: str = "strict") -> Destination:
    """Find a destination by its name in the settings, or make one of AE@host:port.

    Raises
    ------
    NodeError
        There is none of that name, or the address is none.
    """
    from pydantic import ValidationError

    from contourd.settings import Destination

    match = ADDRESS.fullmatch(text)
    if match is None:
        known = {destination.name: destination for destination in settings.destination} if settings else {}
        if text not in known:
            named = f"the settings name {', '.join(known)}" if known else "no settings were found: give --config FILE"
            raise NodeError(f"there is no destination {text!r}; {named}, or write AE@host:port")
        return known[text]
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", match["ae_title"])[:32]
    try:
        return Destination.model_validate({**match.groupdict(), "name": name, "host": match["host"].strip("[]"),
                                           "port": int(match["port"]), "profile": profile})  # fmt: skip
    except ValidationError as error:
        problems = [f"{item['loc'][-1]}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()]
        raise SettingsError(text, problems) from error


def known_profile(name: str) -> Profile:
    """Return a destination profile by its name; raises NodeError where there is none."""
    from contourd.profiles import PROFILES

    if name not in PROFILES:
        raise NodeError(f"there is no profile {name!r}; there are: {', '.join(PROFILES)}")
    return PROFILES[name]


def calling_title(calling: str | None, settings: Settings | None) -> str:
    """Return the AE title to call with."""
    return calling or (settings.node.ae_title if settings else "CONTOURD")


@contextmanager
def open_operations(config: Path | None) -> Iterator[tuple[Operations, Settings]]:
    """Open the queue for what the person at the terminal does, in that person's name."""
    from contourd.operations.operations import Operations
    from contourd.settings import load_settings
    from contourd.transfer.copies import copies_of

    settings = load_settings(config)
    with open_database(settings) as database:
        copies = copies_of(settings.spool, database)
        yield Operations(database, operator(), settings.spool.root, copies=copies), settings
