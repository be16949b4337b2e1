"""The worker process: claim -> contour -> record. The one place that catches ContourdError for a job.

It is a process of its own so that a fault of the device or a kill never stops reception; its lease makes that safe.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from multiprocessing.connection import Connection

from contourd.contouring import Order, contour_series
from contourd.dicom.series import read_instance
from contourd.dicom.spool import Spool
from contourd.dicom.spool_access import keep_private
from contourd.errors import ContourdError, LeaseLost, QueueUnavailable, SpoolError
from contourd.jobs.audit import AuditTrail
from contourd.jobs.database import Database
from contourd.jobs.queue import Job, Queue
from contourd.logs import set_up_logging, told
from contourd.model.bundle import ModelBundle, load_bundle
from contourd.model.predictor import Predictor
from contourd.profiles import STRICT
from contourd.settings import Settings

log = logging.getLogger(__name__)

IDLE_S = 0.5
PARENT_CHECK_S = 1.0


class Worker:
    """Contours one job after the other until it is told to stop."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._database = Database(settings.database_url)
        self._queue = Queue(self._database)
        self._audit = AuditTrail(self._database)
        self._spool = Spool(settings.spool.root)
        self._predictors: dict[str, Predictor] = {}
        self._profiles = {d.name: d.structure_set_profile for d in settings.destination}
        self.stopping = threading.Event()

    def warm_up(self) -> None:
        """Load the models of all routes, so that the first patient does not wait; what fails is said with its job."""
        for model in {route.model for route in self._settings.route}:
            try:
                self._predictor(model)
            except ContourdError:
                log.exception("a model cannot be loaded", extra={"action": "load", "worker": self._name})

    def run(self) -> None:
        """Work until told to stop; a job that is under way is finished."""
        while not self.stopping.is_set():
            job = self._queue.claim(self._name, self._settings.worker.lease_s)
            if job is None:
                self.stopping.wait(IDLE_S)
                continue
            self._work(job)
        self._database.close()

    def _work(self, job: Job) -> None:
        log.info("contouring", extra={"action": "claim", "job": job.id, "worker": self._name})
        try:
            with self._lease(job):
                outputs, remarks = self._contour(job)
            self._queue.contoured(job.id, self._name, outputs, remarks)
            log.info("contoured", extra={"action": "contoured", "job": job.id})
            if remarks:
                log.warning("a person is to look: %s", remarks, extra={"action": "remark", "job": job.id})
        except LeaseLost:
            log.warning("the job is another worker's now", extra={"action": "lease lost", "job": job.id})
        except SpoolError as error:
            self._fail(job, str(error))
        except ContourdError as error:
            self._hold(job, str(error))
        except Exception as error:  # a fault of ours must not end the worker
            log.exception("the job failed", extra={"action": "fail", "job": job.id})
            self._fail(job, f"{told(error)}; the log says where")

    def _contour(self, job: Job) -> tuple[dict[str, str], str]:
        """Contour a job; returns destination -> structure set, and the remarks."""
        instances = [read_instance(self._settings.spool.root / path) for path in job.paths]
        wanted = {name: self._profiles.get(name, STRICT) for name in job.destinations}
        profiles = {profile.identity(): profile for profile in wanted.values()}  # one structure set for those alike
        order = Order(
            job.revision,
            tuple(profiles.values()),
            self._settings.plausibility,
            job.override,
            self._settings.check.rt_utils,
        )
        contoured = contour_series(instances, self._predictor(job.model), order)
        stored = {}
        for part, (identity, dataset) in enumerate(zip(profiles, contoured.datasets, strict=True), 1):
            buffer = BytesIO()
            dataset.save_as(buffer, enforce_file_format=True)
            stored[identity] = self._spool.store_output(job.id, buffer.getvalue(), part)
        return {name: stored[p.identity()] for name, p in wanted.items()}, contoured.remarks.told()

    def _predictor(self, model: str) -> Predictor:
        bundle = load_bundle(model)
        known = self._predictors.get(model)
        if known is None or known.bundle.sha256 != bundle.sha256:
            self._predictors[model] = Predictor(bundle, self._settings.worker.device)
            self._audit_model(model, bundle)
        return self._predictors[model]

    def _audit_model(self, model: str, bundle: ModelBundle) -> None:
        try:
            self._audit.record_model(model, bundle.version, bundle.sha256)
        except QueueUnavailable as error:
            log.error("a model is not audited: %s", error, extra={"action": "audit", "worker": self._name})

    def _hold(self, job: Job, reason: str) -> None:
        log.error("the job is held: %s", reason, extra={"action": "hold", "job": job.id})
        try:
            self._queue.hold(job.id, self._name, reason)
        except LeaseLost:
            log.warning("the job is another worker's now", extra={"action": "lease lost", "job": job.id})

    def _fail(self, job: Job, reason: str) -> None:
        try:
            self._queue.fail(job.id, self._name, reason, self._settings.worker.max_attempts)
        except LeaseLost:
            log.warning("the job is another worker's now", extra={"action": "lease lost", "job": job.id})

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
                    self._queue.renew(job.id, self._name, lease_s)
                except LeaseLost:
                    return

        thread = threading.Thread(target=renew, name=f"lease-{job.id}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def main(settings: Settings, name: str, parent: Connection) -> None:
    """Run a worker until SIGTERM, or until the other end of ``parent`` is closed: the daemon is gone."""
    set_up_logging()
    keep_private()
    try:
        _serve(settings, name, parent)
    except Exception:  # Python would print the text of the error, which may quote the patient
        log.exception("the worker cannot go on", extra={"action": "worker", "worker": name})
        raise SystemExit(1) from None


def _serve(settings: Settings, name: str, parent: Connection) -> None:
    worker = Worker(settings, name)
    signal.signal(signal.SIGTERM, lambda number, frame: worker.stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the daemon's to act on

    def end_with_parent() -> None:
        try:
            parent.recv_bytes()
        except (EOFError, OSError):
            log.warning("the daemon is gone; the worker ends", extra={"worker": name})
            os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    worker.warm_up()
    worker.run()
