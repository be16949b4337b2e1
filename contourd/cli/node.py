"""Commands of the running node: serve, status."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.audit import MOMENT_HELP, moment
from contourd.cli.options import ConfigOption, open_database, operator, parse_row_number
from contourd.cli.output import UNFOLDED, JsonOption
from contourd.commands import command
from contourd.errors import NodeError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from contourd.observe.report import QueueReport, ReportFilter
    from contourd.settings import Settings

LONGEST_EXIT_S = 10.0


def serve(
    config: ConfigOption = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Contour nothing here: other hosts do, by `contourd worker`.")
    ] = False,
) -> None:
    """Run the node: receive CTs, contour them, send structure sets.

    It runs until SIGTERM or Ctrl-C.
    """
    from contourd.settings import load_settings, require_models
    from contourd.system.logs import set_up_logging

    settings = load_settings(config)
    if no_worker:
        none = settings.worker.model_copy(update={"devices": (), "processes": 0})
        settings = settings.model_copy(update={"worker": none})
    require_models(settings)
    _require_second_reader(settings)
    _require_segmentations(settings)
    _require_dicomweb(settings)
    set_up_logging()
    from contourd.node.daemon import Daemon
    from contourd.system.memory import use_one_arena
    from contourd.system.systemd import ServiceNotifier

    use_one_arena()
    daemon = Daemon(settings, notifier=ServiceNotifier.from_environment(os.environ, os.getpid()))
    try:
        daemon.run()
    except NodeError:
        _end_soon()
        raise


def worker(config: ConfigOption = None) -> None:
    """Contour the jobs of a node, and do nothing else.

    It opens no port and shows no page; it may run on as many hosts as there are.

    It runs until SIGTERM or Ctrl-C, and ends after the jobs under way.
    """
    from contourd.settings import load_settings
    from contourd.system.logs import set_up_logging

    settings = load_settings(config)
    _require_second_reader(settings)
    _require_segmentations(settings)
    _require_dicomweb(settings)
    set_up_logging()
    from contourd.node.worker_host import WorkerHost
    from contourd.system.systemd import ServiceNotifier

    WorkerHost(settings, ServiceNotifier.from_environment(os.environ, os.getpid())).run()


def _end_soon() -> None:
    """End the process, though Python waits for children and threads of its own: another is to be started."""
    last_resort = threading.Timer(LONGEST_EXIT_S, os._exit, [2])
    last_resort.daemon = True
    last_resort.start()


def _require_second_reader(settings: Settings) -> None:
    """Refuse at the start, not with every series, where a program is missing that the settings name."""
    from contourd.dicom.rtstruct.second_reader import second_reader_loads

    if settings.check.rt_utils and not second_reader_loads():
        raise SettingsError(
            "the configuration",
            ["check.rt_utils: rt-utils does not load; install contourd[check], which needs the system's libGL"],
        )


def _require_dicomweb(settings: Settings) -> None:
    """Do the same where a destination is reached by a url."""
    from contourd.dicom.web.availability import HOW_TO_INSTALL, can_speak_dicomweb

    wanting = [d.name for d in settings.destination if d.kind == "stow"]
    if wanting and not can_speak_dicomweb():
        problem = f"destination {wanting[0]}: kind: httpx, which speaks DICOMweb, is not installed"
        raise SettingsError("the configuration", [f"{problem}; {HOW_TO_INSTALL}"])


def _require_segmentations(settings: Settings) -> None:
    """Do the same where a destination is to get segmentations."""
    from contourd.dicom.segmentation.availability import HOW_TO_INSTALL, can_write_segmentations

    wanting = [d.name for d in settings.destination if "seg" in d.products]
    if wanting and not can_write_segmentations():
        problem = f"destination {wanting[0]}: products: highdicom, which writes segmentations, is not installed"
        raise SettingsError("the configuration", [f"{problem}; {HOW_TO_INSTALL}"])


def status(
    job: Annotated[
        int | None, typer.Argument(help="A job, in full; without it one line for each.", callback=parse_row_number)
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
    series: Annotated[
        int | None, typer.Option(help="A series that is received or held, in full.", callback=parse_row_number)
    ] = None,
    state: Annotated[list[str] | None, typer.Option(help="Only of this state, as HELD; may be repeated.")] = None,
    since: Annotated[str, typer.Option(help=f"Only what changed since. {MOMENT_HELP}")] = "",
    destination: Annotated[str, typer.Option(help="Only jobs that go to this destination.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many jobs, the open ones first.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
    show_patient: Annotated[
        bool, typer.Option("--show-patient", help="Names and IDs in the place of pseudonyms; it is audited.")
    ] = False,
) -> None:
    """Show what is received, queued, held and delivered."""
    from contourd.observe.report import ReportFilter
    from contourd.observe.status import read_status, to_json, with_patients
    from contourd.settings import load_settings

    settings = load_settings(config)
    chosen = ReportFilter(
        _states(state or ()), moment(since, datetime.now(UTC)) if since else None, destination, job, series
    )
    if show_patient:
        _audit(settings, "show patient", "", "status --show-patient")

    def read() -> QueueReport:
        report = read_status(settings, limit, chosen)
        return with_patients(report, settings) if show_patient else report

    if json:
        typer.echo(to_json(read(), settings))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a file or a program gets whole lines
        console.width = UNFOLDED
    if not watch:
        console.print(_shown(read(), settings, chosen))
        return
    import time

    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(_shown(read(), settings, chosen), refresh=True)
                time.sleep(2)
        except KeyboardInterrupt:
            return


def _shown(report: QueueReport, settings: Settings, chosen: ReportFilter) -> RenderableType:
    """Return the tables, or the job or series that was asked for.

    Raises
    ------
    NodeError
        There is none of that number.
    """
    from contourd.observe.status_tables import job_in_full, series_in_full, to_table

    now = datetime.now(UTC)
    if chosen.job is not None:
        if not report.jobs:
            raise NodeError(f"there is no job {chosen.job}; `{command('status')}` lists the newest")
        return job_in_full(report.jobs[0], now)
    if chosen.series is not None:
        if not report.series:
            raise NodeError(
                f"no series {chosen.series} is being received or held; `{command('status')}` lists those that are"
            )
        return series_in_full(report.series[0], now)
    return to_table(report, settings, now)


def _states(names: Sequence[str]) -> tuple[str, ...]:
    """Return states by their names, in capitals or not; raises NodeError for one that is none."""
    from contourd.store.states import JobState, SeriesState

    known = tuple(dict.fromkeys((*map(str, JobState), *map(str, SeriesState))))
    wanted = tuple(name.strip().upper() for name in names)
    if unknown := [name for name in wanted if name not in known]:
        raise NodeError(f"--state {unknown[0]}: no such state; there are {', '.join(known)}")
    return wanted


def _audit(settings: Settings, action: str, subject: str, detail: str) -> None:
    """Write who gives a command."""
    from contourd.store.audit import AuditEntry, AuditTrail

    with open_database(settings) as database:
        AuditTrail(database).record(AuditEntry(operator(), action, subject, detail))
