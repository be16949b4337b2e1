"""Walk through sources and find what may be a case: DICOM, PDDCA, open-kbp CSV and .npz, in any nesting and mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from contourd.errors import DatasetError
from contourd.system.folders import irregular, walk
from trainer.case import read_case
from trainer.curation import dicom, openkbp, pddca
from trainer.curation.archive import Item, Kind, SkippedItem, splits_of


@dataclass(frozen=True, slots=True)
class Source:
    """An archive, and what the person calls it."""

    name: str
    root: Path


def parse_sources(texts: Sequence[str]) -> list[Source]:
    """Read ``NAME=PATH`` or ``PATH``, whose last part is then the name.

    Raises
    ------
    DatasetError
        A folder is absent, or a name stands twice.
    """
    found = []
    for text in texts:
        name, equals, path = text.partition("=")
        root = Path(path if equals else text).resolve()
        if not root.is_dir():
            raise DatasetError(f"{root} is no folder")
        found.append(Source(name if equals else root.name, root))
    names = [source.name for source in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"two sources are called {', '.join(twice)}: give them names, as in a=PATH b=PATH")
    return found


def find_items(source: Source) -> Iterator[Item | SkippedItem]:
    """Find everything that may be a case, in a fixed order."""
    dicom_files: list[Path] = []
    passed: dict[Path, str] = {}
    for folder, folders, names in walk(source.root, passed.__setitem__):
        odd = {name: reason for name in names if (reason := irregular(folder / name))}
        for name in odd:
            yield SkippedItem(source.name, str((folder / name).relative_to(source.root)), odd[name])
        names = [name for name in names if name not in odd]
        if openkbp.CT_FILE in names:
            yield openkbp.find_patient(folder, source.name, splits_of([folder / names[0]], source.root))
        elif pddca.IMAGE_FILE in names:
            folders[:] = [f for f in folders if f != pddca.STRUCTURES_FOLDER]
            yield pddca.find_patient(folder, source.name, splits_of([folder / names[0]], source.root))
        else:
            for name in names:
                if name.endswith(".npz"):
                    yield _case(folder / name, source)
                else:
                    dicom_files.append(folder / name)
    for folder, reason in passed.items():
        yield SkippedItem(source.name, str(folder.relative_to(source.root)), reason)
    yield from dicom.find_patients(source.root, dicom_files, source.name)


def _case(path: Path, source: Source) -> Item | SkippedItem:
    try:
        names = tuple(sorted(read_case(path).annotations))
    except DatasetError as error:
        return SkippedItem(source.name, str(path.relative_to(source.root)), str(error))
    return Item(source.name, path.stem, Kind.CASE, (path,), (), path.stem, splits_of([path], source.root), names)
