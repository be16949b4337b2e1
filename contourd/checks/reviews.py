"""Whether somebody may send structure sets back, and when one came last."""

from __future__ import annotations

from contourd.checks.finding import CheckFinding, ok, unknown
from contourd.reviews.records import last_received
from contourd.settings import Settings
from contourd.store.database import Database, has_queue
from contourd.store.tables import SCHEMA_REVISION


def reviewers(settings: Settings) -> CheckFinding:
    """Name who may, and say when the last one came; nobody needs to."""
    titles = ", ".join(f"{one.ae_title} ({one.tps})" if one.tps else one.ae_title for one in settings.reviewer)
    if not titles:
        return ok("no [[reviewer]]: nothing is learned of what becomes of the contours")
    if not has_queue(settings.database_url):
        return ok(f"{titles} may send structure sets back")
    database = Database(settings.database_url)
    try:
        if database.revision() != SCHEMA_REVISION:
            return unknown("the database is of another version; what `database` says comes first")
        last = last_received(database)
    finally:
        database.close()
    came = f"the last one came {last.astimezone():%Y-%m-%d %H:%M}" if last else "none came yet"
    return ok(f"{titles} may send structure sets back; {came}")
