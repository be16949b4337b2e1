"""The order of a job: what decides the bytes of its structure sets, as it is when the job is made.

It is kept with the job, so that it is contoured the same by whoever contours it. A worker that cannot do it as it was
ordered leaves it to others, and says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

from contourd import __version__
from contourd.errors import DatasetError, ModelError
from contourd.model.library import MODEL_FILE, FoundModel, Origin, is_there, require_there
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_names import PartialRule, names_of_text, partial_rule
from contourd.model.model_use import ModelUse
from contourd.model.site_structures import site_colours
from contourd.model.structures import catalogue
from contourd.models.activations import Activations
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import PlausibilitySettings, Settings
from contourd.store.database import Database
from contourd.system.regular_files import read_regular


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a job was ordered as.

    Attributes
    ----------
    contourd
        The version that contours it, for each stands in its structure sets.
    models
        What the route calls each model and what that stood for; of several one may be out of the order with its reason.
    partial
        What becomes of the job where one of several fails.
    structures
        SHA-256 of the catalogue of organs that shipped with the version.
    second_reader
        Whether rt-utils opens each structure set too.
    profiles
        Destination -> how each of its products is written.
    colours
        RGB, 0 to 255, of organs that the catalogue does not know.
    """

    contourd: str
    models: tuple[ModelUse, ...]
    structures: str
    second_reader: bool
    plausibility: PlausibilitySettings
    profiles: Mapping[str, tuple[Profile, ...]]
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    partial: PartialRule = "hold"

    def text(self) -> str:
        """Return it as a row keeps it: the same text for the same order."""
        content = {
            "contourd": self.contourd,
            **self._models_content(),
            "structures": self.structures,
            "second_reader": self.second_reader,
            "plausibility": self.plausibility.model_dump(mode="json"),
            "profiles": {name: [one.as_plain() for one in several] for name, several in self.profiles.items()},
            "colours": {name: list(colour) for name, colour in self.colours.items()},
        }
        return json.dumps(content, sort_keys=True)

    def _models_content(self) -> dict[str, object]:
        """Return the models as plain values; a single one as it was written before there could be several."""
        only = self.models[0]
        if len(self.models) == 1 and only.identity is not None:
            return {"asked": only.asked, "model": [only.identity.name, only.identity.version, only.identity.sha256]}
        return {"models": [one.plain() for one in self.models], "partial": self.partial}

    @classmethod
    def read(cls, text: str) -> JobOrder:
        """Read what a row keeps.

        Raises
        ------
        DatasetError
            Another version wrote it, and this one does not know it.
        """
        try:
            content = json.loads(text)
            return cls(
                content["contourd"],
                _models_of(content),
                content["structures"],
                content["second_reader"],
                PlausibilitySettings.model_validate(content["plausibility"]),
                {name: _profiles_of(said) for name, said in content["profiles"].items()},
                {name: (int(r), int(g), int(b)) for name, (r, g, b) in content["colours"].items()},
                partial_rule(content.get("partial", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError("the order of the job is not one that this version of contourd knows") from error


def _profiles_of(said: list[dict[str, Any]] | dict[str, Any]) -> tuple[Profile, ...]:
    """Read the profiles of a destination, which had one product before there could be several."""
    return tuple(Profile(**one) for one in ([said] if isinstance(said, dict) else said))


def _models_of(content: Mapping[str, Any]) -> tuple[ModelUse, ...]:
    if "models" in content:
        return tuple(map(ModelUse.of_plain, content["models"]))
    return (ModelUse(content["asked"], ModelIdentity(*content["model"])),)


def order_digest(text: str) -> str:
    """Return a short name of an order."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version_of(text: str) -> str:
    """Return the version of contourd that an order is for, empty where it does not say."""
    try:
        return str(json.loads(text)["contourd"])
    except (ValueError, LookupError, TypeError):
        return ""


def passes_by_itself(reason: Reason) -> bool:
    """Return whether why a worker cannot do an order passes without a person: its job waits, and is not held.

    The object store answers again; and an order of a version that no process has any more is made anew.
    """
    return reason.code in (HoldReason.WAITS_FOR_SPOOL, HoldReason.ORDER_OF_OTHER_VERSION)


@cache
def catalogue_sha256() -> str:
    """Return one hash over all that the shipped catalogue says of its organs."""
    return hashlib.sha256(
        json.dumps([asdict(one) for one in catalogue().values()], sort_keys=True).encode()
    ).hexdigest()


def pinned_models(names: Sequence[str], used: Sequence[ModelUse]) -> tuple[ModelUse, ...]:
    """Return the very models that a job was contoured with, as an order has them: what one did not draw stays out.

    Parameters
    ----------
    used
        Empty: the job was not contoured, and its models are what their names stand for.

    Raises
    ------
    ModelError
        What each of them stood for is not known any more.
    """
    if not used:
        return tuple(map(ModelUse, names))
    if len(names) != len(used):  # an earlier version kept the first of several alone
        raise ModelError(HoldReason.MODEL_OF_JOB_GONE, model=", ".join(names))
    return tuple(
        replace(one, asked=name, runtime=None, organs=() if one.drew else one.organs)
        for name, one in zip(names, used, strict=True)
    )


def names_of_today(found: Sequence[FoundModel], used: Sequence[ModelUse]) -> tuple[str, ...]:
    """Return names by which a series is contoured otherwise than it was with the same models.

    Parameters
    ----------
    found
        What each name stands for now.
    used
        What contoured the series with these names.

    Returns
    -------
    With version and hash, for the names alone stand in the job that there is; none where nothing would be otherwise.
    """
    if len(found) != len(used):
        return ()
    models = [
        one.activation.model if one.activation is not None else use.identity
        for one, use in zip(found, used, strict=True)
    ]
    whole = all(use.drew for use in used)
    if whole and all(model == use.identity for model, use in zip(models, used, strict=True)):
        return ()
    names = tuple(
        one.asked if model is None or one.origin is Origin.FOLDER else model.stored_name
        for one, model in zip(found, models, strict=True)
    )
    return names if names != tuple(one.asked for one in found) else ()


class OrderBook:
    """Makes the orders of one node's jobs, by its settings and the models that are in use; torch is not loaded."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._activations = Activations(database, settings.spool.root)
        self._settings = settings
        self._profiles = {d.name: d.profiles for d in settings.destination}
        self._colours = site_colours(settings.structures.file)

    def order_of(
        self, model: str, destinations: Sequence[str], sent_with: Sequence[ModelUse] = (), partial: PartialRule = "hold"
    ) -> str:
        """Return the order of a job that is made now.

        Parameters
        ----------
        model
            One name or folder, or the text of several.
        sent_with
            The models of structure sets of the job that went out already: a further form of them is theirs too, and
            without what one of them did not draw.

        Raises
        ------
        ModelError
            There is no such model, or it cannot be read; with ``partial = "send"`` so it is of all of several.
        """
        names = names_of_text(model)
        return JobOrder(
            __version__,
            pinned_models(names, sent_with) if sent_with else self._models(names, partial),
            catalogue_sha256(),
            self._settings.check.rt_utils,
            self._settings.plausibility,
            {name: self._profiles.get(name, (STRICT,)) for name in destinations},
            self._colours,
            partial,
        ).text()

    def _models(self, names: Sequence[str], partial: PartialRule) -> tuple[ModelUse, ...]:
        models, first = list[ModelUse](), None
        for name in names:
            try:
                models.append(ModelUse(name, self._model(name)))
            except ModelError as error:
                if partial != "send" or error.reason.code not in (
                    HoldReason.MODEL_NOT_THERE,
                    HoldReason.MODEL_TAKEN_OUT,
                ):  # what could not be read now may be there
                    raise
                first = first or error
                models.append(ModelUse(name, failed=error.reason))
        if first is not None and all(one.failed is not None for one in models):
            raise first
        return tuple(models)

    def _model(self, asked: str) -> ModelIdentity:
        """Say what a name stands for now, by its file alone: whoever contours sees whether it is whole."""
        found = self._activations.find(asked)
        active = found.activation
        if active is not None and active.folder and self._settings.spool.store is not None and not is_there(found):
            return active.model  # another host activated it: whoever contours fetches it from the object store
        require_there(found)
        try:
            content = read_regular(found.folder / MODEL_FILE)
            said = json.loads(content)
            return ModelIdentity(str(said["name"]), str(said["version"]), hashlib.sha256(content).hexdigest())
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ModelError(
                HoldReason.MODEL_FILE_INVALID, path=str(found.folder / MODEL_FILE), said=type(error).__name__
            ) from error
