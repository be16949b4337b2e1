"""By what a series is found and described in the list of all jobs, written down when it is examined."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import delete, insert
from sqlalchemy.orm import Session

from contourd.dicom.reading.instance import Instance
from contourd.dicom.reading.series_description import SeriesDescription, read_description
from contourd.errors import SeriesUnusable, SpoolError
from contourd.store.archive_tables import PatientNameRow, SeriesDescriptionRow
from contourd.store.route_choice import MatchedCondition, RouteChoice

log = logging.getLogger(__name__)

# How the site's key is asked for a name, and how much of its answer is kept.
PURPOSE, HMAC_DIGITS = "patient name", 32
# Patients that one series may have before the gate holds it; of more a sender made nonsense.
MOST_PATIENTS = 20


@dataclass(frozen=True, slots=True)
class Described:
    """What is written down of one series; ``texts`` is None where the settings want no descriptions."""

    hashes: frozenset[str]
    texts: SeriesDescription | None
    choice: RouteChoice | None = None


def name_hash(sign: Callable[[str, bytes], str], spelling: str) -> str:
    """Return what is kept of a spelling of a name.

    Parameters
    ----------
    sign
        The spool's ``signature``, by the site's key.
    """
    return sign(PURPOSE, spelling.encode())[:HMAC_DIGITS]


@dataclass(frozen=True, slots=True)
class SeriesDescriber:
    """Describes series.

    Parameters
    ----------
    sign
        The spool's ``signature``.
    keeps_texts
        Whether descriptions are wanted, beside the hashes of names.
    """

    sign: Callable[[str, bytes], str] = field(repr=False)
    keeps_texts: bool

    def describe(self, instances: Sequence[Instance], choice: RouteChoice | None = None) -> Described | None:
        """Read what an image of each patient says; None where nothing can be read.

        Parameters
        ----------
        choice
            Why the series takes its route; returned without what may hold a name.
        """
        paths = list({(i.patient_id, i.patient_name): i.path for i in instances}.values())[:MOST_PATIENTS]
        return self.describe_files(paths, choice)

    def describe_files(self, paths: Sequence[Path], choice: RouteChoice | None = None) -> Described | None:
        """Do the same of images by their paths."""
        try:
            read = [read_description(path) for path in paths]
            hashes = frozenset(name_hash(self.sign, name) for one in read for name in one.names)
        except (SeriesUnusable, SpoolError) as error:
            log.warning("a series is not described: %s", type(error).__name__, extra={"action": "describe"})
            return None
        if not read:
            return None
        texts = read[0] if self.keeps_texts and len(read) == 1 else None
        return Described(hashes, texts, self._shown(choice, texts))

    def _shown(self, choice: RouteChoice | None, texts: SeriesDescription | None) -> RouteChoice | None:
        if choice is None or texts is None:
            return choice.without_found() if choice else None
        conditions = tuple(MatchedCondition(c.key, c.wanted, texts.shown(c.found)) for c in choice.conditions)
        return RouteChoice(choice.number, conditions, choice.settings_sha256)


def write_description(session: Session, series_id: int, described: Described) -> None:
    """Write it down in the place of what was known of the series."""
    for table in (PatientNameRow, SeriesDescriptionRow):
        session.execute(delete(table).where(table.series_id == series_id))
    names = [{"name_hmac": one, "series_id": series_id} for one in sorted(described.hashes)]
    if names:
        session.execute(insert(PatientNameRow), names)
    if (texts := described.texts) is not None:
        session.add(
            SeriesDescriptionRow(
                series_id=series_id,
                study_date=texts.study_date,
                description=texts.description,
                body_part=texts.body_part,
                protocol=texts.protocol,
                station=texts.station,
            )
        )
