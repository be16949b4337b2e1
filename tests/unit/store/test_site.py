"""A database belongs to the site whose key it was made with."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select

from contourd.errors import NodeError
from contourd.spool.folder import Spool
from contourd.store.site import PURPOSE, adopt_database, belong_to_site
from contourd.store.tables import SiteRow
from tests.queueing import START

pytestmark = pytest.mark.both_databases


@pytest.fixture
def signatures(tmp_path) -> list[str]:
    return [Spool(tmp_path / name).signature(PURPOSE, b"") for name in ("ours", "theirs")]


def kept(database) -> tuple[str, object]:
    with database.reading() as session:
        row = session.scalars(select(SiteRow)).one()
        return row.key_hmac, row.since


def test_the_first_site_has_it_and_comes_back(database, signatures, tmp_path):
    ours, theirs = signatures
    assert ours != theirs
    belong_to_site(database, ours, START)
    belong_to_site(database, Spool(tmp_path / "ours").signature(PURPOSE, b""), START + timedelta(days=1))
    assert kept(database) == (ours, START)


def test_another_site_is_refused_and_told_what_to_do(database, signatures):
    belong_to_site(database, signatures[0], START)
    with pytest.raises(NodeError, match=r"of another site.*copy site\.key.*contourd db adopt") as refused:
        belong_to_site(database, signatures[1], START)
    assert database.name in str(refused.value)
    assert kept(database) == (signatures[0], START)


def test_a_site_that_lost_its_key_takes_it_over(database, signatures):
    belong_to_site(database, signatures[0], START)
    adopt_database(database, signatures[1], START + timedelta(days=1))
    belong_to_site(database, signatures[1], START)
    with pytest.raises(NodeError):
        belong_to_site(database, signatures[0], START)
