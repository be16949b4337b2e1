"""Which orders a worker can do as they were ordered, and why it leaves the others to other workers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from types import MappingProxyType

from contourd import __version__
from contourd.dicom.rtstruct.second_reader import second_reader_loads
from contourd.errors import DatasetError, ModelError
from contourd.models.activation import find_same
from contourd.models.orders import JobOrder, catalogue_sha256, order_digest, version_of
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.spool.objects import ObjectStore
from contourd.store.backoff import Seconds
from contourd.transfer.bundles import fetch_same

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

    def __init__(self, settings: Settings, store: ObjectStore | None, taken: Collection[str], elapsed: Seconds) -> None:
        self._root = settings.spool.root
        self._elapsed = elapsed
        self._store = store
        self._fit = set(taken)
        self._declined: dict[str, Reason] = {}
        self._since = elapsed()

    @property
    def fit(self) -> frozenset[str]:
        """The orders that it can do."""
        return frozenset(self._fit)

    @property
    def judged(self) -> frozenset[str]:
        """The orders that it has judged."""
        return frozenset(self._fit | self._declined.keys())

    @property
    def declined(self) -> Mapping[str, Reason]:
        """The digest of each order that it leaves to others, with the reason."""
        return MappingProxyType({order_digest(order): reason for order, reason in self._declined.items()})

    def judge(self, orders: Collection[str]) -> bool:
        """Judge orders; returns whether another is declined now, or one is no more."""
        before = dict(self._declined)
        if self._declined and self._elapsed() - self._since >= AGAIN_S:
            orders = {*orders, *self._declined}
            self._since = self._elapsed()
        for order in orders:
            reason = self._unfit(order)
            if reason is None:
                self._fit.add(order)
                self._declined.pop(order, None)
                continue
            if order not in before:
                log.warning("jobs are left to other workers: %s", reason, extra={"action": "decline"})
            self._declined[order] = reason
        return before.keys() != self._declined.keys()

    def _unfit(self, text: str) -> Reason | None:
        version = version_of(text)
        if version != __version__:
            return Reason.of(HoldReason.ORDER_OF_OTHER_VERSION, wanted=version or "unknown", own=__version__)
        try:
            order = JobOrder.read(text)
            if order.structures != catalogue_sha256():
                return Reason(HoldReason.ORDER_OF_OTHER_STRUCTURES)
            if order.second_reader and not second_reader_loads():
                return Reason(HoldReason.ORDER_NEEDS_SECOND_READER)
            fetch_same(self._store, self._root, order.model, order.asked)
            find_same(order.model, order.asked, self._root)
        except DatasetError as error:
            return error.reason
        except ModelError:
            return Reason.of(HoldReason.ORDER_OF_OTHER_MODEL, model=order.model.text())
        return None
