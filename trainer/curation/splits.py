"""Splits by patient: stratified by the annotated organs, seeded, and kept when an archive grows.

Iterative stratification (Sechidis et al., ECML PKDD 2011): the rarest organ is dealt out first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from contourd.errors import DatasetError

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
SPLITS = (TRAIN, VALIDATION, TEST)
# Where one person is in several, the last of these keeps them: what is measured on is never trained on.
GUARDED = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, slots=True)
class Member:
    """A case as far as splitting goes.

    Attributes
    ----------
    content
        Hash of its voxels.
    organs
        That are annotated.
    """

    case: str
    source: str
    patient: str
    content: str
    organs: frozenset[str]


@dataclass(frozen=True, slots=True)
class Shares:
    """Of the patients; what is left is trained on."""

    validation: float = 0.15
    test: float = 0.15

    def of(self, split: str) -> float:
        """Return one split's share."""
        return {VALIDATION: self.validation, TEST: self.test}.get(split, 1 - self.validation - self.test)


def refuse_doubles(members: Sequence[Member]) -> dict[str, str]:
    """Find cases whose voxels are another case's of the same source.

    Returns
    -------
    Case -> the case that it doubles, which is kept.

    Raises
    ------
    DatasetError
        A patient, or the same voxels, stand in two sources.
    """
    seen: dict[tuple[str, str], Member] = {}
    doubles = {}
    for member in members:
        for kind, key in (("patient", member.patient), ("voxels", member.content)):
            other = seen.setdefault((kind, key), member)
            if other.source != member.source:
                what = "the same patient" if kind == "patient" else "the same images"
                raise DatasetError(
                    f"{other.source}: {other.case} and {member.source}: {member.case} are {what}; leave one source out"
                )
            if other is not member and kind == "voxels":
                doubles[member.case] = other.case
    return doubles


def together(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return patient -> the first name of all that pairs join with it, directly or over others."""
    group: dict[str, str] = {}
    for a, b in pairs:
        one, other = sorted((group.setdefault(a, a), group.setdefault(b, b)))
        group = {patient: one if first == other else first for patient, first in group.items()}
    return group


def most_guarded(patients: Iterable[str], splits: Mapping[str, str]) -> str | None:
    """Return the split, of those that patients have, that is measured on last; None where none has one."""
    return max((splits[p] for p in patients if p in splits), key=GUARDED.index, default=None)


def split_together(
    members: Sequence[Member],
    shares: Shares,
    seed: int,
    settled: Mapping[str, str],
    pairs: Sequence[tuple[str, str]],
) -> dict[str, str]:
    """Return patient -> split, with the patients of each pair in one split.

    Parameters
    ----------
    settled
        As in split; where joined patients have several, the most guarded one is taken for all of them.
    pairs
        Patients that are one person.

    Raises
    ------
    DatasetError
        The shares leave nothing to train on.
    """
    group = together(pairs)
    of_group: dict[str, list[str]] = {}
    for patient, first in group.items():
        of_group.setdefault(first, []).append(patient)
    taken = dict(settled)
    for first, patients in of_group.items():
        where = most_guarded(patients, settled)
        if where is not None:
            taken[first] = where
    joined = [replace(member, patient=group.get(member.patient, member.patient)) for member in members]
    found = split(joined, shares, seed, taken)
    return {member.patient: found[one.patient] for member, one in zip(members, joined, strict=True)}


def split(
    members: Sequence[Member], shares: Shares, seed: int, settled: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return patient -> split.

    Parameters
    ----------
    settled
        Patient -> split that is given already, by an earlier run or by the archive's folders; it is kept.

    Raises
    ------
    DatasetError
        The shares leave nothing to train on.
    """
    if shares.validation + shares.test >= 1:
        taken = shares.validation + shares.test
        raise DatasetError(f"validation and test take {taken:g} of all: nothing is left to train")
    organs: dict[str, set[str]] = {}
    for member in members:
        organs.setdefault(member.patient, set()).update(member.organs)
    chosen = {patient: name for patient, name in (settled or {}).items() if patient in organs}
    wanted = {name: shares.of(name) * len(organs) - _count(chosen, name) for name in SPLITS}
    names = sorted({organ for found in organs.values() for organ in found})
    wanted_of = {
        (name, organ): shares.of(name) * sum(organ in found for found in organs.values())
        - sum(organ in organs[patient] for patient, where in chosen.items() if where == name)
        for name in SPLITS
        for organ in names
    }
    left = sorted(organs.keys() - chosen.keys(), key=lambda patient: _drawn(seed, patient))
    while left:
        there = {organ: sum(organ in organs[patient] for patient in left) for organ in names}
        rarest = min((organ for organ in names if there[organ]), key=lambda organ: (there[organ], organ), default=None)
        patient = next(p for p in left if rarest is None or rarest in organs[p])
        offered = [name for name in SPLITS if shares.of(name) > 0]
        need = {name: (wanted_of[name, rarest] if rarest else 0.0, wanted[name]) for name in offered}
        best = max(need, key=lambda name: need[name])
        chosen[patient] = best
        wanted[best] -= 1
        for organ in organs[patient]:
            wanted_of[best, organ] -= 1
        left.remove(patient)
    return chosen


def _count(chosen: Mapping[str, str], name: str) -> int:
    return sum(where == name for where in chosen.values())


def _drawn(seed: int, patient: str) -> str:
    return hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()
