"""Who is told what, once: concerns that began and ended since a channel took its last message.

What each channel was told is kept in the spool, so that a restart repeats nothing. A channel that does not take its
message is tried again, at growing intervals, with what is then still true.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Sequence
from uuid import uuid4

from contourd.commands import command
from contourd.errors import NoticeNotSent
from contourd.observe.concerns import Concern, read_concerns
from contourd.observe.hosts import host_concerns
from contourd.observe.notices import Notice, NotificationChannel, channels_of, notice_of_test
from contourd.settings import Settings
from contourd.spool.folder import PARTIAL
from contourd.store.backoff import Backoff, Seconds
from contourd.store.constancy_standing import ConstancyLight, read_constancy
from contourd.store.database import Database
from contourd.store.states import RetryPolicy
from contourd.system.clock import Clock, utc_now
from contourd.system.durable_files import write_durably
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

FILE = "alerts.json"
# Nothing is given up: what is true is told when the channel works again.
WAITS = RetryPolicy(30.0, 1800.0, math.inf)
# The end of these is told too; a held job that is released is what the person did who was told.
ENDS = ("destination", "age", "disk", "device")


class Alerts:
    """Looks for concerns and tells the channels."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        channels: Sequence[NotificationChannel] | None = None,
        clock: Clock = utc_now,
        elapsed: Seconds = time.monotonic,
    ) -> None:
        self._settings = settings
        self._database = database
        self._channels = channels_of(settings.alerts) if channels is None else channels
        self._now = clock
        self._elapsed = elapsed
        self._trouble: dict[str, Backoff] = {}
        self._file = settings.spool.root / FILE

    def check(self) -> None:
        """Send each channel what it was not sent yet."""
        if not self._channels:
            return
        concerns = {concern.key: concern for concern in self.concerns()}
        text = self._read_sent()
        for channel in self._channels:
            known = text.get(channel.name, [])
            began = [concern for key, concern in concerns.items() if key not in known]
            ended = [key for key in known if key not in concerns]
            over = [key.split("/")[1] for key in ended if key.split("/")[0] in ENDS]
            if (began or over) and not self._send(channel, Notice(self._settings.node.ae_title, began, over)):
                continue
            if began or ended:
                text[channel.name] = list(concerns)
                self._keep(text)

    def concerns(self) -> list[Concern]:
        """Find what is not as it should be, of the rules that are wanted."""
        alerts = self._settings.alerts
        found = read_concerns(self._database, self._now(), alerts.destination_down_s, alerts.oldest_job_s)
        found += self._constancy()
        with self._database.reading() as session:
            found += host_concerns(session, self._now())
        free_gb = shutil.disk_usage(self._settings.spool.root).free / 1e9
        if free_gb < alerts.disk_free_gb:
            found.append(Concern("disk", "disk", f"less than {alerts.disk_free_gb:g} GB of disk are free"))
        return [concern for concern in found if concern.rule in alerts.rules]

    def _constancy(self) -> list[Concern]:
        """Return a concern for each red check and each that did not end by its time; the reason is for the screen."""
        standing = read_constancy(self._database, self._settings, self._now())
        if standing.light is not ConstancyLight.RED:
            return []
        if standing.overdue is not None:
            text = f"the constancy check of {standing.overdue.astimezone():%Y-%m-%d %H:%M} did not come to an end"
            return [Concern("constancy", "constancy check", text, standing.overdue.isoformat())]
        number = standing.last.id if standing.last else 0
        return [
            Concern(
                "constancy",
                "constancy check",
                f"the constancy check is red: {command('constancy show')} says why",
                str(number),
            )
        ]

    def _send(self, channel: NotificationChannel, notice: Notice) -> bool:
        trouble = self._trouble.setdefault(channel.name, Backoff(WAITS, self._elapsed))
        if trouble.left_s > 0:
            return False
        trouble.fail()  # before the try: whatever is raised counts as one in vain
        try:
            channel.send(notice)
        except NoticeNotSent as error:
            log.warning("an alert waits: %s", error, extra={"action": "alert"})
            return False
        trouble.succeed()
        log.info("alerted by %s: %s", channel.name, notice.subject(), extra={"action": "alert"})
        return True

    def test(self) -> list[str]:
        """Send a test to every channel; returns their names.

        Raises
        ------
        NoticeNotSent
            One of them does not take it.
        """
        for channel in self._channels:
            channel.send(notice_of_test(self._settings.node.ae_title))
        return [channel.name for channel in self._channels]

    def _read_sent(self) -> dict[str, list[str]]:
        try:
            content = json.loads(read_regular(self._file))
            return {str(name): [str(key) for key in keys] for name, keys in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # told again rather than not at all

    def _keep(self, content: dict[str, list[str]]) -> None:
        partial = self._settings.spool.root / PARTIAL / uuid4().hex
        try:
            write_durably(partial, self._file, [json.dumps(content).encode()])
        except OSError as error:
            log.warning("what was alerted cannot be kept: %s", error.strerror, extra={"action": "alert"})
