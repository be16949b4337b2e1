"""Commands of the trainer: curate, train, evaluate, ablate."""

from __future__ import annotations

import json as json_format
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from contourd.cli.options import DeviceOption, StructuresOption
from contourd.cli.output import JsonOption, as_json, redirect_text


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
    structures: StructuresOption = None,
    json: JsonOption = False,
) -> None:
    """Make a data set of your own archives, with a report.

    A file beside the report takes your corrections of the names.
    """
    from trainer.curation import EXCLUDING, NAMES, REPORT, Options, Shares, run_curation

    named = set(only_tell or ())
    rules = {rule.value for rule in EXCLUDING}
    if named - rules:
        raise typer.BadParameter(f"{', '.join(sorted(named - rules))}: choose from {', '.join(sorted(rules))}")
    kept = frozenset(rule for rule in EXCLUDING if rule.value not in named)
    shares = Shares(validation_share, test_share)
    with redirect_text(json):
        curation = run_curation(
            sources, output, Options(keep_chest, keep_splits, shares, seed, workers, kept, structures)
        )
    if json:
        content = {
            "cases": len(curation.cases),
            "splits": dict(Counter(curation.splits.values())),
            "left_out": len(curation.refused),
            "excluded_organs": len(curation.exclusions),
            "twins": len(curation.twins),
            "open_names": curation.open_names,
            "names": str(output / NAMES),
            "report": str(output / REPORT),
        }
        typer.echo(as_json(content))


def train(
    dataset: Annotated[Path, typer.Argument(help="Data set with train/ and validation/.")],
    output: Annotated[Path, typer.Option(help="The bundle to write; <output>.run keeps the checkpoint.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe's name (quick, paper, ...), or a file.")] = "hn7",
    initial: Annotated[str, typer.Option(help="Model to begin with, by name or folder.")] = "",
    structures: StructuresOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="End after so many, at the latest.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Train a model; a run that was stopped goes on."""
    from contourd.model.site_structures import extended_catalogue
    from trainer.training import find_recipe, load_recipe, run_training

    config = load_recipe(find_recipe(recipe), extended_catalogue(structures) if structures else None)
    if initial:
        config = config.model_copy(update={"initial": initial})
    run_training(dataset, output, config, device, steps)


def list_recipes() -> None:
    """List the recipes that ship with contourd."""
    from trainer.training import find_recipe, recipe_names

    for name in recipe_names():
        first = find_recipe(name).read_text(encoding="utf-8").splitlines()[0]
        typer.echo(f"{name}: {first.removeprefix('#').strip()}")


def show_recipe(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a file.")],
) -> None:
    """Print a recipe, to be written into a file and changed."""
    from trainer.training import find_recipe, load_recipe

    path = find_recipe(recipe)
    load_recipe(path)
    typer.echo(path.read_text(encoding="utf-8"), nl=False)


RECIPE_COMMANDS: Mapping[str, Callable[..., None]] = {"list": list_recipes, "show": show_recipe}


def evaluate(
    bundle: Annotated[str, typer.Argument(help="A shipped model's name, or a bundle's folder.")],
    dataset: Annotated[Path, typer.Argument(help="Data set with the split, or a folder of cases.")],
    output: Annotated[Path | None, typer.Option(help="Folder of the report; without it the table is printed.")] = None,
    split: Annotated[str, typer.Option(help="validation, test or train.")] = "validation",
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Measure a model on a data set.

    Each case is contoured, written as a structure set, read back and compared.
    """
    from trainer.evaluation import run_evaluation

    with redirect_text(json):
        evaluated = run_evaluation(bundle, dataset, output, split, device)
    if json:
        measured = evaluated.bundle
        content = {
            "model": {"name": measured.name, "version": measured.version, "sha256": measured.sha256},
            "split": evaluated.split,
            "report": str(output / "report.html") if output else None,
            **json_format.loads(evaluated.summary.model_dump_json()),  # what is no number is null
        }
        typer.echo(as_json(content))


def ablate(
    grid: Annotated[str, typer.Argument(help="A shipped grid's name (paper, quick), or a TOML file.")],
    dataset: Annotated[Path, typer.Argument(help="Data set with train/ and validation/.")],
    output: Annotated[Path, typer.Option(help="Folder of the table and the runs.")],
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train variants with one budget and compare them in a table.

    A run that was stopped goes on.
    """
    from trainer.training import ABLATION_REPORT, run_ablation

    with redirect_text(json):
        rows = run_ablation(grid, dataset, output, device)
    if json:
        listed = [
            {
                "table": row.table,
                "variant": row.variant.name,
                "mean_dice": row.mean,
                "spread": row.spread,
                "failures": list(row.failures),
            }
            for row in rows
        ]
        typer.echo(as_json({"report": str(output / ABLATION_REPORT), "rows": listed}))
