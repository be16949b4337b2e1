"""Commands of the models: models list, show, verify, activate, rollback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.commissioning import commission
from contourd.cli.importing import import_model
from contourd.cli.options import ConfigOption, open_database, operator, read_activations
from contourd.cli.output import JsonOption, as_json
from contourd.commands import command
from contourd.errors import DeviceError, ModelError, NodeError
from contourd.reasons.catalogue import HoldReason

if TYPE_CHECKING:
    from contourd.model.library import Activation
    from contourd.models.activation import ActivationChange
    from contourd.models.listing import ModelLine
    from contourd.settings import Settings


def list_models(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the models that are here, and which are in use."""
    from contourd.models.listing import known_models
    from contourd.settings import load_settings

    settings = load_settings(config)
    lines = known_models(settings, read_activations(settings))
    if json:
        typer.echo(as_json({"models": [_content(line) for line in lines]}))
        return
    from rich.console import Console
    from rich.table import Table

    from contourd.model.commissioning import remedy_text

    table = Table("model", "from", "in use as", "since", "by", "routes")
    for line in lines:
        one = line.activation
        since = (f"{one.at.astimezone():%Y-%m-%d %H:%M}", one.actor) if one else ("", "")
        routes = ", ".join(map(str, line.routes))
        table.add_row(line.model.stored_name, line.origin.value, line.asked if line.active else "", *since, routes)
    Console().print(table)
    for line in lines:
        if line.uncommissioned:
            typer.echo(f"{line.model.stored_name}: {line.uncommissioned}; {remedy_text()}")


