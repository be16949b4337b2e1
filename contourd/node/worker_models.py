"""The models of a worker: found by their names, fetched, loaded, and each used in its turn."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from contourd.contour.contouring import ContouringResult
from contourd.contour.drawing import ModelDrawing, ModelInTurn, ModelsInTurn
from contourd.errors import ContourdError, DeviceError, DeviceUnavailable, ModelError, QueueUnavailable, SpoolError
from contourd.model.bundle_config import ModelBundle
from contourd.model.library import FoundModel, places_of
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_names import PartialRule, names_of_text
from contourd.model.model_use import ModelUse
from contourd.model.predictor import Predictor
from contourd.models.activation import find_same, load_found, with_remedy
from contourd.models.activations import Activations
from contourd.models.listing import said_organs
from contourd.models.runtimes import FOLDER, make_predictor
from contourd.node.loaded_models import LoadedModels
from contourd.reasons.catalogue import HoldReason
from contourd.settings import Settings
from contourd.spool.objects import ObjectStore
from contourd.store.audit import AuditTrail
from contourd.store.database import Database
from contourd.store.loaded import write_loaded
from contourd.store.write_retry import retry_read
from contourd.system.exhaustion import lacks_memory
from contourd.transfer.bundles import fetch_bundle, fetch_same

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """For how long a job that may be sent without a model waits for it, before it is.

    Attributes
    ----------
    waited_s
        For how long it has waited for a device already.
    most_s
        For how long it may.
    last_try
        Whether no other try is left to it where its own memory does not suffice; None: memory is waited for.
    """

    waited_s: Callable[[], float]
    most_s: float
    last_try: bool | None

    def device_error(self, error: DeviceUnavailable) -> DeviceError:
        """Return what is wrong with a model that found no device: it is waited for, or its job goes on without it."""
        waited_s = self.waited_s()
        if error.lost or waited_s < self.most_s:
            return error
        return DeviceError(HoldReason.DEVICE_NEVER_FREE, minutes=waited_s / 60, why=error.reason)

    def memory_error(self, error: Exception) -> Exception:
        """Do the same for one that found no memory."""
        said = str(error) or "an allocation failed"
        if self.last_try is None:
            return self.device_error(DeviceUnavailable(HoldReason.MACHINE_OUT_OF_MEMORY, said=said))
        return DeviceError(HoldReason.WORKER_OUT_OF_MEMORY, said=said) if self.last_try else error


class WorkerModels:
    """The models that one worker contours with.

    Parameters
    ----------
    store
        Where those of other hosts are fetched from, None where there is none.
    stopping
        Set when the worker is to end.
    """

    def __init__(
        self, settings: Settings, database: Database, store: ObjectStore | None, stopping: threading.Event, worker: str
    ) -> None:
        self._settings = settings
        self._root = settings.spool.root
        self._store = store
        self._stopping = stopping
        self._worker = worker
        self._activations = Activations(database, self._root)
        self._audit = AuditTrail(database)
        self._loaded = LoadedModels(
            lambda bundle: make_predictor(bundle, settings.worker, self._root / FOLDER),
            lambda loaded: write_loaded(database, worker, loaded),
        )
        self._seen = 0

    @property
    def loaded(self) -> Mapping[str, Predictor]:
        """What a route calls a model -> the predictor that is loaded for it."""
        return self._loaded.predictors

    def tell_again(self) -> None:
        """Tell what is loaded, where that could not be told before."""
        self._loaded.tell_again()

    def see_activations(self) -> bool:
        """Return whether a model was activated or taken back since the last time; raises QueueUnavailable."""
        before, self._seen = self._seen, self._activations.number()
        return before != self._seen

    def warm_up(self) -> None:
        """Load the models of all routes; what fails is said with its job."""
        for name in dict.fromkeys(name for route in self._settings.route for name in route.models):
            found = self._find(name)
            try:
                if found is not None:
                    self._predictor(found)
            except ContourdError:
                log.exception("a model cannot be loaded", extra={"action": "load", "worker": self._worker})

    def find_all(self, text: str) -> tuple[FoundModel, ...] | None:
        """Find what the names of a job stand for now; None where the node stops before the queue can say."""
        found = [one for name in names_of_text(text) if (one := self._find(name)) is not None]
        return tuple(found) if len(found) == len(names_of_text(text)) else None

    def _find(self, name: str) -> FoundModel | None:
        found = retry_read(lambda: self._activations.find(name), self._stopping, None)
        if found is not None and found.activation is not None and found.activation.folder:
            try:
                fetch_bundle(self._store, self._root, found.activation.folder, found.sha256)
            except SpoolError as error:  # the job tells it, where the model is not here
                log.warning("%s", error, extra={"action": "fetch", "worker": self._worker})
        return found

    def contour(
        self,
        found: Sequence[FoundModel],
        wanted: Sequence[ModelUse],
        rule: PartialRule,
        patience: Patience,
        call: Callable[[Predictor | ModelsInTurn], ContouringResult],
    ) -> ContouringResult:
        """Return what a call contours with the models of a job; several are loaded in turn where they do not all fit.

        Parameters
        ----------
        found
            What each name stands for now.
        wanted
            The same models as they were ordered: one without an identity is what its name stands for.

        Raises
        ------
        ModelError, DeviceError
            A model cannot be loaded, or the device does not suffice.
        """
        if len(found) == 1:
            (one,) = found
            place = self._same(wanted[0].identity, one)
            predictor = self._predictor(place)
            return self._loaded.with_room(place.asked, lambda: call(predictor))
        turns = [
            ModelInTurn(use, partial(self._run, one, use, rule, patience), partial(self._organs, one, use))
            for one, use in zip(found, wanted, strict=True)
        ]
        return call(ModelsInTurn(tuple(turns), rule))

    def _run(
        self,
        found: FoundModel,
        use: ModelUse,
        rule: PartialRule,
        patience: Patience,
        call: Callable[[Predictor], ModelDrawing],
    ) -> ModelDrawing:
        """Call with one of several models, and keep no hold of its predictor."""
        try:
            place = self._same(use.identity, found)
            self._predictor(place)
            return self._loaded.with_room(place.asked, lambda: call(self._loaded.predictors[place.asked]))
        except DeviceUnavailable as error:
            raise (patience.device_error(error) if rule == "send" else error) from None
        except (MemoryError, RuntimeError, OSError) as error:
            if rule != "send" or not lacks_memory(error):
                raise
            raise patience.memory_error(error) from None

    def _organs(self, found: FoundModel, use: ModelUse) -> tuple[str, ...]:
        """Name the organs of a model that could not draw, as far as its model.json can be read."""
        places = places_of(use.identity, found.asked, self._root) if use.identity is not None else ()
        return next((organs for one in (*places, found) if (organs := said_organs(one.folder))), ())

    def _same(self, model: ModelIdentity | None, found: FoundModel) -> FoundModel:
        """Keep to the model that was ordered, or sent already, whatever its name stands for now; raises ModelError."""
        if model is None:
            return found
        damaged: ModelError | None = None
        try:
            if load_found(found).identity == model:
                return found
        except ModelError as error:
            damaged = error
        fetch_same(self._store, self._root, model, found.asked)
        try:
            return find_same(model, found.asked, self._root)
        except ModelError:
            if damaged is not None and found.sha256 == model.sha256:  # it is here, and what is wrong with it is known
                raise damaged from None
            raise

    def _predictor(self, found: FoundModel) -> Predictor:
        bundle = load_found(found)
        known = self._loaded.find(found.asked, bundle)
        if known is not None:
            return known
        with with_remedy(found):
            loaded = self._loaded.load(found.asked, bundle)
        self._audit_model(found.asked, bundle)
        return loaded

    def _audit_model(self, model: str, bundle: ModelBundle) -> None:
        try:
            self._audit.record_model(model, bundle.version, bundle.sha256)
        except QueueUnavailable as error:
            log.error("a model is not audited: %s", error, extra={"action": "audit", "worker": self._worker})
