"""Where twins go: into one split, or, where folders fix the splits, out of the one that matters less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from trainer.curation.splits import Member, most_guarded, together
from trainer.curation.twins import Twins


class TwinPair(BaseModel):
    """Two cases that are the same scan, and what was done about it; similarity is at most 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    similarity: float
    done: str


def joined_patients(members: Sequence[Member], twins: Twins) -> list[tuple[str, str]]:
    """Return the pairs of different patients that twins join."""
    patient = {member.case: member.patient for member in members}
    pairs = [(patient[t.first], patient[t.second]) for t in twins.pairs if {t.first, t.second} <= patient.keys()]
    return [(a, b) for a, b in pairs if a != b]


def outnumbered(members: Sequence[Member], twins: Twins, by_folder: Mapping[str, str]) -> dict[str, str]:
    """Find the cases to leave out so that nobody stands in two splits that folders fix.

    Parameters
    ----------
    by_folder
        Patient -> split that a folder names. Of several the most guarded one keeps its cases: what is tested on stays
        whole, and what is trained on loses them.

    Returns
    -------
    Case -> why it is left out.
    """
    group = together(joined_patients(members, twins))
    patients = {m.case: m.patient for m in members}
    found = {}
    for member in members:
        first = group.get(member.patient)
        own = by_folder.get(member.patient)
        if first is None or own is None:
            continue
        kept = most_guarded((p for p, head in group.items() if head == first), by_folder)
        if own == kept or kept is None:
            continue
        other = _other(member, twins, patients, {p for p, where in by_folder.items() if where == kept})
        found[member.case] = f"is the same person as {other} in {kept}, and this split is {own}"
    return found


def _other(member: Member, twins: Twins, patients: Mapping[str, str], kept: set[str]) -> str:
    """Name the twin of a case's patient that stays, or any twin where they are joined over others."""
    of_patient = [
        other
        for twin in twins.pairs
        for one, other in ((twin.first, twin.second), (twin.second, twin.first))
        if patients.get(one) == member.patient and other in patients
    ]
    return next((case for case in of_patient if patients[case] in kept), of_patient[0])


def fixed_splits(
    earlier: Mapping[str, str], by_folder: Mapping[str, str], pairs: Sequence[tuple[str, str]]
) -> dict[str, str]:
    """Return patient -> split that is given: folders come before an earlier run, for joined patients too."""
    group = together(pairs)
    ruled = {group.get(patient, patient) for patient in by_folder}
    return {**{p: where for p, where in earlier.items() if group.get(p, p) not in ruled}, **by_folder}


def describe_twins(
    twins: Twins, left: Mapping[str, str], split_of: Mapping[str, str], before: Mapping[str, str]
) -> list[TwinPair]:
    """Return what was done about each pair.

    Parameters
    ----------
    left
        Cases that were left out.
    split_of, before
        Case -> split now, and in an earlier run.
    """
    pairs = []
    for twin in twins.pairs:
        gone = [case for case in (twin.first, twin.second) if case in left]
        if gone:
            done = f"{' and '.join(gone)} left out"
        else:
            moved = [c for c in (twin.first, twin.second) if before.get(c, split_of[c]) != split_of[c]]
            done = f"both in {split_of[twin.first]}" + "".join(f"; {c} was in {before[c]} before" for c in moved)
        pairs.append(TwinPair(first=twin.first, second=twin.second, similarity=twin.similarity, done=done))
    return pairs
