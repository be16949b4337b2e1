"""Commands that call other nodes: echo, send, accept."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contourd.cli.options import CallingOption, ConfigOption, addressed, calling_title, known_profile, settings_or_none
from contourd.cli.output import JsonOption, as_json
from contourd.errors import NodeError
from contourd.profiles import PROFILES
from contourd.system.logs import one_line

if TYPE_CHECKING:
    from contourd.acceptance.phantom import WrittenPhantom
    from contourd.acceptance.sheet import PhantomDelivery
    from contourd.dicom.network.sender import FileResult
    from contourd.settings import Destination

DestinationArgument = Annotated[
    str, typer.Argument(metavar="DEST", help="A destination of the settings by its name, or AE@host:port.")
]
SHOWN = 10
NO_ANSWER = "not sent or not answered"
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class EchoResult:
    """What a node said to a C-ECHO; ``reason``: why it did not answer as it should."""

    peer: Destination
    answers: bool
    took_s: float
    reason: str


def echo(
    destination: Annotated[
        str | None,
        typer.Argument(metavar="[DEST]", help="A destination's name, AE@host:port, or self; by default all of them."),
    ] = None,
    config: ConfigOption = None,
    calling: CallingOption = None,
    json: JsonOption = False,
) -> None:
    """Ask nodes by C-ECHO whether they are there.

    Without DEST every destination of the settings is asked; self is this contourd's own port.
    """
    from contourd.checks.network import own_address

    settings = settings_or_none(config)
    if settings is not None and destination == "self":
        own, caller = own_address(settings)
        peers: tuple[Destination, ...] = (own,)
        caller = calling or caller
    elif settings is not None and destination is None:
        peers, caller = settings.destination, calling_title(calling, settings)
    else:
        peers, caller = (addressed(destination or "", settings),), calling_title(calling, settings)
    answers = []
    for peer in peers:
        answers.append(_asked(peer, caller))
        if not json:
            _tell_answer(answers[-1], caller)
    if json:
        asked = [
            {**_address(a.peer), "answers": a.answers, "ms": round(a.took_s * 1000), "reason": a.reason}
            for a in answers
        ]
        typer.echo(as_json({"calling_ae": caller, "destinations": asked}))
    raise typer.Exit(0 if all(a.answers for a in answers) else 1)


def _asked(peer: Destination, caller: str) -> EchoResult:
    from contourd.delivery.senders import Senders
    from contourd.dicom.network.outcomes import OutcomeKind

    began = time.monotonic()
    with _interruptible():
        outcome = Senders(caller).echo(peer)
    return EchoResult(peer, outcome.kind is OutcomeKind.ACCEPTED, time.monotonic() - began, outcome.reason)


def _tell_answer(answer: EchoResult, caller: str) -> None:
    if answer.answers:
        typer.echo(f"{address_of(answer.peer)} answers {caller} in {answer.took_s * 1000:.0f} ms")
    else:
        typer.echo(f"contourd: {answer.reason}", err=True)


def _address(peer: Destination) -> dict[str, object]:
    return {"name": peer.name, "ae_title": peer.ae_title, "host": peer.host, "port": peer.port}


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
    if destination.kind == "stow":
        return f"{destination.name} ({destination.url})"
    return f"{destination.name} ({destination.ae_title} at {destination.host}:{destination.port})"


def send(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, searched to the bottom; or one file.")],
    to: Annotated[str, typer.Option(metavar="DEST", help="A destination's name, or AE@host:port.")],
    calling: CallingOption = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Send DICOM files as a scanner would, to test a node.

    Each goes once and as it is, and the answers are counted.
    """
    from contourd.dicom.network.sender import dicom_files

    if not folder.exists():
        raise NodeError(f"{folder} is not there")
    paths, left_out = dicom_files(folder)
    if not paths:
        first = next((f"; {path} {reason}" for path, reason in left_out.items()), "")
        raise NodeError(f"there is no DICOM file in {folder} ({len(left_out)} others{first})")
    settings = settings_or_none(config)
    peer = addressed(to, settings)
    results = transfer(paths, peer, calling_title(calling, settings))
    if json:
        typer.echo(as_json(_counted(peer, results, left_out)))
    else:
        _tell_sent(peer, results, left_out)
    raise typer.Exit(0 if all(sent.taken for sent in results) else 1)


def _counted(peer: Destination, results: list[FileResult], left_out: Mapping[Path, str]) -> dict[str, object]:
    refused = [
        {"file": str(sent.path), "status": _status(sent), "reason": sent.reason} for sent in results if not sent.taken
    ]
    return {
        "destination": _address(peer),
        "files": len(results),
        "taken": sum(sent.taken for sent in results),
        "not_dicom": len(left_out),
        "left_out": [{"file": str(path), "reason": reason} for path, reason in left_out.items()],
        "answers": dict(sorted(Counter(_status(sent) for sent in results).items())),
        "refused": refused,
    }


def _status(sent: FileResult) -> str:
    return f"0x{sent.status:04X}" if sent.status is not None else NO_ANSWER


def _tell_sent(peer: Destination, results: list[FileResult], left_out: Mapping[Path, str]) -> None:
    if left_out:
        typer.echo(f"{len(left_out)} files are no DICOM files to be sent, and were left out:", err=True)
        _tell_some([f"{path} {reason}" for path, reason in left_out.items()])
    typer.echo(f"{address_of(peer)}: {results_text(results)}")
    _tell_some([f"{sent.path}: {sent.reason}" for sent in results if not sent.taken])


