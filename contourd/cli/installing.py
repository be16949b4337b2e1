"""Commands of an installation: init, check."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.options import ConfigOption
from contourd.cli.output import UNFOLDED, JsonOption, as_json
from contourd.commands import command
from contourd.errors import ContourdError, NodeError, SettingsError
from contourd.profiles import PROFILES

if TYPE_CHECKING:
    from contourd.checks.finding import CheckFinding, InstallationCheck
    from contourd.settings.configuration import SiteAnswers

log = logging.getLogger(__name__)


def init(
    output: Annotated[Path, typer.Option(help="The configuration to write.")] = Path("contourd.toml"),
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing and take the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a commented configuration after a few questions."""
    from contourd.settings.configuration import SiteAnswers, write_configuration

    if output.exists() and not force:
        raise NodeError(f"{output} is there already and was left as it is; choose another --output, or --force")
    write_configuration(output, SiteAnswers() if yes else _ask(SiteAnswers()), replace=force)
    typer.echo(f"{output} is written; look through it, then run: {command('check', '--config', str(output))}")


def _ask(default: SiteAnswers) -> SiteAnswers:
    """Ask for what differs from site to site; an answer that is not valid is asked for again."""
    from dataclasses import replace

    from contourd.settings import Destination, NodeSettings

    node, peer = NodeSettings, Destination
    ae_title = _answer("AE title of this node", default.ae_title, node, "ae_title")
    port = _answer("port to listen on", default.port, node, "port")
    callers = _callers()
    spool = typer.prompt("folder for received images and the queue", default.spool)
    typer.echo("Where do the structure sets go? More destinations can be added to the file.")
    answers = replace(
        default,
        ae_title=ae_title,
        port=port,
        allowed_callers=callers,
        spool=str(Path(spool).expanduser()),
        destination=_answer("its name here", default.destination, peer, "name"),
        destination_ae_title=_answer("its AE title", default.destination_ae_title, peer, "ae_title"),
        destination_host=_answer("its host", default.destination_host, peer, "host"),
        destination_port=_answer("its port", default.destination_port, peer, "port"),
    )
    return replace(answers, profile=_answer(f"its profile ({', '.join(PROFILES)})", default.profile, peer, "profile"))


def _answer(question: str, default: Any, section: Any, key: str) -> Any:
    """Ask until the answer is valid for a key of the settings."""
    return typer.prompt(question, default, value_proc=lambda text: _valid(section, key, text))


def _callers() -> tuple[str, ...]:
    from contourd.settings import NodeSettings

    def each(text: str) -> tuple[str, ...]:
        titles = [title.strip() for title in text.split(",") if title.strip()]
        return tuple(_valid(NodeSettings, "allowed_callers", titles))

    question = "AE titles that may send, separated by commas (empty: any)"
    callers: tuple[str, ...] = typer.prompt(question, "", show_default=False, value_proc=each)
    return callers


def _valid(section: Any, key: str, value: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    field = section.model_fields[key]
    kind: Any = Annotated[field.annotation, field]
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(text) from error


def check(
    config: ConfigOption = None,
    mail: Annotated[bool, typer.Option("--mail", help="Send a test mail too; else none is sent.")] = False,
    json: JsonOption = False,
) -> None:
    """Test everything before the first patient; say how to mend it."""
    from contourd.checks.finding import CheckStatus
    from contourd.checks.listing import checks_of
    from contourd.settings import find_settings_file, load_settings

    file = find_settings_file(config)
    try:
        checks = checks_of(load_settings(file), file, mail)
    except SettingsError as error:
        if json:
            typer.echo(_as_json(file, [("settings", _of_error(error, "mend the file"))]))
            raise typer.Exit(2) from error
        raise
    found = []
    for name, finding in _findings(checks):
        found.append((name, finding))
        if not json:
            _show(name, finding)
    red = [name for name, finding in found if finding.state is CheckStatus.FAILED]
    if json:
        typer.echo(_as_json(file, found))
    else:
        open_ones = sum(finding.state is CheckStatus.UNKNOWN for _, finding in found)
        typer.echo(f"{len(found) - len(red) - open_ones} well, {len(red)} red, {open_ones} not tested")
    raise typer.Exit(1 if red else 0)


def _findings(checks: Iterable[InstallationCheck]) -> Iterator[tuple[str, CheckFinding]]:
    """Run the checks one by one; whatever breaks in one is its finding, and the list goes on."""
    for one in checks:
        try:
            finding = one.run()
        except Exception as error:
            log.debug("the check %s failed", one.name, exc_info=True)
            finding = _of_error(error, one.remedy)
        yield one.name, finding


def _of_error(error: Exception, remedy: str) -> CheckFinding:
    from contourd.checks.finding import failed

    text = str(error) if isinstance(error, ContourdError | OSError) else f"{type(error).__name__}: {error}"
    return failed(text.strip() or type(error).__name__, remedy)


def _show(name: str, finding: CheckFinding) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from contourd.checks.finding import CheckStatus

    mark, style = {
        CheckStatus.OK: ("ok", "green"),
        CheckStatus.FAILED: ("RED", "bold red"),
        CheckStatus.UNKNOWN: ("??", "yellow"),
    }[finding.state]
    console = Console(highlight=False)
    lines = Table.grid()
    lines.add_column(width=4, no_wrap=True)
    lines.add_column(width=max(20, len(name)) + 1, no_wrap=True)
    lines.add_column()
    lines.add_row(Text(mark, style), Text(name, "bold"), finding.text)
    if finding.remedy:
        lines.add_row("", "", Text.assemble(("-> ", style), finding.remedy))
    if not console.is_terminal:  # a file or a program gets whole lines
        console.width = UNFOLDED
    console.print(lines)


def _as_json(file: Path, found: Iterable[tuple[str, CheckFinding]]) -> str:
    from contourd import __version__
    from contourd.checks.finding import CheckStatus

    listed = [
        {"name": name, "state": finding.state.value, "told": finding.text, "remedy": finding.remedy}
        for name, finding in found
    ]
    well = all(one["state"] != CheckStatus.FAILED.value for one in listed)
    return as_json({"version": __version__, "settings": str(file), "well": well, "checks": listed})
