"""The worker processes of one host: one for each device, or so many as the settings say, each with its supervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable

from contourd.node.worker_supervisor import Supervisor
from contourd.settings import Settings
from contourd.store.queue import Queue


class WorkerPool:
    """Keeps the workers of this host running; none where other hosts contour.

    Parameters
    ----------
    stopping
        Set when the node stops: no worker is started any more.
    contoured
        Called when a worker says that it has finished a job.
    """

    def __init__(
        self,
        settings: Settings,
        queue: Queue,
        stopping: threading.Event,
        contoured: Callable[[], None] = lambda: None,
    ) -> None:
        self._supervisors = [
            Supervisor(settings.model_copy(update={"worker": one}), queue, stopping, contoured=contoured)
            for one in settings.worker.of_each()
        ]

    @property
    def is_complete(self) -> bool:
        """Whether every worker runs that is to run here."""
        return all(supervisor.pid is not None for supervisor in self._supervisors)

    def start(self) -> None:
        """Start the workers."""
        for supervisor in self._supervisors:
            supervisor.start()

    def hint(self) -> None:
        """Have the workers look for a job now, where they rest."""
        for supervisor in self._supervisors:
            supervisor.hint()

    def watch(self) -> None:
        """Replace the workers that died, and take their jobs from them; raises QueueUnavailable."""
        for supervisor in self._supervisors:
            supervisor.watch()

    def expire_leases(self) -> None:
        """Kill the workers that hang, and take their jobs from them; raises QueueUnavailable."""
        for supervisor in self._supervisors:
            supervisor.expire_leases()

    def terminate(self) -> None:
        """Ask the workers to end after the jobs under way."""
        for supervisor in self._supervisors:
            supervisor.terminate()

    def stop(self, grace_s: float, hasten: threading.Event) -> None:
        """Wait for the workers' end, and kill those that do not come to one; their jobs are queued again."""
        self.terminate()
        threads = [
            threading.Thread(target=supervisor.stop, args=(grace_s, hasten), name=f"end of {supervisor.name}")
            for supervisor in self._supervisors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