def _tell_some(lines: list[str]) -> None:
    for line in lines[:SHOWN]:
        typer.echo(f"  {one_line(line)}", err=True)  # a name may be any bytes
    if len(lines) > SHOWN:
        typer.echo(f"  and {len(lines) - SHOWN} more; --json names all of them", err=True)


def transfer(paths: tuple[Path, ...], peer: Destination, calling: str) -> list[FileResult]:
    """Send files over one association, with a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from contourd.dicom.network.sender import FileSender

    console = Console(stderr=True)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _interruptible(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=len(paths))
        if peer.kind == "stow":
            return _by_stow(paths, peer, lambda: progress.advance(task))
        return FileSender(calling).send_files(paths, peer, lambda: progress.advance(task))


def _by_stow(paths: tuple[Path, ...], peer: Destination, done: Callable[[], None]) -> list[FileResult]:
    """Send each file by a request of its own, and say what became of it as of one that was sent by C-STORE."""
    from contourd.dicom.network.outcomes import OutcomeKind
    from contourd.dicom.network.sender import SUCCESS, FileResult
    from contourd.dicom.web.stow import StowSender

    results = []
    for path in paths:
        outcome = StowSender().deliver(path, peer)
        taken = outcome.kind is OutcomeKind.ACCEPTED
        results.append(FileResult(path, SUCCESS if taken else outcome.status, outcome.reason))
        done()
    return results


def results_text(results: list[FileResult]) -> str:
    """Count the answers: how many files were taken, and each status or reason with its number."""
    taken = sum(sent.taken for sent in results)
    answers = Counter(_status(sent) for sent in results)
    counted = ", ".join(f"{answer}: {number}" for answer, number in sorted(answers.items()))
    return f"{taken} of {len(results)} files taken ({counted})"


def accept(
    destination: DestinationArgument,
    output: Annotated[Path, typer.Option(help="Folder of the files and the sheet.")] = Path("contourd-acceptance"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write everything and send nothing.")] = False,
    profile: Annotated[str, typer.Option(help=f"For AE@host:port: {', '.join(PROFILES)}.")] = "strict",
    config: ConfigOption = None,
    calling: CallingOption = None,
    json: JsonOption = False,
) -> None:
    """Send a phantom and write the sheet to accept a planning system."""
    from rich.console import Console

    from contourd.acceptance.phantom import POSITIONS, write_phantom
    from contourd.acceptance.sheet import PhantomDelivery, sheet_page, sheet_table

    settings = settings_or_none(config)
    peer = addressed(destination, settings, known_profile(profile).name)
    try:
        phantoms = [write_phantom(output / position, position, peer.structure_set_profile) for position in POSITIONS]
    except OSError as error:
        raise NodeError(f"{output} cannot be written: {error.strerror}; choose another --output") from error
    delivered = [PhantomDelivery(phantom, "not sent (dry run)") for phantom in phantoms]
    if not dry_run:
        delivered = _deliver(phantoms, peer, calling_title(calling, settings))
    sheet = output / "sheet.html"
    sheet.write_text(sheet_page(address_of(peer), peer.structure_set_profile, delivered), encoding="utf-8")
    complete = all(one.is_complete for one in delivered)
    if json:
        content = {
            "destination": _address(peer),
            "profile": peer.structure_set_profile.name,
            "dry_run": dry_run,
            "complete": complete,
            "sheet": str(sheet),
            "phantoms": [_of_phantom(one) for one in delivered],
        }
        typer.echo(as_json(content))
    else:
        Console().print(sheet_table(peer.structure_set_profile))
        for one in delivered:
            typer.echo(f"{one.phantom.position}: {one.result}")
        typer.echo(f"sheet to tick off: {sheet}")
    raise typer.Exit(0 if complete or dry_run else 1)


def _of_phantom(one: PhantomDelivery) -> dict[str, object]:
    return {
        "position": one.phantom.position,
        "folder": str(one.phantom.structure_set.parent),
        "images": len(one.phantom.images),
        "images_taken": one.images_taken,
        "structure_set_taken": one.structure_set_taken,
        "told": one.result,
    }


def _deliver(phantoms: list[WrittenPhantom], peer: Destination, calling: str) -> list[PhantomDelivery]:
    """Send each CT, and its structure set as every other is sent."""
    from contourd.acceptance.sheet import PhantomDelivery
    from contourd.delivery.senders import Senders
    from contourd.dicom.network.outcomes import OutcomeKind

    delivered = []
    for phantom in phantoms:
        images = transfer(phantom.images, peer, calling)
        with _interruptible():
            outcome = Senders(calling).deliver(phantom.structure_set, peer)
        taken = outcome.kind is OutcomeKind.ACCEPTED
        reasons = dict.fromkeys(image.reason for image in images if not image.taken)
        told_of = (
            f"structure set taken {outcome.reason}".strip() if taken else f"structure set not taken: {outcome.reason}"
        )
        words = "; ".join([f"CT: {results_text(images)}", *reasons, told_of])
        delivered.append(PhantomDelivery(phantom, words, sum(image.taken for image in images), taken))
    return delivered
