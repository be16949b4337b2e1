"""Find the same scan twice in a data set, however it was cropped, resampled, placed or masked.

No hash sees such twins, and one that is trained on while the other is tested on flatters the model. All pairs are
compared by their bones (twin_signatures); the pairs that are alike are laid on each other and compared by their tissue
(twin_registration). What was compared once is kept.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.atomic import write_text
from trainer.case import read_case
from trainer.curation.twin_registration import Tissue, make_tissue, similarity
from trainer.curation.twin_signatures import Match, make_signature, match, read_signature, write_signature
from trainer.progress import tracked

COMPARED = "compared.json"
# Of this file, twin_signatures and twin_registration together: another number compares everything again.
METHOD = 1
# Over all 20,503 pairs of OpenKBP: no two patients reached the second, no twin of the trials fell below it.
LEAST_LIKENESS, LEAST_SIMILARITY = 0.4, 0.75
CANDIDATES = 16
BATCH = 256
TILE = 64
CHUNK = 32
KEPT_TISSUES = 256

Work = TypeVar("Work")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Scan:
    """A case to compare.

    Attributes
    ----------
    path
        Of the case's file.
    content
        Hash of what the file's voxels depend on; the same gives the same result.
    """

    case: str
    path: Path
    content: str


@dataclass(frozen=True, slots=True)
class Twin:
    """Two cases that are the same scan; ``similarity`` is the correlation of their tissue, at most 1."""

    first: str
    second: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Twins:
    """What was found, the most similar first; ``blind`` names cases that have no bones to compare."""

    pairs: tuple[Twin, ...] = ()
    blind: tuple[str, ...] = ()


class _Pair(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    contents: tuple[str, str]
    similarity: float


class _Compared(BaseModel):
    """Contents that were all compared with each other, and the twins among them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: int = METHOD
    contents: tuple[str, ...] = ()
    pairs: tuple[_Pair, ...] = ()


