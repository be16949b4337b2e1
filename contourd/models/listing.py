"""What models say of themselves, read without loading them: for the page, status, figures and ``contourd models``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contourd.model.commissioning import unjudged_text
from contourd.model.library import (
    CARD_FILE,
    MODEL_FILE,
    Activation,
    FoundModel,
    Origin,
    find_model,
    in_force,
    shipped_names,
    stored_models,
)
from contourd.model.model_identity import ModelIdentity
from contourd.settings import Settings
from contourd.system.logs import one_line
from contourd.system.regular_files import read_regular

NOT_READABLE, NOT_ROUTED = "not readable", -1


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model that a route names, or that is here.

    Attributes
    ----------
    number
        Of the route's models, from 0; -1 where no route names it.
    asked
        As a route or a person names it.
    routes
        That name it, counted from 1.
    activation
        The one that put it in use under its name; None: it is in use since it was shipped, or is in no use.
    active
        Whether its name, or a route's folder, stands for it.
    said
        All of model.json.
    """

    number: int
    asked: str
    model: ModelIdentity
    organs: tuple[str, ...]
    folder: Path
    origin: Origin
    routes: tuple[int, ...]
    activation: Activation | None
    said: Mapping[str, Any] = field(default_factory=dict, repr=False)
    active: bool = True

    @property
    def name(self) -> str:
        """The model's own."""
        return self.model.name

    @property
    def version(self) -> str:
        """The model's version."""
        return self.model.version

    @property
    def sha256(self) -> str:
        """The model's hash, empty where it cannot be read."""
        return self.model.sha256

    @property
    def uncommissioned(self) -> str:
        """Of which organs it does not know the usual size and place, in words; empty where it knows all."""
        known = self.said.get("distribution")
        return unjudged_text(self.organs, known if isinstance(known, dict) else ())

    def card(self) -> str:
        """Return the model card, Markdown without escapes for terminals; a sentence where there is none."""
        file = self.folder / CARD_FILE
        if not file.is_file():
            return "*This model has no card.*"
        lines = read_regular(file).decode(errors="replace").expandtabs().split("\n")
        return "\n".join("".join(c for c in line if c.isprintable()) for line in lines)


def routed_models(settings: Settings, activations: Iterable[Activation]) -> tuple[ModelLine, ...]:
    """Return the models that the routes get now, each once."""
    last, root = in_force(activations), settings.spool.root
    names = dict.fromkeys(name for route in settings.route for name in route.models)
    return tuple(_line(find_model(name, root, last.get(name)), settings, number) for number, name in enumerate(names))


def known_models(settings: Settings, activations: Iterable[Activation]) -> tuple[ModelLine, ...]:
    """Return every model that is here: those of the routes, those that ship, and those in the store."""
    activations = tuple(activations)
    last, root = in_force(activations), settings.spool.root
    in_use = [find_model(name, root, last.get(name)) for name in dict.fromkeys((*last, *shipped_names()))]
    idle = [find_model(name, root, None) for name in shipped_names()]
    idle += stored_models(root)
    lines: dict[Path, ModelLine] = {}
    for line in (
        *routed_models(settings, activations),
        *(_line(found, settings, NOT_ROUTED) for found in in_use),
        *(replace(_line(found, settings, NOT_ROUTED), active=False, routes=()) for found in idle),
    ):
        lines.setdefault(line.folder.resolve(), line)
    return tuple(lines.values())


def model_at(folder: Path, settings: Settings) -> ModelLine:
    """Return what a bundle in a folder says of itself, whoever uses it."""
    return _line(FoundModel(str(folder), folder, Origin.FOLDER), settings, NOT_ROUTED)


def said_organs(folder: Path) -> tuple[str, ...]:
    """Return the organs that a bundle's model.json names; none where it cannot be read."""
    try:
        return tuple(map(one_line, json.loads(read_regular(folder / MODEL_FILE))["model"]["structures"]))
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _line(found: FoundModel, settings: Settings, number: int) -> ModelLine:
    routes = tuple(n for n, route in enumerate(settings.route, 1) if found.asked in route.models)
    try:
        text = read_regular(found.folder / MODEL_FILE)
        message = json.loads(text)
        organs = tuple(map(one_line, message["model"]["structures"]))
        model = ModelIdentity(one_line(message["name"]), one_line(message["version"]), hashlib.sha256(text).hexdigest())
    except (OSError, ValueError, KeyError, TypeError):
        message = {}
        organs = ()
        model = ModelIdentity(found.asked, NOT_READABLE, "")
    return ModelLine(number, found.asked, model, organs, found.folder, found.origin, routes, found.activation, message)
