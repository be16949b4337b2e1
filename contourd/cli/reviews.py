"""The command that lists what planning systems made of the contours."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.audit import MOMENT_HELP, moment
from contourd.cli.options import ConfigOption, open_database, parse_row_number
from contourd.cli.output import JsonOption, tell

if TYPE_CHECKING:
    from contourd.reviews.records import OrganLine, ReviewLine


def reviews(
    config: ConfigOption = None,
    job: Annotated[int | None, typer.Option(help="Of one job.", callback=parse_row_number)] = None,
    organ: Annotated[str, typer.Option(help="Of one organ, by its TG-263 name.")] = "",
    since: Annotated[str, typer.Option(help=MOMENT_HELP)] = "",
    json: JsonOption = False,
) -> None:
    """Show what planning systems made of the contours.

    Of each structure set that came back, by organ. The newest is first.
    """
    from contourd.reviews.records import plain, read_reviews
    from contourd.settings import load_settings

    from_then = moment(since, datetime.now(UTC)) if since else None
    with open_database(load_settings(config)) as database:
        lines = read_reviews(database, job=job, organ=organ, since=from_then)
    tell({"reviews": [plain(line) for line in lines]}, "\n\n".join(map(_text, lines)) or "nothing came back", json)


def _text(line: ReviewLine) -> str:
    at = line.received_at.astimezone()
    whose = f"job {line.job}" if line.job is not None else "no job"
    said = [line.approval or "no approval", *([f"by {line.reviewer}"] if line.reviewer else [])]
    if line.hours is not None:
        said.append(f"{line.hours:.1f} h after delivery")
    if line.unchanged:
        said.append("unchanged")
    head = (
        f"{line.number}  {at:%Y-%m-%d %H:%M}  {line.state}  {whose}  {line.tps or line.calling_ae}: {', '.join(said)}"
    )
    if line.model:
        head += f"; {line.model} {line.model_version}" + (f" to {line.destination}" if line.destination else "")
    reason = [f"   {line.reason}"] if line.reason else []
    return "\n".join([head, *reason, *_table(line.organs)])


def _table(organs: tuple[OrganLine, ...]) -> list[str]:
    if not organs:
        return []
    heads = ("organ", "", "Dice", "surface Dice", "HD95 mm", "added path mm", "draft cc", "now cc", "")
    rows = [heads, *(_cells(organ) for organ in organs)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(heads) - 1)]
    return [_row(row, widths) for row in rows]


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return f"   {'  '.join([*padded, cells[-1]])}".rstrip()


def _cells(organ: OrganLine) -> tuple[str, ...]:
    name = organ.organ or f"({organ.roi or 'name left out'})"
    return (
        name if organ.roi in ("", organ.organ) or not organ.organ else f"{name} ({organ.roi})",
        organ.fate,
        _number(organ.dice, 3),
        _number(organ.surface_dice, 3),
        _number(organ.hausdorff_95_mm, 1),
        _number(organ.added_path_mm, 0),
        _number(organ.draft_cc, 1),
        _number(organ.reviewed_cc, 1),
        organ.remark,
    )


def _number(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"
