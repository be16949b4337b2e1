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
from contourd.contour.options import ContouringOptions
from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from contourd.imaging.written_grid import written_grid
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_use import ModelUse
from contourd.model.runtime_description import RuntimeDescription
from contourd.reasons.catalogue import Reason
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
    models: Sequence[ModelUse],
    order: ContouringOptions,
    hashes: Sequence[str],
    outputs: Mapping[str, bytes],
    grid: Grid | None = None,
) -> Contouring:
    """Return what made structure sets.

    Parameters
    ----------
    models
        Each with what it did; one of them drew.
    hashes
        Of the images.
    outputs
        Path relative to the spool -> its bytes, in the order of the order's profiles.
    grid
        The CT's, where it is to be kept.
    """
    first = next(use for use in models if use.drew)
    assert first.identity is not None
    assert first.runtime is not None
    return Contouring(
        first.identity,
        __version__,
        first.runtime,
        libraries(),
        written_order(order),
        len(hashes),
        images_sha256(hashes),
        tuple(Output(path, sha256(content)) for path, content in outputs.items()),
        written_grid(grid) if grid is not None else "",
        tuple(models) if len(models) > 1 else (),
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
        ("model", before.models_text, now.models_text, _models(before) == _models(now)),
        ("contourd", before.contourd, now.contourd, before.contourd == now.contourd),
        ("device", _runtimes_text(before), _runtimes_text(now), _runtimes(before) == _runtimes(now)),
        (
            "libraries",
            _libraries_text(before.libraries),
            _libraries_text(now.libraries),
            before.libraries == now.libraries,
        ),
    )
    found = [Difference(what, old, new) for what, old, new, same in pairs if not same]
    return (*found, *other_settings(before.settings, now.settings))


def _models(made: Contouring) -> list[tuple[ModelIdentity | None, Reason | None]]:
    return [(use.identity, use.failed) for use in made.models]


def _runtimes(made: Contouring) -> tuple[RuntimeDescription, ...]:
    return tuple(use.runtime for use in made.models if use.runtime is not None)


def _runtimes_text(made: Contouring) -> str:
    return ", ".join(dict.fromkeys(runtime.text() for runtime in _runtimes(made)))


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
