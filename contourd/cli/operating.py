"""Commands that a person gives about one job or series; and a test of the alerts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import ConfigOption, OverrideOption, open_database, open_operations, parse_row_number
from contourd.cli.output import JsonOption, tell
from contourd.commands import command

if TYPE_CHECKING:
    from contourd.operations.operations import Operations

JobArgument = Annotated[int, typer.Argument(help="Number of the job.", callback=parse_row_number)]
ReasonOption = Annotated[str, typer.Option(help="Why; it is shown with the job and kept in the audit trail.")]


def retry(
    job: JobArgument, config: ConfigOption = None, override: OverrideOption = "", json: JsonOption = False
) -> None:
    """Contour a held or failed job again, or send what waits now.

    A cancelled job is taken up again.
    """
    with open_operations(config) as (operations, _):
        operations.retry(job, override)
        _tell("retry", job, operations, f"job {job} will be tried again", json)


def release(
    series: Annotated[int, typer.Argument(help="Number of the series.", callback=parse_row_number)],
    config: ConfigOption = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")] = "",
    json: JsonOption = False,
) -> None:
    """Examine a held series again.

    An interruption is forgiven, with a reason also refused images; a gap
    or a wrong image is held again.
    """
    with open_operations(config) as (operations, settings):
        text = operations.release_series(series, settings.series.gapped_s, reason)
        state = operations.series_state(series)
        tell({"action": "release", "series": series, "state": state, "told": text}, text, json)


def replace(
    series: Annotated[int, typer.Argument(help="Number of the series.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Take the images that came again with other content.

    They take the place of the earlier ones, all at once: after a patient was
    corrected at the source. It names what was sent of the earlier ones.
    """
    with open_operations(config) as (operations, settings):
        text = operations.replace_images(series, settings.series.gapped_s, reason)
        state = operations.series_state(series)
        tell({"action": "replace", "series": series, "state": state, "told": text}, text, json)


def hold(job: JobArgument, reason: ReasonOption, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Stop a job until `contourd retry`."""
    with open_operations(config) as (operations, _):
        operations.hold(job, reason)
        _tell("hold", job, operations, f"job {job} is held; `{command('retry', job)}` lets it go on", json)


def confirm(job: JobArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Confirm a job whose pictures you have seen: it is sent.

    For routes with `confirm = true`.
    """
    with open_operations(config) as (operations, _):
        operations.confirm(job)
        _tell("confirm", job, operations, f"job {job} is confirmed, and goes to its destinations", json)


def cancel(job: JobArgument, reason: ReasonOption, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End a job; what was delivered stays delivered."""
    with open_operations(config) as (operations, _):
        operations.cancel(job, reason)
        _tell("cancel", job, operations, f"job {job} is cancelled; `{command('retry', job)}` takes it up again", json)


def resend(
    job: JobArgument,
    destination: Annotated[str, typer.Option("--to", help="Name of the destination.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send a job's structure set to a destination, also once more."""
    with open_operations(config) as (operations, settings):
        profiles = {d.name: d.identities for d in settings.destination}
        operations.resend(job, destination, profiles)
        _tell("resend", job, operations, f"job {job} goes to {destination}", json)


def recontour(
    job: JobArgument,
    model: Annotated[list[str], typer.Option(help="A model's name, or a bundle's folder; several draw in turn.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Contour a job's series with another model, as a new job.

    It goes to the same destinations. Of several models the first that lists an organ draws it.
    """
    with open_operations(config) as (operations, _):
        made = operations.recontour(job, *model)
        _tell(
            "recontour", made, operations, f"job {made} contours the series of job {job} with {', '.join(model)}", json
        )


def export(
    job: JobArgument,
    output: Annotated[Path, typer.Option(help="The folder to make; one that is there is left as it is.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write a job's structure sets, and its CT if here, into a folder.

    Of a job that is held or waits for confirmation nothing is given out.
    It is audited.
    """
    from contourd.operations.exporting import note_export, prepare_export, refuse_present, write_export
    from contourd.transfer.copies import copies_of

    with open_operations(config) as (operations, settings), open_database(settings) as database:
        refuse_present(output)
        prepared = prepare_export(database, settings.spool.root, copies_of(settings.spool, database), job)
        note_export(operations, prepared, "to a folder")
        write_export(settings.spool.root, prepared, output)
        left_out = f"; without the images: {prepared.left_out}" if prepared.left_out else ""
        content = {
            "action": "export",
            "job": job,
            "folder": str(output),
            "files": [file.name for file in prepared.files],
            "left_out": prepared.left_out,
        }
        tell(content, f"{len(prepared.files)} files of job {job} are in {output}{left_out}", json)


def _tell(action: str, job: int, operations: Operations, text: str, json: bool) -> None:
    """Print what was done to a job, and its state now."""
    tell({"action": action, "job": job, "state": operations.job_state(job), "told": text}, text, json)


def alert(
    config: ConfigOption = None,
    json: JsonOption = False,
    again: Annotated[bool, typer.Option("--again", help="Have all that is still so be told again, too.")] = False,
) -> None:
    """Send a test alert by e-mail and webhook, as the settings say."""
    from contourd.observe.alerts import Alerts
    from contourd.settings import load_settings

    settings = load_settings(config)
    with open_database(settings) as database:
        alerts = Alerts(settings, database)
        reached = alerts.test()
        if again:
            alerts.forget()
    text = " and ".join(reached)
    nobody = "there is nobody to tell: set alerts.mail.host and recipients, or alerts.webhook"
    tell({"reached": reached}, f"a test alert was sent by {text}" if text else nobody, json)
