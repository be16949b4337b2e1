"""What the node does again and again: APScheduler jobs that outlive any fault and any jump of the clock.

APScheduler reckons by the time of day. A clock that is set back would leave each job waiting for the hour to come
again, and one that is set forward by years would have it count every missed second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread, current_thread
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, EVENT_SCHEDULER_STARTED
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.base import BaseTrigger

from contourd.errors import ContourdError
from contourd.system.logs import error_text

log = logging.getLogger(__name__)

# A fault that stays is told at once, and then this often.
TOLD_AGAIN_S = 600.0


class Every(BaseTrigger):  # type: ignore[misc]
    """Some seconds after the last time, whenever that was."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return now for the first time; whatever was missed is missed."""
        return now if previous_fire_time is None else now + timedelta(seconds=self.seconds)


@dataclass(slots=True)
class _Fault:
    """A job that fails: since when, how often, and when that was told."""

    began: float
    logged_at: float
    times: int = 1


class Schedule:
    """Calls functions at intervals, each in a thread of its own pool and never twice at a time.

    Attributes
    ----------
    workers
        The threads of the pool that have begun.
    """

    def __init__(self, threads: int) -> None:
        # Its own logger would tell every failure with a traceback, each second.
        logging.getLogger("apscheduler.executors").setLevel(logging.CRITICAL)
        self.workers: list[Thread] = []
        pool = ThreadPoolExecutor(threads, {"initializer": lambda: self.workers.append(current_thread())})
        self._scheduler = BlockingScheduler(executors={"default": pool}, timezone=UTC)
        self._scheduler.add_listener(self._ended, EVENT_JOB_ERROR | EVENT_JOB_EXECUTED)
        self._thread = Thread(target=self._scheduler.start, name="APScheduler", daemon=True)
        self._faults: dict[str, _Fault] = {}
        self._lock = Lock()

    def every(self, seconds: float, name: str, call: Callable[[], None]) -> None:
        """Call a function again and again; what it raises is told, and it is called again."""
        self._scheduler.add_job(
            call, Every(seconds), id=name, name=name, max_instances=1, coalesce=True, misfire_grace_time=None
        )

    def start(self) -> None:
        """Begin, in a thread."""
        started = Event()
        self._scheduler.add_listener(lambda _: started.set(), EVENT_SCHEDULER_STARTED)
        self._thread.start()
        started.wait()

    @property
    def alive(self) -> bool:
        """Whether the threads are there that start the jobs and run them."""
        return self._thread.is_alive() and all(thread.is_alive() for thread in list(self.workers))

    def clock_was_set(self) -> None:
        """Make every job due at once, and then at its interval by the new time."""
        for job in self._scheduler.get_jobs():
            job.modify(next_run_time=datetime.now(UTC))

    def run_soon(self, name: str) -> None:
        """Make a job due at once; where it is under way its interval counts."""
        with suppress(JobLookupError):  # it is not there yet
            self._scheduler.modify_job(name, next_run_time=datetime.now(UTC))

    def stop(self, grace_s: float, hasten: Event) -> bool:
        """Start nothing more, and wait for what is under way or until asked to hasten; returns whether all ended."""
        deadline = time.monotonic() + grace_s
        self._scheduler.shutdown(wait=False)
        self._thread.join(grace_s)
        threads = [self._thread, *self.workers]
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline and not hasten.wait(0.05):
            pass
        return not any(thread.is_alive() for thread in threads)

    def _ended(self, event: Any) -> None:
        with self._lock:
            fault = self._faults.get(event.job_id)
            if event.code == EVENT_JOB_EXECUTED:
                if self._faults.pop(event.job_id, None) is not None:
                    log.info("%s works again", event.job_id, extra={"action": "recovered"})
                return
            now = time.monotonic()
            if fault is None:
                self._faults[event.job_id] = _Fault(now, now)
                self._tell(event, "")
                return
            fault.times += 1
            if now - fault.logged_at >= TOLD_AGAIN_S:
                fault.logged_at = now
                self._tell(event, f" ({fault.times} times in {now - fault.began:.0f} s)")

    def _tell(self, event: Any, again: str) -> None:
        expected = isinstance(event.exception, ContourdError)
        log.error(
            "%s failed%s and is tried again: %s",
            event.job_id,
            again,
            event.exception if expected else error_text(event.exception),
            exc_info=None if expected else event.exception,
            extra={"action": "fault"},
        )
