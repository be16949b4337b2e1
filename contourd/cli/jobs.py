"""The command that lists all jobs, and the series that are received or held."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.audit import MOMENT_HELP
from contourd.cli.options import ConfigOption, open_database, operator
from contourd.cli.output import UNFOLDED, JsonOption, as_json
from contourd.commands import command

if TYPE_CHECKING:
    from rich.console import RenderableType

    from contourd.observe.archive import ArchiveLine
    from contourd.observe.archive_filter import ArchiveFilter, ArchiveKey
    from contourd.settings import Settings
    from contourd.store.database import Database

FROM_INPUT = "-"


def jobs(
    config: ConfigOption = None,
    since: Annotated[str, typer.Option(help=f"Made, or come, since. {MOMENT_HELP}")] = "",
    until: Annotated[str, typer.Option(help="Alike; of a date that day too.")] = "",
    state: Annotated[list[str] | None, typer.Option(help="Only of this state, as HELD; may be repeated.")] = None,
    sender: Annotated[str, typer.Option(metavar="AE", help="Only from this calling AE title.")] = "",
    model: Annotated[str, typer.Option(help="Only for this model, as the route names it.")] = "",
    destination: Annotated[str, typer.Option(help="Only jobs that go to this destination.")] = "",
    delivery: Annotated[str, typer.Option(help="With --destination: waiting, refused, delivered ...")] = "",
    remark: Annotated[str, typer.Option(help="Only with such a remark: flag, withhold, volume ...")] = "",
    route: Annotated[int | None, typer.Option(min=1, help="Only of this route, counted from 1.")] = None,
    reason: Annotated[str, typer.Option(help="Only for this class of reasons: missing_slices ...")] = "",
    patient: Annotated[
        str, typer.Option(help="Only of the patient with this ID or name; - reads it from standard input.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the newest first.")] = 50,
    before: Annotated[str, typer.Option(help="Go on where a list ended: its `next`.")] = "",
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Names and IDs in the place of pseudonyms; it is audited.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List all jobs, and series that are received or held.

    The newest first. A search for a patient is audited; what was typed is
    hashed, and kept nowhere.
    """
    from contourd.observe.archive_filter import read_filter
    from contourd.settings import load_settings

    settings = load_settings(config)
    given = {
        "since": since, "until": until, "sender": sender, "model": model, "destination": destination,
        "delivery": delivery, "remark": remark, "route": str(route or ""), "reason": reason, "before": before,
    }  # fmt: skip
    chosen = read_filter([*given.items(), *(("state", one) for one in state or ())], datetime.now(UTC))
    lines: list[ArchiveLine] = []
    rest: ArchiveKey | None = None
    with open_database(settings) as database:
        found: ArchiveFilter | None = chosen
        if patient:
            typed = typer.get_text_stream("stdin").readline() if patient == FROM_INPUT else patient
            found = _of_patient(database, settings, chosen, typed)
        if found is not None:
            lines, rest = _read(database, found, limit)
        names = _names(database, settings, found or chosen, lines) if show_patient else {}
    told = settings.series.descriptions
    if json:
        typer.echo(
            as_json({"lines": [_content(line, names, told) for line in lines], "next": rest.text if rest else ""})
        )
    else:
        _print(lines, names, told, rest, found is None)


def _of_patient(database: Database, settings: Settings, chosen: ArchiveFilter, typed: str) -> ArchiveFilter | None:
    """Narrow a filter to a patient, None where nobody is found; the search is audited."""
    from contourd.observe.patient_search import SHOWN_DIGITS, find_patients
    from contourd.store.audit import AuditEntry, AuditTrail

    hashes = find_patients(database, settings.spool, typed)
    subject = ", ".join(one[:SHOWN_DIGITS] for one in hashes)[:64]
    entry = AuditEntry(operator(), "search patient", subject, "" if hashes else "nobody found")
    AuditTrail(database).record(entry)
    return chosen.of_patients(hashes) if hashes else None


def _read(database: Database, chosen: ArchiveFilter, limit: int) -> tuple[list[ArchiveLine], ArchiveKey | None]:
    """Read page after page, until there are enough."""
    from contourd.observe.archive import PAGE, read_archive

    lines: list[ArchiveLine] = []
    while True:
        page = read_archive(database, chosen, min(limit - len(lines), 10 * PAGE))
        lines += page.lines
        if page.next is None or len(lines) >= limit:
            return lines, page.next
        chosen = chosen.after(page.next)


def _names(database: Database, settings: Settings, chosen: ArchiveFilter, lines: list[ArchiveLine]) -> dict[str, str]:
    """Read the patients of a list, which is audited once."""
    from urllib.parse import urlencode

    from contourd.observe.patient_search import read_patients, series_to_name
    from contourd.store.audit import AuditEntry, AuditTrail

    AuditTrail(database).record(AuditEntry(operator(), "show patient", "list of jobs", urlencode(chosen.pairs)))
    return read_patients(database, settings.spool, series_to_name(lines))


def _content(line: ArchiveLine, names: dict[str, str], tells: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from contourd.observe.status import job_content, series_content

    told = asdict(line.described) if line.described is not None and tells else None
    one = job_content(line.job) if line.job else None
    other = series_content(line.series) if line.series else None
    for content in filter(None, (one, other)):
        content["patient"] = names.get(str(content["series"]), content["patient"])
    return {"at": line.at.isoformat(), "sender": line.sender, "job": one, "series": other, "described": told}


def _print(lines: list[ArchiveLine], names: dict[str, str], tells: bool, rest: ArchiveKey | None, nobody: bool) -> None:
    from rich.console import Console

    from contourd.observe.status_tables import archive_table

    if nobody:
        typer.echo(
            "no series is known of a patient with that ID or name; one of an earlier version is found by name after "
            f"`{command('db describe')}`"
        )
        return
    if not lines:
        typer.echo("nothing fits these filters; take one of them away")
    console = Console()
    if not console.is_terminal:  # a file or a program gets whole lines
        console.width = UNFOLDED
    table: RenderableType = archive_table(lines, names, tells)
    if lines:
        console.print(table)
    if rest is not None:
        typer.echo(f"there are more: --before {rest.text}")
