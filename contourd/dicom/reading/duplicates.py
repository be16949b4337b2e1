"""Images that are there twice: copies of one file, and a series that was sent again with new UIDs.

Each image has a UID of its own (DICOM PS3.5 9); a structure set that refers to half of one set of images and half of
another is of neither. One coherent set is taken, or none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE, Instance
from contourd.dicom.reading.pixels import same_image
from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason

# When an image was made, got its pixels, and was scanned: date and time; or the scan's number.
MOMENTS = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("AcquisitionDate", "AcquisitionTime"),
    ("AcquisitionNumber",),
)
MOST_TOLD = 5
NUMBER = re.compile(r"\d+(\.\d+)?")
Key = tuple[float, ...]


def drop_copies(instances: Sequence[Instance]) -> list[Instance]:
    """Take an image once whose file is there several times, in the order in which they are given.

    Raises
    ------
    SeriesUnusable
        Different images bear one UID, or a slice bears the one of its series or study.
    """
    kept: dict[str, Instance] = {}
    differing: list[Instance] = []
    for instance in instances:
        if instance.sop_instance_uid in (instance.series_instance_uid, instance.study_instance_uid):
            raise SeriesUnusable(HoldReason.UID_OF_SERIES)
        known = kept.setdefault(instance.sop_instance_uid, instance)
        if known is not instance and not same_image(known.path, instance.path):
            differing.append(instance)
    if differing:
        places = sorted({round(i.z_mm, 2) for i in differing if i.z_mm is not None})
        raise SeriesUnusable(
            HoldReason.SAME_UID_TWICE,
            differing=len(differing),
            images=len(instances),
            z_mm=places[:MOST_TOLD],
            more=len(places) > MOST_TOLD,
        )
    return list(kept.values())


def choose_images(places: Sequence[Sequence[Instance]]) -> list[Instance]:
    """Choose one image for each position, all of one set, where several of the same pixels lie at some.

    A set is told from the others by numbers that rise from one to the next: every UID of it is below (or above) every
    one of theirs, or it was made before (or after) them. A single image that is there twice is no set.

    Raises
    ------
    SeriesUnusable
        Nothing tells the sets apart.
    """
    doubled = [place for place in places if len(place) > 1]
    if not doubled:
        return [place[0] for place in places]
    for key in (_uid, *map(_moment, MOMENTS)):
        keys = {i.path: key(i) for place in places for i in place}
        if all(keys.values()) and (chosen := _set_apart(places, lambda i, keys=keys: keys[i.path])):  # type: ignore[misc]
            return chosen
    if len(doubled) == 1:
        return [min(place, key=lambda i: i.sop_instance_uid) for place in places]
    raise SeriesUnusable(HoldReason.SERIES_TWICE, doubled=len(doubled), positions=len(places))


def _set_apart(places: Sequence[Sequence[Instance]], key: Callable[[Instance], Any]) -> list[Instance]:
    """Return the lowest or highest image of each position, where they lie apart from the rest; else nothing."""
    ordered = [sorted(place, key=key) for place in places]
    lowest, above = [place[0] for place in ordered], [i for place in ordered for i in place[1:]]
    if max(map(key, lowest)) < min(map(key, above)):
        return lowest
    highest, below = [place[-1] for place in ordered], [i for place in ordered for i in place[:-1]]
    return highest if max(map(key, below)) < min(map(key, highest)) else []


def _uid(instance: Instance) -> Key:
    return tuple(map(int, instance.sop_instance_uid.split(".")))


def _moment(keywords: Sequence[str]) -> Callable[[Instance], Key]:
    def read(instance: Instance) -> Key:
        try:
            header = read_dicom(instance.path, stop_before_pixels=True, specific_tags=list(keywords))
            texts = [str(header.get(keyword, "") or "").strip() for keyword in keywords]
        except UNREADABLE:
            return ()
        return tuple(map(float, texts)) if all(map(NUMBER.fullmatch, texts)) else ()

    return read
