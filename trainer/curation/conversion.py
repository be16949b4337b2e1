"""One item of an archive -> one case of the data set; what it was made of is kept beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from contourd import __version__
from contourd.errors import DatasetError, SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from trainer.atomic import write_text
from trainer.case import Annotation, Case, read_case, write_case
from trainer.curation import dicom, openkbp, pddca
from trainer.curation.archive import Item, Kind, RawCase
from trainer.curation.audit import Shape, shapes_of
from trainer.curation.chest import head_and_neck
from trainer.curation.contact_sheet import contact_sheet

LEAST_REMOVED_MM = 10.0
# Raised when the same files give other labels than before: what an earlier run made is then made anew.
READING = 2


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What to make of an item.

    Attributes
    ----------
    organs
        Spelling -> organ, of the spellings that are taken for one.
    keep_chest
        Leave the volume as long as it is.
    folder
        Where the case, its picture and what is known of it go.
    """

    item: Item
    identifier: str
    organs: Mapping[str, str]
    keep_chest: bool
    folder: Path

    @property
    def key(self) -> str:
        """Hash of all that the case depends on: files by size and time, names, settings, version."""
        files = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in (*self.item.images, *self.item.structures)]
        used = {spelling: self.organs.get(spelling, "") for spelling in self.item.spellings}
        content = [files, used, self.keep_chest, self.identifier, self.item.source, __version__, READING]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Converted(BaseModel):
    """What is known of a case that was made, or why it was not.

    Attributes
    ----------
    refused
        Why there is no case; empty: there is one.
    content
        Hash of the voxels as they were read.
    voxels
        Of each organ, and of the whole volume under "".
    remarks
        What was odd, in words.
    removed_mm
        Length of the chest that was cut off.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    identifier: str
    source: str
    refused: str = ""
    content: str = ""
    annotations: Mapping[str, Annotation] = {}
    shapes: tuple[Shape, ...] = ()
    voxels: Mapping[str, int] = {}
    remarks: tuple[str, ...] = ()
    removed_mm: float = 0.0


def case_file(folder: Path, identifier: str) -> Path:
    """Name the file of a case that was made."""
    return folder / f"{identifier}.npz"


def sheet_file(folder: Path, identifier: str) -> Path:
    """Name the file of its picture."""
    return folder / f"{identifier}.png"


def known(order: ConversionOptions) -> Converted | None:
    """Return what an earlier run made of the item; None where anything has changed since."""
    try:
        found = Converted.model_validate_json((order.folder / f"{order.identifier}.json").read_bytes())
        fits = found.key == order.key
    except (OSError, ValidationError):
        return None
    complete = bool(found.refused) or case_file(order.folder, order.identifier).is_file()
    return found if fits and complete else None


def convert(order: ConversionOptions) -> Converted:
    """Read an item and write the case; what cannot be read is said in the result, never raised."""
    key = order.key
    try:
        made = _make(order, key)
    except (DatasetError, SeriesUnusable, OSError) as error:
        made = Converted(
            key=key, identifier=order.identifier, source=order.item.source, refused=str(error).splitlines()[0]
        )
    write_text(order.folder / f"{order.identifier}.json", made.model_dump_json())
    return made


def _make(order: ConversionOptions, key: str) -> Converted:
    item = order.item
    raw = _own(read_case(item.images[0])) if item.kind is Kind.CASE else READERS[item.kind](item)
    case, remarks = _named(raw, order)
    if not case.annotations:
        if remarks:
            raise DatasetError(f"no organ of it can be used; {'; '.join(remarks)}")
        raise DatasetError(f"no structure of it is taken for an organ; it has {', '.join(item.spellings) or 'none'}")
    content = hashlib.sha256(np.ascontiguousarray(case.volume.hu).tobytes()).hexdigest()
    removed_mm = 0.0
    if not order.keep_chest:
        case, removed_mm = without_chest(case)
    shapes = shapes_of(case.masks, case.volume.hu, case.volume.grid)
    write_case(case, case_file(order.folder, order.identifier))
    contact_sheet(case.volume, case.masks).savefig(
        sheet_file(order.folder, order.identifier), dpi=60, facecolor="black"
    )
    voxels = {name: int(mask.sum()) for name, mask in case.masks.items()}
    return Converted(
        key=key,
        identifier=order.identifier,
        source=item.source,
        content=content,
        annotations=case.annotations,
        shapes=tuple(shapes),
        voxels={**voxels, "": case.volume.hu.size},
        remarks=tuple(remarks),
        removed_mm=removed_mm,
    )


READERS = {
    Kind.DICOM: dicom.read_patient,
    Kind.PDDCA: pddca.read_patient,
    Kind.OPENKBP_CSV: openkbp.read_patient,
}


def _own(case: Case) -> RawCase:
    """Take over a case that contourd made: its organs have their names, and the review file may say otherwise."""
    nothing = np.zeros(case.volume.grid.shape, dtype=bool)
    looked_for = [name for name, annotation in case.annotations.items() if annotation is not Annotation.UNKNOWN]
    return RawCase(case.volume, {name: case.masks.get(name, nothing) for name in looked_for})


def _named(raw: RawCase, order: ConversionOptions) -> tuple[Case, list[str]]:
    """Give structures their organs' names; of two spellings of one organ neither can be trusted, unless they agree.

    An organ whose mask is empty is ABSENT: somebody drew or looked for it, and nothing of it is in the field of view.
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    conflicting, remarks = set(), list(raw.remarks.get("", ()))
    for spelling, text in sorted(raw.remarks.items()):
        organ = order.organs.get(spelling)
        if organ is not None:
            unknown = "" if spelling in raw.masks else "; it is unknown"
            remarks.append(f"{organ} ({spelling}): {', '.join(text)}{unknown}")
    for spelling, mask in sorted(raw.masks.items()):
        organ = order.organs.get(spelling)
        if organ is None:
            continue
        if organ in masks and not np.array_equal(masks[organ], mask):
            conflicting.add(organ)
        masks[organ] = mask
    for organ in sorted(conflicting):
        del masks[organ]
        remarks.append(f"{organ}: two structures are taken for it and differ; it is unknown until names.toml decides")
    said = {organ: Annotation.PRESENT if mask.any() else Annotation.ABSENT for organ, mask in masks.items()}
    present = {organ: mask for organ, mask in masks.items() if mask.any()}
    return Case(order.identifier, raw.volume, present, said, order.item.source), remarks


def without_chest(case: Case) -> tuple[Case, float]:
    """Cut the chest off; an organ that lay only in it becomes ABSENT.

    Returns
    -------
    The case, and the length that was cut off in mm; under LEAST_REMOVED_MM it is left whole.

    Raises
    ------
    SeriesUnusable
        No patient is in the volume.
    """
    grid = case.volume.grid
    kept = head_and_neck(case.volume)
    removed_mm = float(grid.slice_positions_mm[kept.start])
    if removed_mm < LEAST_REMOVED_MM:
        return case, 0.0
    shape = (kept.stop - kept.start, *grid.shape[1:])
    shorter = Grid(shape, grid.pixel_spacing_mm, grid.slice_origins_mm[kept], grid.row_direction, grid.column_direction)
    masks = {name: mask[kept] for name, mask in case.masks.items() if mask[kept].any()}
    gone = {name: Annotation.ABSENT for name in case.masks if name not in masks}
    volume = Volume(shorter, np.ascontiguousarray(case.volume.hu[kept]))
    return Case(case.identifier, volume, masks, {**case.annotations, **gone}, case.source), removed_mm
