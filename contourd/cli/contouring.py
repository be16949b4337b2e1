"""Commands that contour without a daemon: contour, demo."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import (
    DeviceOption,
    OverrideOption,
    RuntimeOption,
    StructuresOption,
    known_profile,
    signed,
    worker_settings,
)
from contourd.cli.output import JsonOption, as_json
from contourd.errors import NodeError, SeriesUnusable
from contourd.profiles import PROFILES

if TYPE_CHECKING:
    from contourd.contour.drawing import ModelDrawing, ModelsInTurn
    from contourd.dicom.reading.series import Instance
    from contourd.imaging.contours import ROI
    from contourd.model.bundle_config import ModelBundle
    from contourd.model.model_use import ModelUse
    from contourd.model.predictor import Predictor
    from contourd.model.remarks import Remarks
    from contourd.settings import WorkerSettings


def contour(
    ct_folder: Annotated[Path, typer.Argument(help="Folder with the CT series, searched to the bottom.")],
    output: Annotated[Path, typer.Option(help="The structure set to write.")],
    model: Annotated[
        list[str], typer.Option(help="A shipped model's name, or a bundle's folder; several draw in turn.")
    ] = ["hn7"],  # noqa: B006
    device: DeviceOption = "auto",
    runtime: RuntimeOption = "auto",
    series_uid: Annotated[str | None, typer.Option(help="Which series, where the folder holds several.")] = None,
    profile: Annotated[str, typer.Option(help=f"How it is written: {', '.join(PROFILES)}.")] = "strict",
    override: OverrideOption = "",
    structures: StructuresOption = None,
    json: JsonOption = False,
) -> None:
    """Contour one CT series of a folder, without a node.

    Of several models the first that lists an organ draws it.
    """
    from contourd.dicom.reading.instance import survey_series

    if not ct_folder.is_dir():
        raise NodeError(f"{ct_folder} is no folder")
    chosen = known_profile(profile)
    found, unreadable = survey_series(ct_folder)
    instances = choose_series(found, unreadable, ct_folder, series_uid)
    from contourd.contour.contouring import ContouringOptions, contour_series
    from contourd.dicom.rtstruct.writer import save_structure_set
    from contourd.model.site_structures import site_colours

    models = _models(model, worker_settings(device, runtime))
    order = ContouringOptions(profiles=(chosen,), override=signed(override), colours=site_colours(structures))
    with _stages() as report:
        contoured = contour_series(instances, models, order, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    save_structure_set(contoured.dataset, output)
    organs = [
        _organ(roi, use, contoured.remarks)
        for use in contoured.models
        for roi in contoured.structures.rois
        if roi.name in use.organs
    ]
    if json:
        drew = [asdict(use.identity) for use in contoured.models if use.identity is not None]
        devices = dict.fromkeys(use.runtime.device for use in contoured.models if use.runtime is not None)
        content = {"output": str(output), "profile": profile, "series": instances[0].series_instance_uid,
                "images": len(instances), "model": drew[0], "models": drew, "device": ", ".join(devices),
                "organs": [asdict(organ) for organ in organs], "header": list(contoured.remarks.formal)}  # fmt: skip
        typer.echo(as_json(content))
        return
    for organ in organs:
        of = f"   {organ.model}" if len(model) > 1 else ""
        typer.echo(f"{organ.name:<16} {organ.volume_cc:8.1f} cc{of}{organ.words()}")
    for change in contoured.remarks.formal:
        typer.echo(f"header: {change}")
    typer.echo(f"{output}: AI generated, not reviewed")


@dataclass(frozen=True, slots=True)
class OrganSummary:
    """What became of one organ: drawn, to be checked (check), not found, or withheld, and why."""

    name: str
    volume_cc: float
    state: str
    reason: str
    model: str

    def words(self) -> str:
        """Return it for the end of the organ's line."""
        named = {"drawn": "", "not found": "   not found", "check": "   CHECK: ", "withheld": "   withheld: "}
        return named[self.state] + self.reason


def _models(names: Sequence[str], settings: WorkerSettings) -> Predictor | ModelsInTurn:
    """Return what contours; of several each is loaded in its turn, and the one before it is given back."""
    from contourd.contour.drawing import ModelInTurn, ModelsInTurn
    from contourd.model.bundle import load_bundle
    from contourd.model.model_use import ModelUse
    from contourd.models.runtimes import make_predictor, user_cache

    bundles = [load_bundle(name) for name in names]
    if len(bundles) == 1:
        return make_predictor(bundles[0], settings, user_cache())

    def run(bundle: ModelBundle, call: Callable[[Predictor], ModelDrawing]) -> ModelDrawing:
        return call(make_predictor(bundle, settings, user_cache()))

    turns = [
        ModelInTurn(ModelUse(name, bundle.identity), partial(run, bundle))
        for name, bundle in zip(names, bundles, strict=True)
    ]
    return ModelsInTurn(tuple(turns))


def _organ(roi: ROI, use: ModelUse, remarks: Remarks) -> OrganSummary:
    state, reason = ("drawn" if roi.contours else "not found"), ""
    if roi.name in remarks.flagged:
        state, reason = "check", remarks.flagged[roi.name]
    if roi.name in remarks.withheld:
        state, reason = "withheld", remarks.withheld[roi.name]
    return OrganSummary(roi.name, round(roi.volume_cc, 2), state, reason, use.name)


def choose_series(
    found: dict[str, tuple[Instance, ...]],
    unreadable: dict[Path, SeriesUnusable],
    folder: Path,
    series_uid: str | None,
) -> tuple[Instance, ...]:
    """Choose a series; a file that cannot be read refuses it where it is of that series, or may be and none is named.

    Raises
    ------
    NodeError
        There is no such series.
    SeriesUnusable
        An image of it cannot be read.
    """
    from contourd.dicom.reading.instance import series_of

    of_series = {path: series_of(path) for path in unreadable}
    for path, of in of_series.items():
        if not found or (series_uid is not None and of == series_uid):
            raise unreadable[path]
    chosen = _chosen(found, folder, series_uid)
    for path, of in of_series.items():
        if of == chosen[0].series_instance_uid or (not of and series_uid is None):
            raise unreadable[path]
        text = f"of series {of}" if of else f"of which series cannot be told; {len(chosen)} images are taken"
        typer.echo(f"not read: {unreadable[path]} ({text})", err=True)
    return chosen


def _chosen(found: dict[str, tuple[Instance, ...]], folder: Path, series_uid: str | None) -> tuple[Instance, ...]:
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
                text = f"{len(instances)} images, {instances[0].modality}, {instances[0].series_description!r}"
                typer.echo(f"  not taken: {uid} ({text}); choose it with --series-uid", err=True)
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
    """Try it: run a node here, send it a CT, draw what comes back."""
    from contourd.acceptance.demo import run

    raise typer.Exit(run(ct, output))
