"""Whether a stored image is still what was received: disks rot, and people tidy up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.reading.spacing import missing_positions_mm
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

MOST_TOLD = 5


def require_intact(images: Mapping[Path, str]) -> None:
    """Compare files with the hashes that they had when they were received.

    Raises
    ------
    SeriesUnusable
        Names the position of each that is gone or changed, as far as it can be told, and the remedy.
    """
    damaged = [path for path, sha256 in images.items() if stored_sha256(path) != sha256]
    if not damaged:
        return
    gone = sum(not path.exists() for path in damaged)
    what = "are gone" if gone == len(damaged) else "have changed on the disk" if not gone else "are gone or changed"
    z_mm = _positions_mm(images, damaged)
    raise SeriesUnusable(
        HoldReason.IMAGES_DAMAGED,
        damaged=len(damaged),
        images=len(images),
        what=what,
        z_mm=z_mm[:MOST_TOLD],
        more=len(z_mm) > MOST_TOLD,
    )


def _positions_mm(images: Mapping[Path, str], damaged: list[Path]) -> list[float]:
    """Return where the images lie; those that cannot be read, by the gap that they leave."""
    known = {path: found for path in images if (found := _place(path)) is not None}
    lines = [known[path][0] for path in damaged if path in known]
    intact = [place for path, place in known.items() if path not in damaged]
    if len(lines) < len(damaged) and len(intact) > 1:
        lines += missing_positions_mm([z for z, _ in intact], [number for _, number in intact])
    return sorted(set(lines))


def _place(path: Path) -> tuple[float, int | None] | None:
    try:
        instance = read_instance(path)
    except SeriesUnusable:
        return None
    return (instance.position_mm[2], instance.number) if instance.position_mm is not None else None
