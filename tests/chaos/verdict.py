"""What must hold after any kill: nothing acknowledged is lost, nothing is sent twice, nothing is left lying about."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pydicom

from tests.chaos.peers import Acknowledged, Destination, dataset_digest
from tests.chaos.site import UNDER_WAY, Site

if TYPE_CHECKING:
    from tests.chaos.hosts import Hosts


class Judged(Protocol):
    """What is judged: a site of one node, or of several hosts."""

    acknowledged: Acknowledged
    images: dict[str, list[Path]]
    kills: int

    @property
    def destinations(self) -> Sequence[Destination]:
        """Those of the route."""

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database."""

    def file(self, path: str) -> Path:
        """Return where the bytes of a file of the spool are."""


@dataclass(frozen=True)
class Verdict:
    """Counts, of which ``lost``, ``doubled``, ``missing`` and ``late`` must be zero, and what was found in words.

    Attributes
    ----------
    lost
        Instances that were answered with Success and are not there byte for byte.
    doubled
        Structure sets too many: of one job and one destination more than one SOP Instance UID, or copies that differ.
    missing
        Structure sets that a destination does not have.
    late
        Structure sets that a destination has and no delivery names: results of a claim that was another's by then.
    sent_again
        Copies of the same structure set, byte for byte, because an answer was lost.
    """

    acknowledged: int
    series: int
    lost: int
    doubled: int
    missing: int
    late: int
    sent_again: int
    kills: int
    problems: tuple[str, ...]


def judge(site: Site) -> Verdict:
    """Examine the spool, the database and the destinations of a node that has settled and stopped."""
    doubled, missing = _structure_sets(site, site.images.keys() - site.kept_held)
    _compare(site, site.elsewhere, doubled, missing)
    return _verdict(site, doubled, missing, _left_behind(site))


def judge_hosts(hosts: Hosts) -> Verdict:
    """Examine the store, the database and the destinations of several hosts that have settled and stopped."""
    return _verdict(hosts, *_structure_sets(hosts, hosts.images.keys()), _under_way(hosts))


