"""What decides the bytes of a job's structure sets, beside its images: kept with the job, and compared by a replay."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from contourd import __version__
from contourd.contour.contouring import ContouringOptions
from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from contourd.imaging.written_grid import written_grid
from contourd.model.predictor import Predictor
from contourd.settings import PlausibilitySettings
from contourd.store.contourings import Contouring, Output, images_sha256, written_profiles

LIBRARIES = ("torch", "numpy", "scipy", "pydicom")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as it was."""

    what: str
    before: str
    now: str

    def text(self) -> str:
        """Return it in words."""
        return f"{self.what}: {self.before} -> {self.now}"


def libraries() -> dict[str, str]:
    """Return the versions of what computes and writes."""
    return {"Python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def sha256(content: bytes) -> str:
    """Hash a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def contouring_of(
    predictor: Predictor,
    order: ContouringOptions,
    hashes: Sequence[str],
    outputs: Mapping[str, bytes],
    grid: Grid | None = None,
) -> Contouring:
    """Return what made structure sets.

    Parameters
    ----------
    hashes
        Of the images.
    outputs
        Path relative to the spool -> its bytes, in the order of the order's profiles.
    grid
        The CT's, where it is to be kept.
    """
    return Contouring(
        predictor.bundle.identity,
        __version__,
        predictor.runtime.description,
        libraries(),
        written_order(order),
        len(hashes),
        images_sha256(hashes),
        tuple(Output(path, sha256(content)) for path, content in outputs.items()),
        written_grid(grid) if grid is not None else "",
    )


def written_order(order: ContouringOptions) -> str:
    """Write down what of an order decides the bytes."""
    content = {
        "revision": order.revision,
        "override": order.override,
        "plausibility": order.plausibility.model_dump(mode="json"),
        **({"colours": dict(order.colours)} if order.colours else {}),
        "profiles": [{**profile.as_plain(), "hash": order.settings_hash(profile)} for profile in order.profiles],
    }
    return json.dumps(content, sort_keys=True)


def read_order(text: str) -> ContouringOptions:
    """Read what was written down.

    Raises
    ------
    DatasetError
        Another version wrote it, and this one does not know it.
    """
    try:
        content = json.loads(text)
        profiles = written_profiles(text)
        plausibility = PlausibilitySettings.model_validate(content["plausibility"])
        colours = {name: (int(r), int(g), int(b)) for name, (r, g, b) in content.get("colours", {}).items()}
        return ContouringOptions(content["revision"], profiles, plausibility, content["override"], colours=colours)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError("the settings that were recorded are not those of this version of contourd") from error


def differences(before: Contouring, now: Contouring) -> tuple[Difference, ...]:
    """Name what is not as it was: model, contourd, device, libraries, settings, images."""
    pairs = (
        ("model", before.model.text(), now.model.text(), before.model == now.model),
        ("contourd", before.contourd, now.contourd, before.contourd == now.contourd),
        ("device", before.runtime.text(), now.runtime.text(), before.runtime == now.runtime),
        (
            "libraries",
            _libraries_text(before.libraries),
            _libraries_text(now.libraries),
            before.libraries == now.libraries,
        ),
    )
    found = [Difference(what, old, new) for what, old, new, same in pairs if not same]
    return (*found, *other_settings(before.settings, now.settings))


def _libraries_text(libraries: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in libraries.items())


def other_settings(before: str, now: str) -> tuple[Difference, ...]:
    """Name the settings that are not as they were, of two that were written down."""
    old, new = _flat(json.loads(before), "settings"), _flat(json.loads(now), "settings")
    return tuple(
        Difference(key, old.get(key, "nothing"), new.get(key, "nothing"))
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    )


def _flat(value: Any, key: str) -> dict[str, str]:
    if isinstance(value, list):
        value = {str(n): one for n, one in enumerate(value, 1)}
    if isinstance(value, dict):
        return {name: text for inner, one in value.items() for name, text in _flat(one, f"{key}.{inner}").items()}
    return {key: json.dumps(value)}
