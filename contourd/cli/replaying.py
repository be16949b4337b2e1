"""The command that makes a job's structure sets again and compares: replay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.operating import JobArgument
from contourd.cli.options import ConfigOption, open_database, operator
from contourd.cli.output import JsonOption, as_json

if TYPE_CHECKING:
    from contourd.constancy.replay import OrganChange, OutputReplay, Replay
    from contourd.contour.provenance import Difference


def replay(
    job: JobArgument,
    config: ConfigOption = None,
    output: Annotated[Path | None, typer.Option(help="Keep the structure set that was made again.")] = None,
    today: Annotated[
        bool, typer.Option("--today", help="With the model and the settings of today, not those recorded.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Contour a job again and compare the bytes; nothing is sent."""
    from contourd.constancy.replay import ReplayBasis, Replayer
    from contourd.settings import load_settings
    from contourd.store.audit import AuditEntry, AuditTrail

    settings = load_settings(config)
    with open_database(settings) as database:
        result = Replayer(database, settings).replay(job, ReplayBasis.TODAY if today else ReplayBasis.RECORDED)
        detail = verdict(result) + ("; with the model and the settings of today" if today else "")
        AuditTrail(database).record(AuditEntry(operator(), "replay", f"job {job}", detail))
    kept = _keep(result, output) if output is not None else []
    if json:
        typer.echo(as_json(_content(result)))
    else:
        _show(result)
        for path in kept:
            typer.echo(f"{path}: made again, for comparison only")
    raise typer.Exit(0 if result.same else 1)


def verdict(result: Replay) -> str:
    """Return in a sentence how it ended."""
    if result.impossible:
        return f"it cannot be contoured again: {result.impossible}"
    if result.same:
        return "the same bytes"
    what = ", ".join(dict.fromkeys(one.what.partition(".")[0] for one in result.changed))
    return f"other bytes; what has changed: {what}" if what else "other bytes, and nothing that is recorded has changed"


def _show(result: Replay) -> None:
    before = result.before
    typer.echo(f"job {result.job_id}, contoured with {before.models_text} by contourd {before.contourd}")
    typer.echo(verdict(result))
    for one in result.changed:
        typer.echo(f"  {one.text()}")
    for output in result.outputs:
        if not output.same or output.note:
            typer.echo(f"{output.path}: {'the same bytes' if output.same else 'other bytes'}")
        if output.note:
            typer.echo(f"  {output.note}")
        for organ in output.organs:
            typer.echo(f"  {_organ(organ)}")
    if result.today and not result.impossible:
        typer.echo("today it would be contoured otherwise:")
        for one in result.today:
            typer.echo(f"  {one.text()}")


def _organ(organ: OrganChange) -> str:
    if organ.dice is None:
        return f"{organ.name:<16} in one of them only"
    return f"{organ.name:<16} Dice {organ.dice:.4f}, centroid moved by {organ.shift_mm:.2f} mm"


def _keep(result: Replay, output: Path) -> list[Path]:
    """Write what was made again; the second and further ones, for other destinations, beside it."""
    import os

    from contourd.errors import NodeError
    from contourd.system.durable_files import write_durably

    paths = []
    for number, made in enumerate(result.outputs, 1):
        path = output if number == 1 else output.with_stem(f"{output.stem}-{number}")
        try:
            write_durably(path.with_name(f".{path.name}.{os.getpid()}.partial"), path, [made.content])
        except OSError as error:
            raise NodeError(f"{path} cannot be written: {error.strerror}; choose another --output") from error
        paths.append(path)
    return paths


def _content(result: Replay) -> dict[str, Any]:
    return {
        "job": result.job_id,
        "same": result.same,
        "verdict": verdict(result),
        "impossible": result.impossible,
        "changed": [_difference(one) for one in result.changed],
        "today": [_difference(one) for one in result.today],
        "outputs": [_output(output) for output in result.outputs],
    }


def _difference(one: Difference) -> dict[str, str]:
    return {"what": one.what, "before": one.before, "now": one.now}


def _output(output: OutputReplay) -> dict[str, Any]:
    organs = [{"name": o.name, "dice": o.dice, "shift_mm": o.shift_mm} for o in output.organs]
    return {"path": output.path, "same": output.same, "note": output.note, "organs": organs}
