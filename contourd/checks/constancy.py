"""The check that there is a baseline for the constancy check: without one nothing is compared."""

from __future__ import annotations

from contourd.checks.finding import CheckFinding, ok
from contourd.commands import command
from contourd.settings import Settings
from contourd.store.constancy_standing import BASELINE_FILE


def baseline(settings: Settings) -> CheckFinding:
    """Remark that there is none; the node contours without it."""
    if not settings.constancy.enabled:
        return ok("the morning constancy check is off (constancy.enabled)")
    if not (settings.spool.root / BASELINE_FILE).exists():
        return ok(
            "there is no baseline, so that nothing is checked in the morning",
            f"after acceptance, with contourd running: {command('constancy baseline')}",
        )
    return ok(f"there is a baseline; it is compared with each day at {settings.constancy.at}")
