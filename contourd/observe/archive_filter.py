"""Which jobs and held series a list shows: read from a page's address or a command's options, refused in words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from contourd.errors import FilterInvalid
from contourd.model.remarks import RemarkCheck, RemarkVerdict
from contourd.reasons.catalogue import HoldClass
from contourd.store.states import DELIVERIES_UNDER_WAY, DeliveryState, JobState, SeriesState
from contourd.system.moments import read_moment

LONGEST_VALUE = 255
MOST_STATES, MOST_PATIENTS = len(JobState) + 1, 8
KEY = re.compile(r"(?P<at>\d{8}T\d{12})Z-(?P<kind>[js])(?P<id>\d{1,18})")
KEY_FORMAT = "%Y%m%dT%H%M%S%f"
# A pseudonym of a Patient ID, or what is kept of a name.
PATIENT = re.compile(r"[0-9a-f]{10}|[0-9a-f]{32}")
STATES = tuple(dict.fromkeys((*map(str, JobState), str(SeriesState.RECEIVING))))
REMARKS = tuple(map(str, (*RemarkVerdict, *RemarkCheck)))
REASONS = tuple(map(str, HoldClass))
WAITING = "waiting"
DELIVERIES = (WAITING, *(str(state).lower() for state in DeliveryState))
# Each once, but those of REPEATED.
FILTERS = (
    *("since", "until", "state", "sender", "model", "destination", "delivery", "remark", "route", "reason"),
    *("patient", "worker", "contoured", "before"),
)
REPEATED = {"state": MOST_STATES, "patient": MOST_PATIENTS}


@dataclass(frozen=True, slots=True)
class ArchiveKey:
    """Where one page of the list ends: the time at which a job was made or a series came, and its number."""

    at: datetime
    is_job: bool
    id: int

    @property
    def text(self) -> str:
        """Return it as it stands in an address."""
        return f"{self.at.astimezone(UTC).strftime(KEY_FORMAT)}Z-{'j' if self.is_job else 's'}{self.id}"

    @property
    def order(self) -> tuple[datetime, bool, int]:
        """By what it is sorted: the greatest stands first."""
        return self.at, self.is_job, self.id


@dataclass(frozen=True, slots=True)
class ArchiveFilter:
    """What is asked for; what is left out narrows nothing.

    Attributes
    ----------
    since, until
        When the job was made, or the series came.
    delivery
        States of the delivery to ``destination``.
    patients
        Pseudonyms of Patient IDs and hashes of names: one of them.
    worker, contoured
        ``processes.id`` of a worker, and since when it contoured the job.
    before
        Where the page before ended.
    pairs
        All but ``before``, as an address says them.
    """

    since: datetime | None = None
    until: datetime | None = None
    states: tuple[str, ...] = ()
    sender: str = ""
    model: str = ""
    destination: str = ""
    delivery: tuple[str, ...] = ()
    remark: str = ""
    route: str = ""
    reason: HoldClass | None = None
    patients: tuple[str, ...] = ()
    worker: str = ""
    contoured: datetime | None = None
    before: ArchiveKey | None = None
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def of_jobs_alone(self) -> bool:
        """Whether only jobs can fit, for a series has no such thing."""
        return bool(self.model or self.destination or self.remark or self.route or self.worker)

    def of_patients(self, hashes: Iterable[str]) -> ArchiveFilter:
        """Return the same for some patients alone."""
        patients = tuple(hashes)
        others = tuple(pair for pair in self.pairs if pair[0] != "patient")
        return replace(self, patients=patients, before=None, pairs=(*others, *(("patient", p) for p in patients)))

    def after(self, key: ArchiveKey) -> ArchiveFilter:
        """Return the same for what stands after a place in the list."""
        return replace(self, before=key)


def read_filter(pairs: Iterable[tuple[str, str]], now: datetime) -> ArchiveFilter:
    """Read the pairs of an address, or of options alike; an empty value narrows nothing.

    Raises
    ------
    FilterInvalid
        Names the filter and what it takes.
    """
    given: dict[str, list[str]] = {}
    for key, text in pairs:
        if key not in FILTERS:
            raise FilterInvalid(f"there is no filter {_quoted(key)}; there are: {', '.join(FILTERS)}")
        if value := text.strip():
            given.setdefault(key, []).append(value)
    for key, values in given.items():
        if len(values) > REPEATED.get(key, 1):
            raise FilterInvalid(f"{key} is given {len(values)} times; at most {REPEATED.get(key, 1)}")
        for value in values:
            if len(value) > LONGEST_VALUE or not value.isprintable():
                raise FilterInvalid(f"{key}: at most {LONGEST_VALUE} printable characters")
    return _read({key: values[0] for key, values in given.items()}, given, now)


def _read(one: dict[str, str], given: dict[str, list[str]], now: datetime) -> ArchiveFilter:
    states = tuple(dict.fromkeys(_one_of("state", state.upper(), STATES) for state in given.get("state", ())))
    delivery = _one_of("delivery", one["delivery"].lower(), DELIVERIES) if "delivery" in one else ""
    if delivery and "destination" not in one:
        raise FilterInvalid("delivery: name the destination too, as destination=NAME")
    if ("contoured" in one) != ("worker" in one):
        raise FilterInvalid("worker and contoured stand together: jobs that a worker contoured since then")
    if "route" in one and not re.fullmatch("[1-9][0-9]{0,3}", one["route"]):
        raise FilterInvalid(f"route: a number from 1, not {_quoted(one['route'])}")
    for patient in given.get("patient", ()):
        if not PATIENT.fullmatch(patient):
            raise FilterInvalid("patient: the address takes a pseudonym or a hash; type the ID or name into the search")
    reason = _one_of("reason", one["reason"].lower(), REASONS) if "reason" in one else ""
    kept = [(key, value) for key in FILTERS if key != "before" for value in given.get(key, ())]
    return ArchiveFilter(
        _moment("since", one, now),
        _moment("until", one, now, whole_day=True),
        states,
        one.get("sender", ""),
        one.get("model", ""),
        one.get("destination", ""),
        _states_of(delivery),
        _one_of("remark", one["remark"].lower(), REMARKS) if "remark" in one else "",
        one.get("route", ""),
        HoldClass(reason) if reason else None,
        tuple(dict.fromkeys(given.get("patient", ()))),
        one.get("worker", ""),
        _moment("contoured", one, now),
        _key(one.get("before", "")),
        tuple(kept),
    )


def _quoted(text: str) -> str:
    """Return what was typed, so that it can be shown."""
    return repr(text[:40])


def _one_of(key: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise FilterInvalid(f"{key}: there is no {_quoted(value)}; there are: {', '.join(known)}")
    return value


def _states_of(delivery: str) -> tuple[str, ...]:
    if not delivery:
        return ()
    return tuple(map(str, DELIVERIES_UNDER_WAY)) if delivery == WAITING else (delivery.upper(),)


def _moment(key: str, one: dict[str, str], now: datetime, whole_day: bool = False) -> datetime | None:
    if key not in one:
        return None
    try:
        return read_moment(one[key], now, whole_day)
    except ValueError as error:
        raise FilterInvalid(f"{key}: {error}") from error


def _key(text: str) -> ArchiveKey | None:
    if not text:
        return None
    try:
        if found := KEY.fullmatch(text):
            at = datetime.strptime(found["at"], KEY_FORMAT).replace(tzinfo=UTC)
            return ArchiveKey(at, found["kind"] == "j", int(found["id"]))
    except ValueError:
        pass
    raise FilterInvalid(f"before: {_quoted(text)} is no place in the list; go back to its first page")
