"""Images that came again with other content under the same SOP Instance UID: kept, told, and decided on by a person.

Where they name another patient only the newer ones may be contoured: the source has corrected itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from contourd.dicom.network.events import ReceivedInstance
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.patient_identity import (
    PLACE,
    WHO,
    differing_identity,
    differing_place,
    read_identity,
    read_place,
)
from contourd.errors import InvalidTransition, SeriesUnusable
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.store.database import Database
from contourd.store.tables import InstanceRow, NewerImageRow, SeriesRow

MOST_PLACES = 5  # that a text names


@dataclass(frozen=True, slots=True)
class Replacement:
    """What would be of a series with the newer images.

    Attributes
    ----------
    newer
        Row of the image -> row of the newer one, by their ids.
    renamed
        Whether the newer images name another patient.
    """

    newer: Mapping[int, int]
    renamed: bool


def differences(one: Path, other: Path) -> tuple[str, ...]:
    """Return what of the patient, and of the slice's place, differs between two images of one UID."""
    return (*differing_identity(one, other), *([PLACE] if differing_place(one, other) else []))


def note_newer(
    session: Session, series: SeriesRow, received: ReceivedInstance, differs: tuple[str, ...], now: datetime
) -> bool:
    """Write down that an image came again with other content; both files are kept.

    Returns
    -------
    False, and nothing is written, where the last one that came was this very one.
    """
    last = latest_newer(session, series.id).get(received.sop_instance_uid)
    if last is not None and last.sha256 == received.sha256:
        return False
    session.add(
        NewerImageRow(
            series_id=series.id,
            sop_instance_uid=received.sop_instance_uid,
            path=received.path,
            sha256=received.sha256,
            patient=received.patient,
            differs=differs,
            to_remove=False,
            received_at=now,
        )
    )
    session.flush()
    return True


def images_of_series(database: Database, series_id: int) -> list[str]:
    """Return the images of a series, those that came again among them, relative to the spool."""
    with database.reading() as session:
        kept = session.scalars(select(InstanceRow.path).where(InstanceRow.series_id == series_id))
        return [*kept, *_paths_of_newer(session, series_id)]


def latest_newer(session: Session, series_id: int) -> dict[str, NewerImageRow]:
    """Return the last one of each image that came again, by SOP Instance UID."""
    rows = select(NewerImageRow).where(NewerImageRow.series_id == series_id, NewerImageRow.to_remove.is_(False))
    return {row.sop_instance_uid: row for row in session.scalars(rows.order_by(NewerImageRow.id))}


def renames(row: NewerImageRow) -> tuple[str, ...]:
    """Return the keywords by which an image that came again is another patient's."""
    return tuple(keyword for keyword in row.differs if keyword in WHO)


def reason_of_newer(session: Session, series: SeriesRow) -> Reason | None:
    """Return how many images came again, and what of the patient differs; None where none did."""
    newer = latest_newer(session, series.id)
    if not newer:
        return None
    if any(PLACE in row.differs for row in newer.values()):
        return Reason.of(HoldReason.SAME_UID_ON_SLICES, uids=len(newer))
    keywords = {keyword for row in newer.values() for keyword in renames(row)}
    if not keywords:
        return Reason.of(HoldReason.SENT_TWICE, images=len(newer), series=series.id)
    differs = [keyword for keyword in WHO if keyword in keywords]
    return Reason.of(HoldReason.SENT_TWICE_OTHER_PATIENT, images=len(newer), series=series.id, differs=differs)


def withdraw_newer(session: Session, series: SeriesRow, sop_instance_uid: str) -> None:
    """Record that the earlier image came again, after a newer one: that is its source's last word on it.

    The series stays held until a person has looked at it.
    """
    of_image = select(NewerImageRow).where(
        NewerImageRow.series_id == series.id,
        NewerImageRow.sop_instance_uid == sop_instance_uid,
        NewerImageRow.to_remove.is_(False),
    )
    rows = list(session.scalars(of_image))
    if not rows:
        return
    for row in rows:
        row.to_remove = PLACE not in row.differs  # another slice of the series is not taken back by this one
    session.flush()
    series.hold = reason_of_newer(session, series) or Reason(HoldReason.SENT_TWICE_THEN_AS_BEFORE)
    series.reason = series.hold if series.reason else None


def foresee_replacement(database: Database, root: Path, series_id: int) -> Replacement:
    """Examine what would be of a series with the newer images; the files are read here, and nothing is changed.

    Raises
    ------
    InvalidTransition
        Nothing came again, files are not what was received, or the series would lack slices or be of two patients.
    """
    with database.reading() as session:
        newer = latest_newer(session, series_id)
        others = _paths_of_newer(session, series_id)
        rows = list(session.scalars(select(InstanceRow).where(InstanceRow.series_id == series_id)))
        for row in (*rows, *newer.values()):
            session.expunge(row)
    if not newer:
        raise InvalidTransition(f"no image of series {series_id} came again with other content")
    damaged = sum(stored_sha256(root / row.path) != row.sha256 for row in newer.values())
    if damaged:
        raise InvalidTransition(f"{damaged} of the newer images have changed on the disk; send the series again")
    kept = [newer[row.sop_instance_uid].path if row.sop_instance_uid in newer else row.path for row in rows]
    _refuse_lost_slices(root, kept, [*(row.path for row in rows), *others])
    keywords = {keyword for row in newer.values() for keyword in renames(row)}
    if keywords:
        _refuse_two_patients(root, rows, newer, sorted(keywords))
    taken = {row.id: newer[row.sop_instance_uid].id for row in rows if row.sop_instance_uid in newer}
    return Replacement(taken, bool(keywords))


