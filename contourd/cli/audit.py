"""The command that shows the audit trail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import ConfigOption, open_database
from contourd.cli.timeline_text import entry

if TYPE_CHECKING:
    from contourd.observe.timeline import TimelineEntry

MOMENT_HELP = "As 2h, 30min, 7d before now, or a local date 2026-11-24, or 2026-11-24T13:00."


def audit(
    config: ConfigOption = None,
    since: Annotated[str, typer.Option(help=MOMENT_HELP)] = "1d",
    until: Annotated[str, typer.Option(help="Alike; by default now.")] = "",
    action: Annotated[str, typer.Option(help="Beginning of an action: 'job', 'job hold', 'connection refused'.")] = "",
    job: Annotated[int | None, typer.Option(help="One job, with its series and deliveries.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Each key of changed settings; whole hashes.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object a line.")] = False,
) -> None:
    """Show who did what: peers, operators, settings, every step."""
    from contourd.observe.timeline import TimelineFilter, read_timeline
    from contourd.settings import load_settings

    now = datetime.now(UTC)
    wanted = TimelineFilter(moment(since, now), moment(until, now) if until else now + timedelta(days=1), action, job)
    with open_database(load_settings(config)) as database:
        for line in read_timeline(database, wanted):
            typer.echo(_as_json(line) if json else entry(line, verbose))


def moment(text: str, now: datetime) -> datetime:
    """Return the moment that a span before now, or a local date or time, means.

    Raises
    ------
    typer.BadParameter
        It is neither.
    """
    from contourd.system.moments import read_moment

    try:
        return read_moment(text, now)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _as_json(line: TimelineEntry) -> str:
    from dataclasses import asdict
    from json import dumps

    return dumps({**asdict(line), "at": line.at.isoformat(timespec="milliseconds")})
