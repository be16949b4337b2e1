"""The command that says what would happen to a folder: route."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from contourd.cli.options import ConfigOption, read_activations
from contourd.cli.output import JsonOption, as_json
from contourd.errors import NodeError

if TYPE_CHECKING:
    from contourd.observe.forecast import FolderForecast, Forecast


def route(
    ct_folder: Annotated[Path, typer.Argument(help="Folder of DICOM files, searched to the bottom.")],
    config: ConfigOption = None,
    calling_ae: Annotated[str, typer.Option(metavar="AE", help="AE title of the sender, for routes that ask.")] = "",
    json: JsonOption = False,
) -> None:
    """Print what would become of a folder's series, and why.

    The gate, the routes and the model's limits are the real ones; nothing is written or sent.
    """
    from contourd.observe.forecast import Forecaster, ForecastOutcome
    from contourd.settings import load_settings

    settings = load_settings(config)
    if not ct_folder.is_dir():
        raise NodeError(f"{ct_folder} is no folder")
    forecast = Forecaster(settings, read_activations(settings), calling_ae.strip()).foresee(ct_folder)
    if not forecast.series and not forecast.unreadable:
        raise NodeError(f"{ct_folder} holds no DICOM images")
    if json:
        typer.echo(as_json(_content(forecast)))
    else:
        _show(forecast)
    well = not forecast.unreadable and all(one.outcome is ForecastOutcome.CONTOURED for one in forecast.series)
    raise typer.Exit(0 if well else 1)


def _show(forecast: FolderForecast) -> None:
    for one in forecast.series:
        first = one.first
        typer.echo(f"series {first.series_instance_uid}")
        described = {"description": first.series_description, "body part": first.body_part,
                     "protocol": first.protocol, "station": first.station}  # fmt: skip
        message = ", ".join(f"{key} {value!r}" for key, value in described.items() if value)
        typer.echo("  " + ", ".join(filter(None, [f"{one.images} images", first.modality or "no modality", message])))
        for answer in one.routes:
            verdict = "taken" if answer.taken else "; ".join(answer.unfit) or "fits, but an earlier one is taken"
            models, places = (", ".join(names) for names in (answer.models, answer.destinations))
            typer.echo(f"  route {answer.number} ({models} to {places}): {verdict}")
        typer.echo(f"  -> {_outcome(one)}")
    for path, reason in forecast.unreadable.items():
        typer.echo(f"{path}\n  -> refused: {reason}")


def _outcome(one: Forecast) -> str:
    if one.reason or not one.models:
        return f"{one.outcome.value}: {one.reason}"
    places = ", ".join(f"{name} (profile {profile})" for name, profile in (one.destinations or {}).items())
    after = " after a person has confirmed" if one.confirm else ""
    models = ", ".join(model.text() for model in one.models)
    without = "".join(f", without {name}: {reason}" for name, reason in one.missing.items())
    return f"contoured with {models}, sent to {places}{after}{without}"


def _content(forecast: FolderForecast) -> dict[str, Any]:
    from contourd.model.model_names import text_of_names
    from contourd.observe.status import reason_content

    return {
        "series": [
            {
                "series": one.first.series_instance_uid,
                "images": one.images,
                "modality": one.first.modality,
                "series_description": one.first.series_description,
                "body_part": one.first.body_part,
                "protocol": one.first.protocol,
                "station": one.first.station,
                "outcome": one.outcome.value,
                **reason_content(one.reason),
                "routes": [
                    {
                        "route": a.number,
                        "model": text_of_names(a.models),
                        "models": list(a.models),
                        "taken": a.taken,
                        "unfit": list(a.unfit),
                    }
                    for a in one.routes
                ],
                "model": asdict(one.models[0]) if one.models else None,
                "models": [asdict(model) for model in one.models],
                "missing": [{"model": name, **reason_content(reason)} for name, reason in one.missing.items()],
                "destinations": dict(one.destinations or {}),
                "confirm": one.confirm,
            }
            for one in forecast.series
        ],
        "unreadable": {str(path): reason_content(reason) for path, reason in forecast.unreadable.items()},
    }
