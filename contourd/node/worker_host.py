"""The composition root of ``worker``: the workers of a host that contours and does nothing else.

It opens no port, shows no page and takes no lock of the spool: what it contours, and what comes of it, is in the
database and in the spool's store, which another host serves.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress

from contourd.errors import QueueUnavailable, SettingsError
from contourd.node.hint_listener import HintListener
from contourd.node.worker_pool import WorkerPool
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.spool.opening import open_spool
from contourd.store.database import Database
from contourd.store.hints import JOBS
from contourd.store.queue import Queue
from contourd.store.site import PURPOSE, belong_to_site
from contourd.store.write_retry import retry_write
from contourd.system.clock import utc_now
from contourd.system.signals import STOPPING, on_signals
from contourd.system.systemd import ALIVE, ENDING, READY, ServiceNotifier
from contourd.system.threads import watch_threads

log = logging.getLogger(__name__)

POLL_S = 1.0
GRACE_S = 60.0


class WorkerHost:
    """Runs the workers of one host until it is told to stop.

    Raises
    ------
    SettingsError
        The settings name no worker process for this host.
    """

    def __init__(self, settings: Settings, notifier: ServiceNotifier | None = None) -> None:
        self._notifier = notifier or ServiceNotifier()
        self._number = len(settings.worker.of_each())
        if not self._number:
            raise SettingsError("the configuration", ["worker.processes: it is 0; give this host at least one"])
        keep_private()
        self._spool = open_spool(settings.spool)
        self._stopping = threading.Event()
        self._hasten = threading.Event()
        self._database = Database(settings.database_url)
        self._workers = WorkerPool(settings, Queue(self._database), self._stopping)
        self._hints = HintListener(self._database, (JOBS,), self._workers.hint, self._stopping)

    def run(self) -> None:
        """Work until SIGTERM or SIGINT; a second one does not wait for the jobs under way.

        Raises
        ------
        SchemaMismatch
            The database is empty, or of another version.
        NodeError
            It is another site's.
        SpoolError
            The site's key cannot be read, or is not that of the object store.
        """
        watch_threads(lambda name, kind: log.critical("thread %s ended: %s", name, kind, extra={"action": "fault"}))
        on_signals(STOPPING, self._told_to_stop)
        try:
            if not retry_write(self._check_database, self._stopping):
                return
            self._workers.start()
            self._hints.start()
            log.info("%d workers started", self._number, extra={"action": "start"})
            self._notifier.tell(READY)
            while not self._stopping.wait(POLL_S):
                with suppress(QueueUnavailable):  # the workers tell it
                    self._workers.watch()
                    self._workers.expire_leases()
                self._notifier.tell(ALIVE)
        finally:
            self._shut_down()

    def _check_database(self) -> None:
        """Refuse a database that is not of this version, or not of this host's site."""
        self._database.check()
        self._spool.agree_on_key()
        belong_to_site(self._database, self._spool.signature(PURPOSE, b""), utc_now())

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hasten.set()
        self._stopping.set()

    def _shut_down(self) -> None:
        """Let the jobs under way end; one that does not is queued again for another worker."""
        log.info("stopping", extra={"action": "stop"})
        self._notifier.tell(ENDING)
        self._stopping.set()
        self._workers.stop(GRACE_S, self._hasten)
        self._database.close()
        log.info("stopped", extra={"action": "stopped"})
