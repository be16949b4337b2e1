"""Commands of the constancy check: baseline, run, show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.options import ConfigOption, open_database, operator
from contourd.cli.output import JsonOption, as_json
from contourd.commands import command
from contourd.errors import BaselineInvalid, ConstancyFailed, NodeError

if TYPE_CHECKING:
    from contourd.settings import Settings
    from contourd.store.constancy_standing import ConstancyCheck

LOOK_S = 0.5
# The node needs some seconds to begin and to end a check.
LONGER_S = 180.0


def baseline(config: ConfigOption = None) -> None:
    """Make a new baseline, after acceptance or a change of model.

    The running node sends itself the reference patient, once for each model that a route names.
    """
    from contourd.settings import load_settings
    from contourd.store.constancy_standing import BASELINE

    settings = load_settings(config)
    made = _done(settings, BASELINE)
    if made.reason:
        raise ConstancyFailed(f"no baseline was made: {made.reason}")
    _show_models(made, compared=False)
    typer.echo(f"the baseline is made and signed, by {made.actor}; {command('constancy run')} compares with it")


def run(config: ConfigOption = None) -> None:
    """Ask the running node to check itself now."""
    from contourd.settings import load_settings
    from contourd.store.constancy_standing import BASELINE_FILE, CHECK

    settings = load_settings(config)
    if not (settings.spool.root / BASELINE_FILE).exists():
        raise BaselineInvalid(f"no baseline: {command('constancy baseline')} makes one")
    check = _done(settings, CHECK)
    _show_models(check, compared=True)
    for remark in check.result.remarks:
        typer.echo(f"remark: {remark}")
    typer.echo(f"constancy {check.id}: {check.state}{f': {check.reason}' if check.reason else ''}")
    raise typer.Exit(1 if check.reason else 0)


def _done(settings: Settings, purpose: str) -> ConstancyCheck:
    """Ask the node for a check and wait for its end.

    Raises
    ------
    NodeError
        Nobody serves the spool.
    ConstancyFailed
        The node does not end it in its time.
    """
    from contourd.constancy.requests import ConstancyChecks
    from contourd.spool.access import is_served
    from contourd.store.constancy_standing import OPEN

    with open_database(settings) as database:
        if not is_served(settings.spool.root):
            raise NodeError(
                f"no contourd serves {settings.spool.root}; start it with `{command('serve')}`, and try again"
            )
        checks = ConstancyChecks(database)
        number = checks.request(operator(), purpose)
        typer.echo(f"constancy {purpose} {number} is under way; the reference patient goes through the node", err=True)
        deadline = time.monotonic() + settings.constancy.timeout_s + LONGER_S
        while (check := checks.get(number)).state in OPEN:
            if time.monotonic() > deadline:
                raise ConstancyFailed(f"the node has not ended constancy {number}; look at the log of contourd")
            time.sleep(LOOK_S)
        return check


def _show_models(check: ConstancyCheck, compared: bool) -> None:
    for model in check.result.models:
        typer.echo(f"{model.name} {model.version}, sha256 {model.sha256[:12]}, on {check.result.device}")
        for name, organ in model.organs.items():
            shift = "one is empty" if organ.shift_mm is None else f"centroid moved by {organ.shift_mm:.3f} mm"
            typer.echo(f"  {name:<16} Dice {organ.dice:.4f}   {shift}" if compared else f"  {name}")
        before = f" (baseline {model.baseline_seconds:.1f} s)" if compared else ""
        typer.echo(f"  {model.seconds:.1f} s to send, contour and deliver{before}")


def show(
    config: ConfigOption = None,
    last: Annotated[int, typer.Option(min=1, help="How many checks and baselines are listed.")] = 14,
    json: JsonOption = False,
) -> None:
    """Show how the check stands, and the last ones."""
    from datetime import UTC, datetime

    from contourd.constancy.requests import ConstancyChecks
    from contourd.observe.status import constancy_content
    from contourd.observe.status_tables import constancy_text
    from contourd.settings import load_settings
    from contourd.store.constancy_standing import read_constancy

    settings = load_settings(config)
    with open_database(settings) as database:
        now = datetime.now(UTC)
        standing, checks = read_constancy(database, settings, now), ConstancyChecks(database).history(last)
    if json:
        content = constancy_content(standing) | {"checks": [_content(check) for check in checks]}
        typer.echo(as_json(content))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(constancy_text(standing, now))
    for check in checks:
        at = (check.started_at or check.requested_at).astimezone()
        text = "; ".join(filter(None, [check.reason, *check.result.remarks])) or _figures(check)
        state = "MADE" if check.purpose == "baseline" and check.state == "GREEN" else str(check.state)
        console.print(f"{check.id:>5}  {at:%Y-%m-%d %H:%M}  {check.purpose:<8}  {state:<9}  {check.actor:<12}  {text}")


def _figures(check: ConstancyCheck) -> str:
    """Put the figures of a check in a few words."""
    if check.purpose == "baseline":
        return ", ".join(f"{m.name} {m.version}, {m.seconds:.1f} s" for m in check.result.models)
    return ", ".join(f"{m.name}: least Dice {m.least_dice:.4f}, {m.seconds:.1f} s" for m in check.result.models)


def _content(check: ConstancyCheck) -> Mapping[str, Any]:
    def iso(at: Any) -> str | None:
        return at.isoformat() if at else None

    return {
        "id": check.id,
        "purpose": check.purpose,
        "state": str(check.state),
        "actor": check.actor,
        "reason": check.reason,
        "started_at": iso(check.started_at),
        "ended_at": iso(check.ended_at),
        **check.result.model_dump(mode="json"),
    }


CONSTANCY_COMMANDS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {"baseline": baseline, "run": run, "show": show}
)
