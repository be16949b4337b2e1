"""models import: an nnU-Net's results folder becomes a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import ConfigOption
from contourd.commands import command

if TYPE_CHECKING:
    from contourd.models.organ_map import LabelReading


def import_model(
    folder: Annotated[Path, typer.Argument(help="nnU-Net v2's results folder: dataset.json, plans.json, fold_*.")],
    name: Annotated[str, typer.Option(help="How routes shall call it.")],
    organs: Annotated[str, typer.Option(help="An organs.toml, or a map that ships, as totalsegmentator-total.")] = "",
    fold: Annotated[list[str] | None, typer.Option(help="0, 1, ... or all; by default those there are.")] = None,
    checkpoint: Annotated[str, typer.Option(help="final or best.")] = "final",
    version: Annotated[str, typer.Option(help="Of the model.")] = "1",
    output: Annotated[Path | None, typer.Option(help="The bundle's folder; by default its name.")] = None,
    config: ConfigOption = None,
) -> None:
    """Make a bundle of an nnU-Net's results folder.

    Its checkpoints are read once, as weights alone, in a process without network. Nothing is put into use.
    """
    from contourd.errors import NodeError
    from contourd.models.nnunet_import import CHECKPOINTS, ORGANS_FILE, ImportOrder, import_nnunet

    if checkpoint not in CHECKPOINTS:
        raise NodeError(f"--checkpoint {checkpoint}: it is one of {', '.join(CHECKPOINTS)}")
    target = output or Path(name)
    order = ImportOrder(folder, name, target, organs, tuple(fold or ()), checkpoint, version)
    made = import_nnunet(order, _reader(config))
    for label, one in made.organs.labels.items():
        may_be = f", perhaps {one.suggestion}" if one.suggestion else ""
        typer.echo(f"{label:<32} {one.organ or 'not contoured':<16} {one.sure}{may_be}")
    for left, right in made.bundle.config.known_pairs:
        typer.echo(f"pair: {left}, {right}")
    typer.echo(f"a CT of 200 slices of 512 x 512 takes at most {made.memory.host / 1e9:.1f} GB of memory")
    typer.echo(f"{made.bundle.identity.text()} lies in {target}, and is not in use")
    if not made.network:
        typer.echo("this system let nothing keep the process that read the checkpoints from the network", err=True)
    edited = str(target / ORGANS_FILE)
    again = command("models import", str(folder), "--name", name, "--organs", edited)
    measure = command("models commission", str(target), "DATASET", "--output", "RECORD")
    typer.echo(f"Look at {edited}; if you change it: {again}. Then measure it: {measure}", err=True)


def _reader(config: Path | None) -> Callable[[str], LabelReading]:
    """Return what reads a label by the catalogue, with the site's own organs where settings are given."""
    from contourd.model.site_structures import extended_catalogue
    from contourd.model.spellings import interpret, vocabulary_of
    from contourd.models.organ_map import LabelReading
    from contourd.settings import load_settings

    vocabulary = vocabulary_of(extended_catalogue(load_settings(config).structures.file)) if config else None

    def read(label: str) -> LabelReading:
        reading = interpret(label, vocabulary)
        return LabelReading(reading.organ or "", reading.certainty.value, reading.suggestion)

    return read
