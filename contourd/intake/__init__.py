"""Received images -> series -> job: completeness, routing, refusals, corrections, and reading ahead."""

__all__ = [
    "describing",
    "describing_earlier",
    "intake",
    "newer_images",
    "read_ahead",
    "releasing",
    "routing",
    "series_steps",
    "spool_recovery",
    "waiting_images",
]
