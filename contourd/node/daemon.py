"""The composition root of ``serve``: builds and wires everything, and shuts down in order."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from contourd import __version__
from contourd.constancy.runner import ConstancyRunner
from contourd.delivery.commitment_reporter import CommitmentReporter, CommitmentServices
from contourd.delivery.commitment_requests import CommitmentRequests
from contourd.delivery.commitments import Commitments
from contourd.delivery.deliverer import Deliverer, DeliveryServices
from contourd.delivery.deliveries import Deliveries
from contourd.delivery.senders import Senders
from contourd.dicom.network.association import Peer
from contourd.dicom.network.commitment_scu import CommitmentSCU
from contourd.dicom.network.scp import StorageSCP
from contourd.dicom.network.scu import DeliveryClient
from contourd.dicom.network.tls import calling_context
from contourd.errors import NodeError, QueueUnavailable
from contourd.intake.describing import SeriesDescriber
from contourd.intake.intake import Intake
from contourd.intake.spool_recovery import record_unrecorded
from contourd.node.clock_changes import follow_clock
from contourd.node.heartbeat import Heartbeat
from contourd.node.hint_listener import HintListener
from contourd.node.host_figures import PROBE_S, FiguresGauge, StoreProbe
from contourd.node.order_keeper import OrderKeeper
from contourd.node.receivers.dispatcher import ReceiverPool
from contourd.node.receivers.receiver import commitment_scp, review_scp
from contourd.node.recovery import ProcessWatch
from contourd.node.retention import Retention
from contourd.node.schedule import Schedule
from contourd.node.self_test import DEAF_S, EVERY_S, SelfTest
from contourd.node.worker_pool import WorkerPool
from contourd.observe.alerts import Alerts
from contourd.observe.pulse import DEAD, SelfTestFault
from contourd.reviews.reception import ReviewReception
from contourd.reviews.runner import Reviews
from contourd.settings import Settings, settings_sha256, shown_settings
from contourd.spool.access import close_to_others, keep_private, lock_spool
from contourd.spool.marks import JournalMark, SeriesJournal
from contourd.spool.opening import lock_name, open_spool
from contourd.store.audit import NODE, AuditEntry, AuditTrail
from contourd.store.database import Database
from contourd.store.hints import DELIVERIES, JOBS
from contourd.store.leader import Leadership
from contourd.store.processes import BEAT_S, Processes
from contourd.store.queue import Queue
from contourd.store.site import PURPOSE, belong_to_site
from contourd.store.states import RetryPolicy
from contourd.store.write_retry import retry_write
from contourd.system.clock import ClockStepDetector, utc_now
from contourd.system.identity import new_process_id
from contourd.system.signals import STOPPING, on_signals
from contourd.system.systemd import ALIVE, ENDING, READY, ServiceNotifier
from contourd.system.threads import watch_threads
from contourd.transfer.copies import LocalCopies
from contourd.transfer.uploading import Uploader
from contourd.web.launcher import PageProcess

log = logging.getLogger(__name__)

POLL_S = 1.0
ALERTS_S = 15.0
RETENTION_S = 60.0
REVIEWS_S = 2.0
GRACE_S = 60.0
# Of a node that broke: until its process ends, and how (as ``contourd serve`` does).
LONGEST_END_S, BROKEN_STATUS = 100.0, 2
# How long other nodes may take to end what is under way, before it is broken off: it is sent again next time.
PEERS_GRACE_S = 15.0
DELIVERING, DELIVERING_CHECKS = "delivering to {}", "delivering to the constancy check"
# Of ``_begin``, without those of peers; each must have a thread, or one that hangs delays another.
FIXED_JOBS = 18


class Daemon:
    """One node: the queue and delivery in this process, reception and contouring in processes of their own."""

    def __init__(
        self, settings: Settings, sender: DeliveryClient | None = None, notifier: ServiceNotifier | None = None
    ) -> None:
        self._settings = settings
        self._notifier = notifier or ServiceNotifier()
        keep_private()
        close_to_others(settings.spool.root)
        self._spool = open_spool(settings.spool, int(settings.spool.min_free_gb * 1e9))
        self._locked = lock_spool(settings.spool.root, lock_name(settings.spool))
        self._spool.sweep()
        self._spool.agree_on_key()
        self._database = Database(settings.database_url)
        self._database.examine()
        self._database.prepare()
        belong_to_site(self._database, self._spool.signature(PURPOSE, b""), utc_now())
        self._copies = LocalCopies(self._database, self._spool)
        self._audit = AuditTrail(self._database)
        self._queue = Queue(self._database)
        self._name = new_process_id()
        self._leadership = Leadership(self._database)
        self._intake = Intake(
            self._database,
            settings.spool.root,
            settings.series,
            settings.route,
            copies=self._copies,
            describer=SeriesDescriber(self._spool.signature, settings.series.descriptions),
            settings_sha256=settings_sha256(settings),
        )
        if not self._database.is_sqlite:  # others may receive of the same series
            self._intake.share(self._name)
        cache_bytes = int(settings.spool.cache_gb * 1e9)
        self._retention = Retention(self._database, self._spool, settings.retention, cache_bytes=cache_bytes)
        self._uploader = Uploader(self._database, self._spool, settings.series.quiet_s)
        secured = settings.spool.store is not None and settings.spool.durable == "store"
        self._reviews = ReviewReception(self._database, self._spool, settings.reviewer, secured)
        self._build_calling(sender or Senders(settings.node.ae_title))
        self._scp = self._reception()
        self._examination = SelfTest(self._scp, self._spool, self._database)
        self._schedule = Schedule(len(settings.destination) + len(settings.sender) + FIXED_JOBS)
        self._stopping = threading.Event()
        self._hasten = threading.Event()
        self._workers = WorkerPool(settings, self._queue, self._stopping, self._deliver_now)
        self._watch = ProcessWatch(
            self._name, self._database, self._delivering.deliveries, self._intake, settings.worker
        )
        self._orders = OrderKeeper(self._database, settings)
        gauge = FiguresGauge(self._spool, None if self._spool.store is None else self._uploader.count_waiting)
        self._heartbeat = Heartbeat(Processes(self._database), self._name, gauge.measure)
        self._hints = HintListener(self._database, (JOBS, DELIVERIES), self._take_hint, self._stopping)
        self._clock = ClockStepDetector()
        self._step_s = 0.0
        self._following = threading.Lock()
        self._constancy = ConstancyRunner(settings, self._database, self._delivering, self._stopping)
        self._page = PageProcess(settings)
        self._alerts = Alerts(settings, self._database)

    def _build_calling(self, sender: DeliveryClient) -> None:
        """Build what calls other nodes; certificates that cannot be used are told before anything is received."""
        settings = self._settings
        peers: tuple[Peer, ...] = (*settings.destination, *settings.sender)
        for peer in peers:
            if peer.tls is not None:
                calling_context(peer.tls, peer.name)
        retry = settings.delivery
        policy = RetryPolicy(retry.first_retry_s, retry.max_retry_s, retry.give_up_after_s)
        commitments = Commitments(self._database, policy, {d.name: d.ae_title for d in settings.destination})
        wait_s = max((d.commitment_wait_s for d in settings.destination if d.commitment), default=0.0)
        self._delivering = DeliveryServices(
            settings.spool.root,
            Deliveries(self._database, policy, commitment_wait_s=wait_s, process_id=self._name),
            commitments,
            sender,
            CommitmentSCU(settings.node.ae_title, commitments),
            self._copies,
        )
        requests = CommitmentRequests(self._database, policy, [s.ae_title for s in settings.sender])
        self._committing = CommitmentServices(
            settings.spool.root, requests, self._delivering.committer, settings.series.quiet_s, self._copies
        )

    def _reception(self) -> ReceiverPool | StorageSCP:
        """Build what listens: with processes of its own that receive, or in this one."""
        settings, witness = self._settings, self._audit.note
        reports, requests = self._delivering.commitments, self._committing.requests
        if settings.node.receivers:
            return ReceiverPool(settings, self._intake, witness, reports, requests, reviews=self._reviews)
        commitment = commitment_scp(settings, reports, requests)
        reviews = review_scp(settings, self._spool, self._reviews)
        return StorageSCP(settings.node, self._spool, self._intake, witness, commitment, reviews=reviews)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second one does not wait for what is under way.

        Raises
        ------
        NodeError
            The port is taken, or a part of the node broke down.
        """
        watch_threads(self._thread_ended)
        signals = on_signals(STOPPING, self._told_to_stop)
        if not retry_write(self._recover, self._stopping):
            return
        node = self._settings.node
        try:
            self._scp.start()
        except OSError as error:
            raise NodeError(f"cannot listen on {node.host}:{node.port}: {error.strerror}; change node.port") from error
        log.info("listening as %s on %s:%d", node.ae_title, node.host, self._scp.port, extra={"action": "start"})
        self._audit_start()
        self._workers.start()
        self._heartbeat.start()
        self._begin()
        self._hints.start()
        self._notifier.tell(READY)
        broken = ""
        try:
            while not broken and not self._stopping.wait(POLL_S):
                with suppress(QueueUnavailable):  # the jobs tell it
                    self._follow_clock()  # no job of its own, for a clock that is set back stops them all
                self._examination.seen()
                broken = self._broken(signals)
        finally:
            self._shut_down(broken)
        if broken:
            raise NodeError(f"{broken}, and contourd with it; look at the log, start it again")

    @property
    def serving(self) -> bool:
        """Whether it receives and its schedule runs."""
        return self._schedule.alive and self._scp.listening  # the schedule comes last

    @property
    def faults(self) -> SelfTestFault:
        """What the node found when it tried itself last."""
        return self._examination.faults

    def _broken(self, signals: threading.Thread) -> str:
        """Return what has ended that cannot be replaced; empty where nothing has."""
        if not (signals.is_alive() and self.serving):
            return "a thread of contourd ended by itself"
        return f"no C-ECHO to its own port was answered for {DEAF_S:g} s: it ended" if self._examination.deaf else ""

    def _thread_ended(self, name: str, kind: str) -> None:
        self._audit.note("thread ended", NODE, "", f"{name}: {kind}")

    def _told_to_stop(self) -> None:
        if self._stopping.is_set():
            self._hasten.set()
        self._stopping.set()

    def _recover(self) -> None:
        self._watch.begin()
        self._watch.recover()
        for destination in self._settings.destination:
            if not destination.commitment:
                self._delivering.deliveries.finish_awaiting(destination.name)
        self._committing.requests.recover()
        if self._leadership.leads():
            self._constancy.recover()
        record_unrecorded(self._database, self._spool, self._intake)
        self._reviews.record_unrecorded()

    def _audit_start(self) -> None:
        """Record the start and what differs from the last one; a trail that cannot be written stops no reception."""
        try:
            self._audit.record(AuditEntry(NODE, "start", "", f"contourd {__version__}"))
            changed = self._audit.record_configuration(
                shown_settings(self._settings) | {"settings_sha256": settings_sha256(self._settings)}
            )
        except QueueUnavailable as error:
            log.error("the start is not audited: %s", error, extra={"action": "audit"})
        else:
            if changed:
                log.info("the configuration differs in %s", ", ".join(changed), extra={"action": "configuration"})

    def _begin(self) -> None:
        every, led = self._schedule.every, self._every_while_leading
        every(EVERY_S, "trying itself", self._examination.run)
        every(POLL_S, "closing quiet series", self._close_quiet)
        led(BEAT_S, "reviewing orders", self._orders.review_orders)
        every(BEAT_S, "watching the processes", self._watch_processes)
        every(POLL_S, "watching the worker", self._workers.watch)
        every(POLL_S, "expiring leases", self._workers.expire_leases)
        every(POLL_S, "writing the audit trail", self._audit.flush)
        led(RETENTION_S, "retention", self._retention.run)
        if self._spool.store is not None:
            every(POLL_S, "storing images", self._uploader.run)
            probe = StoreProbe(self._spool, self._leadership.leads)
            every(PROBE_S, "asking the object store", probe.ask)
            every(POLL_S, "storing structure sets", self._reviews.upload)
            every(RETENTION_S, "clearing copies", self._retention.clear_cache)
        every(POLL_S, "watching the page", self._watch_page)
        comparing = Reviews(self._settings, self._database, self._spool, self._copies, self._stopping)
        led(REVIEWS_S, "comparing what came back", comparing.run)
        led(POLL_S, "watching the constancy check", self._constancy.watch)
        led(POLL_S, DELIVERING_CHECKS, self._constancy.deliver_due)
        if self._settings.alerts.wanted:
            every(ALERTS_S, "alerting", lambda: self._alerts.check(self._leadership.leads))
        for destination in self._settings.destination:  # a thread each: one that is down delays no other
            deliverer = Deliverer(destination, self._delivering, self._stopping)
            led(POLL_S, DELIVERING.format(destination.name), deliverer.deliver_due)
        for sender in self._settings.sender:
            reporter = CommitmentReporter(sender, self._committing, self._stopping)
            led(POLL_S, f"reporting to {sender.ae_title}", reporter.report_due)
        if self._notifier.watchdog_s:
            every(self._notifier.watchdog_s / 3, "reassuring the watchdog", self._tell_alive)
        self._schedule.start()

    def _every_while_leading(self, seconds: float, name: str, call: Callable[[], None]) -> None:
        """Call a function again and again while this node leads: of all that share the database one does so."""

        def led() -> None:
            if self._leadership.leads():
                call()

        self._schedule.every(seconds, name, led)

    def _watch_processes(self) -> None:
        if self._leadership.leads():
            self._watch.watch()
        else:
            self._watch.forget()

    def _close_quiet(self) -> None:
        self._intake.write_ends()
        if self._leadership.leads():
            self._intake.close_quiet()
            self._orders.order_jobs()
        self._workers.hint()

    def _take_hint(self) -> None:
        """Look at once for what another process left to do here."""
        self._workers.hint()
        self._deliver_now()

    def _deliver_now(self) -> None:
        """Deliver at once what the worker has made; without that it would wait for the next look."""
        for destination in self._settings.destination:
            self._schedule.run_soon(DELIVERING.format(destination.name))
        self._schedule.run_soon(DELIVERING_CHECKS)

    def _watch_page(self) -> None:
        if not self._stopping.is_set():
            self._page.watch(self._workers.is_complete, self._examination.faults)

    def _tell_alive(self) -> None:
        """Reassure the watchdog where a restart would mend nothing; a worker that dies is replaced without it."""
        if self._scp.listening and not self._examination.faults & DEAD:
            self._notifier.tell(ALIVE)

    def _follow_clock(self) -> None:
        """Move all that waits by as much as the clock was set; raises QueueUnavailable, and then does so next time."""
        with self._following:
            step_s = self._clock.step_s()
            if step_s:
                log.warning("the clock was set by %+.0f s; what waits follows it", step_s, extra={"action": "clock"})
                self._step_s += step_s
                self._retention.clock_was_set()
                self._schedule.clock_was_set()
            if self._step_s:
                if self._leadership.leads():
                    follow_clock(self._database, self._step_s)
                self._step_s = 0.0

    def _hang_up(self) -> None:
        """Break off what other nodes do not bring to an end."""
        log.warning("a delivery under way is broken off; it is sent again next time", extra={"action": "stop"})
        self._delivering.sender.hang_up()
        self._delivering.committer.hang_up()

    def _shut_down(self, broken: str) -> None:
        """Stop taking, let deliveries and the job under way end, and leave the rest for the next start."""
        last_resort = threading.Timer(LONGEST_END_S, os._exit, [BROKEN_STATUS])  # another node is to be started
        last_resort.daemon = True
        if broken:
            log.critical("%s", broken, extra={"action": "stop"})
            last_resort.start()
        log.info("stopping", extra={"action": "stop"})
        self._notifier.tell(ENDING)
        self._stopping.set()
        impatient = threading.Timer(PEERS_GRACE_S, self._hang_up)
        impatient.daemon = True
        impatient.start()
        self._workers.terminate()
        self._constancy.stop()
        self._scp.stop()
        with suppress(QueueUnavailable):  # else what is open is taken for broken off
            self._intake.stopped()
        ended = self._schedule.stop(GRACE_S, self._hasten)
        impatient.cancel()
        self._page.stop()
        self._workers.stop(GRACE_S, self._hasten)
        self._audit.close()
        self._heartbeat.stop()
        self._leadership.close()
        with suppress(QueueUnavailable):  # the log says it too
            self._audit.record(AuditEntry(NODE, "stop"))
        self._database.close()
        SeriesJournal(self._settings.spool.root).clear(self._spool.node_key, JournalMark.RUNNING)
        self._locked.close()
        last_resort.cancel()
        if ended:
            log.info("stopped", extra={"action": "stopped"})
            return
        log.warning(
            "stopped; a delivery under way did not end, it is sent again next time", extra={"action": "stopped"}
        )
        logging.shutdown()
        os._exit(BROKEN_STATUS if broken else 0)  # Python would wait for its thread for ever
