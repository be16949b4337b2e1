"""Who is told what, once: concerns that began and ended since a channel took its last message.

What each channel was told is kept in the database, so that neither a restart nor another node that leads repeats
anything. A channel that does not take its message is tried again, at growing intervals, with what is then still true.
A host that cannot reach the database tells that by itself, and remembers it by itself.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from contourd.commands import command
from contourd.errors import NoticeNotSent, QueueUnavailable
from contourd.observe.concerns import Concern, read_concerns
from contourd.observe.host_figures import HostDisk, disk_concerns, disks_of, store_concerns, stores_of
from contourd.observe.hosts import host_concerns, read_lines
from contourd.observe.notices import Notice, NotificationChannel, channels_of, notice_of_test
from contourd.settings import Settings
from contourd.store.backoff import Backoff, Seconds
from contourd.store.constancy_standing import ConstancyLight, read_constancy
from contourd.store.database import Database
from contourd.store.states import RetryPolicy
from contourd.store.told_alerts import ToldAlerts
from contourd.system.clock import Clock, utc_now
from contourd.system.identity import host_name
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

# In which an earlier version kept what was told, in the spool; and what the disk was called there.
FILE, DISK = "alerts.json", "disk/disk/"
# Nothing is given up: what is true is told when the channel works again.
WAITS = RetryPolicy(30.0, 1800.0, math.inf)
# The end of these is told too; a held job that is released is what the person did who was told.
ENDS = ("destination", "age", "disk", "device", "store")
# For so long the database may be away before that is told: it may be restarted, or fail over.
AWAY_S = 60.0


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
        self._host = host_name()
        self._told = ToldAlerts(database, clock)
        self._unsaved: dict[str, list[str]] = {}  # told, and not written down yet
        self._away_from_s: float | None = None
        self._told_away: set[str] = set()  # channels

    def check(self, leads: Callable[[], bool] = lambda: True) -> None:
        """Send each channel what it was not sent yet.

        Parameters
        ----------
        leads
            Says whether this node leads: else another one tells, and this one only whether it reaches the database.

        Raises
        ------
        QueueUnavailable
            The database cannot be reached; when it has been so for a while, that is told.
        """
        if not self._channels:
            return
        try:
            if leads():
                self._carry_over()
                self._tell(self.concerns(), self._told.read())
            else:
                self._unsaved.clear()
                self._told.read()
        except QueueUnavailable:
            self._tell_away()
            raise
        self._tell_back()

    def _tell(self, found: Sequence[Concern], told: Mapping[str, Sequence[str]]) -> None:
        concerns = {concern.key: concern for concern in found}
        for channel in self._channels:
            known = self._unsaved.get(channel.name, told.get(channel.name, ()))
            began = [concern for key, concern in concerns.items() if key not in known]
            ended = [key for key in known if key not in concerns]
            over = [key.split("/")[1] for key in ended if key.split("/")[0] in ENDS]
            if (began or over) and not self._send(channel, Notice(self._settings.node.ae_title, began, over)):
                continue
            if began or ended or channel.name in self._unsaved:
                self._unsaved[channel.name] = list(concerns)
                self._told.keep(channel.name, list(concerns))
                del self._unsaved[channel.name]

    def _tell_away(self) -> None:
        """Tell that this host cannot reach the database, once it has been so for a while, and what else is known."""
        if self._away_from_s is None:
            self._away_from_s = self._elapsed()
        if self._elapsed() - self._away_from_s < AWAY_S or "database" not in self._settings.alerts.rules:
            return
        parts = [f"host {self._host} cannot reach the database: nothing is received, contoured or sent there"]
        with suppress(OSError):  # the spool is away with it
            least_gb = self._settings.alerts.disk_free_gb
            parts += [concern.text for concern in disk_concerns([self._own_disk()], least_gb)]
        concern = Concern("database", self._subject_away(), "; ".join(parts))
        for channel in self._channels:
            if channel.name in self._told_away:
                continue
            if self._send(channel, Notice(self._settings.node.ae_title, [concern], [])):
                self._told_away.add(channel.name)

    def _tell_back(self) -> None:
        self._away_from_s = None
        for channel in self._channels:
            if channel.name not in self._told_away:
                continue
            if self._send(channel, Notice(self._settings.node.ae_title, [], [self._subject_away()])):
                self._told_away.discard(channel.name)

    def _subject_away(self) -> str:
        return f"database on host {self._host}"

    def _own_disk(self) -> HostDisk:
        usage = shutil.disk_usage(self._settings.spool.root)
        return HostDisk(self._host, usage.free, usage.total)

    def concerns(self) -> list[Concern]:
        """Find what is not as it should be, of the rules that are wanted; raises QueueUnavailable."""
        alerts, now = self._settings.alerts, self._now()
        found = read_concerns(self._database, now, alerts.destination_down_s, alerts.oldest_job_s)
        found += self._constancy()
        with self._database.reading() as session:
            found += host_concerns(session, now)
            lines = read_lines(session, now)
        disks = {disk.host: disk for disk in (*disks_of(lines), self._own_disk())}
        if self._settings.spool.shared:  # the disk of every host is one
            disks = {self._host: disks[self._host]}
        found += disk_concerns(disks.values(), alerts.disk_free_gb)
        if self._settings.spool.store is not None:
            found += store_concerns(stores_of(lines), now)
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

    def forget(self) -> None:
        """Have every channel be told everything again that is still so; raises QueueUnavailable."""
        self._told.forget()

    def _carry_over(self) -> None:
        """Take over what an earlier version told, from its file, which goes then; what another host has counts more."""
        if not self._file.exists():
            return
        if self._told.carry_over(self._read_file()):
            log.info("what was alerted is kept in the database now", extra={"action": "alert"})
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", self._file, error.strerror, extra={"action": "alert"})

    def _read_file(self) -> dict[str, list[str]]:
        try:
            content = json.loads(read_regular(self._file))
            kept = {str(name): [str(key) for key in keys] for name, keys in content.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}  # told again rather than not at all
        disk = f"disk/disk of host {self._host}/"
        return {name: [disk if key == DISK else key for key in keys] for name, keys in kept.items()}
