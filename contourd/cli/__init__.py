"""The command line: parse, call, print. Heavy imports stand inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from contourd import __version__
from contourd.cli.audit import audit
from contourd.cli.constancy import CONSTANCY_COMMANDS
from contourd.cli.contouring import contour, demo
from contourd.cli.database import DATABASE_COMMANDS
from contourd.cli.examples import EXAMPLES
from contourd.cli.installing import check, init
from contourd.cli.jobs import jobs
from contourd.cli.models import MODEL_COMMANDS
from contourd.cli.node import serve, status, worker
from contourd.cli.operating import alert, cancel, confirm, export, hold, recontour, release, replace, resend, retry
from contourd.cli.replaying import replay
from contourd.cli.reviews import reviews
from contourd.cli.routing import route
from contourd.cli.sending import accept, echo, send
from contourd.cli.shadows import shadows
from contourd.cli.statuses import status_of
from contourd.cli.training import RECIPE_COMMANDS, ablate, curate, evaluate, train
from contourd.errors import ContourdError, NodeError, SettingsError
from contourd.system.logs import guard_standard_error, traceback_text

FIRST_STEPS = (
    "First steps: contourd demo; or contourd init, contourd check, contourd accept DEST, contourd serve.\n"
    "Each command's --help has an example and its exit status; docs/commands.md has its --json."
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=FIRST_STEPS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# The panels of `contourd --help`, in their order.
COMMANDS: Mapping[str, tuple[Callable[..., Any], ...]] = {
    "Installation": (init, check, route, echo, send, accept),
    "Node": (serve, worker, status, shadows, audit, alert),
    "Jobs": (jobs, retry, release, replace, hold, confirm, cancel, resend, recontour, replay, export, reviews),
    "Contouring": (contour, demo),
    "Training": (curate, train, evaluate, ablate),
}


@dataclass(frozen=True, slots=True)
class CommandGroup:
    """Commands that share a first word, as ``contourd db backup``: their panel, what they are for, and they by verb."""

    panel: str
    about: str
    commands: Mapping[str, Callable[..., Any]]


GROUPS: Mapping[str, CommandGroup] = {
    "db": CommandGroup("Node", "Back up the database, restore it, change its version.", DATABASE_COMMANDS),
    "models": CommandGroup("Node", "List and verify the models, put one into use, take it back.", MODEL_COMMANDS),
    "constancy": CommandGroup(
        "Node", "Check daily that the reference patient is contoured as ever.", CONSTANCY_COMMANDS
    ),
    "recipe": CommandGroup("Training", "List the recipes of training, and show one.", RECIPE_COMMANDS),
}


def _below(name: str) -> str:
    """Return what stands below a command's help."""
    return f"Example: {EXAMPLES[name]}\n\n{status_of(name)}"


for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, epilog=_below(command.__name__))(command)
for name, group in GROUPS.items():
    within = typer.Typer(help=group.about)
    for verb, command in group.commands.items():
        within.command(verb, epilog=_below(f"{name} {verb}"))(command)
    app.add_typer(within, name=name, rich_help_panel=group.panel, no_args_is_help=True)


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
    guard_standard_error()
    # Every Python that this one starts would look into the folder in which it is started before the library.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        app(prog_name="contourd")
    except (SettingsError, NodeError) as error:
        sys.exit(_complain(error, 2))
    except ContourdError as error:
        sys.exit(_complain(error, 1))
    except BrokenPipeError:
        os._exit(141)
    except Exception as error:  # Python would print its text, which may quote the patient
        typer.echo(traceback_text(error), err=True)
        sys.exit(1)


def _complain(error: Exception, status: int) -> int:
    from contourd.system.logs import one_line

    for line in f"contourd: {error}".split("\n"):
        typer.echo(one_line(line), err=True)
    return status
