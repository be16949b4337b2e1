"""The command line: parse, call, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.errors import ContourdError, NodeError, SettingsError
from contourd.profiles import PROFILES

if TYPE_CHECKING:
    from contourd.dicom.series import Instance
    from contourd.jobs.database import Database
    from contourd.settings import Settings

app = typer.Typer(
    help="Contours the organs at risk of head-and-neck CT series: a DICOM node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration; else ./contourd.toml, then /etc/contourd/contourd.toml.")
]
OverrideOption = Annotated[
    str, typer.Option(metavar="REASON", help="Let the model run outside of its limits; the reason is kept.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Run a command; an error of ours is one message on standard error and exit status 1, or 2 for the set-up."""
    try:
        app()
    except (SettingsError, NodeError) as error:
        sys.exit(_complain(error, 2))
    except ContourdError as error:
        sys.exit(_complain(error, 1))
    except BrokenPipeError:
        os._exit(141)


def _complain(error: Exception, status: int) -> int:
    typer.echo(f"contourd: {error}", err=True)
    return status


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Listen for CT series, contour them and deliver the structure sets, until SIGTERM or Ctrl-C."""
    from contourd.logs import set_up_logging
    from contourd.settings import load_settings, require_models

    settings = load_settings(config)
    require_models(settings)
    _require_second_reader(settings)
    set_up_logging()
    from contourd.daemon import Daemon

    Daemon(settings).run()


def _require_second_reader(settings: Settings) -> None:
    """Say at the start, not with every series, that a program is missing which the settings name."""
    from contourd.dicom.rtstruct_second_reader import second_reader_loads

    if settings.check.rt_utils and not second_reader_loads():
        raise SettingsError(
            "the configuration",
            ["check.rt_utils: rt-utils does not load; install contourd[check], which needs the system's libGL"],
        )


@app.command()
def contour(
    ct_folder: Annotated[Path, typer.Argument(help="Folder with the CT series, searched to the bottom.")],
    output: Annotated[Path, typer.Option(help="The structure set to write.")],
    model: Annotated[str, typer.Option(help="A shipped model's name, or a bundle's folder.")] = "hn7",
    device: DeviceOption = "auto",
    series_uid: Annotated[str | None, typer.Option(help="Which series, where the folder holds several.")] = None,
    profile: Annotated[str, typer.Option(help=f"How it is written: {', '.join(PROFILES)}.")] = "strict",
    override: OverrideOption = "",
) -> None:
    """Contour one CT series of a folder, without a daemon."""
    from contourd.dicom.series import find_series

    if not ct_folder.is_dir():
        raise NodeError(f"{ct_folder} is no folder")
    if profile not in PROFILES:
        raise NodeError(f"there is no profile {profile!r}; there are: {', '.join(PROFILES)}")
    instances = _choose_series(find_series(ct_folder), ct_folder, series_uid)
    from contourd.contouring import Order, contour_series
    from contourd.dicom.rtstruct_write import save_structure_set
    from contourd.model.bundle import load_bundle
    from contourd.model.predictor import Predictor

    predictor = Predictor(load_bundle(model), device)
    order = Order(profiles=(PROFILES[profile],), override=_signed(override))
    with _stages() as report:
        contoured = contour_series(instances, predictor, order, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_structure_set(contoured.dataset, output)
    for roi in contoured.structures.rois:
        told = "" if roi.contours else "   not found"
        if roi.name in contoured.remarks.flagged:
            told = f"   CHECK: {contoured.remarks.flagged[roi.name]}"
        if roi.name in contoured.remarks.withheld:
            told = f"   withheld: {contoured.remarks.withheld[roi.name]}"
        typer.echo(f"{roi.name:<16} {roi.volume_cc:8.1f} cc{told}")
    typer.echo(f"{output}: AI generated, not reviewed")


def _choose_series(
    found: dict[str, tuple[Instance, ...]], folder: Path, series_uid: str | None
) -> tuple[Instance, ...]:
    if series_uid is not None:
        if series_uid not in found:
            raise NodeError(f"{folder} holds no series {series_uid}; it holds: {', '.join(found) or 'none'}")
        return found[series_uid]
    if not found:
        raise NodeError(f"{folder} holds no DICOM images")
    # The longest CT series; an equal length is decided by the UID, so that the choice never changes.
    taken = max(found, key=lambda uid: (found[uid][0].modality == "CT", len(found[uid]), uid))
    if len(found) > 1:
        typer.echo(f"{folder} holds {len(found)} series; taken: {taken}", err=True)
        for uid, instances in found.items():
            if uid != taken:
                told = f"{len(instances)} images, {instances[0].modality}, {instances[0].series_description!r}"
                typer.echo(f"  not taken: {uid} ({told}); choose it with --series-uid", err=True)
    return found[taken]


def _signed(override: str) -> str:
    """Add who gave the reason."""
    if not override.strip():
        return ""
    import getpass

    return f"{override.strip()} ({getpass.getuser()})"


@contextmanager
def _stages() -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar for each stage, on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=fraction)

        yield report


@app.command()
def status(
    config: ConfigOption = None,
    json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Show what is received, queued, held and delivered."""
    from contourd.settings import load_settings
    from contourd.status import read_status, to_json, to_table

    settings = load_settings(config)
    if json:
        typer.echo(to_json(read_status(settings), settings))
        return
    from rich.console import Console

    console = Console()
    if not watch:
        console.print(to_table(read_status(settings), settings, datetime.now(UTC)))
        return
    import time

    from rich.live import Live

    with Live(console=console, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(to_table(read_status(settings), settings, datetime.now(UTC)), refresh=True)
                time.sleep(2)
        except KeyboardInterrupt:
            return


@app.command()
def retry(
    job: Annotated[int, typer.Argument(help="Number of the job.")],
    config: ConfigOption = None,
    override: OverrideOption = "",
) -> None:
    """Try a held or failed job again, or send its waiting deliveries now."""
    from contourd.jobs.queue import Queue
    from contourd.settings import load_settings

    with _database(load_settings(config)) as database:
        Queue(database).retry(job, _signed(override))
    typer.echo(f"job {job} will be tried again")


@app.command()
def release(series: Annotated[int, typer.Argument(help="Number of the series.")], config: ConfigOption = None) -> None:
    """Have a held series examined again; an interruption is forgiven, a gap or a wrong image is not."""
    from contourd.jobs.intake import Intake
    from contourd.settings import load_settings

    settings = load_settings(config)
    with _database(settings) as database:
        Intake(database, settings.spool.root, settings.series, settings.route).release(series)
    typer.echo(f"series {series} will be examined again")


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    from contourd.jobs.database import Database

    database = Database(settings.database_url)
    try:
        database.check()
        yield database
    finally:
        database.close()


@app.command()
def curate(
    sources: Annotated[list[str], typer.Argument(help="Archives: PATH or NAME=PATH; DICOM, PDDCA, open-kbp, .npz.")],
    output: Annotated[Path, typer.Option(help="The data set; an earlier one is brought up to date.")],
    keep_chest: Annotated[bool, typer.Option("--keep-chest", help="Leave the volumes as long as they are.")] = False,
    keep_splits: Annotated[bool, typer.Option("--keep-splits", help="As the folders are called: train, ...")] = False,
    validation_share: Annotated[float, typer.Option(min=0, max=1, help="Of the patients.")] = 0.15,
    test_share: Annotated[float, typer.Option(min=0, max=1, help="Of the patients.")] = 0.15,
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    only_tell: Annotated[list[str] | None, typer.Option(help="Audit rule that is not to exclude.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Cases at a time.")] = 1,
) -> None:
    """Make a data set of a clinic's own archives, with a report and a file to correct the names in."""
    from trainer.audit import EXCLUDING
    from trainer.curate import Options, run
    from trainer.splits import Shares

    told = set(only_tell or ())
    rules = {rule.value for rule in EXCLUDING}
    if told - rules:
        raise typer.BadParameter(f"{', '.join(sorted(told - rules))}: choose from {', '.join(sorted(rules))}")
    kept = frozenset(rule for rule in EXCLUDING if rule.value not in told)
    shares = Shares(validation_share, test_share)
    run(sources, output, Options(keep_chest, keep_splits, shares, seed, workers, kept))


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Data set with train/ and validation/.")],
    output: Annotated[Path, typer.Option(help="The bundle to write; <output>.run keeps the checkpoint.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name (quick, paper, ...), or a file.")] = "hn7-4mm",
    initial: Annotated[str, typer.Option(help="Model to begin with, by name or folder.")] = "",
    device: DeviceOption = "auto",
) -> None:
    """Train a model; a run that was stopped goes on."""
    from trainer.fit import run

    run(dataset, output, recipe, initial, device)


