"""models commission: a model is measured on a site's own patients, and the record is signed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import ConfigOption, operator
from contourd.commands import command

if TYPE_CHECKING:
    from contourd.model.plausibility import OrganGeometry
    from contourd.models.records import CommissioningRecord, OrganFigures
    from trainer.evaluation import Evaluated, MetricSummary

Interval = tuple[float | None, float | None, float | None]


def commission(
    model: Annotated[str, typer.Argument(help="A bundle's folder, or a shipped model's name.")],
    dataset: Annotated[Path, typer.Argument(help="Data set of `contourd curate` that the model has not learnt from.")],
    output: Annotated[Path, typer.Option(help="Folder of the record.")],
    split: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    config: ConfigOption = None,
) -> None:
    """Measure a model on a data set, and sign its record.

    `contourd models activate` asks for it. Each case is contoured as the node does, written as a structure set, read
    back and compared.
    """
    import hashlib

    from contourd import __version__
    from contourd.errors import RecordInvalid
    from contourd.model.plausibility import distribution_of
    from contourd.models.records import RECORD_FILE, CommissioningRecord, write_record
    from contourd.settings import load_settings
    from contourd.spool.folder import Spool
    from contourd.system.clock import utc_now
    from trainer.evaluation import run_evaluation

    settings = load_settings(config)
    spool = Spool(settings.spool.root)
    evaluated = run_evaluation(model, dataset, output, split, settings.worker.device)
    bundle = evaluated.bundle
    if not evaluated.summary.organs:
        raise RecordInvalid(f"{evaluated.folder}: no case has an organ of {bundle.name} that a person drew")
    drawn = [list(organs) for organs in _drawn(evaluated)]
    record = CommissioningRecord(
        by=operator(),
        at=utc_now(),
        contourd=__version__,
        name=bundle.name,
        version=bundle.version,
        sha256=bundle.sha256,
        dataset=evaluated.folder.resolve().name if evaluated.folder == dataset else f"{dataset.resolve().name}/{split}",
        cases=evaluated.summary.cases,
        held=evaluated.summary.held,
        organs=_figures(evaluated, output),
        distribution=distribution_of(drawn, bundle.config.known_pairs),
        report_sha256=hashlib.sha256((output / "report.html").read_bytes()).hexdigest(),
    )
    write_record(output / RECORD_FILE, spool, record)
    (output / "record.html").write_text(_page(record), encoding="utf-8")
    for name, figures in record.organs.items():
        if figures.other_side:
            typer.echo(f"{name}: on the other side of the patient in {figures.other_side} cases")
    if unknown := [name for name in bundle.config.model.structures if name not in record.distribution]:
        typer.echo(
            f"too few patients for the usual size and place of {', '.join(unknown)}: only their sides are checked"
        )
    use = command("models activate", str(bundle.folder), "--record", str(output), "--reason", "WHY")
    typer.echo(
        f"{output / RECORD_FILE}: signed by {record.by}. Look at {output / 'record.html'}, and if it will do: {use}"
    )


def _drawn(evaluated: Evaluated) -> Iterator[Iterator[OrganGeometry]]:
    """Yield of each case the size and place of the organs that a person drew and the model knows."""
    from contourd.imaging.contours import MaskInBox
    from contourd.model.plausibility import organ
    from trainer.case import find_cases, read_case

    known = evaluated.bundle.config.model.structures
    for path in find_cases(evaluated.folder):
        case = read_case(path)
        z, y, x = case.volume.grid.shape
        whole = (slice(0, z), slice(0, y), slice(0, x))
        masks = ((name, mask) for name, mask in case.masks.items() if name in known)
        found = (organ(name, MaskInBox(whole, mask), case.volume.grid) for name, mask in masks)
        yield (one for one in found if one is not None)


def _figures(evaluated: Evaluated, output: Path) -> dict[str, OrganFigures]:
    from contourd.models.records import OrganFigures

    sides = _other_sides(evaluated, output)
    return {
        one.name: OrganFigures(
            cases=one.cases,
            found=one.found,
            other_side=sides.get(one.name, 0),
            dice=_interval(one.dice),
            surface_dice=_interval(one.surface_dice),
            hausdorff_95_mm=_interval(one.hausdorff_95_mm),
        )
        for one in evaluated.summary.organs
    }


def _interval(summary: MetricSummary) -> Interval:
    return summary.mean, summary.low, summary.high


def _other_sides(evaluated: Evaluated, output: Path) -> dict[str, int]:
    """Count for each organ the cases in which the model drew it on the other side of the patient."""
    from collections import Counter
    from math import inf

    from contourd.imaging.contours import MaskInBox
    from contourd.model.plausibility import assess, organ
    from contourd.model.remarks import RemarkCheck
    from contourd.model.sides import Sides
    from trainer.case import find_cases, read_case
    from trainer.evaluation import Results

    results, found = Results(output / "cases", evaluated.bundle), Counter[str]()
    sides = Sides(evaluated.bundle.config.known_pairs)
    for path in find_cases(evaluated.folder):
        grid = read_case(path).volume.grid
        whole = (slice(0, grid.shape[0]), slice(0, grid.shape[1]), slice(0, grid.shape[2]))
        masks = results.masks(path.stem)
        organs = [one for name in masks if (one := organ(name, MaskInBox(whole, masks[name]), grid)) is not None]
        found.update(f.structure for f in assess(organs, {}, inf, sides) if f.check is RemarkCheck.LATERALITY)
    return dict(found)


def _page(record: CommissioningRecord) -> str:
    """Return the record for people: what was measured, the usual size and place of each organ, and its sides."""
    from math import exp

    from markupsafe import Markup, escape

    rows = Markup("")
    for name, one in record.organs.items():
        spread = record.distribution.get(name)
        size = place = "too few patients"
        if spread is not None:
            volume = spread.log_volume_cc
            low, high = (exp(volume.median + sign * 2 * volume.sd) for sign in (-1, 1))
            size = f"{exp(volume.median):.1f} cc ({low:.1f} to {high:.1f})"
            place = "; ".join(
                f"{other} {', '.join(f'{axis.median:+.0f}' for axis in axes)} mm"
                for other, axes in list(spread.offsets_mm.items())[:3]
            )
        figures = (one.dice, one.surface_dice, one.hausdorff_95_mm)
        cells = (name, f"{one.found} of {one.cases}", *map(_told, figures), size, place, one.other_side or "none")
        rows += Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in cells))
    heads = ("organ", "found", "Dice", "surface Dice", "95 % Hausdorff mm", "volume as drawn by persons, with two "
             "standard deviations", "place from other organs (x, y, z, LPS)", "on the other side")  # fmt: skip
    return Markup(
        "<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        "<style>body{{font:15px sans-serif;margin:2em}}td,th{{text-align:left;padding:.3em .8em;vertical-align:top}}"
        "tr:nth-child(even){{background:#f3f3f3}}</style><h1>{title}</h1><p>Measured by {by}, {at:%Y-%m-%d %H:%M} UTC, "
        "with contourd {contourd}, on {cases} patients of {dataset}; {held} of them were held. Means with 95 % "
        "intervals over patients; pictures of the best and worst are in <a href='report.html'>the report</a>. The "
        "model's sha256 is {sha256}. record.json holds the same, signed with this site's key.</p>"
        "<table><tr>{heads}</tr>{rows}</table></html>\n"
    ).format(
        title=f"Commissioning record of {record.name} {record.version}",
        heads=Markup("").join(Markup("<th>{}</th>").format(head) for head in heads),
        rows=rows,
        **{key: escape(value) for key, value in record.model_dump(include=PLAIN).items()},
        at=record.at,
    )


PLAIN = {"by", "contourd", "cases", "dataset", "held", "sha256"}


def _told(interval: Interval) -> str:
    mean, low, high = interval
    if mean is None:
        return "-"
    return f"{mean:.3g}" + (f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else "")
