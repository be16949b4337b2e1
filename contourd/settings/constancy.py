"""Settings of the morning constancy check."""

from __future__ import annotations

from datetime import datetime, time, timedelta

from pydantic import Field

from contourd.settings.values import Seconds, Section


class ConstancySettings(Section):
    """When the reference patient is contoured, and how far its contours may be from the baseline's."""

    enabled: bool = True
    at: str = Field(default="06:30", pattern=r"^([01]\d|2[0-3]):[0-5]\d$")
    timeout_s: Seconds = 1800.0
    least_dice: float = Field(default=0.99, ge=0, le=1)
    largest_shift_mm: float = Field(default=0.5, ge=0)
    time_factor: float = Field(default=3.0, ge=1)

    def last_due(self, now: datetime) -> datetime:
        """Return when the check was to begin last, by this machine's own time of day."""
        hour, minute = map(int, self.at.split(":"))
        local = now.astimezone()
        due = datetime.combine(local.date(), time(hour, minute)).astimezone()
        return due if due <= local else datetime.combine(due.date() - timedelta(days=1), due.time()).astimezone()