def show(
    model: Annotated[str, typer.Argument(help="Name of `contourd models list`, or a bundle's folder.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show a model: organs, limits, figures, card, activations."""
    from contourd.settings import load_settings

    settings = load_settings(config)
    activations = read_activations(settings)
    line = _named(model, settings, activations)
    history = [one for one in activations if one.model.name == line.name]
    if json:
        content = {"card": line.card(), "activations": [_activation_json(one) for one in history]}
        typer.echo(as_json(_content(line) | content))
        return
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.table import Table
    from rich.text import Text

    from contourd.system.logs import one_line

    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    for key, value in _facts(line):
        facts.add_row(Text(key, "bold"), Text(one_line(value)))
    for one in history:
        verb = "activated" if one.undoes is None else "taken back to"
        stands = "nothing: out of use" if one.out_of_use else one.model.text()
        what = f"{verb} {stands} by {one.actor}" + (f": {one.reason}" if one.reason else "")
        facts.add_row(f"{one.at.astimezone():%Y-%m-%d %H:%M}", Text(one_line(what)))
    Console().print(facts, "", Markdown(line.card()), sep="\n")


def verify(
    models: Annotated[list[str] | None, typer.Argument(help="By default every model that is here.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """See that models are whole: hashes and weights."""
    from contourd.model.library import FoundModel, Origin
    from contourd.models import activation
    from contourd.models.listing import known_models
    from contourd.settings import load_settings

    settings = load_settings(config)
    activations = read_activations(settings)
    lines = [_named(name, settings, activations) for name in models] if models else known_models(settings, activations)
    findings = []
    for line in lines:
        one = line.activation
        wanted = one.model.sha256 if one is not None and one.folder else ""
        asked = line.asked if line.active or line.origin is not Origin.SHIPPED else line.model.stored_name
        try:
            bundle = activation.verify(FoundModel(asked, line.folder, line.origin, wanted, one))
            findings.append({"model": asked, "well": True, "told": f"{bundle.identity.text()} is whole"})
        except ModelError as error:
            findings.append({"model": asked, "well": False, "told": str(error)})
    if json:
        typer.echo(as_json({"well": all(finding["well"] for finding in findings), "models": findings}))
    for finding in () if json else findings:
        typer.echo(f"{'ok' if finding['well'] else 'RED':<4}{finding['model']}: {finding['told']}")
    raise typer.Exit(0 if all(finding["well"] for finding in findings) else 1)


def activate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE_FOLDER", help="Folder of a bundle, or one of the list.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept with the activation and in the audit trail.")],
    config: ConfigOption = None,
    record: Annotated[Path | None, typer.Option(help="Its commissioning record.")] = None,
    without_record: Annotated[str, typer.Option(help="Why it is used without; each structure set says so.")] = "",
) -> None:
    """Put a bundle into use under its name, without a restart.

    It is verified, tried on a small volume, and copied into the spool; what is in use is the copy. A model that does
    not ship needs the commissioning record of that very bundle.
    """
    from contourd.models import activation
    from contourd.models.records import Evidence
    from contourd.settings import load_settings

    settings = load_settings(config)
    with open_database(settings) as database:
        try:
            change = activation.activate(
                database, settings, bundle, operator(), reason, Evidence(record, without_record)
            )
        except (ModelError, DeviceError) as error:
            raise ModelError(HoldReason.NOTHING_CHANGED, why=error.reason) from error
    _tell(change, settings)
    typer.echo(f"back: {command('models rollback', change.activation.model.name)}")


def rollback(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    config: ConfigOption = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the rollback and in the audit trail.")] = "",
) -> None:
    """Put in use again what was before the last activation."""
    from contourd.models import activation
    from contourd.settings import load_settings

    settings = load_settings(config)
    with open_database(settings) as database:
        change = activation.roll_back(database, settings, name, operator(), reason)
    _tell(change, settings)


def _tell(change: ActivationChange, settings: Settings) -> None:
    model = change.activation.model
    if change.activation.out_of_use:
        typer.echo(f"{model.name} is out of use, no model of that name ships with contourd; before: {change.before}")
        if change.routes:
            routes = ", ".join(map(str, change.routes))
            typer.echo(f"jobs of route {routes} are held until another is activated under that name", err=True)
        return
    typer.echo(f"{model.text()} is in use from the next job on; before: {change.before or 'none that works'}")
    routes = ", ".join(map(str, change.routes))
    if routes:
        typer.echo(f"used by route {routes}")
    else:
        named = ", ".join(dict.fromkeys(name for route in settings.route for name in route.models))
        typer.echo(f'no route uses it: none has model = "{model.name}"; they name {named}', err=True)
    accept, baseline = command("accept", "DEST"), command("constancy baseline")
    typer.echo(
        f"Another model draws other contours: accept it again (`{accept}`, and contours on your own patients), and "
        f"record the constancy baseline anew (`{baseline}`).",
        err=True,
    )


def _named(name: str, settings: Settings, activations: tuple[Activation, ...]) -> ModelLine:
    """Find one by its name (the one in use), by its name in the store, or by its folder."""
    from contourd.model.library import is_bundle
    from contourd.models.listing import known_models, model_at

    lines = known_models(settings, activations)
    for line in lines:
        if (line.active and name in (line.asked, line.name)) or name in (line.model.stored_name, line.folder.name):
            return line
    if is_bundle(Path(name)):
        return model_at(Path(name), settings)
    known = ", ".join(dict.fromkeys(line.model.stored_name for line in lines))
    raise NodeError(f"there is no model {name!r}; there are: {known}; or give a bundle's folder")


def _facts(line: ModelLine) -> list[tuple[str, str]]:
    provenance: Mapping[str, Any] = line.said.get("provenance") or {}
    limits: Mapping[str, Any] = line.said.get("limits") or {}
    dice: Mapping[str, float] = provenance.get("validation_dice") or {}
    return [
        ("model", f"{line.name} {line.version}"),
        ("sha256", line.sha256),
        ("from", f"{line.origin.value}: {line.folder}"),
        ("in use", f"by route {', '.join(map(str, line.routes)) or 'none'}" if line.active else "no"),
        ("organs", ", ".join(line.organs)),
        ("commissioned", line.uncommissioned or "yes: it knows the usual size and place of its organs"),
        ("limits", "; ".join(f"{key} {_bounds(value)}" for key, value in limits.items() if value) or "none"),
        ("validation", ", ".join(f"{organ} {value:.2f}" for organ, value in dice.items()) or "not told"),
        ("trained", ", ".join(f"{k} {provenance[k]}" for k in ("step", "note") if k in provenance) or "not told"),
    ]


def _bounds(value: Any) -> str:
    return " to ".join(map(str, value)) if len(value) == 2 and not isinstance(value[0], str) else ", ".join(value)


def _content(line: ModelLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "version": line.version,
        "sha256": line.sha256,
        "stored_name": line.model.stored_name,
        "origin": line.origin.value,
        "folder": str(line.folder),
        "active": line.active,
        "uncommissioned": line.uncommissioned,
        "since": line.activation.at.isoformat() if line.activation else None,
        "by": line.activation.actor if line.activation else None,
        "reason": line.activation.reason if line.activation else None,
        "routes": list(line.routes),
        "organs": list(line.organs),
    }


def _activation_json(one: Activation) -> dict[str, Any]:
    return {
        "at": one.at.isoformat(),
        "name": one.model.name,
        "version": one.model.version,
        "sha256": one.model.sha256,
        "by": one.actor,
        "reason": one.reason,
        "rollback": one.undoes is not None,
    }


MODEL_COMMANDS: Mapping[str, Callable[..., Any]] = {
    "list": list_models,
    "show": show,
    "verify": verify,
    "import": import_model,
    "commission": commission,
    "activate": activate,
    "rollback": rollback,
}
