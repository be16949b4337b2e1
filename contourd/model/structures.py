"""The organ catalogue: TG-263 names, what hospitals call them, colours and interpreted types (etc/structures.toml).

Mayo et al., AAPM Task Group 263, "Standardizing Nomenclatures in Radiation Oncology", 2018.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
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


# A word of its own, wherever it stands (Glnd_Submand_L, OpticNrv_L_PRV, Left_Parotid), a lobe of a lung, or the end of
# a word of small letters (ParotidL).
LEFT, RIGHT = (
    re.compile(rf"(?i:(?<![a-z0-9])(?:{words}|{lobes})(?![a-z0-9]))|(?<=[a-z])(?:{words})$")
    for words, lobes in (("L|Lt|Left", "LUL|LLL"), ("R|Rt|Right", "RUL|RML|RLL"))
)
Pairs = tuple[tuple[str, str], ...]


def side_of(name: str) -> Laterality:
    """Return the side that a name says, in the way of TG-263; a name that says both has none."""
    left, right = LEFT.search(name) is not None, RIGHT.search(name) is not None
    if left == right:
        return Laterality.MIDLINE
    return Laterality.LEFT if left else Laterality.RIGHT


def without_side(name: str) -> str:
    """Return what is left of a name without its side, in small letters and digits: the same for both of a pair."""
    return re.sub(r"[^a-z0-9]", "", LEFT.sub("", RIGHT.sub("", name)).casefold())


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
    code, meaning
        SNOMED CT (coding scheme SCT), as DICOM's context groups have it (PS3.16), without the side; empty where they
        have none.
    """

    name: str
    aliases: tuple[str, ...]
    colour: tuple[int, int, int]
    interpreted_type: str = "ORGAN"
    pair: str | None = None
    code: str = ""
    meaning: str = ""

    @property
    def laterality(self) -> Laterality:
        """The side, from the name."""
        return side_of(self.name)


def etc_folder() -> Path:
    """Find ``etc``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "etc"
    return installed if installed.is_dir() else package.parent / "etc"


@cache
def catalogue() -> Mapping[str, Structure]:
    """Read the catalogue that ships, keyed by TG-263 name."""
    entries = tomllib.loads((etc_folder() / "structures.toml").read_text(encoding="utf-8"))
    structures = {
        name: Structure(
            name,
            tuple(entry["aliases"]),
            tuple(entry["colour"]),
            pair=entry.get("pair"),
            code=entry.get("code", ""),
            meaning=entry.get("meaning", ""),
        )
        for name, entry in entries.items()
    }
    return MappingProxyType(structures)


def colour_of(name: str, known: Mapping[str, Structure] | None = None) -> tuple[float, float, float]:
    """Return a catalogue's colour, RGB 0 to 1, by default that which ships; white for a name that it does not know."""
    known = catalogue() if known is None else known
    red, green, blue = known[name].colour if name in known else (255, 255, 255)
    return red / 255, green / 255, blue / 255


def catalogue_pairs(names: Sequence[str], known: Mapping[str, Structure] | None = None) -> Pairs:
    """Return the pairs among ``names`` that a catalogue knows, (left, right); by default the one that ships."""
    known = catalogue() if known is None else known
    found = []
    for name in names:
        structure = known.get(name)
        if structure is not None and structure.laterality is Laterality.LEFT and structure.pair in names:
            found.append((name, str(structure.pair)))
    return tuple(found)


def refuse_other_pairs(names: Sequence[str], pairs: Pairs) -> None:
    """See that pairs are (left, right) organs of ``names``, each in one; raises ValueError."""
    paired = [name for pair in pairs for name in pair]
    if other := [name for name in paired if name not in names]:
        raise ValueError(f"pairs: {', '.join(other)} is no organ of the model")
    if len(set(paired)) != len(paired):
        raise ValueError("pairs: an organ stands twice")
    for left, right in pairs:
        _refuse_other_sides(left, right)


def _refuse_other_sides(left: str, right: str) -> None:
    if side_of(left) is Laterality.RIGHT or side_of(right) is Laterality.LEFT:
        raise ValueError(f"pairs: {left} is to be the left one, and {right} the right one")
    if Laterality.MIDLINE not in (side_of(left), side_of(right)) and without_side(left) != without_side(right):
        raise ValueError(f"pairs: {left} and {right} are not the two sides of one organ")


def unpaired(names: Sequence[str], pairs: Pairs) -> tuple[str, ...]:
    """Name those that say a side and are in no pair."""
    paired = {name for pair in pairs for name in pair}
    return tuple(name for name in names if name not in paired and side_of(name) is not Laterality.MIDLINE)


def mirrored_order(names: Sequence[str], pairs: Pairs) -> tuple[int, ...]:
    """Index of each structure's partner on the other side (its own where it has none), in the order of ``names``."""
    partners = {one: other for left, right in pairs for one, other in ((left, right), (right, left))}
    return tuple(names.index(partners.get(name, name)) for name in names)
