"""Splits by patient: stratified, stable, and never with a patient on both sides."""

from __future__ import annotations

from collections import Counter

import pytest

from contourd.errors import DatasetError
from trainer.curation.splits import Member, Shares, refuse_doubles, split


def member(case: str, source: str = "a", patient: str = "", content: str = "", organs: str = "A") -> Member:
    return Member(case, source, patient or case, content or case, frozenset(organs))


def test_rare_organs_are_in_every_split():
    """Ten of a hundred patients have B: by their shares 7, 1.5 and 1.5 of them, so none of the splits goes without."""
    members = [member(f"c{i}", organs="AB" if i % 10 == 0 else "A") for i in range(100)]
    for seed in range(5):
        found = split(members, Shares(0.15, 0.15), seed)
        assert Counter(found.values()) == {"train": 70, "validation": 15, "test": 15}
        rare = Counter(found[m.patient] for m in members if "B" in m.organs)
        assert rare["train"] in (7, 8)
        assert min(rare["validation"], rare["test"]) >= 1


def test_the_order_of_the_archive_does_not_matter_and_the_seed_does():
    members = [member(f"c{i}", organs="AB" if i % 3 else "A") for i in range(40)]
    assert split(members, Shares(), 0) == split(members[::-1], Shares(), 0)
    assert split(members, Shares(), 0) != split(members, Shares(), 1)


def test_all_cases_of_a_patient_go_together():
    members = [member(f"c{i}", patient=f"p{i // 3}") for i in range(30)]
    found = split(members, Shares(), 0)
    assert found.keys() == {f"p{i}" for i in range(10)}


def test_what_is_settled_is_kept_when_an_archive_grows():
    members = [member(f"c{i}") for i in range(60)]
    before = split(members[:40], Shares(), 0)
    after = split(members, Shares(), 0, before)
    assert {patient: after[patient] for patient in before} == before
    assert Counter(after.values()) == {"train": 42, "validation": 9, "test": 9}


def test_no_test_split_where_none_is_wanted():
    found = split([member(f"c{i}") for i in range(20)], Shares(0.25, 0.0), 0)
    assert Counter(found.values()) == {"train": 15, "validation": 5}


def test_shares_that_leave_nothing_are_refused():
    with pytest.raises(DatasetError, match="nothing is left to train"):
        split([member("c")], Shares(0.5, 0.5), 0)


def test_doubles():
    one, copy = member("one", patient="p", content="x"), member("copy", patient="q", content="x")
    again = member("again", patient="p", content="y")
    assert refuse_doubles([one, copy, again]) == {"copy": "one"}
    with pytest.raises(DatasetError, match="the same images"):
        refuse_doubles([one, member("other", "b", "q", "x")])
    with pytest.raises(DatasetError, match="the same patient"):
        refuse_doubles([one, member("other", "b", "p", "z")])
