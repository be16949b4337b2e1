"""The sheet of an acceptance: what the planning system must show of the phantom, to be ticked off and signed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.table import Table

from contourd import __version__
from contourd.acceptance.phantom import CENTROID_TOLERANCE_MM, SOLIDS, VOLUME_TOLERANCE, WrittenPhantom
from contourd.profiles import Profile

TEMPLATES = Path(__file__).resolve().parent / "templates"


@dataclass(frozen=True, slots=True)
class ExpectedSolid:
    """What is expected of one solid: volume in cc with its limits, centroid (x, y, z) LPS in mm.

    Attributes
    ----------
    colour
        As #rrggbb.
    """

    name: str
    colour: str
    where: str
    hu: int
    volume_cc: float
    least_cc: float
    most_cc: float
    centroid_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class PhantomDelivery:
    """A phantom and what became of it.

    Attributes
    ----------
    result
        In words: what the destination answered, or that nothing was sent.
    """

    phantom: WrittenPhantom
    result: str
    images_taken: int = 0
    structure_set_taken: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether the destination has all of it."""
        return self.structure_set_taken and self.images_taken == len(self.phantom.images)


def sheet_lines(profile: Profile) -> tuple[ExpectedSolid, ...]:
    """Return the expected figures, by formula alone, with the names that the profile writes."""
    return tuple(
        ExpectedSolid(
            profile.name_of(solid.name),
            "#{:02x}{:02x}{:02x}".format(*solid.colour),
            solid.where,
            solid.hu,
            solid.volume_cc,
            solid.volume_cc * (1 - VOLUME_TOLERANCE),
            solid.volume_cc * (1 + VOLUME_TOLERANCE),
            solid.centroid_mm,
        )
        for solid in SOLIDS
    )


def sheet_table(profile: Profile) -> Table:
    """Lay the figures out for a terminal."""
    table = Table("", "ROI", "volume, cc", "x", "y", "z", "HU", "where", box=None, pad_edge=False)
    for line in sheet_lines(profile):
        centroid = [f"{value:.1f}" for value in line.centroid_mm]
        volume = f"{line.volume_cc:.2f}"
        table.add_row("[ ]", line.name, volume, *centroid, str(line.hu), line.where, style=None)
    return table


def sheet_page(destination: str, profile: Profile, delivered: Sequence[PhantomDelivery]) -> str:
    """Write the sheet as one HTML page that needs no network and prints on one side.

    Parameters
    ----------
    destination
        In words: name, AE title, host and port.
    """
    return (
        _environment()
        .get_template("acceptance.html")
        .render(
            destination=destination,
            profile=profile,
            version=__version__,
            lines=sheet_lines(profile),
            delivered=delivered,
            percent=VOLUME_TOLERANCE * 100,
            tolerance_mm=CENTROID_TOLERANCE_MM,
        )
    )


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(TEMPLATES)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
