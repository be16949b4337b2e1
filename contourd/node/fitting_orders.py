"""Which orders a worker can do as they were ordered, and what becomes of the others.

Where other hosts may do them, they are left to those, with the reason; where there is one host alone (SQLite), nobody
else can, and their jobs are held.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType

from contourd import __version__
from contourd.dicom.rtstruct.second_reader import second_reader_loads
from contourd.dicom.segmentation.availability import can_write_segmentations
from contourd.errors import DatasetError, ModelError, QueueUnavailable, SpoolError
from contourd.model.model_identity import ModelIdentity
from contourd.models.activation import find_same, load_found
from contourd.models.activations import Activations
from contourd.models.orders import JobOrder, catalogue_sha256, order_digest, passes_by_itself, version_of
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.spool.objects import ObjectStore
from contourd.store.backoff import Seconds
from contourd.store.database import Database
from contourd.store.processes import Processes
from contourd.store.queue import Queue
from contourd.transfer.bundles import fetch_same, is_here

log = logging.getLogger(__name__)

# Of a job that has none: the worker that takes it contours by its own settings.
UNORDERED = ""
# A model may come, or be mended; so long after it was judged an order that did not fit is judged again.
AGAIN_S = 60.0


class FittingOrders:
    """What one worker knows of the orders that wait.

    Parameters
    ----------
    store
        Where the models of other hosts are fetched from, None where there is none.
    taken
        Those that it takes unseen.
    elapsed
        Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        store: ObjectStore | None,
        taken: Collection[str],
        elapsed: Seconds,
    ) -> None:
        self._root = settings.spool.root
        self._elapsed = elapsed
        self._store = store
        self._alone = database.is_sqlite
        self._queue = Queue(database)
        self._processes = Processes(database)
        self._activations = Activations(database, self._root)
        self._fit = set(taken)
        self._declined: dict[str, Reason] = {}
        self._since = elapsed()

    @property
    def fit(self) -> frozenset[str]:
        """The orders that it can do."""
        return frozenset(self._fit)

    @property
    def declined(self) -> Mapping[str, Reason]:
        """The digest of each order that it leaves to others, with the reason."""
        return MappingProxyType({order_digest(order): reason for order, reason in self._declined.items()})

    def look(self, worker: str) -> None:
        """Judge what waits and was not judged yet; raises QueueUnavailable.

        What the worker cannot do it leaves to others, and tells them why; jobs that no other can do are held.

        Parameters
        ----------
        worker
            Its name.
        """
        orders = set(self._queue.waiting_orders(self._fit | self._declined.keys()))
        if self._declined and self._elapsed() - self._since >= AGAIN_S:
            orders |= self._declined.keys()
            self._since = self._elapsed()
        if not orders:
            return
        judged = {order: self._unfit(order) for order in orders}
        declined = {order: reason for order, reason in self._declined.items() if order not in judged}
        for order, reason in judged.items():
            if reason is None:
                self._fit.add(order)
            elif self._alone and not passes_by_itself(reason):
                self._hold(order, reason)
            else:
                declined[order] = reason
        self._decline(declined, worker)

    def _hold(self, order: str, reason: Reason) -> None:
        """Hold the jobs of an order that nobody can do; it is judged again when a person has released one."""
        for job in self._queue.hold_ordered(order, reason):
            log.error("the job is held: %s", reason, extra={"action": "hold", "job": job})

    def _decline(self, declined: dict[str, Reason], worker: str) -> None:
        for reason in (reason for order, reason in declined.items() if order not in self._declined):
            log.warning("jobs are left to other workers: %s", reason, extra={"action": "decline"})
        before, self._declined = self._declined, declined
        if before != declined:
            try:
                self._processes.decline(worker, self.declined)
            except QueueUnavailable:
                self._declined = before  # judged, and told, the next time
                raise

    def _unfit(self, text: str) -> Reason | None:
        version = version_of(text)
        if version != __version__:
            return Reason.of(HoldReason.ORDER_OF_OTHER_VERSION, wanted=version or "unknown", own=__version__)
        try:
            order = JobOrder.read(text)
            if order.structures != catalogue_sha256():
                return Reason(HoldReason.ORDER_OF_OTHER_STRUCTURES)
            if _wants_segmentation(order) and not can_write_segmentations():
                return Reason(HoldReason.ORDER_NEEDS_SEGMENTATION)
            if order.second_reader and not second_reader_loads():
                return Reason(HoldReason.ORDER_NEEDS_SECOND_READER)
        except DatasetError as error:
            return error.reason
        for one in order.models:
            if one.identity is None or one.failed is not None:
                continue  # nobody can draw with it, and that is told
            try:
                fetch_same(self._store, self._root, one.identity, one.asked)
                find_same(one.identity, one.asked, self._root)
            except SpoolError as error:
                return Reason.of(HoldReason.WAITS_FOR_SPOOL, why=error.reason)
            except ModelError:
                if not self._sent_without(order, one.identity, one.asked):
                    return self._wrong_with_model(one.identity, one.asked)
        return None

    def _sent_without(self, order: JobOrder, model: ModelIdentity, asked: str) -> bool:
        """Return whether a model is here, and damaged, of which a job is sent without what it draws.

        Where there are other hosts one of them may have it whole: the job is left to that.
        """
        return self._alone and len(order.models) > 1 and order.partial == "send" and is_here(model, asked, self._root)

    def _wrong_with_model(self, model: ModelIdentity, asked: str) -> Reason:
        """Say what is wrong with what the model's name stands for now: by that a released job is ordered anew."""
        try:
            load_found(self._activations.find(asked))
        except ModelError as error:
            return error.reason
        return Reason.of(HoldReason.ORDER_OF_OTHER_MODEL, model=model.text())


def _wants_segmentation(order: JobOrder) -> bool:
    return any(profile.product == "seg" for several in order.profiles.values() for profile in several)
