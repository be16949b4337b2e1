"""Received images read once: the bytes that are hashed are those whose header is read and whose pixels are decoded.

A file is read and hashed in a thread while the one before it is decoded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from contourd.dicom.reading.dataset_hash import dataset_sha256
from contourd.dicom.reading.decoded_pixels import Decoded
from contourd.dicom.reading.instance import Instance, read_content, read_instance
from contourd.dicom.reading.integrity import require_intact
from contourd.dicom.reading.isolation import UNDECODABLE, PixelDecoder, pixel_decoder
from contourd.dicom.reading.pixels import decoded
from contourd.errors import SeriesUnusable
from contourd.system.regular_files import read_regular

# Files that are read before their turn, and what decoded pixels may take; those of further images are read once more.
FILES_BEFORE, MOST_DECODED_BYTES = 4, 2**29


@dataclass(frozen=True, slots=True, eq=False)
class _File:
    """A file's bytes and the hash of its dataset; both empty where it cannot be read."""

    content: bytes = b""
    sha256: str = ""


def read_received(
    images: Mapping[Path, str],
    known: Mapping[Path, Instance] | None = None,
    most_bytes: int = MOST_DECODED_BYTES,
) -> list[Instance]:
    """Read images whose hashes are those of when they were received, with their pixels, in the given order.

    An image whose pixels cannot be decoded is returned without them: ``hounsfield`` says why, after the input gate.

    Parameters
    ----------
    known
        Images that were read before and have not changed since.
    most_bytes
        Of decoded pixels; an image beyond them is returned without its pixels, too.

    Raises
    ------
    SeriesUnusable
        As ``require_intact`` and ``read_instance`` do.
    """
    known = known or {}
    left = most_bytes - sum(decoded_bytes(instance) for instance in known.values())
    found: dict[Path, Instance] = {}
    with pixel_decoder() as decoder:
        try:
            for path, file in _read_files(path for path in images if path not in known):
                if file.sha256 != images[path]:
                    break
                found[path] = read_image(file.content, path, decoder, left)
                left -= decoded_bytes(found[path])
        except SeriesUnusable:
            require_intact(images)  # what has changed on the disk is told as that
            raise
    found |= {path: known[path] for path in images if path in known}
    if len(found) < len(images):
        require_intact(images)
        return [read_instance(path) for path in images]  # it could be read after all
    return [found[path] for path in images]


def read_image(content: bytes, path: Path, decoder: PixelDecoder, most_bytes: int) -> Instance:
    """Read one image from the bytes of its file, with its pixels where they can be decoded and are not too many.

    Raises
    ------
    SeriesUnusable
        As ``read_instance`` does.
    """
    instance, dataset = read_content(content, path)
    if dataset is None or 2 * instance.rows * instance.columns > most_bytes:
        return instance
    with suppress(SeriesUnusable, *UNDECODABLE):  # the gate was not asked yet: anything may be wrong
        return replace(instance, decoded=Decoded(decoded(instance, dataset, decoder)))
    return instance


def decoded_bytes(instance: Instance) -> int:
    """Return what an image's decoded pixels take."""
    pixels = instance.decoded.hu if instance.decoded is not None else None
    return pixels.nbytes if pixels is not None else 0


def _read_files(paths: Iterable[Path]) -> Iterator[tuple[Path, _File]]:
    """Yield each file, the following ones being read meanwhile."""
    with ThreadPoolExecutor(1, "reading") as reader:
        waiting: deque[tuple[Path, Future[_File]]] = deque()
        try:
            for path in paths:
                waiting.append((path, reader.submit(_read_file, path)))
                if len(waiting) > FILES_BEFORE:
                    first, file = waiting.popleft()
                    yield first, file.result()
            while waiting:
                first, file = waiting.popleft()
                yield first, file.result()
        finally:
            for _, file in waiting:
                file.cancel()


def _read_file(path: Path) -> _File:
    try:
        content = read_regular(path, follow=False)
    except OSError:
        return _File()
    return _File(content, dataset_sha256(content))
