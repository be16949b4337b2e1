"""The command line: parse, call, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from contourd import __version__
from contourd.cli.contouring import contour, demo
from contourd.cli.examples import EXAMPLES
from contourd.cli.installing import check, init
from contourd.cli.node import release, retry, serve, status
from contourd.cli.sending import accept, echo, send
from contourd.cli.training import ablate, curate, evaluate, train
from contourd.errors import ContourdError, NodeError, SettingsError

FIRST_STEPS = "First steps: contourd demo; or contourd init, contourd check, contourd accept DEST, contourd serve."

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=FIRST_STEPS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The panels of `contourd --help`, in their order.
COMMANDS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "Installation": (init, check, echo, send, accept),
    "Node": (serve, status, retry, release),
    "Contouring": (contour, demo),
    "Training": (curate, train, evaluate, ablate),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=f"Example: {EXAMPLES[command.__name__]}")(command)


def _tell_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"contourd {__version__}")
        raise typer.Exit


@app.callback()
def contourd(
    version: Annotated[  # its callback does all
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Tell the version and end.")
    ] = False,
) -> None:
    """Contours the organs at risk of head-and-neck CT series: a DICOM node."""


def main() -> None:
    """Run a command; an error of ours is one message on standard error and exit status 1, or 2 for the set-up."""
    try:
        app()
    except (SettingsError, NodeError) as error:
        sys.exit(_complain(error, 2))
    except ContourdError as error:
        sys.exit(_complain(error, 1))


def _complain(error: Exception, status: int) -> int:
    typer.echo(f"contourd: {error}", err=True)
    return status
