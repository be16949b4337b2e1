"""What must hold after any kill: nothing acknowledged is lost, nothing is sent twice, nothing is left lying about."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pydicom

from tests.chaos.peers import Destination, dataset_digest
from tests.chaos.site import UNDER_WAY, Site


@dataclass(frozen=True)
class Verdict:
    """Counts, of which ``lost``, ``doubled`` and ``missing`` must be zero, and what was found in words.

    Attributes
    ----------
    lost
        Instances that were answered with Success and are not there byte for byte.
    doubled
        Structure sets too many: of one job and one destination more than one SOP Instance UID, or copies that differ.
    missing
        Structure sets that a destination does not have.
    sent_again
        Copies of the same structure set, byte for byte, because an answer was lost.
    """

    acknowledged: int
    series: int
    lost: int
    doubled: int
    missing: int
    sent_again: int
    kills: int
    problems: tuple[str, ...]


def judge(site: Site) -> Verdict:
    """Examine the spool, the database and the destinations of a node that has settled and stopped."""
    lost = _lost(site)
    doubled, missing = [], []
    for destination in site.destinations:
        _compare(site, destination, doubled, missing)
        for series in site.images.keys() - site.kept_held - destination.order.keys():
            missing.append(f"series {series} at {destination.name}: no structure set")
    _compare(site, site.elsewhere, doubled, missing)
    missing += _not_sent(site)
    return Verdict(
        len(site.acknowledged.digests),
        len(site.images),
        len(lost),
        len(doubled),
        len(missing),
        sum(destination.doubled() for destination in site.destinations),
        site.kills,
        (*lost, *doubled, *missing, *_untold(site), *_left_behind(site)),
    )


def _lost(site: Site) -> list[str]:
    rows = site.server.ask("SELECT sop_instance_uid, path FROM instances")
    stored = dict(rows)
    problems = [f"instance {uid} is there twice" for uid in stored if sum(uid == other for other, _ in rows) > 1]
    for uid, digest in site.acknowledged.digests.items():
        if uid not in stored:
            problems.append(f"instance {uid} was acknowledged and is not known")
        elif not (path := site.server.spool / stored[uid]).is_file() or dataset_digest(path) != digest:
            problems.append(f"instance {uid} is not what was sent")
    return problems


def _compare(site: Site, destination: Destination, doubled: list[str], missing: list[str]) -> None:
    """Compare what a destination has with the jobs: one structure set for each, the newest revision's last."""
    query = (
        "SELECT series_uid, jobs.id, jobs.state, deliveries.state, output FROM deliveries "
        "JOIN jobs ON jobs.id = job_id JOIN series ON series.id = series_id WHERE destination = ? ORDER BY jobs.id"
    )
    wanted: dict[str, list[str]] = {}
    for series, job, job_state, state, output in site.server.ask(query, destination.name):
        path = site.server.spool / output
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


def _not_sent(site: Site) -> list[str]:
    """Find destinations that a delivered job names and that it has no delivery to."""
    query = (
        "SELECT job_id, destination FROM job_destinations JOIN jobs ON jobs.id = job_id WHERE state = 'DELIVERED' "
        "EXCEPT SELECT job_id, destination FROM deliveries"
    )
    return [f"job {job}: nothing was made for {destination}" for job, destination in site.server.ask(query)]


def _untold(site: Site) -> list[str]:
    """Find tries of deliveries that are not written down, and deliveries that end otherwise than their last try.

    A person who has something sent again has its tries counted anew.
    """
    query = (
        "SELECT deliveries.id, state, deliveries.attempts, count(attempts.id), "
        "(SELECT outcome FROM attempts WHERE delivery_id = deliveries.id ORDER BY id DESC LIMIT 1) "
        "FROM deliveries LEFT JOIN attempts ON delivery_id = deliveries.id AND attempts.at >= coalesce((SELECT max(at) "
        "FROM events WHERE subject = 'delivery' AND subject_id = deliveries.id AND event = 'release'), '') "
        "GROUP BY deliveries.id"
    )
    return [
        f"delivery {number} is {state} after {tries} tries; {told} are written down, the last as {last}"
        for number, state, tries, told, last in site.server.ask(query)
        if tries != told or (state == "DELIVERED" and last != "accepted")
    ]


def _of_a_claim(site: Site, path: str) -> bool:
    """Return whether a claim of a job wrote a structure set that no delivery names: it goes when the job's files go.

    One that was lost before that was recorded, or one for another destination, which made the others' anew.
    """
    name = re.fullmatch(r"outgoing/(\d+)-c(\d+)\b.*\.dcm", path)
    claims = site.server.ask("SELECT claims FROM jobs WHERE id = ?", int(name[1])) if name else []
    return any(int(name[2]) <= number for (number,) in claims) if name else False


def _left_behind(site: Site) -> list[str]:
    spool, ask = site.server.spool, site.server.ask
    problems = [f"integrity_check: {row}" for row in ask("PRAGMA integrity_check") if row != ("ok",)]
    problems += [f"half written: {path.name}" for path in (spool / "partial").iterdir()]
    for folder, query in (("incoming", "SELECT path FROM instances"), ("outgoing", "SELECT output FROM deliveries")):
        here = {str(path.relative_to(spool)) for path in (spool / folder).rglob("*") if path.is_file()}
        known = {path for (path,) in ask(query)}
        here -= {path for path in here - known if _of_a_claim(site, path)}
        problems += [f"belongs to nothing: {path}" for path in sorted(here - known)]
        problems += [f"is not there: {path}" for path in sorted(known - here)]
    for job, state, lease in ask("SELECT id, state, lease_until FROM jobs"):
        if state not in ("DELIVERED", "HELD", "SUPERSEDED") or lease is not None:
            problems.append(f"job {job} is {state}, its lease {lease}")
    for job, state in ask(f"SELECT job_id, state FROM deliveries WHERE {UNDER_WAY}"):
        problems.append(f"a delivery of job {job} is {state}")
    return problems
