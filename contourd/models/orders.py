"""The order of a job: what decides the bytes of its structure sets, as it is when the job is made.

It is kept with the job, so that it is contoured the same by whoever contours it. A worker that cannot do it as it was
ordered leaves it to others, and says why.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache

from contourd import __version__
from contourd.errors import DatasetError, ModelError
from contourd.model.library import MODEL_FILE, is_there, require_there
from contourd.model.model_identity import ModelIdentity
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
    asked, model
        What the route calls the model, and what that stood for.
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
    asked: str
    model: ModelIdentity
    structures: str
    second_reader: bool
    plausibility: PlausibilitySettings
    profiles: Mapping[str, tuple[Profile, ...]]
    colours: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)

    def text(self) -> str:
        """Return it as a row keeps it: the same text for the same order."""
        content = {
            "contourd": self.contourd,
            "asked": self.asked,
            "model": [self.model.name, self.model.version, self.model.sha256],
            "structures": self.structures,
            "second_reader": self.second_reader,
            "plausibility": self.plausibility.model_dump(mode="json"),
            "profiles": {name: [one.as_plain() for one in several] for name, several in self.profiles.items()},
            "colours": {name: list(colour) for name, colour in self.colours.items()},
        }
        return json.dumps(content, sort_keys=True)

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
                content["asked"],
                ModelIdentity(*content["model"]),
                content["structures"],
                content["second_reader"],
                PlausibilitySettings.model_validate(content["plausibility"]),
                {name: tuple(Profile(**one) for one in several) for name, several in content["profiles"].items()},
                {name: (int(r), int(g), int(b)) for name, (r, g, b) in content["colours"].items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError("the order of the job is not one that this version of contourd knows") from error


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


class OrderBook:
    """Makes the orders of one node's jobs, by its settings and the models that are in use; torch is not loaded."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._activations = Activations(database, settings.spool.root)
        self._settings = settings
        self._profiles = {d.name: d.profiles for d in settings.destination}
        self._colours = site_colours(settings.structures.file)

    def order_of(self, model: str, destinations: Sequence[str], sent_with: ModelIdentity | None = None) -> str:
        """Return the order of a job that is made now.

        Parameters
        ----------
        sent_with
            The model of structure sets of the job that went out already: a further form of them is its too.

        Raises
        ------
        ModelError
            There is no such model, or it cannot be read.
        """
        return JobOrder(
            __version__,
            model,
            sent_with or self._model(model),
            catalogue_sha256(),
            self._settings.check.rt_utils,
            self._settings.plausibility,
            {name: self._profiles.get(name, (STRICT,)) for name in destinations},
            self._colours,
        ).text()

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
