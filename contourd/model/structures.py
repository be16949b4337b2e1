"""The organ catalogue: TG-263 names, what hospitals call them, colours and interpreted types (etc/structures.toml).

Mayo et al., AAPM Task Group 263, "Standardizing Nomenclatures in Radiation Oncology", 2018.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import MappingProxyType


class Laterality(Enum):
    """Which side of the patient the organ lies on."""

    LEFT = "L"
    RIGHT = "R"
    MIDLINE = ""


@dataclass(frozen=True, slots=True)
class Structure:
    """One organ.

    Attributes
    ----------
    name
        TG-263 primary name, at most 16 characters.
    aliases
        Other spellings; of a paired organ without its side, and for both sides in the left one's entry.
    colour
        RGB, 0 to 255, for ROIDisplayColor.
    interpreted_type
        RTROIInterpretedType (DICOM PS3.3 C.8.8.8).
    pair
        The name of the same organ on the other side, if there is one.
    """

    name: str
    aliases: tuple[str, ...]
    colour: tuple[int, int, int]
    interpreted_type: str = "ORGAN"
    pair: str | None = None

    @property
    def laterality(self) -> Laterality:
        """The side, from the TG-263 suffix."""
        if self.name.endswith("_L"):
            return Laterality.LEFT
        return Laterality.RIGHT if self.name.endswith("_R") else Laterality.MIDLINE


def etc_folder() -> Path:
    """Find ``etc``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "etc"
    return installed if installed.is_dir() else package.parent / "etc"


@cache
def catalogue() -> Mapping[str, Structure]:
    """Read the catalogue, keyed by TG-263 name."""
    entries = tomllib.loads((etc_folder() / "structures.toml").read_text(encoding="utf-8"))
    structures = {
        name: Structure(name, tuple(entry["aliases"]), tuple(entry["colour"]), pair=entry.get("pair"))
        for name, entry in entries.items()
    }
    return MappingProxyType(structures)


def colour_of(name: str) -> tuple[float, float, float]:
    """Return the catalogue's colour, RGB 0 to 1; white for a name that it does not know."""
    red, green, blue = catalogue()[name].colour if name in catalogue() else (255, 255, 255)
    return red / 255, green / 255, blue / 255


def mirrored_order(names: tuple[str, ...]) -> tuple[int, ...]:
    """Index of each structure's partner on the other side (its own where it has none), in the order of ``names``."""
    partners = [catalogue()[n].pair if n in catalogue() else None for n in names]
    return tuple(names.index(p) if p in names else i for i, p in enumerate(partners))
