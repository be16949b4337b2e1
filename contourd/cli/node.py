"""Commands of the running node: serve, status."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import ConfigOption, opened_database, operator
from contourd.cli.output import JsonOption
from contourd.errors import SettingsError

if TYPE_CHECKING:
    from contourd.jobs.report import Report
    from contourd.settings import Settings


def serve(config: ConfigOption = None) -> None:
    """Run the node: receive CTs, contour them, send structure sets.

    It runs until SIGTERM or Ctrl-C.
    """
    from contourd.logs import set_up_logging
    from contourd.settings import load_settings, require_models

    settings = load_settings(config)
    require_models(settings)
    _require_second_reader(settings)
    set_up_logging()
    from contourd.daemon import Daemon
    from contourd.heap import share_one_arena
    from contourd.notify import ServiceNotifier

    share_one_arena()
    Daemon(settings, notifier=ServiceNotifier.from_environment(os.environ, os.getpid())).run()


def _require_second_reader(settings: Settings) -> None:
    """Say at the start, not with every series, that a program is missing which the settings name."""
    from contourd.dicom.rtstruct_second_reader import second_reader_loads

    if settings.check.rt_utils and not second_reader_loads():
        raise SettingsError(
            "the configuration",
            ["check.rt_utils: rt-utils does not load; install contourd[check], which needs the system's libGL"],
        )


def status(
    config: ConfigOption = None,
    json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Names and IDs in the place of pseudonyms; it is audited.")
    ] = False,
) -> None:
    """Show what is received, queued, held and delivered."""
    from contourd.settings import load_settings
    from contourd.status import read_status, to_json, to_table, with_patients

    settings = load_settings(config)
    if show_patient:
        _audit(settings, "show patient", "", "status --show-patient")

    def read() -> Report:
        report = read_status(settings)
        return with_patients(report, settings) if show_patient else report

    if json:
        typer.echo(to_json(read(), settings))
        return
    from rich.console import Console

    console = Console()
    if not watch:
        console.print(to_table(read(), settings, datetime.now(UTC)))
        return
    import time

    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(to_table(read(), settings, datetime.now(UTC)), refresh=True)
                time.sleep(2)
        except KeyboardInterrupt:
            return


def _audit(settings: Settings, action: str, subject: str, detail: str) -> None:
    """Write who gives a command."""
    from contourd.jobs.audit import AuditTrail, Deed

    with opened_database(settings) as database:
        AuditTrail(database).record(Deed(operator(), action, subject, detail))
