"""Whose database it is: the site whose key made its pseudonyms, so that no other node writes into it by mistake."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from contourd.commands import command
from contourd.errors import NodeError
from contourd.store.database import Database
from contourd.store.locks import insert_absent, lock_one
from contourd.store.tables import SiteRow

# Of the signature of the site's key that stands in the database.
PURPOSE = "the database of a site"


def belong_to_site(database: Database, signature: str, now: datetime) -> None:
    """Make a database, where it is nobody's yet, the site's; refuse that of another.

    Parameters
    ----------
    signature
        What the site's key makes of ``PURPOSE``, 64 hexadecimal digits.

    Raises
    ------
    NodeError
        It is another site's, with what to do.
    QueueUnavailable
        It cannot be read or written now.
    """
    with database.reading() as session:
        kept = session.scalar(select(SiteRow.key_hmac))
    if kept is None:
        with database.transaction() as session:
            insert_absent(session, SiteRow(id=1, key_hmac=signature, since=now))
            kept = session.scalar(select(SiteRow.key_hmac))
    if kept != signature:
        raise NodeError(
            f"the database {database.name} is of another site: the file site.key of this spool is not the one that its "
            "pseudonyms were made with. If the two are one site, stop contourd and copy site.key from the spool of the "
            "host that uses this database, or from the backup of this one; if that key is lost, "
            f"`{command('db adopt')}`; if they are two sites, give each a database of its own in database.url"
        )


def adopt_database(database: Database, signature: str, now: datetime) -> None:
    """Make a database this site's, whoever's it was: the key that it was made with is lost.

    Raises
    ------
    QueueUnavailable
        It cannot be written now.
    """
    with database.transaction() as session:
        insert_absent(session, SiteRow(id=1, key_hmac=signature, since=now))
        row = lock_one(session, SiteRow, 1)
        row.key_hmac = signature
        row.since = now
