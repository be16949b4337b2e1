"""Commands that contour without a daemon: contour, demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import DeviceOption, OverrideOption, signed
from contourd.errors import NodeError
from contourd.profiles import PROFILES

if TYPE_CHECKING:
    from contourd.dicom.series import Instance


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
    order = Order(profiles=(PROFILES[profile],), override=signed(override))
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


def demo(
    ct: Annotated[Path | None, typer.Argument(help="A CT folder; the reference patient by default.")] = None,
    output: Annotated[Path, typer.Option(help="Where the picture and the structure set go.")] = Path("demo-output"),
) -> None:
    """Run a node on loopback, send it a CT, wait for the structure set and draw it."""
    from contourd.demo import run

    raise typer.Exit(run(ct, output))
