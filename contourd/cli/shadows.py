"""The command that shows how shadows agree with what was sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.audit import MOMENT_HELP, moment
from contourd.cli.options import ConfigOption, open_database
from contourd.cli.output import JsonOption, as_json

if TYPE_CHECKING:
    from contourd.observe.shadows import OrganLine, Quartiles, ShadowReport


def shadows(
    config: ConfigOption = None,
    model: Annotated[str, typer.Option(help="Only this shadow: its name, or as route.shadow names it.")] = "",
    since: Annotated[str, typer.Option(help=f"{MOMENT_HELP} By default all.")] = "",
    json: JsonOption = False,
) -> None:
    """Show how shadow models agree with what was sent."""
    from contourd.observe.shadows import read_shadows, shadows_content
    from contourd.settings import load_settings

    from_ = moment(since, datetime.now(UTC)) if since else None
    with open_database(load_settings(config)) as database:
        report = read_shadows(database, model, from_)
    if json:
        typer.echo(as_json(shadows_content(report)))
    else:
        _show(report)


def _show(report: ShadowReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from contourd.system.logs import one_line

    console = Console(highlight=False, soft_wrap=True)
    console.print("shadows: " + ("  ".join(f"{s} {n}" for s, n in report.counts.items() if n) or "none yet"))
    for line in report.shadows:
        live = ", ".join(one.text() for one in line.live)
        title = f"{line.model.text()}, in {line.jobs} {'job' if line.jobs == 1 else 'jobs'}, beside {live}"
        console.print(Text(one_line(title), "bold"))
        table = Table(box=None, pad_edge=False)
        for name in ("organ", "both", "one alone", "Dice", "surface Dice", "HD95 mm", "volume", "least Dice in"):
            table.add_column(name, no_wrap=True)
        for organ in line.organs:
            table.add_row(*map(one_line, _cells(organ)))
        console.print(table)
    for one in report.troubles:
        text = f"job {one.job}: {one.model} {one.state}: {one.reason}"
        console.print(Text(one_line(text)))


def _cells(organ: OrganLine) -> tuple[str, ...]:
    alone = [f"{n} {who}" for n, who in ((organ.only_live, "live"), (organ.only_shadow, "shadow")) if n]
    return (
        organ.organ,
        str(organ.cases),
        ", ".join(alone),
        _told(organ.dice, 3),
        _told(organ.surface_dice, 3),
        _told(organ.hausdorff_95_mm, 1),
        _told(organ.volume, 2),
        ", ".join(f"job {case.job} ({case.dice:.3f})" for case in organ.worst),
    )


def _told(found: Quartiles | None, decimals: int) -> str:
    """Return the median, and the other quartiles in brackets."""
    if found is None:
        return ""
    return f"{found.median:.{decimals}f} ({found.first:.{decimals}f}-{found.third:.{decimals}f})"