def find_twins(scans: Sequence[Scan], folder: Path, workers: int = 1) -> Twins:
    """Compare every case with every other one; what an earlier run compared is taken from ``folder``.

    Some 700 pairs a second and core are compared by their bones. Of each new case the CANDIDATES most alike are
    compared by their tissue, some ten a second. Memory is bounded by the batch, not by the archive.

    Raises
    ------
    DatasetError
        A case cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_content = {scan.content: scan for scan in scans}
    _clean(folder, by_content)
    missing = [scan for scan in by_content.values() if not _is_signed(_signature_file(folder, scan))]
    for _ in tracked(_spread(partial(_sign, folder), missing, workers), len(missing), "bones"):
        pass
    before = _read(folder / COMPARED)
    done = [content for content in before.contents if content in by_content]
    pairs = [pair for pair in before.pairs if set(pair.contents) <= by_content.keys()]
    new = sorted(by_content.keys() - set(done))
    for at in range(0, len(new), BATCH):
        batch = new[at : at + BATCH]
        pairs += _compare(batch, done, by_content, folder, workers)
        done += batch
        write_text(folder / COMPARED, _Compared(contents=tuple(done), pairs=tuple(pairs)).model_dump_json())
    found = []
    for pair in pairs:
        first, second = sorted(by_content[content].case for content in pair.contents)
        found.append(Twin(first, second, pair.similarity))
    blind = [scan.case for scan in by_content.values() if read_signature(_signature_file(folder, scan)) is None]
    return Twins(tuple(sorted(found, key=lambda t: (-t.similarity, t.first, t.second))), tuple(sorted(blind)))


def _signature_file(folder: Path, scan: Scan) -> Path:
    return folder / f"{hashlib.sha256(f'{METHOD} {scan.content}'.encode()).hexdigest()[:32]}.bones"


def _clean(folder: Path, by_content: Mapping[str, Scan]) -> None:
    """Remove signatures of cases that are gone."""
    kept = {_signature_file(folder, scan).name for scan in by_content.values()}
    for path in folder.glob("*.bones*"):
        if path.name not in kept:
            path.unlink()


def _read(path: Path) -> _Compared:
    try:
        found = _Compared.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return _Compared()
    return found if found.method == METHOD else _Compared()


def _sign(folder: Path, scan: Scan) -> None:
    write_signature(make_signature(read_case(scan.path).volume), _signature_file(folder, scan))


def _is_signed(path: Path) -> bool:
    try:
        read_signature(path)
    except OSError:
        return False
    return True


def _compare(
    batch: Sequence[str], done: Sequence[str], by_content: Mapping[str, Scan], folder: Path, workers: int
) -> list[_Pair]:
    """Compare new cases with each other and with the ones before them."""
    everyone = [*batch, *done]
    files = {content: _signature_file(folder, by_content[content]) for content in everyone}
    tiles = [
        _Tile(
            tuple((c, files[c]) for c in batch[row : row + TILE]),
            tuple((c, files[c]) for c in everyone[col : col + TILE]),
        )
        for row in range(0, len(batch), TILE)
        for col in range(row, len(everyone), TILE)
    ]
    best: dict[str, list[_Candidate]] = defaultdict(list)
    for candidates in tracked(_spread(_alike, tiles, workers), len(tiles), "twins: bones"):
        for one in candidates:
            for content in {one.first, one.second} & set(batch):
                best[content] = sorted([*best[content], one], key=_likeness)[:CANDIDATES]
    chosen = sorted({one for several in best.values() for one in several}, key=lambda c: (c.first, c.second))
    chunks = [
        [(c, by_content[c.first].path, by_content[c.second].path) for c in chosen[at : at + CHUNK]]
        for at in range(0, len(chosen), CHUNK)
    ]
    found: list[_Pair] = []
    for pairs in tracked(_spread(_same, chunks, workers), len(chunks), "twins: tissue"):
        found += pairs
    return sorted(found, key=lambda pair: pair.contents)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Rows and columns of the table of all pairs: content and file of the signature."""

    rows: tuple[tuple[str, Path], ...]
    columns: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Two contents whose bones are alike."""

    first: str
    second: str
    match: Match


def _likeness(one: _Candidate) -> tuple[float, str, str]:
    return -one.match.likeness, one.first, one.second


def _alike(tile: _Tile) -> list[_Candidate]:
    signatures = {content: read_signature(path) for content, path in {*tile.rows, *tile.columns}}
    among = {content for content, _ in tile.rows} & {content for content, _ in tile.columns}
    found = []
    for first, _ in tile.rows:
        for second, _ in tile.columns:
            a, b = signatures[first], signatures[second]
            # Of the pairs within one block one half is enough.
            if a is None or b is None or first == second or (first > second and {first, second} <= among):
                continue
            alike = match(a, b)
            if alike is not None and alike.likeness >= LEAST_LIKENESS:
                found.append(_Candidate(first, second, alike))
    return found


@lru_cache(KEPT_TISSUES)
def _tissue(path: Path) -> Tissue | None:
    return make_tissue(read_case(path).volume)


def _same(chunk: Sequence[tuple[_Candidate, Path, Path]]) -> list[_Pair]:
    found = []
    for one, first, second in chunk:
        a, b = _tissue(first), _tissue(second)
        if a is None or b is None:
            continue
        value = similarity(a, b, one.match.offset_mm)
        if value >= LEAST_SIMILARITY:
            found.append(_Pair(contents=(one.first, one.second), similarity=round(value, 4)))
    return found


def _spread(work: Callable[[Work], Result], pieces: Sequence[Work], workers: int) -> Iterator[Result]:
    """Do pieces of work in this process or in several, and yield results as they come."""
    if workers <= 1 or len(pieces) < 2:
        yield from map(work, pieces)
        return
    # spawn: a forked child of a process with threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(work, piece) for piece in pieces]):
            yield future.result()
