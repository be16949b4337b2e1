"""Commands that call other nodes: echo, send, accept."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import CallingOption, ConfigOption, addressed, calling_title, settings_or_none
from contourd.errors import NodeError
from contourd.profiles import PROFILES

if TYPE_CHECKING:
    from contourd.acceptance import WrittenPhantom
    from contourd.acceptance_sheet import Delivered
    from contourd.dicom.send import Sent
    from contourd.settings import Destination

DestinationArgument = Annotated[
    str, typer.Argument(metavar="DEST", help="A destination of the settings by its name, or AE@host:port.")
]
SHOWN = 10
INTERRUPTED = 130


def echo(
    destination: Annotated[
        str | None,
        typer.Argument(metavar="[DEST]", help="A destination's name, AE@host:port, or self; by default all of them."),
    ] = None,
    config: ConfigOption = None,
    calling: CallingOption = None,
) -> None:
    """Ask a node by C-ECHO whether it is there; self asks this contourd's own port."""
    from contourd.checks.network import own_address
    from contourd.dicom.scu import StorageSCU
    from contourd.outcomes import OutcomeKind

    settings = settings_or_none(config)
    if settings is not None and destination == "self":
        own, caller = own_address(settings)
        asked = [(own, calling or caller)]
    elif settings is not None and destination is None:
        asked = [(peer, calling_title(calling, settings)) for peer in settings.destination]
    else:
        asked = [(addressed(destination or "", settings), calling_title(calling, settings))]
    failed = False
    for peer, caller in asked:
        began = time.monotonic()
        with _interruptible():
            outcome = StorageSCU(caller).echo(peer)
        if outcome.kind is OutcomeKind.ACCEPTED:
            typer.echo(f"{address_of(peer)} answers {caller} in {(time.monotonic() - began) * 1000:.0f} ms")
        else:
            failed = True
            typer.echo(f"contourd: {outcome.reason}", err=True)
    raise typer.Exit(1 if failed else 0)


@contextmanager
def _interruptible() -> Iterator[None]:
    """End at Ctrl-C: the threads of an association would wait for their time-outs before the process could end."""
    try:
        yield
    except KeyboardInterrupt:
        sys.stdout.flush()
        os._exit(INTERRUPTED)


def address_of(destination: Destination) -> str:
    """Name a destination in words."""
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def send(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, searched to the bottom; or one file.")],
    to: Annotated[str, typer.Option(metavar="DEST", help="A destination's name, or AE@host:port.")],
    calling: CallingOption = None,
    config: ConfigOption = None,
) -> None:
    """Send DICOM files as they are, once, and count the answers: a test sender."""
    from contourd.dicom.send import dicom_files

    if not folder.exists():
        raise NodeError(f"{folder} is not there")
    paths, others = dicom_files(folder)
    if not paths:
        raise NodeError(f"there is no DICOM file in {folder} ({len(others)} others)")
    settings = settings_or_none(config)
    peer = addressed(to, settings)
    results = transfer(paths, peer, calling_title(calling, settings))
    if others:
        typer.echo(f"{len(others)} files are no DICOM files and were not sent", err=True)
    typer.echo(f"{address_of(peer)}: {told(results)}")
    refused = [sent for sent in results if not sent.taken]
    for sent in refused[:SHOWN]:
        typer.echo(f"  {sent.path}: {sent.reason}", err=True)
    if len(refused) > SHOWN:
        typer.echo(f"  and {len(refused) - SHOWN} more", err=True)
    raise typer.Exit(1 if refused else 0)


def transfer(paths: tuple[Path, ...], peer: Destination, calling: str) -> list[Sent]:
    """Send files over one association, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from contourd.dicom.send import FileSender

    results: list[Sent] = []
    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _interruptible(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(paths))

        def report(sent: Sent) -> None:
            results.append(sent)
            progress.advance(task)

        FileSender(calling).send_files(paths, peer, report)
    return results


def told(results: list[Sent]) -> str:
    """Count the answers: how many files were taken, and each status or reason with its number."""
    taken = sum(sent.taken for sent in results)
    answers = Counter(
        f"0x{sent.status:04X}" if sent.status is not None else "not sent or not answered" for sent in results
    )
    counted = ", ".join(f"{answer}: {number}" for answer, number in sorted(answers.items()))
    return f"{taken} of {len(results)} files taken ({counted})"


def accept(
    destination: DestinationArgument,
    output: Annotated[Path, typer.Option(help="Folder of the files and the sheet.")] = Path("contourd-acceptance"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write everything and send nothing.")] = False,
    profile: Annotated[str, typer.Option(help=f"For AE@host:port: {', '.join(PROFILES)}.")] = "strict",
    config: ConfigOption = None,
    calling: CallingOption = None,
) -> None:
    """Send a phantom of known solids and write the sheet to check a planning system with."""
    from rich.console import Console

    from contourd.acceptance import POSITIONS, write_phantom
    from contourd.acceptance_sheet import Delivered, sheet_page, sheet_table

    if profile not in PROFILES:
        raise NodeError(f"there is no profile {profile!r}; there are: {', '.join(PROFILES)}")
    settings = settings_or_none(config)
    peer = addressed(destination, settings, profile)
    try:
        phantoms = [write_phantom(output / position, position, peer.structure_set_profile) for position in POSITIONS]
    except OSError as error:
        raise NodeError(f"{output} cannot be written: {error.strerror}; choose another --output") from error
    delivered, complete = [Delivered(phantom, "not sent (dry run)") for phantom in phantoms], True
    if not dry_run:
        delivered, complete = _deliver(phantoms, peer, calling_title(calling, settings))
    console = Console()
    console.print(sheet_table(peer.structure_set_profile))
    for one in delivered:
        typer.echo(f"{one.phantom.position}: {one.result}")
    sheet = output / "sheet.html"
    sheet.write_text(sheet_page(address_of(peer), peer.structure_set_profile, delivered), encoding="utf-8")
    typer.echo(f"sheet to tick off: {sheet}")
    raise typer.Exit(0 if complete else 1)


def _deliver(phantoms: list[WrittenPhantom], peer: Destination, calling: str) -> tuple[list[Delivered], bool]:
    """Send each CT, and its structure set as every other is sent; tells whether everything was taken."""
    from contourd.acceptance_sheet import Delivered
    from contourd.dicom.scu import StorageSCU
    from contourd.outcomes import OutcomeKind

    delivered, complete = [], True
    for phantom in phantoms:
        images = transfer(phantom.images, peer, calling)
        with _interruptible():
            outcome = StorageSCU(calling).deliver(phantom.structure_set, peer)
        taken = outcome.kind is OutcomeKind.ACCEPTED
        complete = complete and taken and all(image.taken for image in images)
        reasons = dict.fromkeys(image.reason for image in images if not image.taken)
        told_of = (
            f"structure set taken {outcome.reason}".strip() if taken else f"structure set not taken: {outcome.reason}"
        )
        delivered.append(Delivered(phantom, "; ".join([f"CT: {told(images)}", *reasons, told_of])))
    return delivered, complete
