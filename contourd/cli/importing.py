"""models import: an nnU-Net's results folder becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    made = import_nnunet(order, _read_name)
    for label, one in made.organs.labels.items():
        may_be = f", perhaps {one.suggestion}" if one.suggestion else ""
        typer.echo(f"{label:<32} {one.organ or 'not contoured':<16} {one.sure}{may_be}")
    for left, right in made.bundle.config.known_pairs:
        typer.echo(f"pair: {left}, {right}")
    typer.echo(f"a CT of 200 slices of 512 x 512 takes at most {made.memory.host / 1e9:.1f} GB of memory")
    typer.echo(f"{made.bundle.identity.text()} lies in {target}, and is not in use")
    if not made.network:
        typer.echo("this system let nothing keep the process that read the checkpoints from the network", err=True)
    again, use = command("models import", str(folder)), command("models activate", str(target))
    typer.echo(
        f"Look at {target / ORGANS_FILE}; if you change it: {again} --name {name} --organs {target / ORGANS_FILE}. "
        f"Then commission it, and put it into use: {use}",
        err=True,
    )


def _read_name(label: str) -> LabelReading:
    from contourd.models.organ_map import LabelReading
    from trainer.names import interpret

    reading = interpret(label)
    return LabelReading(reading.organ or "", reading.certainty.value, reading.suggestion)
