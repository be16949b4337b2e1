"""The worker process: claim -> contour -> record. The one place that catches ContourdError for a job.

It is a process of its own so that a fault of the device or a kill never stops reception; its lease makes that safe.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from multiprocessing.connection import Connection
from typing import Protocol

from contourd.contour.contouring import ContouringOptions, ContouringResult, contour_series
from contourd.contour.drawing import ModelsInTurn
from contourd.contour.provenance import contouring_of
from contourd.dicom.reading.received_images import read_received
from contourd.dicom.reading.series import Instance
from contourd.errors import (
    ContourdError,
    DeviceUnavailable,
    LeaseLost,
    QueueUnavailable,
    SeriesUnusable,
    SpoolError,
)
from contourd.intake.read_ahead import ReadAhead
from contourd.intake.waiting_images import arriving_images
from contourd.model.library import FoundModel
from contourd.model.predictor import Predictor
from contourd.model.remarks import Remarks
from contourd.model.site_structures import site_colours
from contourd.models.orders import JobOrder, pinned_models
from contourd.node.fitting_orders import UNORDERED, FittingOrders
from contourd.node.heartbeat import Heartbeat
from contourd.node.host_figures import FiguresGauge
from contourd.node.shadow_runner import ShadowRunner
from contourd.node.worker_models import Patience, WorkerModels
from contourd.profiles import RTSTRUCT, STRICT, profiles_to_write
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.spool.opening import open_spool
from contourd.store.backoff import Backoff, Seconds
from contourd.store.contourings import Contouring, FurtherOutput
from contourd.store.database import Database
from contourd.store.processes import Processes
from contourd.store.queue import Job, Queue
from contourd.store.states import JobEvent, ProcessRole, RetryPolicy
from contourd.store.write_retry import AGAIN_S, retry_read, retry_write
from contourd.system.exhaustion import DISK_FULL, lacks_memory
from contourd.system.logs import error_text, set_up_logging
from contourd.system.memory import limit_memory
from contourd.system.signals import end_with_parent, on_signals, send_hint
from contourd.transfer.copies import LocalCopies
from contourd.transfer.removal import StoreRemoval

log = logging.getLogger(__name__)

IDLE_S = 0.5
# Between two looks for a job, how many images are listed to be read ahead of theirs, and how many that came since the
# look before are a burst: the processors are the reception's then.
READ_AHEAD_S = 0.1
MOST_AHEAD = 2000
BURST = 20
PROBE_BYTES = 8 * 2**20
# Between two looks for copies that can go.
COPIES_S = 60.0
# The kernel takes the worker before the process that receives, when memory runs out.
OOM_SCORE = 500
# A device that is busy is free again in seconds, one that failed after somebody came.
DEVICE_RETRY = RetryPolicy(first_s=2.0, max_s=300.0, give_up_after_s=3600.0)


class ContourFunction(Protocol):
    """Contours one series; swapped in tests for one that breaks its process."""

    def __call__(
        self, instances: list[Instance], models: Predictor | ModelsInTurn, order: ContouringOptions, /
    ) -> ContouringResult:
        """Return the structure sets."""


class Worker:
    """Contours one job after the other until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        contour: ContourFunction = contour_series,
        elapsed: Seconds = time.monotonic,
        orders: Collection[str] = (UNORDERED,),
    ) -> None:
        self._settings = settings
        self._name = name
        self.stopping = threading.Event()
        self._contour_series = contour
        self._database = Database(settings.database_url)
        self._spool = open_spool(settings.spool)
        self._orders = FittingOrders(settings, self._database, self._spool.store, orders, elapsed)
        self._queue = Queue(self._database, host=self._spool.host_of_images)
        self.processes = Processes(self._database)
        self.figures = FiguresGauge(self._spool).measure
        self._copies = LocalCopies(self._database, self._spool)
        kept = int(settings.spool.cache_gb * 1e9)
        self._removal = StoreRemoval(self._database, self._spool, kept, settings.retention.failed_days)
        self._copies_from_s = 0.0
        self._ahead = ReadAhead()
        self._listed = 0
        self._models = WorkerModels(settings, self._database, self._spool.store, self.stopping, name)
        host = self._spool.host_of_images
        self._shadows = ShadowRunner(settings, name, self._database, host, lambda: self._orders.fit, elapsed)
        self._colours = site_colours(settings.structures.file)
        self._waiting = dict[int, Backoff]()
        self._elapsed = elapsed
        self._written: list[str] = []  # of the job under way, relative to the spool
        self._profiles = {d.name: d.profiles for d in settings.destination}
        self.wake = threading.Event()
        self.contoured: Callable[[], None] = lambda: None  # called when structure sets are there to be sent

    def warm_up(self) -> None:
        """Load the models of all routes, so that the first patient does not wait; what fails is said with its job."""
        if self._retry_until_stopped(self._models.see_activations):
            self._models.warm_up()

    def run(self, ended: Callable[[], None] = lambda: None) -> None:
        """Work until told to stop; a job that is under way is finished, and a model that was activated waits for it.

        Parameters
        ----------
        ended
            Called after the last job, while the queue can still be written.
        """
        while not self.stopping.is_set():
            job = self.fetch_job()
            if job is None:
                self.rest()
            else:
                self.run_job(job)
        self._shadows.give_way()
        ended()
        self.close()

    def close(self) -> None:
        """End what runs beside it, and close the database."""
        self._shadows.give_way()
        self._database.close()

    @property
    def predictors(self) -> Mapping[str, Predictor]:
        """What a route calls a model -> the predictor that is loaded for it."""
        return self._models.loaded

    @property
    def images_ahead(self) -> int:
        """How many images are read ahead of their jobs."""
        return len(self._ahead)

    def stop(self) -> None:
        """Take no other job."""
        self.stopping.set()
        self.wake.set()

    def rest(self) -> None:
        """Wait for the next job; a model that was activated meanwhile is loaded before it comes."""
        with suppress(QueueUnavailable):  # the next claim tells it
            if self._models.see_activations():
                self._shadows.give_way()  # nobody would watch it meanwhile
                log.info("another model was activated", extra={"action": "load", "worker": self._name})
                self.warm_up()
        self._clear_copies()
        self._models.tell_again()
        self._shadows.tend()
        if not self.read_ahead():
            self.wake.wait(IDLE_S)
        self.wake.clear()

    def _clear_copies(self) -> None:
        """Now and then let go what this host fetched and does not need any more."""
        if self._spool.store is None or self._elapsed() < self._copies_from_s:
            return
        self._copies_from_s = self._elapsed() + COPIES_S
        try:
            self._removal.clear_cache()
        except (QueueUnavailable, SpoolError) as error:
            log.warning("copies are not let go: %s", error, extra={"action": "retention", "worker": self._name})

    def read_ahead(self) -> bool:
        """Read images of series that still arrive, for less time than a rest takes; says whether there are more."""
        try:
            root = self._settings.spool.root
            arriving = arriving_images(self._database, MOST_AHEAD)
            came, self._listed = len(arriving) - self._listed, len(arriving)
            if came > BURST:
                return False
            return self._ahead.follow({root / path: sha256 for path, sha256 in arriving.items()}, READ_AHEAD_S)
        except QueueUnavailable:  # the next claim tells it
            self._ahead.clear()
            return False

    def fetch_job(self) -> Job | None:
        """Take the next job, but none that waits for its device; None where there is none, or the node stops."""
        but = [number for number, waiting in self._waiting.items() if waiting.left_s > 0]
        lease_s = self._settings.worker.lease_s
        retry_read(lambda: self._orders.look(self._name), self.stopping, None)
        return retry_read(
            lambda: self._queue.fetch_job(self._name, lease_s, but, self._orders.fit), self.stopping, None
        )

    def _retry_until_stopped(self, call: Callable[[], object]) -> bool:
        return retry_write(call, self.stopping)

    def run_job(self, job: Job) -> None:
        """Contour a job that was claimed, and record what became of it; a shadow that runs gives way."""
        self._shadows.give_way()
        log.info("contouring", extra={"action": "claim", "job": job.id, "worker": self._name})
        try:
            with self._lease(job):
                found = self._models.find_all(job.model)
                if found is not None:  # else the next start queues the job again
                    self._contour_and_record(job, found)
        except LeaseLost:
            log.warning("the job is another worker's now", extra={"action": "lease lost", "job": job.id})
            self._remove_written()
        self._written.clear()

    def _remove_written(self) -> None:
        """Remove what this worker wrote too late: the structure sets are another's to give."""
        for path in self._written:
            try:
                self._spool.remove(path)
            except SpoolError as error:  # retention removes it with the job's own
                log.warning("%s", error, extra={"action": "spool"})

    def _contour_and_record(self, job: Job, found: Sequence[FoundModel]) -> None:
        """Contour a job and write down how that ended; raises LeaseLost."""
        spent = self._settings.worker.max_attempts
        try:
            outputs, remarks, made, further = self._contour(job, found)
        except SpoolError as error:
            self._wait_for_spool(job, error.reason)
            return
        except QueueUnavailable as error:  # of the index of what is stored; no fault of the job's
            log.warning("the job is given back: %s", error, extra={"action": "wait", "job": job.id})
            away = error.reason
            self._retry_until_stopped(lambda: self._queue.return_job(job.claim, away))
            return
        except DeviceUnavailable as error:
            self._wait_for_device(job, error)
            return
        except MemoryError as error:
            self._lack_memory(job, str(error) or "an allocation failed")
            return
        except ContourdError as error:
            log.error("the job is held: %s", error, extra={"action": "hold", "job": job.id})
            reason = error.reason
            self._retry_until_stopped(lambda: self._queue.hold_job(job.claim, reason))
            return
        except Exception as error:  # a fault of ours must not end the worker
            log.exception("the job failed", extra={"action": "fail", "job": job.id})
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                self._wait_for_spool(job, Reason.of(HoldReason.FILE_NOT_WRITTEN, said=error.strerror))
            elif lacks_memory(error):
                self._lack_memory(job, str(error))
            else:
                self._fail(job, Reason.of(HoldReason.FAULT, said=error_text(error)), spent, JobEvent.FAIL)
            return
        if not self._retry_until_stopped(lambda: self._queue.finish_job(job.claim, outputs, remarks, made, further)):
            return
        self.contoured()
        self._waiting.pop(job.id, None)
        log.info("contoured", extra={"action": "contoured", "job": job.id})
        if remarks.records:
            log.warning("a person is to look: %s", remarks.text(), extra={"action": "remark", "job": job.id})

    def _lack_memory(self, job: Job, message: str) -> None:
        """Hold a job that needs more than the worker may have; where that is not limited, others have it for now."""
        if self._settings.worker.memory_gb:
            lacks = Reason.of(HoldReason.WORKER_OUT_OF_MEMORY, said=message)
            self._fail(job, lacks, self._settings.worker.max_attempts, JobEvent.HOLD)
        else:
            self._wait_for_device(job, DeviceUnavailable(HoldReason.MACHINE_OUT_OF_MEMORY, said=message))

    def _wait_for_device(self, job: Job, error: DeviceUnavailable) -> None:
        """Give the job back, for it is not at fault, and try it again later, and others meanwhile."""
        waiting = self._waiting.setdefault(job.id, Backoff(DEVICE_RETRY, self._elapsed))
        again_s = waiting.fail()
        log.warning("the job waits %.0f s for the device: %s", again_s, error, extra={"action": "wait", "job": job.id})
        reason, patience_s = error.reason, DEVICE_RETRY.give_up_after_s
        patient = retry_read(lambda: self._queue.wait_for_device(job.claim, reason, patience_s), self.stopping, True)
        if not patient:
            log.error("the job is held: the device could not be used", extra={"action": "hold", "job": job.id})
            del self._waiting[job.id]
        if error.lost:
            log.error("the device is lost to this process; another takes its place", extra={"action": "worker"})
            self.stop()

    def _wait_for_spool(self, job: Job, reason: Reason) -> None:
        """Give the job back, for it is not at fault, and take no other until a structure set can be written again."""
        log.warning("the job waits: %s", reason, extra={"action": "wait", "job": job.id})
        waits = Reason.of(HoldReason.WAITS_FOR_SPOOL, why=reason)
        self._retry_until_stopped(lambda: self._queue.return_job(job.claim, waits))
        while not self.stopping.wait(AGAIN_S):
            try:
                self._spool.probe(PROBE_BYTES)
                self._spool.probe_store()
                return
            except SpoolError:
                continue

    def _contour(
        self, job: Job, found: Sequence[FoundModel]
    ) -> tuple[dict[str, str], Remarks, Contouring, list[FurtherOutput]]:
        """Contour a job; returns destination -> structure set, remarks, what made them, and what else is sent."""
        instances = self._read(job)
        ordered = JobOrder.read(job.order) if job.order else None
        known = ordered.profiles if ordered else self._profiles
        wanted = [(name, profile) for name in job.destinations for profile in known.get(name, (STRICT,))]
        profiles = profiles_to_write(profile for _, profile in wanted)
        order = ContouringOptions(
            job.revision,
            profiles,
            ordered.plausibility if ordered else self._settings.plausibility,
            job.override,
            ordered.second_reader if ordered else self._settings.check.rt_utils,
            ordered.colours if ordered else self._colours,
        )
        asked = ordered.models if ordered else pinned_models([one.asked for one in found], job.sent_with)
        contoured = self._models.contour(
            found,
            asked,
            ordered.partial if ordered else job.partial,
            self._patience(job),
            lambda models: self._contour_series(instances, models, order),
        )
        stored, written = {}, {}
        for part, (profile, dataset) in enumerate(zip(profiles, contoured.datasets, strict=True), 1):
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            path = self._spool.store_output(job.id, job.claim.token, buffer.getvalue(), part)
            stored[profile.identity()], written[path] = path, buffer.getvalue()
            self._written.append(path)
        self._copies.give(list(written))
        made = contouring_of(contoured.models, order, job.hashes, written, contoured.grid)
        outputs = [FurtherOutput(name, p.product, stored[p.identity()]) for name, p in wanted]
        structure_sets = {one.destination: one.path for one in outputs if one.product == RTSTRUCT}
        further = [one for one in outputs if one.product != RTSTRUCT]
        return structure_sets, contoured.remarks, made, further

    def _patience(self, job: Job) -> Patience:
        """Return for how long a job waits for one of several models that it may be sent without."""
        worker = self._settings.worker
        last_try = job.attempts >= worker.max_attempts if worker.memory_gb else None
        return Patience(lambda: self._queue.waited_for_device_s(job.id), DEVICE_RETRY.give_up_after_s, last_try)

    def _read(self, job: Job) -> list[Instance]:
        """Read a job's images; one that is gone or damaged here is fetched from the object store, if there is one.

        Raises
        ------
        SeriesUnusable
            One is not to be had as it was received.
        SpoolError
            The object store does not answer.
        """
        self._copies.bring(job.paths)
        paths = [self._settings.spool.root / path for path in job.paths]
        images = dict(zip(paths, job.hashes, strict=True))
        try:
            return read_received(images, self._ahead.take(images))
        except SeriesUnusable:
            if not self._copies.repair(dict(zip(job.paths, job.hashes, strict=True))):
                raise
        return read_received(images)

    def _fail(self, job: Job, reason: Reason, max_attempts: int, when_spent: JobEvent) -> None:
        log.warning("the attempt failed: %s", reason, extra={"action": "fail", "job": job.id})
        self._retry_until_stopped(lambda: self._queue.fail_job(job.claim, reason, max_attempts, when_spent))

    @contextmanager
    def _lease(self, job: Job) -> Iterator[None]:
        """Renew the lease in the background, up to the time limit: after that the job is taken from a hung worker."""
        done = threading.Event()
        lease_s = self._settings.worker.lease_s

        def renew() -> None:
            left_s = self._settings.worker.time_limit_s
            while left_s > 0 and not done.wait(lease_s / 3):
                left_s -= lease_s / 3
                try:
                    self._queue.renew_lease(job.claim, lease_s)
                except LeaseLost:
                    return
                except QueueUnavailable as error:  # the daemon cannot take the job either
                    log.warning("the lease is not renewed: %s", error, extra={"action": "lease", "job": job.id})

        thread = threading.Thread(target=renew, name=f"lease-{job.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def main(settings: Settings, name: str, parent: Connection, contour: ContourFunction = contour_series) -> None:
    """Run a worker until SIGTERM, or until the other end of ``parent`` is closed: the daemon is gone.

    It takes no job before the leading node has ordered it.
    """
    set_up_logging()
    keep_private()
    limit_memory(settings.worker.memory_gb, OOM_SCORE)
    try:
        _serve(Worker(settings, name, contour, orders=()), settings, name, parent)
    except Exception:  # Python would print the text of the error, which may quote the patient
        log.exception("the worker cannot go on", extra={"action": "worker", "worker": name})
        raise SystemExit(1) from None


def _serve(worker: Worker, settings: Settings, name: str, parent: Connection) -> None:
    worker.contoured = lambda: send_hint(parent)
    on_signals([signal.SIGTERM], worker.stop)
    gone = "the daemon is gone; the worker ends"
    end_with_parent(parent, lambda: log.warning(gone, extra={"worker": name}), worker.wake.set)
    if not retry_write(
        lambda: worker.processes.begin(name, ProcessRole.WORKER, settings.worker.device), worker.stopping
    ):
        return
    heartbeat = Heartbeat(worker.processes, name, worker.figures)
    heartbeat.start()
    worker.warm_up()
    worker.run(heartbeat.stop)
