"""Where a model lies: shipped with contourd, stored in the spool by an activation, or in an administrator's folder.

A route that names a model gets the bundle that was activated last for that name, else the shipped one; a route that
gives a folder gets that folder. Nothing is read here but the names of files, and no network is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path

from contourd.errors import ModelError
from contourd.model.model_identity import ModelIdentity
from contourd.reasons.catalogue import HoldReason

MODEL_FILE = "model.json"
WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "CARD.md"
RECORD_FILE = "record.json"  # of the site, beside a model that was activated
SHIPPED_MODELS = Path(__file__).resolve().parent / "bundles"
MODEL_STORE = "models"  # in the spool
NAMED = re.compile(r"[A-Za-z0-9._-]*[A-Za-z0-9_-][A-Za-z0-9._-]*")  # no folder: neither . nor ..
# What ModelIdentity.stored_name adds to a name.
VERSION_AND_HASH = r"-[A-Za-z0-9._-]{1,16}-[0-9a-f]{12}"


class Origin(Enum):
    """Where a model lies."""

    SHIPPED = "shipped"
    STORED = "stored"  # in the spool, by an activation
    FOLDER = "folder"  # of the administrator's


@dataclass(frozen=True, slots=True)
class Activation:
    """A model that was put into use under its name.

    Attributes
    ----------
    model
        Without version and hash: the name stands for nothing any more.
    folder
        Relative to the spool; empty: the shipped one, or none.
    undoes
        The activation that this one took back, None where it is a new one.
    """

    id: int
    at: datetime
    model: ModelIdentity
    folder: str
    actor: str
    reason: str
    undoes: int | None = None

    @property
    def out_of_use(self) -> bool:
        """Whether the name's first activation was taken back, and no model of that name ships with contourd."""
        return not self.model.sha256


@dataclass(frozen=True, slots=True)
class FoundModel:
    """Where a model lies that a route or a person names.

    Attributes
    ----------
    sha256
        What it must have; empty: whatever is there.
    activation
        The one in force for its name, None where there was none.
    """

    asked: str
    folder: Path
    origin: Origin
    sha256: str = ""
    activation: Activation | None = None


def find_model(asked: str, root: Path, activation: Activation | None) -> FoundModel:
    """Find a model by its name, by its name with version and hash, or by its folder; it is not read.

    Parameters
    ----------
    root
        The spool's.
    activation
        The last one of the name ``asked``.
    """
    if activation is not None and activation.folder:
        return FoundModel(asked, root / activation.folder, Origin.STORED, activation.model.sha256, activation)
    if NAMED.fullmatch(asked):
        for folder, origin in ((SHIPPED_MODELS, Origin.SHIPPED), (root / MODEL_STORE, Origin.STORED)):
            if is_bundle(folder / asked):
                return FoundModel(asked, folder / asked, origin, "", activation)
        for name in shipped_names():
            if re.fullmatch(re.escape(name) + VERSION_AND_HASH, asked):
                return FoundModel(asked, SHIPPED_MODELS / name, Origin.SHIPPED, "", activation)
    return FoundModel(asked, Path(asked), Origin.FOLDER, "", activation)


def in_force(activations: Iterable[Activation]) -> dict[str, Activation]:
    """Return the last activation of each name that is in use."""
    last = {one.model.name: one for one in activations}
    return {name: one for name, one in last.items() if not one.out_of_use}


def model_exists(asked: str, root: Path) -> bool:
    """Return whether a name or a folder stands for a bundle, or can: one of that name was stored by an activation."""
    if is_there(find_model(asked, root, None)):
        return True
    version = re.compile(re.escape(asked) + VERSION_AND_HASH)
    return any(version.fullmatch(found.asked) for found in stored_models(root))


def may_be_activated(asked: str) -> bool:
    """Return whether it is a name, which an activation on another host may have given a model."""
    return NAMED.fullmatch(asked) is not None


def places_of(model: ModelIdentity, asked: str, root: Path) -> tuple[FoundModel, ...]:
    """Return where that very model may lie: in the store, shipped, or in the folder that was asked for."""
    known = (
        (root / stored_folder(model), Origin.STORED),
        (SHIPPED_MODELS / model.name, Origin.SHIPPED),
        (Path(asked), Origin.FOLDER),
    )
    places = (FoundModel(model.stored_name, folder, origin, model.sha256) for folder, origin in known)
    return tuple(place for place in places if is_there(place))


def shipped_model(name: str) -> FoundModel | None:
    """Return the model of a name that ships with contourd, None where none does."""
    return FoundModel(name, SHIPPED_MODELS / name, Origin.SHIPPED) if name in shipped_names() else None


def shipped_names() -> tuple[str, ...]:
    """Name the models that ship with contourd, without reading them."""
    return tuple(sorted(file.parent.name for file in SHIPPED_MODELS.glob(f"*/{MODEL_FILE}")))


def stored_models(root: Path) -> tuple[FoundModel, ...]:
    """Return the models that activations have stored in the spool, whether they are in use or not."""
    files = sorted((root / MODEL_STORE).glob(f"[!.]*/{MODEL_FILE}"))
    return tuple(FoundModel(file.parent.name, file.parent, Origin.STORED) for file in files)


def stored_folder(model: ModelIdentity) -> str:
    """Return where a model is stored by its activation, relative to the spool."""
    return f"{MODEL_STORE}/{model.stored_name}"


def bundle_folder(name_or_folder: str | Path) -> Path:
    """Return the folder of a shipped model by its name, else the folder that is given; it may not be there."""
    found = shipped_model(str(name_or_folder))
    return Path(name_or_folder) if found is None else found.folder


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a bundle, without reading it."""
    return (folder / MODEL_FILE).is_file()


def is_there(found: FoundModel) -> bool:
    """Return whether there is a bundle, without reading it."""
    return is_bundle(found.folder)


def require_there(found: FoundModel) -> None:
    """Refuse a model that is not there.

    Raises
    ------
    ModelError
        With what may be given.
    """
    if found.activation is not None and found.activation.out_of_use:
        raise ModelError(
            HoldReason.MODEL_TAKEN_OUT,
            model=found.asked,
            at=f"{found.activation.at:%Y-%m-%d %H:%M}",
            actor=found.activation.actor,
        )
    if not is_there(found):
        raise ModelError(HoldReason.MODEL_NOT_THERE, model=found.asked, file=MODEL_FILE, folder=str(found.folder))