def foresee_release(database: Database, root: Path, series_id: int) -> frozenset[int]:
    """Examine what would be of a series with the earlier images alone; the files are read here.

    Returns
    -------
    The newer images that were looked at, by their ids.

    Raises
    ------
    InvalidTransition
        The series would lack slices.
    """
    with database.reading() as session:
        seen = frozenset(row.id for row in latest_newer(session, series_id).values())
        others = _paths_of_newer(session, series_id)
        kept = list(session.scalars(select(InstanceRow.path).where(InstanceRow.series_id == series_id)))
    _refuse_lost_slices(root, kept, others)
    return seen


def _paths_of_newer(session: Session, series_id: int) -> list[str]:
    undecided = NewerImageRow.series_id == series_id, NewerImageRow.to_remove.is_(False)
    return list(session.scalars(select(NewerImageRow.path).where(*undecided)))


def _refuse_lost_slices(root: Path, kept: Sequence[str], others: Sequence[str]) -> None:
    """Refuse to decide against images that are no other versions of those that are kept, but slices of their own."""
    if not others:
        return
    places = {path: _place_of(root / path) for path in {*kept, *others}}
    here = {places[path] for path in kept}
    lost = sorted({place for path in others if (place := places[path]) and place not in here}, key=lambda p: p[-1])
    if lost:
        at = ", ".join(f"{place[-1]:.2f}" for place in lost[:MOST_PLACES]) + (
            ", ..." if len(lost) > MOST_PLACES else ""
        )
        raise InvalidTransition(
            f"one SOP Instance UID stands on several slices: without the images at z = {at} mm the series would lack "
            "slices that were sent; have the source give each slice a UID of its own, and send all of them as a new "
            "series"
        )


def _place_of(path: Path) -> tuple[float, ...]:
    try:
        return read_place(path)
    except SeriesUnusable:
        return ()


def _refuse_two_patients(
    root: Path, rows: Sequence[InstanceRow], newer: Mapping[str, NewerImageRow], keywords: Sequence[str]
) -> None:
    paths = [newer[row.sop_instance_uid].path if row.sop_instance_uid in newer else row.path for row in rows]
    try:
        identities = {tuple(read_identity(root / path)[keyword] for keyword in keywords) for path in paths}
    except SeriesUnusable as error:
        raise InvalidTransition(str(error)) from error
    if len(identities) > 1:
        raise InvalidTransition(
            f"{len(newer)} of {len(rows)} images came again, and the others still have another "
            f"{', '.join(keywords)}: a series of two patients is not contoured; send the rest again, too"
        )


def take_newer(session: Session, series: SeriesRow, replacement: Replacement) -> None:
    """Put the newer images in the place of the earlier ones, whose files are to be removed.

    Raises
    ------
    InvalidTransition
        Something came meanwhile.
    """
    newer = {row.id: row for row in latest_newer(session, series.id).values()}
    if set(newer) != set(replacement.newer.values()):
        raise InvalidTransition(f"more images of series {series.id} came meanwhile; look at it again")
    drop_newer(session, series.id, keep=newer)
    for image_id, newer_id in replacement.newer.items():
        image, row = session.get_one(InstanceRow, image_id), newer[newer_id]
        earlier = image.path, image.sha256
        image.path = row.path
        image.sha256 = row.sha256
        image.received_at = row.received_at
        series.patient = row.patient
        row.path, row.sha256, row.to_remove = *earlier, True


def drop_newer(session: Session, series_id: int, keep: Iterable[int] = ()) -> int:
    """Decide against newer images: their files are to be removed; returns how many they are."""
    rows = select(NewerImageRow).where(NewerImageRow.series_id == series_id, NewerImageRow.to_remove.is_(False))
    dropped = [row for row in session.scalars(rows) if row.id not in set(keep)]
    for row in dropped:
        row.to_remove = True
    return len(dropped)


def remove_decided(database: Database, root: Path) -> None:
    """Remove the files that were decided against, then their rows; killed in between, it is taken up the next time.

    Raises
    ------
    QueueUnavailable, OSError
        It goes on the next time.
    """
    with database.reading() as session:
        decided = select(NewerImageRow.id, NewerImageRow.path).where(NewerImageRow.to_remove.is_(True))
        rows = session.execute(decided).all()
    if not rows:
        return
    for _, path in rows:
        (root / path).unlink(missing_ok=True)
    with database.transaction() as session:
        session.execute(delete(NewerImageRow).where(NewerImageRow.id.in_([number for number, _ in rows])))
