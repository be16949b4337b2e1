"""Logging set-up: one line a record, key=value after the sentence; numbers and names of ours, never a patient's."""

from __future__ import annotations

import logging
import sys

EXTRA = ("action", "job", "series", "delivery", "destination", "association", "calling_ae", "peer", "worker")


class LineFormatter(logging.Formatter):
    """time LEVEL sentence key=value ..."""

    def format(self, record: logging.LogRecord) -> str:
        """Append the known extras to the sentence."""
        line = super().format(record)
        pairs = [f"{key}={value}" for key in EXTRA if (value := getattr(record, key, None)) is not None]
        head, _, rest = line.partition("\n")
        return "\n".join(filter(None, [" ".join([head, *pairs]), rest]))


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to standard error; pynetdicom, alembic and APScheduler speak only of trouble."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("pynetdicom", "alembic", "apscheduler"):
        logging.getLogger(name).setLevel(logging.ERROR)
