"""A patient found by an ID or name that a person types: hashed with the site's key, and compared with what is kept."""

from __future__ import annotations

from collections.abc import Iterable

from contourd.dicom.reading.patient_identity import read_patient
from contourd.dicom.reading.series_description import typed_spellings
from contourd.errors import FilterInvalid, SeriesUnusable
from contourd.intake.describing import name_hash
from contourd.observe.archive import ArchiveLine, known_patients
from contourd.settings import SpoolSettings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.first_images import first_images
from contourd.transfer.copies import bring_if_possible, copies_of

LONGEST_TYPED = 200
# Of a hash, in the audit trail.
SHOWN_DIGITS = 10


def find_patients(database: Database, settings: SpoolSettings, typed: str) -> tuple[str, ...]:
    """Return by what a list finds a patient: the pseudonym of the ID, or hashes of the name; empty: nobody is found.

    Raises
    ------
    FilterInvalid
        Nothing was typed, or too much.
    SpoolError
        The site's key cannot be read.
    QueueUnavailable
        The database cannot be read.
    """
    typed = typed.strip()
    if not typed or len(typed) > LONGEST_TYPED or not typed.isprintable():
        raise FilterInvalid(f"type a Patient ID or a name, of at most {LONGEST_TYPED} characters")
    spool = Spool(settings.root)
    names = [name_hash(spool.signature, spelling) for spelling in sorted(typed_spellings(typed))]
    return known_patients(database, spool.pseudonym(typed), names)


def series_to_name(lines: Iterable[ArchiveLine]) -> list[str]:
    """Return the SeriesInstanceUIDs of a list whose images are still those of the patient."""
    jobs = [line.job.series_uid for line in lines if line.job is not None and not line.job.patient_replaced]
    return [*jobs, *(line.series.series_uid for line in lines if line.series is not None)]


def read_patients(database: Database, settings: SpoolSettings, series_uids: Iterable[str]) -> dict[str, str]:
    """Return SeriesInstanceUID -> name and ID, as the spooled images say them; in words where they are gone."""
    images, patients = first_images(database, list(series_uids)), dict[str, str]()
    bring_if_possible(copies_of(settings, database), images.values())
    for uid, path in images.items():
        try:
            patient = read_patient(settings.root / path)
            patients[uid] = f"{patient.name} ({patient.id})"
        except SeriesUnusable:
            patients[uid] = "(its images are gone)"
    return patients
