"""Commands that a person gives about one job: hold, confirm, cancel, resend, recontour; and a test of the alerts."""

from __future__ import annotations

from typing import Annotated

import typer

from contourd.cli.options import ConfigOption, opened_database, opened_operations

JobArgument = Annotated[int, typer.Argument(help="Number of the job.")]
ReasonOption = Annotated[str, typer.Option(help="Why; it is shown with the job and kept in the audit trail.")]


def hold(job: JobArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """Stop a job that is queued, contoured or sent until `contourd retry`."""
    with opened_operations(config) as (operations, _):
        operations.hold(job, reason)
    typer.echo(f"job {job} is held; `contourd retry {job}` lets it go on")


def confirm(job: JobArgument, config: ConfigOption = None) -> None:
    """Have a job sent whose pictures you have seen; for routes with confirm = true."""
    with opened_operations(config) as (operations, _):
        operations.confirm(job)
    typer.echo(f"job {job} is confirmed, and goes to its destinations")


def cancel(job: JobArgument, reason: ReasonOption, config: ConfigOption = None) -> None:
    """End a job; what was delivered stays delivered."""
    with opened_operations(config) as (operations, _):
        operations.cancel(job, reason)
    typer.echo(f"job {job} is cancelled; `contourd retry {job}` takes it up again")


def resend(
    job: JobArgument,
    destination: Annotated[str, typer.Option("--to", help="Name of the destination.")],
    config: ConfigOption = None,
) -> None:
    """Send a job's structure set to another destination, or again to one that has it."""
    with opened_operations(config) as (operations, settings):
        profiles = {d.name: d.structure_set_profile.identity() for d in settings.destination}
        operations.resend(job, destination, profiles)
    typer.echo(f"job {job} goes to {destination}")


def recontour(
    job: JobArgument,
    model: Annotated[str, typer.Option(help="Name of a shipped model, or folder of a bundle.")],
    config: ConfigOption = None,
) -> None:
    """Contour a job's series with another model: a job of its own, to the same destinations."""
    with opened_operations(config) as (operations, _):
        made = operations.recontour(job, model)
    typer.echo(f"job {made} contours the series of job {job} with {model}")


def alert(config: ConfigOption = None) -> None:
    """Send a test alert by every way that [alerts] names."""
    from contourd.alerting import Alerts
    from contourd.settings import load_settings

    settings = load_settings(config)
    with opened_database(settings) as database:
        reached = Alerts(settings, database).test()
    told = " and ".join(reached) or "nobody: set alerts.mail.host and recipients, or alerts.webhook"
    typer.echo(f"a test alert was sent by {told}" if reached else f"there is {told}")
