"""The command line: parse, call, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import typer

from contourd.cli.contouring import contour, demo
from contourd.cli.node import release, retry, serve, status
from contourd.cli.operating import alert, cancel, confirm, hold, recontour, resend
from contourd.cli.training import ablate, curate, evaluate, train
from contourd.errors import ContourdError, NodeError, SettingsError

app = typer.Typer(
    help="Contours the organs at risk of head-and-neck CT series: a DICOM node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The panels of `contourd --help`, in their order.
COMMANDS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "Node": (serve, status, retry, release, alert),
    "Jobs": (hold, confirm, cancel, resend, recontour),
    "Contouring": (contour, demo),
    "Training": (curate, train, evaluate, ablate),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


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
