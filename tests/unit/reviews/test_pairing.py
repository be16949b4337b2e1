"""Of which job a structure set is that came back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contourd.errors import ReviewUnusable
from contourd.reviews.pairing import DraftContents, choose
from contourd.reviews.reading import ReviewContents

SENT = ReviewContents("1.1", "p", ("2.1",), ("3.1",), ("4.1",), ("5.1",), (), "", "", "")
BACK = replace(SENT, uid="9.9")


def draft(job: int, *uids: str, ended: bool = False) -> DraftContents:
    return DraftContents(job, replace(SENT, uid=uids[0]), ended, True, frozenset(uids))


def test_one_that_names_what_another_destination_got_is_of_that_job():
    """Each way of writing a structure set makes another one; the first job was superseded by the second since."""
    drafts = [draft(1, "1.1", "1.2", ended=True), draft(2, "2.1", "2.2")]
    assert choose(replace(BACK, predecessors=("1.2",)), drafts).job_id == 1
    assert choose(replace(BACK, uid="1.2"), drafts).job_id == 1
    assert choose(BACK, drafts).job_id == 2


def test_one_that_may_be_of_two_is_nobodys():
    with pytest.raises(ReviewUnusable):
        choose(BACK, [draft(1, "1.1"), draft(2, "2.1")])
