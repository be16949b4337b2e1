"""organs.toml: which organ each label of another program's model is, as a person says it, or as the catalogue reads it.

axes = "SPL"

[organs]
"parotid_left" = "Parotid_L"  # alias
"implant" = ""  # none: not contoured
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contourd.errors import ImportRefused
from contourd.model.structures import etc_folder

MAPS = "organ-maps"
LARGEST_BYTES = 2**20
ROI_NAME = re.compile(r"[A-Za-z0-9_+~^-]{1,16}")
AXES = re.compile(r"[SI][AP][LR]")
# What SimpleITK makes of a DICOM series.
USUAL_AXES = "SPL"
NOTE = """\
# Which organ each label of the model is. Edit what stands behind a label, then import the model again with this file
# as its --organs: a TG-263 name, at most 16 characters, or "" for what is not to be contoured.
# After the # stands how sure contourd is: exact (the name itself), alias (a spelling that the catalogue knows), likely
# (not taken until you write it), none.
# axes says towards which side of the patient the arrays' axes run on which the model was trained, slowest first:
# SPL if its NIfTI files were made from DICOM by SimpleITK or plastimatch, SAL if by dcm2niix, SAR if they were turned
# to nibabel's canonical axes, as TotalSegmentator does. Where it is wrong, left is right, or nothing is found.
"""


@dataclass(frozen=True, slots=True)
class LabelReading:
    """What a label's name is taken for.

    Attributes
    ----------
    organ
        TG-263 name; empty: not contoured.
    sure
        How sure that is, in a word.
    suggestion
        What it may be, where that is not sure enough.
    """

    organ: str
    sure: str
    suggestion: str = ""


ReadName = Callable[[str], LabelReading]


@dataclass(frozen=True, slots=True)
class OrganMap:
    """Label -> what it is taken for, and the axes of the model's arrays."""

    labels: Mapping[str, LabelReading]
    axes: str = USUAL_AXES

    @property
    def organs(self) -> dict[str, str]:
        """Label -> organ, of those that are to be contoured."""
        return {label: one.organ for label, one in self.labels.items() if one.organ}


def shipped_maps() -> tuple[str, ...]:
    """Name the maps that ship."""
    return tuple(sorted(path.stem for path in (etc_folder() / MAPS).glob("*.toml")))


def read_by_catalogue(labels: Sequence[str], read_name: ReadName) -> OrganMap:
    """Let the catalogue say what each label is; of two that it takes for one organ, neither is taken."""
    readings = {label: read_name(label) for label in labels}
    taken = [one.organ for one in readings.values() if one.organ]
    twice = {organ for organ in taken if taken.count(organ) > 1}
    return OrganMap(
        {label: LabelReading("", "likely", one.organ) if one.organ in twice else one for label, one in readings.items()}
    )


def read_organ_map(given: str, labels: Sequence[str]) -> OrganMap:
    """Read a person's file, or one that ships by its name.

    Raises
    ------
    ImportRefused
        There is none, or it does not fit the labels: every problem.
    """
    shipped = given in shipped_maps()
    path = etc_folder() / MAPS / f"{given}.toml" if shipped else Path(given)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise ImportRefused(f"{path} has more than {LARGEST_BYTES} bytes")
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(shipped_maps())
        raise ImportRefused(f"{path}: {error.strerror}; give an organs.toml, or one that ships: {known}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ImportRefused(f"{path} is no TOML: {error}") from error
    organs, axes = content.get("organs"), content.get("axes", USUAL_AXES)
    if set(content) - {"organs", "axes"} or not isinstance(organs, dict):
        raise ImportRefused(f"{path}: it holds axes and a table [organs], and nothing else")
    problems = []
    if not (isinstance(axes, str) and AXES.fullmatch(axes)):
        problems.append(f"axes = {axes!r}: S or I, then A or P, then L or R, as SPL")
    problems += [
        f"{label} = {organ!r}: a name of 1 to 16 of A-Z a-z 0-9 _ + ~ ^ -, or nothing"
        for label, organ in organs.items()
        if not (isinstance(organ, str) and (not organ or ROI_NAME.fullmatch(organ)))
    ]
    if missing := [label for label in labels if label not in organs]:
        problems.append(f'{", ".join(missing)}: write = "" behind what is not to be contoured')
    if not shipped and (strange := [label for label in organs if label not in labels]):
        problems.append(f"{', '.join(strange)}: no label of the model")
    folded = [str(organs[label]).casefold() for label in labels if organs.get(label)]
    if twice := sorted({organ for organ in folded if folded.count(organ) > 1}):
        named = [label for label in labels if str(organs.get(label, "")).casefold() in twice]
        problems.append(f"{', '.join(named)} are the same organ")
    if problems:
        raise ImportRefused(f"{path}: {'; '.join(problems)}")
    sure = "shipped" if shipped else "by a person"
    return OrganMap({label: LabelReading(organs[label], sure) for label in labels}, axes)


def write_organ_map(path: Path, found: OrganMap) -> None:
    """Write a file that a person can edit."""
    lines = [NOTE, f'axes = "{found.axes}"\n', "[organs]"]
    for label, one in found.labels.items():
        may_be = f", perhaps {one.suggestion}" if one.suggestion else ""
        lines.append(f"{json.dumps(label)} = {json.dumps(one.organ)}  # {one.sure}{may_be}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
