"""What is remembered: tables, transitions of series, jobs and deliveries, the audit trail, backups."""

__all__ = [
    "audit",
    "backoff",
    "backup",
    "callers",
    "constancy_result",
    "constancy_series",
    "constancy_standing",
    "contourings",
    "database",
    "device_waits",
    "first_images",
    "group_commit",
    "locks",
    "queue",
    "states",
    "tables",
    "tallies",
    "transitions",
    "write_retry",
]