@app.command()
def evaluate(
    bundle: Annotated[str, typer.Argument(help="A shipped model's name, or a bundle's folder.")],
    dataset: Annotated[Path, typer.Argument(help="Data set with the split, or a folder of cases.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the report; without it the table is printed.")] = None,
    split: Annotated[str, typer.Option(help="validation, test or train.")] = "validation",
    device: DeviceOption = "auto",
) -> None:
    """Measure a model through the structure set: contoured, written, read back and compared."""
    from trainer.evaluate import run

    run(bundle, dataset, output, split, device)


@app.command()
def ablate(
    grid: Annotated[str, typer.Argument(help="A shipped grid's name (paper, quick), or a TOML file.")],
    dataset: Annotated[Path, typer.Argument(help="Data set with train/ and validation/.")],
    output: Annotated[Path, typer.Option(help="Folder of the table and the runs.")],
    device: DeviceOption = "auto",
) -> None:
    """Train the variants of a grid with one budget and compare them in one table; goes on where it was stopped."""
    from trainer.ablate import run

    run(grid, dataset, output, device)


@app.command()
def demo(
    ct: Annotated[Path | None, typer.Argument(help="A CT folder; the reference patient by default.")] = None,
    output: Annotated[Path, typer.Option(help="Where the picture and the structure set go.")] = Path("demo-output"),
) -> None:
    """Run a node on loopback, send it a CT, wait for the structure set and draw it."""
    from contourd.demo import run

    raise typer.Exit(run(ct, output))
