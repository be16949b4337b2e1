"""Moments as people write them: a span before now, or a local date or time."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

SPAN_UNITS = {"s": "seconds", "min": "minutes", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_moment(text: str, now: datetime, whole_day: bool = False) -> datetime:
    """Return the moment that a text as 2h, 2026-11-24 or 2026-11-24T13:00 means.

    Parameters
    ----------
    whole_day
        A date alone means its end, so that the day is taken in.

    Raises
    ------
    ValueError
        It is none.
    """
    text = text.strip()
    try:
        if span := re.fullmatch(r"(\d{1,6})\s*(s|min|m|h|d|w)", text):
            return now - timedelta(**{SPAN_UNITS[span[2]]: int(span[1])})
        moment = datetime.fromisoformat(text)
        if whole_day and text == moment.date().isoformat():
            moment = datetime.combine(date.fromisoformat(text) + timedelta(days=1), moment.time())
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is neither a span as 2h nor a date as 2026-11-24") from error
