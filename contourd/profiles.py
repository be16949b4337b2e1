"""Destination profiles: how a planning system is to be given its structure sets, and whoever else what is drawn.

A profile is plain data; ``contourd.dicom.rtstruct.writer`` obeys it, and of its names ``segmentation.writer`` too. What
is known of each system, and from where, stands in docs/conformance.md. None was tried: where nothing is known, a
profile is as strict as ``strict``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

HoleStyleName = Literal["keyhole", "xor"]
ProductName = Literal["rtstruct", "seg"]
RTSTRUCT: ProductName = "rtstruct"

LABEL = "AI-HN DRAFT"


@dataclass(frozen=True, slots=True)
class Profile:
    """How one product of a job is written: its structure set, or its segmentation.

    Attributes
    ----------
    holes
        ``keyhole``: one loop joined to its holes by slits of no width. ``xor``: loops of their own, CLOSEDPLANAR_XOR.
    decimals
        Of x and y in mm, 2 to 4; z is always the slice's own text.
    name_length
        Longest ROI name, at most 64 (DICOM LO).
    names
        TG-263 name -> name at the destination.
    label
        StructureSetLabel, at most 16 characters (DICOM SH).
    interpreted_type
        RTROIInterpretedType of every organ.
    product
        What is written; a segmentation takes of the others the names alone.
    """

    name: str
    holes: HoleStyleName = "keyhole"
    decimals: int = 3
    name_length: int = 16
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    label: str = LABEL
    interpreted_type: str = "ORGAN"
    product: ProductName = RTSTRUCT

    def name_of(self, structure: str) -> str:
        """Return the destination's name of an organ."""
        return self.names.get(structure, structure)

    def as_plain(self) -> dict[str, object]:
        """Return its fields as plain values, which ``Profile(**values)`` takes again."""
        values = {name: getattr(self, name) for name in self.__slots__} | {"names": dict(self.names)}
        if self.product == RTSTRUCT:  # as earlier versions wrote it down
            del values["product"]
        return values

    def identity(self) -> str:
        """Return what makes what it writes differ from another profile's: part of the UIDs."""
        names = ",".join(f"{key}={value}" for key, value in sorted(self.names.items()))
        parts = (self.holes, self.decimals, self.name_length, names, self.label, self.interpreted_type)
        return "|".join(map(str, parts if self.product == RTSTRUCT else (*parts, self.product)))


STRICT = Profile("strict")

_ALL = (
    STRICT,
    # Names over 16 characters, and DS values of 16 bytes, gave trouble: two decimals leave room for large tables.
    Profile("eclipse", decimals=2),
    # A changed interpreted type makes a second ROI there: it stays ORGAN for ever.
    Profile("raystation"),
    Profile("monaco"),
    Profile("pinnacle"),
    Profile("mim", name_length=64),
)
PROFILES: Mapping[str, Profile] = MappingProxyType({profile.name: profile for profile in _ALL})


def profiles_to_write(wanted: Iterable[Profile]) -> tuple[Profile, ...]:
    """Return what is written for a job, once where it is alike, structure sets first.

    Where nobody wants a structure set there is one all the same: it is what the page shows and what is compared.
    """
    alike = {profile.identity(): profile for profile in wanted}
    if alike and all(profile.product != RTSTRUCT for profile in alike.values()):
        own = replace(next(iter(alike.values())), product=RTSTRUCT)
        alike[own.identity()] = own
    return tuple(sorted(alike.values(), key=lambda profile: profile.product != RTSTRUCT))
