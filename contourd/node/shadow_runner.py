"""What a worker with nothing else to do lets contour: shadows, each in a process of its own that gives way at once.

It begins nothing while a job waits that the worker could do, while one is contoured on its host, or while images
arrive. When a job is claimed the process is killed before the job begins: what that costs a patient is the time in
which a killed process ends, KILLED_S at most.
"""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from contourd.errors import LeaseLost, ModelError, QueueUnavailable
from contourd.model.library import require_there
from contourd.models.activations import Activations
from contourd.node.exits import exit_text
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.store.backoff import Seconds
from contourd.store.database import Database
from contourd.store.shadows import Shadow, ShadowClaim, Shadows
from contourd.system.identity import ProcessIdentity

log = logging.getLogger(__name__)

# How long a killed process is waited for.
KILLED_S = 5.0
# Between two looks for a shadow, and after one that could not be tried now.
LOOK_S, PAUSE_S = 1.0, 60.0
# Between two looks of whether a running one is to give way to others of its host.
WATCH_S = 1.0
# Exit status of the process: it can be tried later (``contourd.node.shadow_contourer``).
LATER = 75
COMMAND = (sys.executable, "-P", "-m", "contourd.node.shadow_contourer")


class ShadowRunner:
    """Runs one shadow at a time for a worker.

    Parameters
    ----------
    name
        The worker's.
    orders
        Gives the orders that the worker can do.
    elapsed
        Monotonic seconds.
    command
        What contours a shadow; swapped in tests.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        database: Database,
        host: str,
        orders: Callable[[], Collection[str]],
        elapsed: Seconds = time.monotonic,
        command: Collection[str] = COMMAND,
    ) -> None:
        self._settings = settings
        self._name = name
        self._machine = ProcessIdentity.own().host
        self._shadows = Shadows(database, host=host, monotonic=elapsed)
        self._activations = Activations(database, settings.spool.root)
        self._orders = orders
        self._elapsed = elapsed
        self._command = tuple(command)
        self._wanted = any(route.shadow for route in settings.route)
        self._child: subprocess.Popen[bytes] | None = None
        self._claim: ShadowClaim | None = None
        self._began = self._renewed = self._looked = self._not_before = 0.0
        self._vain_from = 0.0

    @property
    def running(self) -> int | None:
        """The number of the process that contours a shadow now."""
        return self._child.pid if self._child is not None else None

    def tend(self) -> None:
        """Begin a shadow, or see to the one that runs; called by a worker that found no job. Never raises."""
        if not self._wanted:
            return
        try:
            if self._child is None:
                self._begin()
            else:
                self._watch(self._child)
        except QueueUnavailable as error:
            log.warning("no shadow is contoured: %s", error, extra={"action": "shadow", "worker": self._name})
            self._kill()
            self._pause(PAUSE_S)

    def give_way(self) -> None:
        """End what runs: the worker has something else to do, or ends. Never raises."""
        if self._child is None:
            return
        claim = self._claim
        self._kill()
        if claim is not None:
            log.info("a shadow gives way", extra={"action": "shadow", "job": claim.job_id, "worker": self._name})
            with suppress(LeaseLost, QueueUnavailable):  # it has just ended; or its lease runs out
                self._shadows.give_back(claim)

    def _begin(self) -> None:
        if self._elapsed() < self._not_before:
            return
        self._pause(LOOK_S)
        if self._elapsed() >= self._vain_from:
            self._vain_from = self._elapsed() + PAUSE_S
            self._shadows.drop_vain()
            worker = self._settings.worker
            self._shadows.recover(worker.lease_s, worker.max_attempts)
        models = self._models_here()
        if not models:
            return
        lease_s = self._settings.worker.lease_s
        shadow = self._shadows.claim(self._name, self._machine, lease_s, models, self._orders())
        if shadow is not None:
            self._start(shadow)

    def _models_here(self) -> list[str]:
        """Return the models of waiting shadows that this host has: others are left to other hosts."""
        here = []
        for model in self._shadows.models_waiting():
            with suppress(ModelError):
                found = self._activations.find(model)
                if found.activation is None or not found.activation.folder:  # else it can be fetched
                    require_there(found)
                here.append(model)
        return here

    def _start(self, shadow: Shadow) -> None:
        claim = shadow.claim
        content = pickle.dumps((self._settings, shadow))
        try:
            child = subprocess.Popen(self._command, stdin=subprocess.PIPE)
        except OSError as error:
            log.warning("a shadow cannot be started: %s", error.strerror, extra={"action": "shadow"})
            self._pause(PAUSE_S)
            self._shadows.give_back(claim)
            return
        assert child.stdin is not None
        self._child, self._claim = child, claim
        self._began = self._renewed = self._looked = self._elapsed()
        log.info("contouring a shadow", extra={"action": "shadow", "job": claim.job_id, "worker": self._name})
        pipe = child.stdin

        def tell() -> None:
            with suppress(OSError):  # it has ended
                pipe.write(len(content).to_bytes(8, "big") + content)
                pipe.flush()

        threading.Thread(target=tell, name="shadow", daemon=True).start()  # a pipe takes 64 KB before it is read

    def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """Renew the lease, and take note of the end."""
        claim, now, worker = self._claim, self._elapsed(), self._settings.worker
        assert claim is not None
        status = child.poll()
        if status is not None:
            self._ended(claim, status)
            return
        if now - self._began > worker.time_limit_s:
            self._kill()
            self._pause(PAUSE_S)
            self._tell(claim, Reason.of(HoldReason.WORKER_HUNG, seconds=worker.time_limit_s))
            return
        if now - self._looked >= WATCH_S:
            self._looked = now
            if self._shadows.must_give_way(self._machine, self._orders()):
                self.give_way()
                return
        if now - self._renewed >= worker.lease_s / 3:
            self._renewed = now
            try:
                self._shadows.renew(claim, worker.lease_s)
            except LeaseLost:  # also where it has recorded its end just now
                if child.poll() is None:
                    self._kill()

    def _ended(self, claim: ShadowClaim, status: int) -> None:
        self._kill()
        if status == 0:
            return
        self._pause(PAUSE_S)
        if status == LATER:
            with suppress(LeaseLost):
                self._shadows.give_back(claim)
        else:
            self._tell(claim, Reason.of(HoldReason.WORKER_ENDED, how=exit_text(status, "the process of the shadow")))

    def _tell(self, claim: ShadowClaim, reason: Reason) -> None:
        log.warning("the shadow failed: %s", reason, extra={"action": "shadow", "job": claim.job_id})
        with suppress(LeaseLost):
            self._shadows.fail(claim, reason, self._settings.worker.max_attempts)

    def _pause(self, seconds: float) -> None:
        self._not_before = self._elapsed() + seconds

    def _kill(self) -> None:
        """End the process, if there is one, and wait until it has ended."""
        child, self._child, self._claim = self._child, None, None
        if child is None:
            return
        child.kill()
        with suppress(subprocess.TimeoutExpired):  # the device's driver holds it: it has no more to say
            child.wait(KILLED_S)
        if child.stdin is not None:
            with suppress(OSError):
                child.stdin.close()