def _structure_sets(site: Judged, wanted: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what is doubled and what is missing at the destinations of the route."""
    doubled: list[str] = []
    missing: list[str] = []
    for destination in site.destinations:
        _compare(site, destination, doubled, missing)
        for series in set(wanted) - destination.order.keys():
            missing.append(f"series {series} at {destination.name}: no structure set")
    return doubled, missing


def _verdict(site: Judged, doubled: list[str], missing: list[str], left: list[str]) -> Verdict:
    lost, late = _lost(site), _late(site)
    missing += _not_sent(site)
    return Verdict(
        len(site.acknowledged.digests),
        len(site.images),
        len(lost),
        len(doubled),
        len(missing),
        len(late),
        sum(destination.doubled() for destination in site.destinations),
        site.kills,
        (*lost, *doubled, *missing, *late, *_untold(site), *left),
    )


def _lost(site: Judged) -> list[str]:
    rows = site.ask("SELECT sop_instance_uid, path FROM instances")
    stored = dict(rows)
    problems = [f"instance {uid} is there twice" for uid in stored if sum(uid == other for other, _ in rows) > 1]
    for uid, digest in site.acknowledged.digests.items():
        if uid not in stored:
            problems.append(f"instance {uid} was acknowledged and is not known")
        elif _digest(site.file(stored[uid])) != digest:
            problems.append(f"instance {uid} is not what was sent")
    return problems


def _digest(path: Path) -> str:
    """Return the digest of a file's dataset; empty where there is none."""
    return dataset_digest(path) if path.is_file() and path.stat().st_size else ""


def _compare(site: Judged, destination: Destination, doubled: list[str], missing: list[str]) -> None:
    """Compare what a destination has with the jobs: one structure set for each, the newest revision's last."""
    query = (
        "SELECT series_uid, jobs.id, jobs.state, deliveries.state, output FROM deliveries "
        "JOIN jobs ON jobs.id = job_id JOIN series ON series.id = series_id WHERE destination = ? ORDER BY jobs.id"
    )
    wanted: dict[str, list[str]] = {}
    for series, job, job_state, state, output in site.ask(query, destination.name):
        path = site.file(output)
        uid = str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        where = f"job {job} ({job_state}), {destination.name} ({state})"
        if state == "DELIVERED" and not destination.copies[uid]:
            missing.append(f"{where}: the structure set is not there")
        if destination.digests[uid] - {dataset_digest(path)}:
            doubled.append(f"{where}: {destination.copies[uid]} copies that are not all what is in the spool")
        if destination.copies[uid]:
            wanted.setdefault(series, []).append(uid)
    for series, came in destination.order.items():
        if came != wanted.get(series, []):
            doubled.append(f"series {series} at {destination.name}: {came} came, {wanted.get(series, [])} were made")


def _late(site: Judged) -> list[str]:
    """Find what destinations have of which no delivery knows."""
    made = {
        str(pydicom.dcmread(site.file(output), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        for (output,) in site.ask("SELECT DISTINCT output FROM deliveries")
    }
    return [
        f"{uid} is at {destination.name}, and no delivery names it"
        for destination in site.destinations
        for uid in sorted(destination.copies.keys() - made)
        if destination.copies[uid]
    ]


def _not_sent(site: Judged) -> list[str]:
    """Find destinations that a delivered job names and that it has no delivery to."""
    query = (
        "SELECT job_id, destination FROM job_destinations JOIN jobs ON jobs.id = job_id WHERE state = 'DELIVERED' "
        "EXCEPT SELECT job_id, destination FROM deliveries"
    )
    return [f"job {job}: nothing was made for {destination}" for job, destination in site.ask(query)]


def _untold(site: Judged) -> list[str]:
    """Find tries of deliveries that are not written down, and deliveries that end otherwise than their last try.

    A person who has something sent again has its tries counted anew.
    """
    query = (
        "SELECT deliveries.id, state, deliveries.attempts, count(attempts.id), "
        "(SELECT outcome FROM attempts WHERE delivery_id = deliveries.id ORDER BY id DESC LIMIT 1) "
        "FROM deliveries LEFT JOIN attempts ON delivery_id = deliveries.id AND NOT EXISTS (SELECT 1 FROM events "
        "WHERE subject = 'delivery' AND subject_id = deliveries.id AND event = 'release' AND events.at > attempts.at) "
        "GROUP BY deliveries.id"
    )
    return [
        f"delivery {number} is {state} after {tries} tries; {told} are written down, the last as {last}"
        for number, state, tries, told, last in site.ask(query)
        if tries != told or (state == "DELIVERED" and last != "accepted")
    ]


def _of_a_claim(site: Site, path: str) -> bool:
    """Return whether a claim of a job wrote a structure set that no delivery names: it goes when the job's files go.

    One that was lost before that was recorded, or one for another destination, which made the others' anew.
    """
    name = re.fullmatch(r"outgoing/(\d+)-c(\d+)\b.*\.dcm", path)
    claims = site.ask("SELECT claims FROM jobs WHERE id = ?", int(name[1])) if name else []
    return any(int(name[2]) <= number for (number,) in claims) if name else False


def _under_way(site: Judged, ended: Sequence[str] = ("DELIVERED", "SUPERSEDED")) -> list[str]:
    """Find jobs and deliveries that are not over."""
    problems = []
    for job, state, lease in site.ask("SELECT id, state, lease_until FROM jobs"):
        if state not in ended or lease is not None:
            problems.append(f"job {job} is {state}, its lease {lease}")
    for job, state in site.ask(f"SELECT job_id, state FROM deliveries WHERE {UNDER_WAY}"):
        problems.append(f"a delivery of job {job} is {state}")
    return problems


def _left_behind(site: Site) -> list[str]:
    spool, ask = site.server.spool, site.ask
    problems = [f"integrity_check: {row}" for row in ask("PRAGMA integrity_check") if row != ("ok",)]
    problems += [f"half written: {path.name}" for path in (spool / "partial").iterdir()]
    for folder, query in (("incoming", "SELECT path FROM instances"), ("outgoing", "SELECT output FROM deliveries")):
        here = {str(path.relative_to(spool)) for path in (spool / folder).rglob("*") if path.is_file()}
        known = {path for (path,) in ask(query)}
        here -= {path for path in here - known if _of_a_claim(site, path)}
        problems += [f"belongs to nothing: {path}" for path in sorted(here - known)]
        problems += [f"is not there: {path}" for path in sorted(known - here)]
    return problems + _under_way(site, ("DELIVERED", "HELD", "SUPERSEDED"))
